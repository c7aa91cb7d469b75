import type { JobEvent, Progress, Report } from '../src/core/job.ts'
import { AppError } from '../src/core/errors.ts'
import type { Control } from '../src/api/control.ts'
import { findingsText } from './findings.ts'
import { formatBytes, formatSeconds } from './text.ts'

/** Where progress is shown: stderr, with a line that is rewritten if it is a terminal. */
export interface ProgressStream {
  readonly isTTY?: boolean
  readonly columns?: number
  write(text: string): unknown
}

/** Lines on a stream that is no terminal come at this distance: enough to follow a log, few enough to read it. */
const LINE_EVERY_MS = 5000

/** Of a terminal that does not tell its width. */
const DEFAULT_COLUMNS = 80

const BAR_WIDTH = 24

/** Follows a conversion to its end; returns its report or throws its error. `stream` null shows nothing. */
export async function follow(
  job: Pick<Control, 'next'>,
  stream: ProgressStream | null,
  { verbose = false }: { readonly verbose?: boolean } = {},
): Promise<Report> {
  const end = await followTo('done', job, stream, verbose)
  return end.report
}

/** Follows a job to the event that ends it; throws its error. */
export async function followTo<T extends 'done' | 'checked' | 'compared'>(
  type: T,
  job: Pick<Control, 'next'>,
  stream: ProgressStream | null,
  verbose: boolean,
): Promise<Extract<JobEvent, { type: T }>> {
  let lastLine = 0
  let open = false
  const clear = (): void => {
    if (open) stream?.write('\r\x1b[K')
    open = false
  }
  const show = (progress: Progress): void => {
    if (stream === null) return
    const line = progressLine(progress)
    if (stream.isTTY === true) {
      stream.write(`\r\x1b[K${line.slice(0, (stream.columns ?? DEFAULT_COLUMNS) - 1)}`)
      open = true
    } else if (progress.elapsedMs - lastLine >= LINE_EVERY_MS) {
      lastLine = progress.elapsedMs
      stream.write(`${line}\n`)
    }
  }
  for (;;) {
    const events: readonly JobEvent[] = await job.next()
    if (events.length === 0) throw new AppError('internal', 'the job ended without a word')
    const findings = events.flatMap((event) => (event.type === 'log' ? [event.finding] : []))
    const told = findingsText(
      findings.filter(({ severity }) => verbose || severity !== 'info'),
      verbose,
    )
    if (told !== '') {
      clear()
      stream?.write(told)
    }
    for (const event of events) {
      if (event.type === 'progress') show(event.progress)
      if (event.type !== 'progress' && event.type !== 'log') clear()
      if (event.type === type) return event as Extract<JobEvent, { type: T }>
      if (event.type === 'failed') throw AppError.fromData(event.error)
    }
  }
}

const PHASES = {
  plan: 'Planning',
  measure: 'Measuring',
  stage: 'Preparing',
  write: 'Converting',
  validate: 'Validating',
  publish: 'Saving',
  run: 'Running',
} as const

/** One line: bar, percent, bytes, rate, time left, tensor. */
export function progressLine(progress: Progress): string {
  const { phase, bytesDone, bytesTotal, rate, eta, item, state } = progress
  const title = state === 'paused' ? 'Paused' : PHASES[phase]
  if (bytesTotal === 0 || (phase !== 'write' && phase !== 'stage'))
    return item === null ? title : `${title}${phase === 'run' ? ':' : ''} ${item}`
  const part = Math.min(1, bytesDone / bytesTotal)
  const filled = Math.floor(part * BAR_WIDTH)
  const bar = '█'.repeat(filled) + '░'.repeat(BAR_WIDTH - filled)
  const cells = [
    `${title} ${bar} ${Math.floor(part * 100)}%`,
    `${formatBytes(bytesDone)} of ${formatBytes(bytesTotal)}`,
    ...(rate === null ? [] : [`${formatBytes(rate)}/s`]),
    ...(eta === null ? [] : [`${formatSeconds(eta)} left`]),
    ...(item === null ? [] : [item]),
  ]
  return cells.join('  ')
}
