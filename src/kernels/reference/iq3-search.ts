/**
 * How IQ3_XXS and IQ3_S find the scale and the grid entries of 32 values: trial scales, for each the entry of every group of
 * four that has the least weighted error, and the least-squares scale of what was found. Source:
 * `quantize_row_iq3_xxs_impl` and `quantize_row_iq3_s_impl` of ggml-quants.c.
 */
import { clamp, nearestInt } from './codec.ts'
import type { GridMap } from './grid-neighbours.ts'

/** Bound here: as an import it takes several times as long where modules are not bundled, and a search has thousands. */
const f32 = Math.fround
/** Elements that an entry names. */
export const WIDTH = 4
/** Values that a scale goes for. */
export const SUB = 32
const LEVELS = 8
const TOP = 2 * LEVELS - 1
/** What a trial scale differs by from the next. */
const STEP = f32(0.2)
/** The greatest float32: what no error but an infinite one exceeds. */
const GREATEST = 3.4028234663852886e38

/** A grid, and how its type searches in it. */
export interface Search3 {
  /** The levels 0 to 7 of the entries' elements; a level stands for 2 * level + 1. */
  readonly digits: Float32Array
  readonly map: GridMap
  /** Trials to both sides of the scale that takes the greatest value to the greatest level. */
  readonly trials: number
  /** What no value reaches counts as zeros. */
  readonly least: number
  /** Whether at last only groups that had been rounded to no entry are searched anew, or all where there is such a one. */
  readonly keepsEntries: boolean
}

/** What {@link searchEntries} found. */
export interface Found3 {
  /** Negative if the signs of all values are to be changed. */
  readonly scale: number
  readonly entries: Uint16Array
}

/** Weights of an error, of a fit, and the values: of 32 elements each. */
interface Values {
  readonly x: Float32Array
  readonly weights: Float32Array
  readonly roots: Float32Array
}

/** The neighbour of least error, of equals the first; the first of all where no error is a number. */
function bestNeighbour({ digits, map }: Search3, start: number, values: Values, at: number, scale: number): number {
  const { x, roots } = values
  const list = map.neighbours
  let best = GREATEST
  let found = list[start + 1] as number
  for (let n = start + 1; n <= start + (list[start] as number); n++) {
    const entry = list[n] as number
    let error = 0
    for (let i = 0; i < WIDTH; i++) {
      const q = 2 * (digits[entry * WIDTH + i] as number) + 1
      const diff = f32(f32(scale * q) - (x[at + i] as number))
      error = f32(error + f32(f32((roots[at + i] as number) * diff) * diff))
    }
    if (error < best) {
      best = error
      found = entry
    }
  }
  return found
}

/** The point of the rounded values of the group at `at`. */
function pointAt(x: Float32Array, at: number, inverse: number): number {
  let point = 0
  for (let i = WIDTH - 1; i >= 0; i--) {
    const level = nearestInt(0.5 * f32(f32(inverse * (x[at + i] as number)) - 1))
    point = point * LEVELS + clamp(level, 0, LEVELS - 1)
  }
  return point
}

/** The sums of a least-squares fit: of w x q and of w q^2. */
function fit({ digits }: Search3, { x, weights }: Values, entries: Uint16Array): readonly [number, number] {
  let sumQX = 0
  let sumQ2 = 0
  for (let i = 0; i < x.length; i++) {
    const w = weights[i] as number
    const q = 2 * (digits[(entries[i >> 2] as number) * WIDTH + (i & 3)] as number) + 1
    sumQX = f32(sumQX + f32(f32(w * (x[i] as number)) * q))
    sumQ2 = f32(sumQ2 + f32(f32(w * q) * q))
  }
  return [sumQX, sumQ2]
}

/** Searches for 32 values without their signs; null if they count as zeros. */
export function searchEntries(x: Float32Array, weights: Float32Array, search: Search3): Found3 | null {
  const values = { x, weights, roots: weights.map(Math.sqrt) }
  const max = x.reduce((most, value) => Math.max(most, value), 0)
  if (max < search.least) return null
  const known = search.map.entries
  let scale = f32(max / TOP)
  let best = 0
  // Of level 0 throughout, which both grids have first.
  const entries = new Uint16Array(SUB / WIDTH)
  const trialEntries = new Uint16Array(SUB / WIDTH)
  /** The groups, a bit each, whose rounded values were no entry. */
  let searched = search.keepsEntries ? 0 : 255
  for (let trial = -search.trials; trial <= search.trials; trial++) {
    const inverse = f32(f32(TOP + f32(trial * STEP)) / max)
    let trialSearched = 0
    for (let k = 0; k < trialEntries.length; k++) {
      const entry = known[pointAt(x, k * WIDTH, inverse)] as number
      if (entry < 0) trialSearched |= 1 << k
      trialEntries[k] = entry < 0 ? bestNeighbour(search, -1 - entry, values, k * WIDTH, f32(1 / inverse)) : entry
    }
    const [sumQX, sumQ2] = fit(search, values, trialEntries)
    if (sumQ2 > 0 && f32(sumQX * sumQX) > f32(best * sumQ2)) {
      scale = f32(sumQX / sumQ2)
      best = f32(scale * sumQX)
      entries.set(trialEntries)
      searched = trialSearched
    }
  }
  if (scale > 0 && searched !== 0) {
    const inverse = f32(1 / scale)
    for (let k = 0; k < entries.length; k++) {
      if (search.keepsEntries && ((searched >> k) & 1) === 0) continue
      const entry = known[pointAt(x, k * WIDTH, inverse)] as number
      entries[k] = entry < 0 ? bestNeighbour(search, -1 - entry, values, k * WIDTH, scale) : entry
    }
    const [sumQX, sumQ2] = fit(search, values, entries)
    if (sumQ2 > 0) scale = f32(sumQX / sumQ2)
  }
  return { scale, entries }
}
