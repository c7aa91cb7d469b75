/**
 * The search for a sub-block's scale, shift and entries that IQ1_S and IQ1_M share: with only three values the best two
 * limits between them, in the order of the elements' size, are found by trying all; then each eight becomes the entry at
 * its values or the best of those nearest. Every operation rounds to float32, in the order of `quantize_row_iq1_*_impl`.
 */
import { f32 } from './codec.ts'
import { entriesAt, WIDTH, type EightGrid } from './iq2-search.ts'

const SHIFT = 0.125
/** What the three levels stand for, shifted up and down. */
export const UP: Levels = [-1 + SHIFT, SHIFT, 1 + SHIFT]
export const DOWN: Levels = [-1 - SHIFT, -SHIFT, 1 - SHIFT]
export type Levels = readonly [number, number, number]

/** The elements in ascending order, of equal ones the first first: glibc's `qsort` is a merge sort. */
export function ascending(x: Float32Array): readonly number[] {
  return Array.from(x, (_, i) => i).toSorted((a, b) => (x[a] ?? 0) - (x[b] ?? 0))
}

/** The best split so far: below `first` lies the lowest level, from `second` on the highest. */
export interface Split {
  readonly first: number
  readonly second: number
  /** Which shift, or which of the pairs of shifts. */
  readonly shift: number
  readonly scale: number
}

/** Keeps the best of splits that come one after the other. */
export class BestSplit {
  best: Split | null = null
  #score = -f32(3.4028234663852886e38)

  offer(first: number, second: number, shift: number, sumQX: number, sumQ2: number): void {
    if (!(sumQ2 > 0 && f32(sumQX * sumQX) > f32(this.#score * sumQ2))) return
    const scale = f32(sumQX / sumQ2)
    this.#score = f32(scale * sumQX)
    this.best = { first, second, shift, scale }
  }
}

/** The levels that a split gives the elements. */
export function levelsOf(order: readonly number[], { first, second }: Split): number[] {
  const levels = order.map(() => 0)
  order.forEach((i, place) => {
    levels[i] = place < first ? 0 : place < second ? 1 : 2
  })
  return levels
}

/** What was found for a sub-block. */
export interface Found {
  readonly scale: number
  /** As in the split, or its opposite where the scale was negative. */
  readonly shift: number
  readonly entries: readonly number[]
}

/** Of the entries near a point the one with the least error. */
function nearest(
  near: Uint16Array,
  grid: EightGrid,
  x: Float32Array,
  weights: Float32Array,
  scale: number,
  values: Levels,
): number {
  let best = near[0] ?? 0
  let least = f32(3.4028234663852886e38)
  for (const entry of near) {
    let distance = 0
    for (let i = 0; i < WIDTH; i++) {
      const diff = f32(f32(scale * (values[grid.levels[entry * WIDTH + i] ?? 0] ?? 0)) - (x[i] ?? 0))
      distance = f32(distance + f32(f32((weights[i] ?? 0) * diff) * diff))
    }
    if (!(distance < least)) continue
    least = distance
    best = entry
  }
  return best
}

/** Turns a split into entries. `valuesOf` says what the levels of an eight stand for. */
export function entriesOf(
  x: Float32Array,
  weights: Float32Array,
  grid: EightGrid,
  split: Split,
  levels: readonly number[],
  valuesOf: (eight: number) => Levels,
): Found {
  let { scale } = split
  let beside = false
  const entries = Array.from({ length: x.length / WIDTH }, (_, k) => {
    const [from, to] = [k * WIDTH, (k + 1) * WIDTH]
    const near = entriesAt(grid, levels.slice(from, to))
    if (typeof near === 'number') return near
    beside = true
    return nearest(near, grid, x.subarray(from, to), weights.subarray(from, to), scale, valuesOf(k))
  })
  if (beside) {
    const [sumQX, sumQ2] = fit(x, weights, grid, entries, valuesOf)
    if (sumQX > 0 && sumQ2 > 0) scale = f32(sumQX / sumQ2)
  }
  return { scale, shift: split.shift, entries }
}

/** The sums of w q x and w q^2, from `start` on. */
export function fit(
  x: Float32Array,
  weights: Float32Array,
  grid: EightGrid,
  entries: readonly number[],
  valuesOf: (eight: number) => Levels,
  factor = 1,
  start: readonly [number, number] = [0, 0],
): readonly [sumQX: number, sumQ2: number] {
  let [sumQX, sumQ2] = start
  x.forEach((value, i) => {
    const eight = i >> 3
    const level = grid.levels[(entries[eight] ?? 0) * WIDTH + (i & 7)] ?? 0
    const q = f32((valuesOf(eight)[level] ?? 0) * factor)
    const wq = f32((weights[i] ?? 0) * q)
    sumQX = f32(sumQX + f32(wq * value))
    sumQ2 = f32(sumQ2 + f32(wq * q))
  })
  return [sumQX, sumQ2]
}
