import type { CheckRequest, Wire } from '../../api/wire.ts'
import type { CheckReport, Verdict } from '../../core/check.ts'
import { AppError, type ErrorData } from '../../core/errors.ts'

/** One check of a model over the wire: before, while and after it runs. */
export class Check {
  running = $state(false)
  /** What it is at, for people: "loading". */
  item = $state('')
  report = $state.raw<CheckReport | null>(null)
  /** Why there is no report. */
  error = $state.raw<ErrorData | null>(null)
  /** Whether the model can be run here; null until that is known, or if nobody can say. */
  verdict = $state.raw<Verdict | null>(null)
  readonly #wire: Wire
  readonly #request: CheckRequest
  #id: string | null = null
  /** Whether it was told to stop, be it before it had an id. */
  #stopped = false

  constructor(wire: Wire, request: CheckRequest) {
    this.#wire = wire
    this.#request = request
  }

  /** Finds out whether the model can be run here. */
  async look(): Promise<void> {
    // The check itself says what is wrong with a model that cannot even be opened.
    this.verdict = await this.#wire.runnable(this.#request).catch(() => null)
  }

  /** Checks to the end. What goes wrong is in `error`; nothing is there if it was stopped. */
  async run(): Promise<void> {
    if (this.running) return
    this.running = true
    this.#stopped = false
    this.item = ''
    this.report = null
    this.error = null
    try {
      const id = await this.#wire.check(this.#request)
      this.#id = id
      if (this.#stopped) await this.stop()
      while (this.report === null) {
        const events = await this.#wire.next(id)
        if (events.length === 0) throw new AppError('internal', 'The check ended without a report')
        for (const event of events) {
          if (event.type === 'progress') this.item = event.progress.item ?? ''
          else if (event.type === 'checked') this.report = event.report
          else if (event.type === 'failed') throw AppError.fromData(event.error)
        }
      }
    } catch (thrown) {
      const error = AppError.from(thrown)
      if (error.code !== 'cancelled') this.error = error.toData()
    } finally {
      this.#id = null
      this.running = false
    }
  }

  async stop(): Promise<void> {
    this.#stopped = true
    if (this.#id !== null) await this.#wire.cancel(this.#id).catch(() => undefined)
  }
}
