import type { CheckReport, Comparison } from '../core/check.ts'
import { AppError, throwIfAborted } from '../core/errors.ts'
import type { JobEvent, JobState, Progress, Report } from '../core/job.ts'
import type { Finding } from '../core/plan.ts'

/** Seconds over which the rate is taken: long enough to be calm, short enough to follow. */
const RATE_WINDOW_MS = 5000

/** Steps shorter than this do not make a rate: the first moments would say anything. */
const RATE_MIN_MS = 250

/**
 * The inside of a job: what the loop reports to and waits on. Progress that nobody fetched is overwritten by newer
 * progress, everything else queues.
 */
export class Control {
  readonly #abort = new AbortController()
  readonly #now: () => number
  readonly #began: number
  #queue: JobEvent[] = []
  #pendingProgress = false
  #waiting: (() => void)[] = []
  #unpause: (() => void) | null = null
  #gate: Promise<void> | null = null
  #ended = false
  #marks: { at: number; bytes: number }[] = []
  #progress: Progress = {
    state: 'planning',
    phase: 'plan',
    bytesDone: 0,
    bytesTotal: 0,
    bytesKept: 0,
    rate: null,
    eta: null,
    item: null,
    elapsedMs: 0,
  }
  /** Whether a cancel keeps what was written, for a later resume. */
  keep = false

  constructor(now: () => number) {
    this.#now = now
    this.#began = now()
  }

  get signal(): AbortSignal {
    return this.#abort.signal
  }

  get progress(): Progress {
    return this.#withRate()
  }

  get elapsedMs(): number {
    return this.#now() - this.#began
  }

  report(change: Partial<Omit<Progress, 'rate' | 'eta' | 'elapsedMs'>>): void {
    const phaseChanged = change.phase !== undefined && change.phase !== this.#progress.phase
    if (phaseChanged) this.#marks = []
    this.#progress = { ...this.#progress, ...change }
    // a job that is paused stays so, whatever phase it comes to
    if (this.#gate !== null && this.#progress.state === 'running')
      this.#progress = { ...this.#progress, state: 'paused' }
    const at = this.#now()
    this.#marks.push({ at, bytes: this.#progress.bytesDone })
    while (this.#marks.length > 2 && (this.#marks[0]?.at ?? at) < at - RATE_WINDOW_MS) this.#marks.shift()
    this.#pendingProgress = true
    this.#wake()
  }

  log(finding: Finding): void {
    this.#push({ type: 'log', finding })
  }

  done(report: Report): void {
    this.#finish({ type: 'done', report })
  }

  checked(report: CheckReport): void {
    this.#finish({ type: 'checked', report })
  }

  compared(comparison: Comparison): void {
    this.#finish({ type: 'compared', comparison })
  }

  #finish(event: JobEvent): void {
    this.report({ state: 'done', bytesDone: this.#progress.bytesTotal, item: null })
    this.#push(event)
    this.#end()
  }

  failed(error: AppError): void {
    const state: JobState = error.code === 'cancelled' ? 'cancelled' : 'failed'
    this.report({ state })
    this.#push({ type: 'failed', error: error.toData() })
    this.#end()
  }

  /** Waits while the job is paused; throws once it is cancelled. */
  async pass(): Promise<void> {
    while (this.#gate !== null) await this.#gate
    throwIfAborted(this.signal)
  }

  get paused(): boolean {
    return this.#gate !== null
  }

  pause(): void {
    if (this.#gate !== null || this.#ended) return
    this.#gate = new Promise((resolve) => {
      this.#unpause = resolve
    })
    this.#marks = []
    this.report({ state: 'paused' })
  }

  resume(): void {
    if (this.#gate === null) return
    this.#gate = null
    this.#unpause?.()
    this.#marks = []
    if (!this.#ended) this.report({ state: 'running' })
  }

  cancel(keep: boolean): void {
    if (this.#ended) return
    this.keep = keep
    this.#abort.abort(new AppError('cancelled', 'The job was cancelled.'))
    this.resume()
  }

  /** What happened since the last call; waits until something did. Empty once all was told and the job is over. */
  async next(): Promise<readonly JobEvent[]> {
    while (this.#queue.length === 0 && !this.#pendingProgress) {
      if (this.#ended) return []
      await new Promise<void>((resolve) => this.#waiting.push(resolve))
    }
    const events = this.#queue
    this.#queue = []
    if (this.#pendingProgress) {
      this.#pendingProgress = false
      events.unshift({ type: 'progress', progress: this.#withRate() })
    }
    return events
  }

  #wake(): void {
    for (const resolve of this.#waiting.splice(0)) resolve()
  }

  #push(event: JobEvent): void {
    this.#queue.push(event)
    this.#wake()
  }

  #end(): void {
    this.#ended = true
    this.#wake()
  }

  #withRate(): Progress {
    const first = this.#marks[0]
    const last = this.#marks.at(-1)
    const elapsedMs = this.elapsedMs
    if (first === undefined || last === undefined || last.at - first.at < RATE_MIN_MS) {
      return { ...this.#progress, elapsedMs }
    }
    const rate = ((last.bytes - first.bytes) * 1000) / (last.at - first.at)
    const left = this.#progress.bytesTotal - this.#progress.bytesDone
    return { ...this.#progress, rate, eta: rate > 0 ? left / rate : null, elapsedMs }
  }
}
