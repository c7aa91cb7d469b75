/**
 * IQ2_XXS, IQ2_XS and IQ2_S: 256 values in groups of eight, each an entry of a grid of 256, 512 or 1024 with signs; value =
 * d * (0.5 + s) / 4 * entry, with a 4-bit s for each 32 values, in the last two for each 16. Layouts: `block_iq2_xxs`,
 * `block_iq2_xs` and `block_iq2_s` of ggml-common.h. Only IQ2_S can be written without an importance matrix.
 */
import { clamp, f32, importanceWeights, nearestInt, sumSquares, type BlockCodec } from './codec.ts'
import { decodeF16, encodeF16 } from './float.ts'
import { lazily } from './grid-neighbours.ts'
import { IQ2_S, IQ2_XS, IQ2_XXS } from './grid-tables.ts'
import { evenSigns, unpackGrid, writeEntry } from './grids.ts'
import { evenMagnitudesOf, magnitudesOf, mapEights, searchEntries, WIDTH } from './iq2-search.ts'
import { EPSILON, fitScale } from './search.ts'

const GROUPS = 32
const LEVELS = [8, 25, 43]
const XXS = unpackGrid(IQ2_XXS, WIDTH, LEVELS)
const XS = unpackGrid(IQ2_XS, WIDTH, LEVELS)
const S = unpackGrid(IQ2_S, WIDTH, LEVELS)
/** The values of the grids, from small to large. */
export const IQ2_GRIDS: readonly Float32Array[] = [XXS, XS, S]
/** What finds entries of the grids, from small to large. */
export const IQ2_MAPS = [
  lazily(() => mapEights(IQ2_XXS, 2)),
  lazily(() => mapEights(IQ2_XS, 2)),
  lazily(() => mapEights(IQ2_S, 1)),
] as const
const XXS_OFFSET = { d: 0, codes: 2 }
const XS_OFFSET = { d: 0, codes: 2, scales: 66 }
const S_OFFSET = { d: 0, codes: 2, signs: 34, high: 66, scales: 74 }
/** The elements that share a scale. */
const XXS_SUB = 32
const SUB = 16
/** Below it IQ2_S takes a sub-block for zeros (ggml's GROUP_MAX_EPS_IQ2_S). */
const S_EPSILON = f32(1e-8)
const TOP_SCALE = 15
/** The greatest scale is d times this: 2 * 15 + 1. */
const TOP_FACTOR = 31
/** What a level of 2 stands for, and one more level than there is, with which the search for XXS begins. */
const TOP_VALUE = 5
const FIT_TOP = 4
const FIT_SHARE = 3
const XXS_STEPS = 6
const STEPS = 9
/** IQ2_S stores a slightly smaller scale than was found. */
const S_SHRINK = f32(0.9875)

function scaleOf(d: number, code: number): number {
  return d * (0.5 + code) * 0.25
}

/** The 4-bit scale of a group: one for every two of them. */
function scaleCode(block: DataView, at: number, group: number): number {
  return (block.getUint8(at + (group >> 2)) >> (group & 2 ? 4 : 0)) & 15
}

/** A sub-block as it will be stored; null for zeros. */
interface SubBlock {
  readonly scale: number
  readonly entries: readonly number[]
  /** Of each group of eight. */
  readonly signs: readonly number[]
}

type Find = (x: Float32Array, weights: Float32Array) => SubBlock | null

function greatest(values: Float32Array): number {
  return values.reduce((max, value) => (max > value ? max : value))
}

/** The scale is stored without a sign: that of all values flips with it. */
function withoutSign(scale: number, entries: readonly number[], signs: readonly number[]): SubBlock {
  return scale < 0 ? { scale: -scale, entries, signs: signs.map((bits) => ~bits & 255) } : { scale, entries, signs }
}

const findXxs: Find = (x, weights) => {
  const { values, signs } = evenMagnitudesOf(x, weights)
  if (greatest(values) < EPSILON) return null
  const start = fitScale(values, weights, new Uint8Array(x.length), FIT_TOP)
  const top = f32(start * FIT_SHARE)
  if (top <= 0) return null
  const found = searchEntries(values, weights, IQ2_MAPS[0](), { top, steps: XXS_STEPS, start, again: 'all' })
  return withoutSign(found.scale, found.entries, signs)
}

function find16(even: boolean): Find {
  return (x, weights) => {
    const { values, signs } = even ? evenMagnitudesOf(x, weights) : magnitudesOf(x)
    const top = greatest(values)
    if (top < (even ? EPSILON : S_EPSILON)) return null
    const trials = { top, steps: STEPS, start: f32(top / TOP_VALUE), again: 'beside' } as const
    const found = searchEntries(values, weights, IQ2_MAPS[even ? 1 : 2](), trials)
    return withoutSign(found.scale, found.entries, signs)
  }
}

/** A block as it will be stored. */
interface Block {
  readonly subs: readonly (SubBlock | null)[]
  /** Of the sub-blocks' scales. */
  readonly codes: readonly number[]
  /** Not a number where one of the scales is none: there ggml gives up. */
  readonly d: number
  readonly empty: boolean
}

function search(
  x: Float32Array,
  sub: number,
  weigh: (x: Float32Array, from: number) => Float32Array,
  find: Find,
): Block {
  const subs = Array.from({ length: x.length / sub }, (_, j) => {
    const part = x.subarray(j * sub, (j + 1) * sub)
    return find(part, weigh(part, j * sub))
  })
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

/** Weights by importance. */
function by(importance: Float32Array, sigma2: number): (x: Float32Array, from: number) => Float32Array {
  return (x, from) => importanceWeights(x, importance.subarray(from, from + x.length), sigma2)
}

function meanSquare(x: Float32Array): number {
  return f32(sumSquares(x) / x.length)
}

/** Two scales of four bits a byte. */
function writeScales(codes: readonly number[], out: DataView, at: number): void {
  codes.forEach((code, j) => {
    const byte = at + (j >> 1)
    out.setUint8(byte, j & 1 ? out.getUint8(byte) | (code << 4) : code)
  })
}

function clear(out: DataView): void {
  for (let i = 0; i < out.byteLength; i++) out.setUint8(i, 0)
}

export const iq2_xxs: BlockCodec = {
  dtype: 'iq2_xxs',
  scales: [XXS_OFFSET.d],
  quantiseWeighted(x, out, importance) {
    const { subs, codes, d, empty } = search(x, XXS_SUB, by(importance.values, meanSquare(x)), findXxs)
    clear(out)
    out.setUint16(XXS_OFFSET.d, encodeF16(d), true)
    if (empty) return
    subs.forEach((found, j) => {
      const at = XXS_OFFSET.codes + j * 8
      found?.entries.forEach((entry, k) => out.setUint8(at + k, entry))
      const signs = found?.signs.reduce((bits, eight, k) => bits | ((eight & 127) << (7 * k)), 0) ?? 0
      out.setUint32(at + 4, (signs | ((codes[j] ?? 0) << 28)) >>> 0, true)
    })
  },
  dequantise(block, y) {
    const d = decodeF16(block.getUint16(XXS_OFFSET.d, true))
    for (let group = 0; group < GROUPS; group++) {
      const [sub, part] = [group >> 2, group & 3]
      // Four indices, then their signs (7 bits each) and the scale.
      const at = XXS_OFFSET.codes + sub * 8
      const rest = block.getUint32(at + 4, true)
      const signs = evenSigns((rest >>> (7 * part)) & 127)
      writeEntry(XXS, block.getUint8(at + part), WIDTH, scaleOf(d, rest >>> 28), signs, y, group * WIDTH)
    }
  },
}

export const iq2_xs: BlockCodec = {
  dtype: 'iq2_xs',
  scales: [XS_OFFSET.d],
  quantiseWeighted(x, out, importance) {
    const { subs, codes, d, empty } = search(x, SUB, by(importance.values, meanSquare(x)), find16(true))
    clear(out)
    out.setUint16(XS_OFFSET.d, encodeF16(d), true)
    if (empty) return
    writeScales(codes, out, XS_OFFSET.scales)
    subs.forEach((found, j) =>
      found?.entries.forEach((entry, k) => {
        out.setUint16(XS_OFFSET.codes + (j * 2 + k) * 2, entry | (((found.signs[k] ?? 0) & 127) << 9), true)
      }),
    )
  },
  dequantise(block, y) {
    const d = decodeF16(block.getUint16(XS_OFFSET.d, true))
    for (let group = 0; group < GROUPS; group++) {
      // Nine bits of index and seven of signs.
      const code = block.getUint16(XS_OFFSET.codes + group * 2, true)
      const scale = scaleOf(d, scaleCode(block, XS_OFFSET.scales, group))
      writeEntry(XS, code & 511, WIDTH, scale, evenSigns(code >> 9), y, group * WIDTH)
    }
  },
}

function writeS(x: Float32Array, weigh: (x: Float32Array, from: number) => Float32Array, out: DataView): void {
  const { subs, codes, d } = search(x, SUB, weigh, find16(false))
  clear(out)
  out.setUint16(S_OFFSET.d, encodeF16(f32(d * S_SHRINK)), true)
  writeScales(codes, out, S_OFFSET.scales)
  subs.forEach((found, j) =>
    found?.entries.forEach((entry, k) => {
      const group = j * 2 + k
      out.setUint8(S_OFFSET.codes + group, entry & 255)
      const high = S_OFFSET.high + (group >> 2)
      out.setUint8(high, out.getUint8(high) | ((entry >> 8) << (2 * (group & 3))))
      out.setUint8(S_OFFSET.signs + group, found.signs[k] ?? 0)
    }),
  )
}

export const iq2_s: BlockCodec = {
  dtype: 'iq2_s',
  scales: [S_OFFSET.d],
  quantise(x, out) {
    const quarter = f32(0.25 * f32(f32(2 * sumSquares(x)) / x.length))
    writeS(x, (part) => part.map((value) => quarter + f32(value * value)), out)
  },
  quantiseWeighted: (x, out, importance) =>
    writeS(x, by(importance.values, f32(f32(2 * sumSquares(x)) / x.length)), out),
  dequantise(block, y) {
    const d = decodeF16(block.getUint16(S_OFFSET.d, true))
    for (let group = 0; group < GROUPS; group++) {
      const high = (block.getUint8(S_OFFSET.high + (group >> 2)) >> (2 * (group & 3))) & 3
      const entry = block.getUint8(S_OFFSET.codes + group) | (high << 8)
      const scale = scaleOf(d, scaleCode(block, S_OFFSET.scales, group))
      writeEntry(S, entry, WIDTH, scale, block.getUint8(S_OFFSET.signs + group), y, group * WIDTH)
    }
  },
}
