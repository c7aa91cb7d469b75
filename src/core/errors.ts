/** Every way a conversion can fail. A closed union: the UI and the command switch over it, tests name it. */
export type ErrorCode =
  | 'not-a-model' // nothing in the folder is a format we know
  | 'unsupported' // a format, architecture, dtype or option that is known but not (yet) converted
  | 'needs-base' // an adapter, which is nothing without the model that it was trained on
  | 'malformed' // a file breaks its own format's rules
  | 'truncated' // a file ends before its header says it should
  | 'missing-file' // a file that another file names is not there
  | 'missing-tensor' // the architecture needs a tensor that the checkpoint lacks
  | 'bad-tensor' // a tensor has another shape or dtype than the architecture says
  | 'bad-weights' // NaN, Inf, or a value that the target type cannot hold
  | 'bad-option' // an option is unknown, of the wrong type, or contradicts another
  | 'source-changed' // a source is not what it was when the job was planned or first started
  | 'source-lost' // a source cannot be read any more (removed, unplugged, permission withdrawn)
  | 'output-exists' // the target name is taken and overwriting was not asked for
  | 'output-denied' // the place cannot be written to
  | 'no-space' // the disk or quota is full, or would be
  | 'memory' // the plan does not fit the memory budget
  | 'device' // a backend failed or gave wrong results
  | 'busy' // the same job runs elsewhere
  | 'cancelled'
  | 'internal'

/** Where the fault lies: the file, the byte offset in it, the tensor. */
export interface ErrorPlace {
  readonly file?: string
  readonly offset?: number
  readonly tensor?: string
  /** All the files that are missing, by their paths, where it is known which. */
  readonly missing?: readonly string[]
}

export interface ErrorDetails {
  readonly where?: ErrorPlace
  /** What the user can do about it, as one sentence. */
  readonly hint?: string
  readonly cause?: unknown
}

/** The plain form of an {@link AppError}, as it crosses workers and sockets. */
export interface ErrorData {
  readonly code: ErrorCode
  readonly message: string
  readonly where: ErrorPlace
  readonly hint: string | null
  /** For `--verbose` only: where in our code it arose. */
  readonly stack: string | null
}

/** The one error class: a code to switch on, the place at fault, and the remedy. */
export class AppError extends Error {
  override readonly name = 'AppError'
  readonly code: ErrorCode
  readonly where: ErrorPlace
  readonly hint: string | null

  constructor(code: ErrorCode, message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause })
    this.code = code
    this.where = details.where ?? {}
    this.hint = details.hint ?? null
  }

  /** Any thrown value as an AppError: one of ours as it is, an abort as `cancelled`, the rest as `internal`. */
  static from(value: unknown, code: ErrorCode = 'internal', details: ErrorDetails = {}): AppError {
    if (value instanceof AppError) return value
    if (value instanceof Error && value.name === 'AbortError')
      return new AppError('cancelled', 'The job was cancelled.')
    const message = value instanceof Error ? value.message : String(value)
    return new AppError(code, message, { ...details, cause: value })
  }

  static fromData(data: ErrorData): AppError {
    const details: { where: ErrorPlace; hint?: string } = { where: data.where }
    if (data.hint !== null) details.hint = data.hint
    const error = new AppError(data.code, data.message, details)
    if (data.stack !== null) error.stack = data.stack
    return error
  }

  toData(): ErrorData {
    const cause = this.cause instanceof Error ? `\ncaused by ${this.cause.stack ?? this.cause.message}` : ''
    return {
      code: this.code,
      message: this.message,
      where: this.where,
      hint: this.hint,
      stack: this.stack === undefined ? null : this.stack + cause,
    }
  }
}

/** Throws `cancelled` once the signal is aborted (an AppError given as the reason is thrown itself). */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted !== true) return
  const reason: unknown = signal.reason
  throw reason instanceof AppError ? reason : new AppError('cancelled', 'The job was cancelled.')
}

/** For the arm of a switch that cannot be reached. */
export function unreachable(value: never, what: string): never {
  throw new AppError('internal', `${what}: unexpected ${JSON.stringify(value)}`)
}
