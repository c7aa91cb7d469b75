/**
 * Q6_K: 256 values in 16 sub-blocks of 16; value = d * sc * (q - 32) with 6-bit q and an 8-bit signed sc per
 * sub-block. 128 bytes with the low four bits, 64 with the high two, 16 scales, then d as f16. Each half of 128 values
 * has 64 low and 32 high bytes: low byte l holds values l and l + 64, low byte l + 32 the values l + 32 and l + 96,
 * high byte l all four. Layout: `block_q6_K` of ggml-common.h.
 *
 * The scale of a sub-block is searched: 19 trial scales, for each the least-squares fit with weights x^2, or the
 * importances as they are.
 */
import { clamp, f32, nearestInt, signedMax, type BlockCodec } from './codec.ts'
import { decodeF16, encodeF16 } from './float.ts'
import { EPSILON, searchScale } from './search.ts'

const SUBS = 16
const SUB = 16
const HALF_RANGE = 32
const OFFSET = { low: 0, high: 128, scales: 192, d: 208 }

/** Where code `i` lies: the byte and shift of its low four bits, the byte and shift of its high two. */
function place(i: number): [number, number, number, number] {
  const half = i >> 7
  const quarter = (i >> 5) & 3
  const l = i & 31
  return [OFFSET.low + half * 64 + (quarter & 1) * 32 + l, (quarter >> 1) * 4, OFFSET.high + half * 32 + l, quarter * 2]
}

/** Writes a block; `weigh` gives the weights of the sub-block that starts at `from`. */
function write(x: Float32Array, weigh: (sub: Float32Array, from: number) => Float32Array, out: DataView): void {
  for (let i = 0; i < out.byteLength; i++) out.setUint8(i, 0)
  const codes = new Uint8Array(SUBS * SUB)
  const scales = new Float32Array(SUBS)
  for (let j = 0; j < SUBS; j++) {
    const sub = x.subarray(j * SUB, (j + 1) * SUB)
    scales[j] = searchScale(sub, weigh(sub, j * SUB), codes.subarray(j * SUB, (j + 1) * SUB), HALF_RANGE)
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
}

export const q6_k: BlockCodec = {
  dtype: 'q6_k',
  scales: [OFFSET.d],
  quantise: (x, out) => write(x, (sub) => sub.map((value) => value * value), out),
  quantiseWeighted: (x, out, importance) => write(x, (_, from) => importance.values.subarray(from, from + SUB), out),
  dequantise(block, y) {
    const d = decodeF16(block.getUint16(OFFSET.d, true))
    for (let i = 0; i < SUBS * SUB; i++) {
      const [low, lowShift, high, highShift] = place(i)
      const value = ((block.getUint8(low) >> lowShift) & 15) | (((block.getUint8(high) >> highShift) & 3) << 4)
      y[i] = f32(d * block.getInt8(OFFSET.scales + (i >> 4))) * (value - HALF_RANGE)
    }
  },
}
