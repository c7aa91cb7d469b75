/**
 * IQ1_S and IQ1_M: 256 values in groups of eight, each an entry of one grid of 2048 whose elements are -1, 0 or 1; value =
 * d * (1 + 2s) * (element +- 1/8), with a 3-bit s and the sign of the shift for each 32 values; in IQ1_M s is for each 16,
 * the shift for each 8, and d lies in the high bits of the scales. Layouts: `block_iq1_s` and `block_iq1_m` of
 * ggml-common.h. Only IQ1_M can be written without an importance matrix.
 */
import { clamp, f32, importanceWeights, nearestInt, sumSquares, type BlockCodec } from './codec.ts'
import { decodeF16, encodeF16 } from './float.ts'
import { lazily } from './grid-neighbours.ts'
import { IQ1_S } from './grid-tables.ts'
import { unpackGrid } from './grids.ts'
import { ascending, BestSplit, DOWN, entriesOf, fit, levelsOf, UP, type Found, type Levels } from './iq1-search.ts'
import { mapEights, WIDTH } from './iq2-search.ts'
import { squares } from './iq4.ts'

const GROUPS = 32
const SHIFT = 0.125
/** The values of the one grid. */
export const IQ1_GRID = unpackGrid(IQ1_S, WIDTH, [-1, 0, 1])
/** What finds entries of it. */
export const IQ1_MAP = lazily(() => mapEights(IQ1_S, 3))
const S_OFFSET = { d: 0, codes: 2, high: 34 }
const M_OFFSET = { codes: 0, high: 32, scales: 48 }
/** The elements that share a scale. */
const S_SUB = 32
const M_SUB = 16
/** Below it a sub-block counts as zeros (ggml's GROUP_MAX_EPS_IQ1_S and GROUP_MAX_EPS_IQ1_M). */
const S_EPSILON = f32(1e-12)
const M_EPSILON = f32(1e-7)
const TOP_SCALE = 7
/** The greatest scale is d times this: 2 * 7 + 1. */
const TOP_FACTOR = 15
/** What is stored is a little larger than what was found. */
const S_STRETCH = 1.125
const M_STRETCH = f32(1.1125)

function write(entry: number, scale: number, shift: number, y: Float32Array, at: number): void {
  for (let j = 0; j < WIDTH; j++) y[at + j] = scale * ((IQ1_GRID[entry * WIDTH + j] ?? 0) + shift)
}

function largest(x: Float32Array): number {
  return x.reduce((max, value) => Math.max(max, Math.abs(value)), 0)
}

/** The elements of each half of a sub-block, or of all of it, that come before each place of the order, added up. */
function running(order: readonly number[], term: (i: number) => number): readonly number[] {
  const sums = [0]
  for (const i of order) sums.push(f32((sums.at(-1) ?? 0) + term(i)))
  return sums
}

/** Of a scale below 0 all levels and the shift are turned about. */
function turned(levels: readonly number[], scale: number): readonly number[] {
  return scale < 0 ? levels.map((level) => 2 - level) : levels
}

/** IQ1_S: shift 0 is up and 1 is down. Null where nothing can be found, as in zeros. */
function searchS(x: Float32Array, weights: Float32Array): Found | null {
  if (largest(x) < S_EPSILON) return null
  const order = ascending(x)
  const sumX = running(order, (i) => f32((weights[i] ?? 0) * (x[i] ?? 0)))
  const sumW = running(order, (i) => weights[i] ?? 0)
  const three = (sums: readonly number[], first: number, second: number): Levels => {
    const [a, b] = [sums[first] ?? 0, sums[second] ?? 0]
    return [a, f32(b - a), f32((sums[x.length] ?? 0) - b)]
  }
  const add = (parts: Levels, by: (part: number, level: number) => number): number =>
    f32(f32(by(parts[0], 0) + by(parts[1], 1)) + by(parts[2], 2))
  const splits = new BestSplit()
  for (let first = 0; first <= x.length; first++) {
    for (let second = first; second <= x.length; second++) {
      const [xs, ws] = [three(sumX, first, second), three(sumW, first, second)]
      ;[UP, DOWN].forEach((values, shift) => {
        const q = (level: number): number => values[level] ?? 0
        const sumQX = add(xs, (part, level) => f32(part * q(level)))
        const sumQ2 = add(ws, (part, level) => f32(f32(part * q(level)) * q(level)))
        splits.offer(first, second, shift, sumQX, sumQ2)
      })
    }
  }
  if (splits.best === null) return null
  const { best } = splits
  const split = { ...best, scale: Math.abs(best.scale), shift: best.scale < 0 ? 1 - best.shift : best.shift }
  const levels = turned(levelsOf(order, best), best.scale)
  return entriesOf(x, weights, IQ1_MAP(), split, levels, () => (split.shift === 0 ? UP : DOWN))
}

/** What the levels of a half of IQ1_M's sub-block stand for: shift 0 is up for both, 1 down for the second, 2 for the first. */
function valuesM(shift: number, half: number): Levels {
  return (half === 0 ? shift < 2 : shift % 2 === 0) ? UP : DOWN
}

function searchM(x: Float32Array, weights: Float32Array): Found | null {
  if (largest(x) < M_EPSILON) return null
  const order = ascending(x)
  const halves = [0, 1].map((half) => {
    const own = (i: number, value: number): number => (i >> 3 === half ? value : 0)
    const sumX = running(order, (i) => own(i, f32((weights[i] ?? 0) * (x[i] ?? 0))))
    const sumW = running(order, (i) => own(i, weights[i] ?? 0))
    const [allX, allW] = [sumX[x.length] ?? 0, sumW[x.length] ?? 0]
    return (values: Levels, first: number, second: number): readonly [number, number] => {
      const [v0, v1, v2] = values
      const below = f32((sumX[first] ?? 0) + (sumX[second] ?? 0))
      const sumQX = f32(f32(allX * v2) - below)
      const step1 = f32((sumW[first] ?? 0) * f32(f32(v0 * v0) - f32(v1 * v1)))
      const step2 = f32((sumW[second] ?? 0) * f32(f32(v1 * v1) - f32(v2 * v2)))
      return [sumQX, f32(f32(f32(f32(allW * v2) * v2) + step1) + step2)]
    }
  })
  const splits = new BestSplit()
  for (let first = 0; first <= x.length; first++) {
    for (let second = first; second <= x.length; second++) {
      const [low, high] = halves.map((sums) => [sums(UP, first, second), sums(DOWN, first, second)] as const)
      for (let shift = 0; shift < 4; shift++) {
        const [lowX, low2] = low?.[shift >> 1] ?? [0, 0]
        const [highX, high2] = high?.[shift & 1] ?? [0, 0]
        splits.offer(first, second, shift, f32(lowX + highX), f32(low2 + high2))
      }
    }
  }
  if (splits.best === null) return null
  const { best } = splits
  const split = { ...best, scale: Math.abs(best.scale), shift: best.scale < 0 ? 3 - best.shift : best.shift }
  const levels = turned(levelsOf(order, best), best.scale)
  return entriesOf(x, weights, IQ1_MAP(), split, levels, (half) => valuesM(split.shift, half))
}

/** A block as it will be stored. */
interface Block {
  readonly subs: readonly (Found | null)[]
  /** Of the sub-blocks' scales. */
  readonly codes: readonly number[]
  /** Not a number where one of the scales is none: there ggml gives up. */
  readonly d: number
  readonly empty: boolean
}

function search(
  x: Float32Array,
  weights: Float32Array,
  sub: number,
  find: (x: Float32Array, weights: Float32Array) => Found | null,
): Block {
  const subs = Array.from({ length: x.length / sub }, (_, j) =>
    find(x.subarray(j * sub, (j + 1) * sub), weights.subarray(j * sub, (j + 1) * sub)),
  )
  let max = 0
  // Not -0 where a scale is: of that nothing is stored.
  for (const found of subs) if (found !== null && found.scale !== 0) max = max > found.scale ? max : found.scale
  const whole = Number.isFinite(sumSquares(x)) && subs.every((found) => Number.isFinite(found?.scale ?? 0))
  const d = whole ? f32(max / TOP_FACTOR) : NaN
  const inverse = f32(1 / d)
  const code = (scale: number): number => clamp(nearestInt(f32(0.5 * f32(f32(inverse * scale) - 1))), 0, TOP_SCALE)
  const empty = whole && max === 0
  return { subs, codes: subs.map((found) => (empty ? 0 : code(found?.scale ?? 0))), d, empty }
}

/** The weights by importance, or without. */
function weigh(x: Float32Array, importance: Float32Array | null): Float32Array {
  return importance === null ? squares(x) : importanceWeights(x, importance, f32(f32(2 * sumSquares(x)) / x.length))
}

export const iq1_s: BlockCodec = {
  dtype: 'iq1_s',
  scales: [S_OFFSET.d],
  quantiseWeighted(x, out, importance) {
    const { subs, codes, d, empty } = search(x, weigh(x, importance.values), S_SUB, searchS)
    out.setUint16(S_OFFSET.d, encodeF16(f32(d * S_STRETCH)), true)
    subs.forEach((found, j) => {
      let high = ((codes[j] ?? 0) | (!empty && found?.shift === 1 ? 8 : 0)) << 12
      for (let k = 0; k < S_SUB / WIDTH; k++) {
        const entry = found?.entries[k] ?? 0
        out.setUint8(S_OFFSET.codes + j * 4 + k, entry & 255)
        high |= (entry >> 8) << (3 * k)
      }
      out.setUint16(S_OFFSET.high + j * 2, high, true)
    })
  },
  dequantise(block, y) {
    const d = decodeF16(block.getUint16(S_OFFSET.d, true))
    for (let group = 0; group < GROUPS; group++) {
      // For each 32 values: the indices' high bits (3 each), the scale, the shift's sign.
      const high = block.getUint16(S_OFFSET.high + (group >> 2) * 2, true)
      const entry = block.getUint8(S_OFFSET.codes + group) | (((high >> (3 * (group & 3))) & 7) << 8)
      write(entry, d * (1 + 2 * ((high >> 12) & 7)), high & 0x8000 ? -SHIFT : SHIFT, y, group * WIDTH)
    }
  },
}

/** The block's f16 scale: the high four bits of each of the four words of scales, lowest first. */
function scaleOf(block: DataView): number {
  let half = 0
  for (let i = 0; i < 4; i++) half |= (block.getUint16(M_OFFSET.scales + i * 2, true) >> 12) << (4 * i)
  return decodeF16(half)
}

function writeM(x: Float32Array, weights: Float32Array, out: DataView): void {
  const { subs, codes, d, empty } = search(x, weights, M_SUB, searchM)
  // The scale that fits the sub-blocks with their scales as these were rounded.
  let sums: readonly [number, number] = [0, 0]
  const words = [0, 0, 0, 0]
  subs.forEach((found, j) => {
    const { entries, shift } = found ?? { entries: [0, 0], shift: 0 }
    const [from, to] = [j * M_SUB, (j + 1) * M_SUB]
    const values = (half: number): Levels => valuesM(shift, half)
    const factor = 2 * (codes[j] ?? 0) + 1
    sums = fit(x.subarray(from, to), weights.subarray(from, to), IQ1_MAP(), entries, values, factor, sums)
    const [low = 0, high = 0] = entries
    const minus = empty ? 0 : (shift & 2 ? 0x08 : 0) | (shift & 1 ? 0x80 : 0)
    out.setUint8(M_OFFSET.codes + j * 2, low & 255)
    out.setUint8(M_OFFSET.codes + j * 2 + 1, high & 255)
    out.setUint8(M_OFFSET.high + j, (low >> 8) | ((high >> 8) << 4) | minus)
    words[j >> 2] = (words[j >> 2] ?? 0) | ((codes[j] ?? 0) << (3 * (j & 3)))
  })
  const fitted = Number.isFinite(d) && sums[1] > 0 ? f32(sums[0] / sums[1]) : d
  const half = empty ? 0 : encodeF16(f32(fitted * M_STRETCH))
  words.forEach((word, i) => out.setUint16(M_OFFSET.scales + i * 2, word | (((half >> (4 * i)) & 15) << 12), true))
}

export const iq1_m: BlockCodec = {
  dtype: 'iq1_m',
  scales: [],
  scatteredScale: scaleOf,
  quantise: (x, out) => writeM(x, weigh(x, null), out),
  quantiseWeighted: (x, out, importance) => writeM(x, weigh(x, importance.values), out),
  dequantise(block, y) {
    const d = scaleOf(block)
    for (let group = 0; group < GROUPS; group++) {
      // Three bits of the index and the shift's sign.
      const high = block.getUint8(M_OFFSET.high + (group >> 1)) >> (4 * (group & 1))
      const entry = block.getUint8(M_OFFSET.codes + group) | ((high & 7) << 8)
      // Four scales of 3 bits in a word, one for every two groups.
      const scales = block.getUint16(M_OFFSET.scales + (group >> 3) * 2, true)
      const code = (scales >> (3 * ((group >> 1) & 3))) & 7
      write(entry, d * (1 + 2 * code), high & 8 ? -SHIFT : SHIFT, y, group * WIDTH)
    }
  },
}
