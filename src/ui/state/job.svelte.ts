import { AppError } from '../../core/errors.ts'
import type { Progress, Report } from '../../core/job.ts'
import type { ConvertRequest, Wire } from '../../api/wire.ts'

/** The conversion that runs, as the page follows it over the wire. One at a time. */
export class Job {
  /** What it becomes, and of which model, for people. */
  title = $state('')
  modelName = $state('')
  progress = $state.raw<Progress | null>(null)
  /** Whether it was told to pause. What was in flight is still finished. */
  paused = $state(false)
  /** Whether it was told to cancel; it then cleans up. */
  cancelling = $state(false)
  readonly #wire: Wire
  #id: string | null = null

  constructor(wire: Wire) {
    this.#wire = wire
  }

  /** Another conversion takes the place of the last one; it is not started yet. */
  begin(title: string, modelName: string): void {
    this.title = title
    this.modelName = modelName
    this.progress = null
    this.paused = false
    this.cancelling = false
  }

  /** Converts to the end. Throws what the conversion failed of, `cancelled` among it. */
  async run(request: ConvertRequest): Promise<Report> {
    const id = await this.#wire.start(request)
    this.#id = id
    try {
      for (;;) {
        const events = await this.#wire.next(id)
        if (events.length === 0) throw new AppError('internal', 'The conversion ended without a report')
        for (const event of events) {
          if (event.type === 'progress') this.progress = event.progress
          else if (event.type === 'done') return event.report
          else if (event.type === 'failed') throw AppError.fromData(event.error)
        }
      }
    } finally {
      this.#id = null
    }
  }

  /** Pauses it, or lets it go on. */
  async pause(paused: boolean): Promise<void> {
    const id = this.#id
    if (id === null) return
    this.paused = paused
    // A job that ended meanwhile has said so through its events.
    await (paused ? this.#wire.pause(id) : this.#wire.resume(id)).catch(() => undefined)
  }

  /** Stops it and removes what it wrote. */
  async cancel(): Promise<void> {
    const id = this.#id
    if (id === null) return
    this.cancelling = true
    await this.#wire.cancel(id, { keep: false }).catch(() => undefined)
  }
}
