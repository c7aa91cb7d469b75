/**
 * Q3_K: 256 values in 16 sub-blocks of 16; value = d * (sc - 32) * (q - 4) with 3-bit q and 6-bit sc per sub-block. 32 bytes
 * with the high bits, bit k of byte i for the value i + 32 k; 64 bytes with the low two bits as in Q2_K; 12 bytes with the
 * scales; then d as f16. Layout: `block_q3_K` of ggml-common.h.
 *
 * Without an importance matrix the codes of a sub-block are found by descent: each code in turn moves to where it fits the
 * scale that all the others give best, in up to five rounds.
 */
import { clamp, f32, importanceWeights, nearestInt, signedMax, sumOf, sumSquares, type BlockCodec } from './codec.ts'
import { decodeF16, encodeF16 } from './float.ts'
import { EPSILON, searchScale } from './search.ts'

const SUBS = 16
const SUB = 16
const RANGE = 4
const SCALE_RANGE = 32
const ROUNDS = 5
const OFFSET = { high: 0, low: 32, scales: 96, d: 108 }

/** The scale of a sub-block with weights x^2; leaves its codes (0..7) in `codes`, 0 where all count as zeros. */
function descend(x: Float32Array, codes: Uint8Array): number {
  const max = signedMax(x)
  if (Math.abs(max) < EPSILON) {
    codes.fill(0)
    return 0
  }
  const code = (value: number): number => clamp(nearestInt(value), -RANGE, RANGE - 1)
  const inverse = f32(-RANGE / max)
  const found = Array.from(x, (value) => code(f32(inverse * value)))
  const weight = (value: number): number => f32(value * value)
  let sumLX = 0
  let sumL2 = 0
  x.forEach((value, i) => {
    const l = found[i] ?? 0
    sumLX = f32(sumLX + f32(f32(weight(value) * value) * l))
    sumL2 = f32(sumL2 + f32(f32(weight(value) * l) * l))
  })
  for (let round = 0; round < ROUNDS; round++) {
    let changed = false
    x.forEach((value, i) => {
      const w = weight(value)
      const old = found[i] ?? 0
      const restLX = f32(sumLX - f32(f32(w * value) * old))
      if (!(restLX > 0)) return
      const restL2 = f32(sumL2 - f32(f32(w * old) * old))
      const l = code(f32(f32(value * restL2) / restLX))
      if (l === old) return
      const newLX = f32(restLX + f32(f32(w * value) * l))
      const newL2 = f32(restL2 + f32(f32(w * l) * l))
      if (newL2 > 0 && f32(f32(newLX * newLX) * sumL2) > f32(f32(sumLX * sumLX) * newL2)) {
        found[i] = l
        sumLX = newLX
        sumL2 = newL2
        changed = true
      }
    })
    if (!changed) break
  }
  found.forEach((l, i) => {
    codes[i] = l + RANGE
  })
  return sumL2 > 0 ? f32(sumLX / sumL2) : 0
}

function packScale(out: DataView, j: number, scale: number): void {
  const merge = (at: number, bits: number): void =>
    out.setUint8(OFFSET.scales + at, out.getUint8(OFFSET.scales + at) | bits)
  merge(j & 7, (scale & 15) << (j < 8 ? 0 : 4))
  merge(8 + (j & 3), (scale >> 4) << (2 * (j >> 2)))
}

function unpackScale(block: DataView, j: number): number {
  const low = (block.getUint8(OFFSET.scales + (j & 7)) >> (j < 8 ? 0 : 4)) & 15
  const high = (block.getUint8(OFFSET.scales + 8 + (j & 3)) >> (2 * (j >> 2))) & 3
  return (low | (high << 4)) - SCALE_RANGE
}

/** The codes for the scales as they were rounded, and their bytes. Where a scale became 0 the codes of the search stay. */
function finish(x: Float32Array, codes: Uint8Array, scales: Uint8Array, d: number, out: DataView): void {
  for (let j = 0; j < 12; j++) out.setUint8(OFFSET.scales + j, 0)
  scales.forEach((scale, j) => packScale(out, j, scale))
  out.setUint16(OFFSET.d, encodeF16(d), true)
  const rounded = decodeF16(out.getUint16(OFFSET.d, true))
  for (let j = 0; j < SUBS; j++) {
    const scale = f32(rounded * unpackScale(out, j))
    if (scale === 0) continue
    for (let i = j * SUB; i < (j + 1) * SUB; i++) {
      codes[i] = clamp(nearestInt(f32((x[i] ?? 0) / scale)), -RANGE, RANGE - 1) + RANGE
    }
  }
  for (let i = 0; i < 32; i++) {
    let high = 0
    for (let k = 0; k < 8; k++) high |= ((codes[i + k * 32] ?? 0) >> 2) << k
    out.setUint8(OFFSET.high + i, high)
  }
  for (let i = 0; i < 64; i++) {
    const first = (i >> 5) * 128 + (i & 31)
    const at = (k: number): number => ((codes[first + k * 32] ?? 0) & 3) << (2 * k)
    out.setUint8(OFFSET.low + i, at(0) | at(1) | at(2) | at(3))
  }
}

export const q3_k: BlockCodec = {
  dtype: 'q3_k',
  scales: [OFFSET.d],
  quantise(x, out) {
    const codes = new Uint8Array(SUBS * SUB)
    const scales = new Float32Array(SUBS)
    for (let j = 0; j < SUBS; j++) {
      scales[j] = descend(x.subarray(j * SUB, (j + 1) * SUB), codes.subarray(j * SUB, (j + 1) * SUB))
    }
    const max = signedMax(scales)
    const inverse = f32(-SCALE_RANGE / max)
    const scaleCodes = Uint8Array.from(scales, (scale) => {
      // Through a signed byte, as in ggml.
      const byte = (nearestInt(f32(inverse * scale)) << 24) >> 24
      return max === 0 ? 0 : clamp(byte, -SCALE_RANGE, SCALE_RANGE - 1) + SCALE_RANGE
    })
    finish(x, codes, scaleCodes, max === 0 ? 0 : f32(1 / inverse), out)
  },
  quantiseWeighted(x, out, importance) {
    const codes = new Uint8Array(SUBS * SUB)
    const sigma2 = f32(f32(2 * sumSquares(x)) / x.length)
    const [scales, sums] = [new Float32Array(SUBS), new Float32Array(SUBS)]
    for (let j = 0; j < SUBS; j++) {
      const [from, to] = [j * SUB, (j + 1) * SUB]
      const sub = x.subarray(from, to)
      const weights = importanceWeights(sub, importance.values.subarray(from, to), sigma2)
      scales[j] = searchScale(sub, weights, codes.subarray(from, to), RANGE)
      sums[j] = sumOf(weights)
    }
    const scaleCodes = new Uint8Array(SUBS)
    const d = searchScale(scales, sums, scaleCodes, SCALE_RANGE)
    finish(x, codes, scaleCodes, d, out)
  },
  dequantise(block, y) {
    const d = decodeF16(block.getUint16(OFFSET.d, true))
    for (let i = 0; i < SUBS * SUB; i++) {
      const low = (block.getUint8(OFFSET.low + (i >> 7) * 32 + (i & 31)) >> (((i >> 5) & 3) * 2)) & 3
      const high = (block.getUint8(OFFSET.high + (i & 31)) >> (i >> 5)) & 1
      y[i] = f32(d * unpackScale(block, i >> 4)) * (low + high * 4 - RANGE)
    }
  },
}
