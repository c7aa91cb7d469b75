/**
 * What IQ4_NL and IQ4_XS share: codes of four bits name one of sixteen values that lie denser near 0, times a scale that is
 * searched: sixteen trials, for each the weighted least-squares fit.
 */
import { f32, signedMax } from './codec.ts'
import { EPSILON } from './search.ts'

/** Values that a scale goes for. */
export const SUB = 32
/** What the codes mean; kvalues_iq4nl of ggml-common.h. */
export const VALUES: readonly number[] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]
const TRIES = 7
const FIRST = -127

/** The code of the nearest value; the larger of two as near. What is not a number gets the last code, as in ggml. */
export function nearestCode(quotient: number): number {
  let code = 0
  while (code < 15 && !(quotient < ((VALUES[code] ?? 0) + (VALUES[code + 1] ?? 0)) / 2)) code++
  return code
}

/** The scale of a sub-block; 0 where all count as zeros. */
export function searchValues(x: Float32Array, weights: Float32Array): number {
  const max = signedMax(x)
  if (Math.abs(max) < EPSILON) return 0
  let scale = 0
  let best = 0
  for (let trial = -TRIES - 1; trial <= TRIES; trial++) {
    // The first trial has the inverse of a scale, the others an inverse at once: not always the same bits.
    const first = trial < -TRIES
    const inverse = first ? f32(1 / f32(-max / FIRST)) : f32((trial + FIRST) / max)
    let sumQX = 0
    let sumQ2 = 0
    x.forEach((value, i) => {
      const q = VALUES[nearestCode(f32(inverse * value))] ?? 0
      const wq = f32((weights[i] ?? 0) * q)
      sumQX = f32(sumQX + f32(wq * value))
      sumQ2 = f32(sumQ2 + f32(wq * q))
    })
    if (sumQ2 > 0 && (first || f32(sumQX * sumQX) > f32(best * sumQ2))) {
      scale = f32(sumQX / sumQ2)
      best = f32(scale * sumQX)
    }
  }
  return scale
}

/** The weights without an importance matrix. */
export function squares(x: Float32Array): Float32Array {
  return x.map((value) => value * value)
}

/** Writes 32 codes for an inverse scale into 16 bytes at `at`. */
export function writeCodes(x: Float32Array, inverse: number, out: DataView, at: number): void {
  const code = (i: number): number => nearestCode(f32(inverse * (x[i] ?? 0)))
  for (let i = 0; i < SUB / 2; i++) out.setUint8(at + i, code(i) | (code(i + SUB / 2) << 4))
}

/** Reads 32 values from the 16 bytes at `at`. */
export function readValues(block: DataView, at: number, scale: number, y: Float32Array): void {
  for (let i = 0; i < SUB / 2; i++) {
    const byte = block.getUint8(at + i)
    y[i] = scale * (VALUES[byte & 15] ?? 0)
    y[i + SUB / 2] = scale * (VALUES[byte >> 4] ?? 0)
  }
}
