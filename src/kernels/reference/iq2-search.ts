/**
 * The search for a sub-block's scale and entries that IQ2_XXS, IQ2_XS and IQ2_S share: for each of some trial scales every
 * eight magnitudes become an entry of the grid, the one at their levels or the best of those nearest, and the weighted
 * least-squares scale of all counts. Every operation rounds to float32, in the order of ggml's `quantize_row_iq2_*_impl`.
 */
import { clamp, f32, nearestInt } from './codec.ts'
import { mapGrid, type GridMap } from './grid-neighbours.ts'
import { unpackGrid } from './grids.ts'

/** Elements that an entry names. */
export const WIDTH = 8
const LEVELS = [0, 1, 2]
const TOP_LEVEL = 2
/** Of the greatest level: levels are 1, 3 and 5. */
const TOP_VALUE = 5

/** A grid of eights of three levels, and how an entry is found. */
export interface EightGrid extends GridMap {
  /** The levels of the entries, eight each. */
  readonly levels: Float32Array
}

/** Makes the map of a grid of the table; neighbours have one of the `shells` least distances. */
export function mapEights(text: string, shells: number): EightGrid {
  return { ...mapGrid(text, WIDTH, LEVELS.length, shells), levels: unpackGrid(text, WIDTH, LEVELS) }
}

/** The entry at a point, or those near it. */
export function entriesAt({ entries, neighbours }: EightGrid, levels: readonly number[]): number | Uint16Array {
  const found = entries[levels.reduceRight((point, level) => point * LEVELS.length + level, 0)] ?? 0
  if (found >= 0) return found
  const first = -found
  return neighbours.subarray(first, first + (neighbours[first - 1] ?? 0))
}

/** The values of some eights as magnitudes and signs. */
export interface Magnitudes {
  /** A value whose sign could not be kept is negative. */
  readonly values: Float32Array
  /** For each eight the signs, a bit each, 1 for minus. */
  readonly signs: number[]
}

/** Splits values into magnitudes and signs. */
export function magnitudesOf(x: Float32Array): Magnitudes {
  const values = x.map((value) => (value >= 0 ? value : -value))
  const signs = Array.from({ length: x.length / WIDTH }, (_, k) =>
    x.subarray(k * WIDTH, (k + 1) * WIDTH).reduce((bits, value, i) => (value >= 0 ? bits : bits | (1 << i)), 0),
  )
  return { values, signs }
}

/** The same where each eight must have an even number of minus signs: the element that matters least gives way. */
export function evenMagnitudesOf(x: Float32Array, weights: Float32Array): Magnitudes {
  const { values, signs } = magnitudesOf(x)
  signs.forEach((bits, k) => {
    let parity = 0
    for (let i = 0; i < WIDTH; i++) parity ^= (bits >> i) & 1
    if (parity === 0) return
    let least = 0
    let min = Infinity
    for (let i = 0; i < WIDTH; i++) {
      const value = x[k * WIDTH + i] ?? 0
      const loss = f32(f32((weights[k * WIDTH + i] ?? 0) * value) * value)
      if (i > 0 && !(loss < min)) continue
      min = loss
      least = i
    }
    const at = k * WIDTH + least
    values[at] = -(values[at] ?? 0)
    signs[k] = bits ^ (1 << least)
  })
  return { values, signs }
}

/** How the trial scales go, and what happens after them. */
export interface Trials {
  /** What the greatest level stands for in the middle trial. */
  readonly top: number
  /** Steps of a tenth of a level each way. */
  readonly steps: number
  /** The scale where no trial is any good. */
  readonly start: number
  /** Whether every eight is looked up again for the scale that was found, or only those beside the grid. */
  readonly again: 'all' | 'beside'
}

/** What was found: the scale, which may be negative, and the entry of each eight. */
export interface Found {
  readonly scale: number
  readonly entries: readonly number[]
}

/** The entry for eight magnitudes and a scale; whether it lies at their very levels. */
function lookUp(
  grid: EightGrid,
  values: Float32Array,
  roots: Float32Array,
  inverse: number,
  scale: number,
): readonly [entry: number, at: boolean] {
  const levels = Array.from(values, (value) =>
    clamp(nearestInt(f32(0.5 * f32(f32(inverse * value) - 1))), 0, TOP_LEVEL),
  )
  const near = entriesAt(grid, levels)
  if (typeof near === 'number') return [near, true]
  let best = near[0] ?? 0
  let least = f32(3.4028234663852886e38)
  for (const entry of near) {
    let distance = 0
    for (let i = 0; i < WIDTH; i++) {
      const diff = f32(f32(scale * (2 * (grid.levels[entry * WIDTH + i] ?? 0) + 1)) - (values[i] ?? 0))
      distance = f32(distance + f32(f32((roots[i] ?? 0) * diff) * diff))
    }
    if (!(distance < least)) continue
    least = distance
    best = entry
  }
  return [best, false]
}

/** Finds the scale and the entries of a sub-block. */
export function searchEntries(values: Float32Array, weights: Float32Array, grid: EightGrid, trials: Trials): Found {
  const groups = values.length / WIDTH
  const roots = weights.map((weight) => Math.sqrt(weight))
  const part = (of: Float32Array, k: number): Float32Array => of.subarray(k * WIDTH, (k + 1) * WIDTH)
  const find = (k: number, inverse: number, scale: number): readonly [number, boolean] =>
    lookUp(grid, part(values, k), part(roots, k), inverse, scale)
  const fit = (entries: readonly number[]): readonly [sumQX: number, sumQ2: number] => {
    let sumQX = 0
    let sumQ2 = 0
    values.forEach((value, i) => {
      const q = 2 * (grid.levels[(entries[i >> 3] ?? 0) * WIDTH + (i & 7)] ?? 0) + 1
      const weight = weights[i] ?? 0
      sumQX = f32(sumQX + f32(f32(weight * value) * q))
      sumQ2 = f32(sumQ2 + f32(f32(weight * q) * q))
    })
    return [sumQX, sumQ2]
  }

  let { start: scale } = trials
  let best = 0
  let found: readonly (readonly [number, boolean])[] = Array.from({ length: groups }, () => [0, true])
  for (let step = -trials.steps; step <= trials.steps; step++) {
    const inverse = f32(f32(TOP_VALUE + f32(f32(0.1) * step)) / trials.top)
    const trial = found.map((_, k) => find(k, inverse, f32(1 / inverse)))
    const [sumQX, sumQ2] = fit(trial.map(([entry]) => entry))
    if (!(sumQ2 > 0 && f32(sumQX * sumQX) > f32(best * sumQ2))) continue
    scale = f32(sumQX / sumQ2)
    best = f32(scale * sumQX)
    found = trial
  }
  const stay = trials.again === 'beside'
  if (scale > 0 && !(stay && found.every(([, at]) => at))) {
    const inverse = f32(1 / scale)
    found = found.map((old, k) => (stay && old[1] ? old : find(k, inverse, scale)))
    const [sumQX, sumQ2] = fit(found.map(([entry]) => entry))
    if (sumQ2 > 0) scale = f32(sumQX / sumQ2)
  }
  return { scale, entries: found.map(([entry]) => entry) }
}
