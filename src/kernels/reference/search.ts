/**
 * ggml's searches for the scales of sub-blocks, which the types with sub-blocks share: for scale and minimum
 * (make_qkx2_quants, make_qkx3_quants), for a signed scale (make_qx_quants), and for a block's scale of its sub-blocks'
 * scales (make_qp_quants). Every operation rounds to float32.
 */
import { clamp, f32, nearestInt, signedMax } from './codec.ts'

/** Values below it count as zeros (ggml's GROUP_MAX_EPS). */
export const EPSILON = f32(1e-15)

/** What {@link searchScaleMin} found: value = scale * code + min. */
export interface SubBlock {
  readonly scale: number
  readonly min: number
}

/** Trial scales: (top + first + step * i) / range for i = 0..steps. */
export interface Trials {
  /** The greatest code. */
  readonly top: number
  readonly first: number
  readonly step: number
  readonly steps: number
  /** Whether the error is the weighted sum of magnitudes, not of squares. */
  readonly magnitudes?: boolean
}

/** The trials that ggml makes where there is an importance matrix. */
export function weightedTrials(top: number): Trials {
  return { top, first: -0.9, step: 0.05, steps: 36 }
}

/** Finds scale and minimum (never above 0) of one sub-block, and leaves its codes in `codes`. */
export function searchScaleMin(x: Float32Array, weights: Float32Array, codes: Uint8Array, trials: Trials): SubBlock {
  const { top, steps } = trials
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
      into[i] = clamp(nearestInt(f32(inverse * f32(value - min))), 0, top)
    })
  const error = (scale: number, offset: number, of: Uint8Array): number => {
    let sum = 0
    x.forEach((value, i) => {
      const diff = f32(f32(f32(scale * (of[i] ?? 0)) + offset) - value)
      sum = f32(sum + f32((weights[i] ?? 0) * (trials.magnitudes === true ? Math.abs(diff) : f32(diff * diff))))
    })
    return sum
  }

  let inverse = f32(top / f32(max - min))
  let scale = f32(1 / inverse)
  encode(inverse, codes)
  let best = error(scale, min, codes)
  for (let i = 0; i <= steps; i++) {
    // `min` is the best one so far: a better fit moves the trials that follow.
    inverse = f32(f32(f32(f32(trials.first) + f32(f32(trials.step) * i)) + top) / f32(max - min))
    encode(inverse, trial)
    let sumL = 0
    let sumL2 = 0
    let sumXL = 0
    x.forEach((value, j) => {
      const l = trial[j] ?? 0
      const wl = f32((weights[j] ?? 0) * l)
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

/** Finds the signed scale of one sub-block; leaves its codes, 0 to 2 * range - 1, in `codes`: 0 where all count as zeros. */
export function searchScale(x: Float32Array, weights: Float32Array, codes: Uint8Array, range: number): number {
  const max = signedMax(x)
  if (Math.abs(max) < EPSILON) {
    codes.fill(0)
    return 0
  }
  const code = (inverse: number, value: number): number => clamp(nearestInt(f32(inverse * value)), -range, range - 1)
  const fit = (inverse: number): [number, number] => {
    let sumLX = 0
    let sumL2 = 0
    x.forEach((value, i) => {
      const l = code(inverse, value)
      const w = weights[i] ?? 0
      sumLX = f32(sumLX + f32(f32(w * value) * l))
      sumL2 = f32(sumL2 + f32(f32(w * l) * l))
    })
    return [sumLX, sumL2]
  }
  let inverse = f32(-range / max)
  let [sumLX, sumL2] = fit(inverse)
  let scale = sumL2 === 0 ? 0 : f32(sumLX / sumL2)
  let best = f32(scale * sumLX)
  for (let step = -9; step <= 9; step++) {
    if (step === 0) continue
    const trial = f32(-f32(range + f32(f32(0.1) * step)) / max)
    ;[sumLX, sumL2] = fit(trial)
    if (sumL2 > 0 && f32(sumLX * sumLX) > f32(best * sumL2)) {
      inverse = trial
      scale = f32(sumLX / sumL2)
      best = f32(scale * sumLX)
    }
  }
  x.forEach((value, i) => {
    codes[i] = code(inverse, value) + range
  })
  return scale
}

/** Rounds of descent after the trials. */
const DESCENTS = 5

/**
 * Finds the scale of values that are seldom negative, with codes up to `top`, which are left in `codes`: nine trials, then
 * each code in turn moves to where it fits all the others best. Negative codes wrap, as they do in ggml's bytes.
 */
export function fitScale(x: Float32Array, weights: Float32Array, codes: Uint8Array, top: number): number {
  let max = 0
  for (const value of x) max = max > value ? max : value
  if (max < EPSILON) {
    codes.fill(0)
    return 0
  }
  const error = (scale: number, code: (value: number) => number): number => {
    let sum = 0
    x.forEach((value, i) => {
      const diff = f32(value - f32(scale * code(value)))
      sum = f32(sum + f32(f32((weights[i] ?? 0) * diff) * diff))
    })
    return sum
  }
  let inverse = f32(top / max)
  let best = error(f32(1 / inverse), (value) => nearestInt(f32(inverse * value)) & 255)
  for (let step = -4; step <= 4; step++) {
    if (step === 0) continue
    const trial = f32(f32(f32(f32(0.1) * step) + top) / max)
    const trialError = error(f32(1 / trial), (value) => Math.min(top, nearestInt(f32(trial * value))))
    if (trialError < best) {
      best = trialError
      inverse = trial
    }
  }
  let sumLX = 0
  let sumL2 = 0
  x.forEach((value, i) => {
    const l = Math.min(top, nearestInt(f32(inverse * value)))
    const w = weights[i] ?? 0
    codes[i] = l
    sumLX = f32(sumLX + f32(f32(w * value) * l))
    sumL2 = f32(sumL2 + f32(f32(w * l) * l))
  })
  for (let round = 0; round < DESCENTS; round++) {
    let changed = false
    x.forEach((value, i) => {
      const w = weights[i] ?? 0
      const old = codes[i] ?? 0
      const restLX = f32(sumLX - f32(f32(w * value) * old))
      const restL2 = f32(sumL2 - f32(f32(w * old) * old))
      if (!(restLX > 0 && restL2 > 0)) return
      const l = Math.min(top, nearestInt(f32(f32(value * restL2) / restLX)))
      if (l === old) return
      const newLX = f32(restLX + f32(f32(w * value) * l))
      const newL2 = f32(restL2 + f32(f32(w * l) * l))
      if (f32(f32(newLX * newLX) * sumL2) > f32(f32(sumLX * sumLX) * newL2)) {
        codes[i] = l
        sumLX = newLX
        sumL2 = newL2
        changed = true
      }
    })
    if (!changed) break
  }
  return sumL2 > 0 ? f32(sumLX / sumL2) : 0
}
