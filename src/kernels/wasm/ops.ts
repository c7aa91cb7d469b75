import type { DType } from '../../core/dtype.ts'
import type { DrawOp, KernelOp, LowRankOp } from '../backend.ts'

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
  q4_1: 8,
  q5_1: 9,
  q5_k: 10,
  q2_k: 11,
  q3_k: 12,
  iq4_nl: 13,
  iq4_xs: 14,
  mxfp4: 15,
  tq1_0: 16,
  tq2_0: 17,
  iq1_s: 18,
  iq1_m: 19,
  iq2_xxs: 20,
  iq2_xs: 21,
  iq2_s: 22,
  iq3_xxs: 23,
  iq3_s: 24,
  q1_0: 25,
  q2_0: 26,
}
const LAST_FLOAT = 2

/** The number of a type of values that all quantising kernels take, or null. */
export function floatCode(dtype: DType): number | null {
  const code = CODES[dtype]
  return code === undefined || code > LAST_FLOAT ? null : code
}

/** The two type numbers that the module's `convert` or `convert_weighted` takes for an op, or null if it cannot do it. */
export function opCodes(op: KernelOp): readonly [number, number] | null {
  const [from, to] = [CODES[op.from], CODES[op.to]]
  if (from === undefined || to === undefined) return null
  if (op.weighted === true) return from <= LAST_FLOAT && WEIGHTED_SPEED[op.to] !== undefined ? [from, to] : null
  if (from > LAST_FLOAT) return to === CODES.f32 ? [from, to] : null
  return to <= LAST_FLOAT || QUANTISE_SPEED[op.to] !== undefined ? [from, to] : null
}

/**
 * Elements per second of one thread for the dispatcher, from tests/bench/kernels.mjs (f32 input, a 2.6 GHz server
 * core). Casts and dequantisation run at memory speed.
 */
const QUANTISE_SPEED: { readonly [D in DType]?: number } = {
  q8_0: 2.2e9,
  q4_0: 2e9,
  q4_1: 2e9,
  q5_0: 2e9,
  q5_1: 2e9,
  q2_k: 90e6,
  q3_k: 200e6,
  q4_k: 80e6,
  q5_k: 90e6,
  q6_k: 160e6,
  iq4_nl: 90e6,
  iq4_xs: 90e6,
  iq3_s: 17e6,
  iq3_xxs: 12e6,
  iq1_m: 20e6,
  iq2_s: 24e6,
  mxfp4: 400e6,
  tq1_0: 500e6,
  tq2_0: 1e9,
  q1_0: 1e9,
  q2_0: 1e9,
}
/** The same with an importance matrix; the types that take one. */
const WEIGHTED_SPEED: { readonly [D in DType]?: number } = {
  q4_0: 100e6,
  q4_1: 40e6,
  q5_0: 100e6,
  q5_1: 40e6,
  q2_k: 40e6,
  q3_k: 80e6,
  q4_k: 40e6,
  q5_k: 40e6,
  q6_k: 150e6,
  iq4_nl: 80e6,
  iq4_xs: 80e6,
  iq3_s: 17e6,
  iq3_xxs: 12e6,
  iq1_s: 24e6,
  iq1_m: 20e6,
  iq2_xxs: 14e6,
  iq2_xs: 9e6,
  iq2_s: 23e6,
}
const CAST_SPEED = 1.5e9

/** Elements per second of one thread for an op, roughly; 0 if the module cannot do it. */
export function opSpeed(op: KernelOp): number {
  if (opCodes(op) === null) return 0
  return (op.weighted === true ? WEIGHTED_SPEED : QUANTISE_SPEED)[op.to] ?? CAST_SPEED
}

/** The same of random values, and of low-rank updates, by their multiplications. */
const DRAW_SPEED = 600e6
const PRODUCT_SPEED = 5e9

/** Elements per second of one thread for an op that converts nothing, roughly. */
export function madeSpeed(op: DrawOp | LowRankOp): number {
  return op.kind === 'draw' ? DRAW_SPEED : PRODUCT_SPEED / Math.max(1, op.rank)
}
