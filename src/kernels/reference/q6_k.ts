/**
 * Q6_K: 256 values in 16 sub-blocks of 16; value = d * sc * (q - 32) with 6-bit q and an 8-bit signed sc per
 * sub-block. 128 bytes with the low four bits, 64 with the high two, 16 scales, then d as f16. Each half of 128 values
 * has 64 low and 32 high bytes: low byte l holds values l and l + 64, low byte l + 32 the values l + 32 and l + 96,
 * high byte l all four. Layout: `block_q6_K` of ggml-common.h.
 *
 * The scale of a sub-block is searched: 19 trial scales, for each the least-squares fit with weights x^2.
 */
import { clamp, f32, nearestInt, signedMax, type BlockCodec } from './codec.ts'
import { decodeF16, encodeF16 } from './float.ts'

const SUBS = 16
const SUB = 16
const HALF_RANGE = 32
/** Sub-blocks and blocks below it count as zeros (ggml's GROUP_MAX_EPS). */
const EPSILON = f32(1e-15)
const OFFSET = { low: 0, high: 128, scales: 192, d: 208 }

/** Finds the scale of one sub-block and leaves its codes (0..63) in `codes`. */
export function searchScale(x: Float32Array, codes: Uint8Array): number {
  const max = signedMax(x)
  if (Math.abs(max) < EPSILON) {
    codes.fill(0)
    return 0
  }
  const code = (inverse: number, value: number): number =>
    clamp(nearestInt(f32(inverse * value)), -HALF_RANGE, HALF_RANGE - 1)
  const fit = (inverse: number): [number, number] => {
    let sumLX = 0
    let sumL2 = 0
    for (const value of x) {
      const l = code(inverse, value)
      const w = f32(value * value)
      sumLX = f32(sumLX + f32(f32(w * value) * l))
      sumL2 = f32(sumL2 + f32(f32(w * l) * l))
    }
    return [sumLX, sumL2]
  }
  let inverse = f32(-HALF_RANGE / max)
  let [sumLX, sumL2] = fit(inverse)
  let scale = sumL2 === 0 ? 0 : f32(sumLX / sumL2)
  let best = f32(scale * sumLX)
  for (let step = -9; step <= 9; step++) {
    if (step === 0) continue
    const trial = f32(-f32(HALF_RANGE + f32(f32(0.1) * step)) / max)
    ;[sumLX, sumL2] = fit(trial)
    if (sumL2 > 0 && f32(sumLX * sumLX) > f32(best * sumL2)) {
      inverse = trial
      scale = f32(sumLX / sumL2)
      best = f32(scale * sumLX)
    }
  }
  x.forEach((value, i) => {
    codes[i] = code(inverse, value) + HALF_RANGE
  })
  return scale
}

/** Where code `i` lies: the byte and shift of its low four bits, the byte and shift of its high two. */
function place(i: number): [number, number, number, number] {
  const half = i >> 7
  const quarter = (i >> 5) & 3
  const l = i & 31
  return [OFFSET.low + half * 64 + (quarter & 1) * 32 + l, (quarter >> 1) * 4, OFFSET.high + half * 32 + l, quarter * 2]
}

export const q6_k: BlockCodec = {
  dtype: 'q6_k',
  scales: [OFFSET.d],
  quantise(x, out) {
    for (let i = 0; i < out.byteLength; i++) out.setUint8(i, 0)
    const codes = new Uint8Array(SUBS * SUB)
    const scales = new Float32Array(SUBS)
    for (let j = 0; j < SUBS; j++) {
      scales[j] = searchScale(x.subarray(j * SUB, (j + 1) * SUB), codes.subarray(j * SUB, (j + 1) * SUB))
    }
    const maxScale = signedMax(scales)
    if (Math.abs(maxScale) < EPSILON) return
    const inverse = f32(-128 / maxScale)
    out.setUint16(OFFSET.d, encodeF16(f32(1 / inverse)), true)
    const d = decodeF16(out.getUint16(OFFSET.d, true))
    for (let j = 0; j < SUBS; j++) {
      out.setInt8(OFFSET.scales + j, Math.min(127, nearestInt(f32(inverse * (scales[j] ?? 0)))))
      const scale = f32(d * out.getInt8(OFFSET.scales + j))
      if (scale === 0) continue // the codes of the search stay
      for (let i = j * SUB; i < (j + 1) * SUB; i++) {
        codes[i] = clamp(nearestInt(f32((x[i] ?? 0) / scale)), -HALF_RANGE, HALF_RANGE - 1) + HALF_RANGE
      }
    }
    codes.forEach((value, i) => {
      const [low, lowShift, high, highShift] = place(i)
      out.setUint8(low, out.getUint8(low) | ((value & 15) << lowShift))
      out.setUint8(high, out.getUint8(high) | ((value >> 4) << highShift))
    })
  },
  dequantise(block, y) {
    const d = decodeF16(block.getUint16(OFFSET.d, true))
    for (let i = 0; i < SUBS * SUB; i++) {
      const [low, lowShift, high, highShift] = place(i)
      const value = ((block.getUint8(low) >> lowShift) & 15) | (((block.getUint8(high) >> highShift) & 3) << 4)
      y[i] = f32(d * block.getInt8(OFFSET.scales + (i >> 4))) * (value - HALF_RANGE)
    }
  },
}
