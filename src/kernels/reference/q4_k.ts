/**
 * Q4_K: 256 values in 8 sub-blocks of 32; value = d * sc * q - dmin * m with 4-bit q and 6-bit sc and m per sub-block.
 * d, dmin: f16; sc and m packed into 12 bytes; then 128 bytes of codes, the sub-blocks 2i and 2i + 1 in the low and
 * high halves of 32 bytes. Layout: `block_q4_K` of ggml-common.h.
 *
 * Scale and minimum of a sub-block are searched: 21 trial scales, for each a weighted least-squares fit, the fit with
 * the least weighted square error wins. Without an importance matrix the weight of x is rms(sub-block) + |x|.
 */
import { clamp, f32, nearestInt, type BlockCodec } from './codec.ts'
import { decodeF16, encodeF16 } from './float.ts'

const SUBS = 8
const SUB = 32
const MAX_CODE = 15
/** Trial scales: (15 - 1 + 0.1 i) / range for i = 0..20. */
const STEPS = 20

/** What the search found: value = scale * code + min. */
export interface SubBlock {
  readonly scale: number
  readonly min: number
}

/** Finds scale and minimum (never above 0) of one sub-block, and leaves its codes in `codes`. */
export function searchScaleMin(x: Float32Array, weights: Float32Array, codes: Uint8Array): SubBlock {
  let min = x[0] ?? 0
  let max = min
  let sumW = 0
  let sumX = 0
  x.forEach((value, i) => {
    if (value < min) min = value
    if (value > max) max = value
    const w = weights[i] ?? 0
    sumW = f32(sumW + w)
    sumX = f32(sumX + f32(w * value))
  })
  if (min > 0) min = 0
  if (max === min) {
    codes.fill(0)
    return { scale: 0, min }
  }

  const trial = new Uint8Array(x.length)
  const encode = (inverse: number, into: Uint8Array): void =>
    x.forEach((value, i) => {
      into[i] = clamp(nearestInt(f32(inverse * f32(value - min))), 0, MAX_CODE)
    })
  const error = (scale: number, offset: number, of: Uint8Array): number => {
    let sum = 0
    x.forEach((value, i) => {
      const diff = f32(f32(f32(scale * (of[i] ?? 0)) + offset) - value)
      sum = f32(sum + f32((weights[i] ?? 0) * f32(diff * diff)))
    })
    return sum
  }

  let inverse = f32(MAX_CODE / f32(max - min))
  let scale = f32(1 / inverse)
  encode(inverse, codes)
  let best = error(scale, min, codes)
  for (let step = 0; step <= STEPS; step++) {
    // `min` is the best one so far: a better fit moves the trials that follow.
    inverse = f32(f32(f32(-1 + f32(f32(0.1) * step)) + MAX_CODE) / f32(max - min))
    encode(inverse, trial)
    let sumL = 0
    let sumL2 = 0
    let sumXL = 0
    x.forEach((value, i) => {
      const l = trial[i] ?? 0
      const wl = f32((weights[i] ?? 0) * l)
      sumL = f32(sumL + wl)
      sumL2 = f32(sumL2 + f32(wl * l))
      sumXL = f32(sumXL + f32(wl * value))
    })
    const determinant = f32(f32(sumW * sumL2) - f32(sumL * sumL))
    if (!(determinant > 0)) continue
    let fitScale = f32(f32(f32(sumW * sumXL) - f32(sumX * sumL)) / determinant)
    let fitMin = f32(f32(f32(sumL2 * sumX) - f32(sumL * sumXL)) / determinant)
    if (fitMin > 0) {
      fitMin = 0
      fitScale = f32(sumXL / sumL2)
    }
    const fitError = error(fitScale, fitMin, trial)
    if (fitError < best) {
      codes.set(trial)
      best = fitError
      scale = fitScale
      min = fitMin
    }
  }
  return { scale, min }
}

/** The weights of a sub-block: its root mean square plus |x|. */
export function defaultWeights(x: Float32Array): Float32Array {
  let sum = 0
  for (const value of x) sum = f32(sum + f32(value * value))
  const rms = f32(Math.sqrt(f32(sum / x.length)))
  return x.map((value) => rms + Math.abs(value))
}

/** The 6-bit scale and minimum of sub-block `j` in the 12 packed bytes at offset 4. */
function unpackScaleMin(block: DataView, j: number): [number, number] {
  const at = (i: number): number => block.getUint8(4 + i)
  if (j < 4) return [at(j) & 63, at(j + 4) & 63]
  return [(at(j + 4) & 15) | ((at(j - 4) >> 6) << 4), (at(j + 4) >> 4) | ((at(j) >> 6) << 4)]
}

function packScaleMin(out: DataView, j: number, scale: number, min: number): void {
  const put = (i: number, value: number): void => out.setUint8(4 + i, value)
  if (j < 4) {
    put(j, scale)
    put(j + 4, min)
  } else {
    put(j + 4, (scale & 15) | ((min & 15) << 4))
    put(j - 4, out.getUint8(j) | ((scale >> 4) << 6))
    put(j, out.getUint8(4 + j) | ((min >> 4) << 6))
  }
}

export const q4_k: BlockCodec = {
  dtype: 'q4_k',
  scales: [0, 2],
  quantise(x, out) {
    const codes = new Uint8Array(SUBS * SUB)
    const found: SubBlock[] = []
    let maxScale = 0
    let maxMin = 0
    for (let j = 0; j < SUBS; j++) {
      const sub = x.subarray(j * SUB, (j + 1) * SUB)
      const result = searchScaleMin(sub, defaultWeights(sub), codes.subarray(j * SUB, (j + 1) * SUB))
      found.push(result)
      if (result.scale > maxScale) maxScale = result.scale
      if (-result.min > maxMin) maxMin = -result.min
    }
    const inverseScale = maxScale > 0 ? f32(63 / maxScale) : 0
    const inverseMin = maxMin > 0 ? f32(63 / maxMin) : 0
    out.setUint16(0, encodeF16(f32(maxScale / 63)), true)
    out.setUint16(2, encodeF16(f32(maxMin / 63)), true)
    found.forEach(({ scale, min }, j) => {
      // Through a byte, as in ggml: a negative scale (a fit may have one) wraps and is then capped.
      const byte = (value: number): number => Math.min(63, nearestInt(f32(value)) & 0xff)
      packScaleMin(out, j, byte(inverseScale * scale), byte(inverseMin * -min))
    })
    const d = decodeF16(out.getUint16(0, true))
    const dmin = decodeF16(out.getUint16(2, true))
    for (let j = 0; j < SUBS; j++) {
      const [sc, m] = unpackScaleMin(out, j)
      const scale = f32(d * sc)
      if (scale === 0) continue // the codes of the search stay
      const min = f32(dmin * m)
      for (let i = j * SUB; i < (j + 1) * SUB; i++) {
        codes[i] = clamp(nearestInt(f32(f32((x[i] ?? 0) + min) / scale)), 0, MAX_CODE)
      }
    }
    for (let pair = 0; pair < SUBS / 2; pair++) {
      for (let i = 0; i < SUB; i++) {
        const at = pair * 2 * SUB + i
        out.setUint8(16 + pair * SUB + i, (codes[at] ?? 0) | ((codes[at + SUB] ?? 0) << 4))
      }
    }
  },
  dequantise(block, y) {
    const d = decodeF16(block.getUint16(0, true))
    const dmin = decodeF16(block.getUint16(2, true))
    for (let j = 0; j < SUBS; j++) {
      const [sc, m] = unpackScaleMin(block, j)
      const scale = f32(d * sc)
      const min = f32(dmin * m)
      for (let i = 0; i < SUB; i++) {
        const byte = block.getUint8(16 + (j >> 1) * SUB + i)
        y[j * SUB + i] = f32(scale * (j & 1 ? byte >> 4 : byte & 15)) - min
      }
    }
  },
}
