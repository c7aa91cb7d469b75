import { AppError } from '../core/errors.ts'
import type { AnyOp, Backend } from './backend.ts'
import { describeOp } from './check.ts'
import type { SelfTestFailure } from './selftest.ts'

/** Which backend does an op, and why not a faster one. */
export interface Choice {
  readonly backend: Backend
  /** For people; null when the fastest backend of all does the op. */
  readonly reason: string | null
}

/** Self-test failures by backend. */
export type Refused = ReadonlyMap<Backend, readonly SelfTestFailure[]>

function total(backend: Backend, op: AnyOp): number {
  return backend.speed(op) * backend.threads
}

/** Why a backend must not do an op; null if it may. */
function objection(backend: Backend, op: AnyOp, refused: Refused | undefined): string | null {
  if (backend.speed(op) === 0) return `${backend.label} cannot do ${describeOp(op)}`
  if (!backend.exact(op)) return `${backend.label} is not exact for ${describeOp(op)}`
  const failure = refused?.get(backend)?.find((other) => describeOp(other.op) === describeOp(op))
  return failure === undefined ? null : `${backend.label} failed its self-test (${failure.reason})`
}

/**
 * The fastest backend (over all its threads) that does an op exactly and passed its self-test for it. Throws AppError
 * `unsupported` if there is none. The order of `backends` decides between equals and is taken as the order of preference
 * when one falls out: its reason is then told.
 */
export function chooseBackend(backends: readonly Backend[], op: AnyOp, refused?: Refused): Choice {
  const objections: string[] = []
  let chosen: Backend | null = null
  for (const backend of backends) {
    const why = objection(backend, op, refused)
    if (why !== null) objections.push(why)
    else if (chosen === null || total(backend, op) > total(chosen, op)) chosen = backend
  }
  if (chosen === null) {
    const why = objections.length === 0 ? '' : ` (${objections.join('; ')})`
    throw new AppError('unsupported', `No kernel for ${describeOp(op)}${why}.`)
  }
  const before = backends.slice(0, backends.indexOf(chosen)).map((backend) => objection(backend, op, refused))
  const passedOver = before.filter((why) => why !== null)
  return { backend: chosen, reason: passedOver.length === 0 ? null : passedOver.join('; ') }
}
