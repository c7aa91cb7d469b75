import type { CheckReport, Comparison } from './check.ts'
import type { ErrorData } from './errors.ts'
import type { Finding } from './plan.ts'

export type JobState = 'planning' | 'running' | 'paused' | 'done' | 'failed' | 'cancelled'

/** How far a job is. Several reports that nobody fetched yet coalesce into the newest. */
export interface Progress {
  readonly state: JobState
  /** What is being done: `measure`, `stage`, `write`, `validate`, `publish`, `run` (of the finished model). */
  readonly phase: 'plan' | 'measure' | 'stage' | 'write' | 'validate' | 'publish' | 'run'
  readonly bytesDone: number
  readonly bytesTotal: number
  /** Bytes that an earlier, interrupted run had already written. */
  readonly bytesKept: number
  /** Output bytes a second over the last seconds; null while there is nothing to tell. */
  readonly rate: number | null
  /** Seconds left at that rate. */
  readonly eta: number | null
  /** The tensor or file at hand. */
  readonly item: string | null
  readonly elapsedMs: number
}

export type JobEvent =
  | { readonly type: 'progress'; readonly progress: Progress }
  | { readonly type: 'log'; readonly finding: Finding }
  /** The end of a conversion. */
  | { readonly type: 'done'; readonly report: Report }
  /** The end of a check. */
  | { readonly type: 'checked'; readonly report: CheckReport }
  /** The end of a comparison. */
  | { readonly type: 'compared'; readonly comparison: Comparison }
  | { readonly type: 'failed'; readonly error: ErrorData }

/** What came out, and the proof of it. */
export interface Report {
  readonly target: string
  readonly files: readonly WrittenFile[]
  readonly findings: readonly Finding[]
  readonly readBytes: number
  readonly writeBytes: number
  /** Bytes taken over from an interrupted run. */
  readonly keptBytes: number
  readonly elapsedMs: number
  /** High water of the buffer pool, measured. */
  readonly peakBytes: number
  /** The backends that did the work. */
  readonly backends: readonly string[]
  /** What running it showed, where that was asked for. */
  readonly check?: CheckReport
}

export interface WrittenFile {
  readonly path: string
  readonly size: number
  readonly sha256: string
}
