import type { DType } from '../../core/dtype.ts'
import type { KernelOp } from '../backend.ts'

/** The C code's numbers for the types: `enum type` of wasm/kernels.h. */
const CODES: { readonly [D in DType]?: number } = {
  f32: 0,
  f16: 1,
  bf16: 2,
  q8_0: 3,
  q4_0: 4,
  q5_0: 5,
  q4_k: 6,
  q6_k: 7,
}
const LAST_FLOAT = 2

/** The two type numbers that the module's `convert` takes for an op, or null if it cannot do it. */
export function opCodes(op: KernelOp): readonly [number, number] | null {
  const [from, to] = [CODES[op.from], CODES[op.to]]
  if (from === undefined || to === undefined) return null
  return from <= LAST_FLOAT || to === CODES.f32 ? [from, to] : null
}

/**
 * Elements per second of one thread for the dispatcher, from tests/bench/kernels.mjs (f32 input, a 2.6 GHz server
 * core). Casts and dequantisation run at memory speed.
 */
const QUANTISE_SPEED: { readonly [D in DType]?: number } = {
  q8_0: 2.2e9,
  q4_0: 2e9,
  q5_0: 2e9,
  q4_k: 80e6,
  q6_k: 170e6,
}
const CAST_SPEED = 1.5e9

/** Elements per second of one thread for an op, roughly; 0 if the module cannot do it. */
export function opSpeed(op: KernelOp): number {
  if (opCodes(op) === null) return 0
  return QUANTISE_SPEED[op.to] ?? CAST_SPEED
}
