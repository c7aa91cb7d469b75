/**
 * IQ3_XXS and IQ3_S: 256 values in groups of four, each an entry of a grid of 256 or 512, with signs. A 4-bit s for each 32
 * values: value = d * (0.5 + s) / 2 * entry in IQ3_XXS, d * (1 + 2s) * entry in IQ3_S. Layouts: `block_iq3_xxs` and
 * `block_iq3_s` of ggml-common.h.
 */
import {
  clamp,
  f32,
  importanceWeights,
  nearestInt,
  sumSquares,
  type BlockCodec,
  type BlockImportance,
} from './codec.ts'
import { decodeF16, encodeF16 } from './float.ts'
import { lazily, mapGrid } from './grid-neighbours.ts'
import { IQ3_S, IQ3_XXS } from './grid-tables.ts'
import { evenSigns, unpackGrid, writeEntry } from './grids.ts'
import { searchEntries, SUB, WIDTH, type Found3, type Search3 } from './iq3-search.ts'
import { squares } from './iq4.ts'

const GROUPS = 64
const SUBS = 8
/** Groups of eight whose signs lie together. */
const OCTETS = 4
const LEVELS = [0, 1, 2, 3, 4, 5, 6, 7]
const XXS = unpackGrid(IQ3_XXS, WIDTH, [4, 12, 20, 28, 36, 44, 52, 62])
const S = unpackGrid(IQ3_S, WIDTH, [1, 3, 5, 7, 9, 11, 13, 15])
/** The values of the grids, from small to large. */
export const IQ3_GRIDS: readonly Float32Array[] = [XXS, S]
const XXS_OFFSET = { d: 0, codes: 2, rest: 66 }
const S_OFFSET = { d: 0, codes: 2, high: 66, signs: 74, scales: 106 }
/** The code that the greatest scale of a sub-block gets stands for so much. */
const TOP_SCALE = 31

/** How IQ3_XXS searches its grid. */
export const searchXxs: () => Search3 = lazily(() => ({
  digits: unpackGrid(IQ3_XXS, WIDTH, LEVELS),
  map: mapGrid(IQ3_XXS, WIDTH, LEVELS.length, 2),
  trials: 15,
  least: f32(1e-8),
  keepsEntries: true,
}))

/** How IQ3_S searches its grid. */
export const searchS: () => Search3 = lazily(() => ({
  digits: unpackGrid(IQ3_S, WIDTH, LEVELS),
  map: mapGrid(IQ3_S, WIDTH, LEVELS.length, 3),
  trials: 9,
  least: 2 ** -149,
  keepsEntries: false,
}))

/** Weights of the 32 values of sub-block `j`. */
type Weigh = (sub: Float32Array, j: number) => Float32Array

const weighSquares: Weigh = (sub) => squares(sub)

function weighByImportance(x: Float32Array, { values }: BlockImportance): Weigh {
  const sigma2 = f32(f32(2 * sumSquares(x)) / x.length)
  return (sub, j) => importanceWeights(sub, values.subarray(j * SUB, (j + 1) * SUB), sigma2)
}

/** The minus signs of eight values, a bit each. */
function minusSigns(x: Float32Array): number {
  return x.reduce((bits, value, i) => (value < 0 ? bits | (1 << i) : bits), 0)
}

/** The element whose sign costs least to change, of equals the first. */
function cheapest(x: Float32Array, weights: Float32Array): number {
  const costs = x.map((value, i) => f32((weights[i] ?? 0) * value) * value)
  return costs.reduce((least, cost, i) => (cost < (costs[least] ?? 0) ? i : least), 0)
}

/** Writes d, and gives the scales' codes. A scale that is not a number makes d none either. */
function writeScales(scales: Float32Array, factor: number, out: DataView): number[] {
  const max = Math.max(...scales)
  const d = f32(max / TOP_SCALE)
  out.setUint16(0, encodeF16(f32(d * f32(factor))), true)
  const inverse = f32(1 / d)
  return Array.from(scales, (scale) => clamp(nearestInt(0.5 * f32(f32(inverse * scale) - 1)), 0, 15))
}

function clear(out: DataView): void {
  for (let i = 0; i < out.byteLength; i++) out.setUint8(i, 0)
}

function writeXxs(x: Float32Array, weigh: Weigh, out: DataView): void {
  clear(out)
  const scales = new Float32Array(SUBS)
  const signs = new Uint32Array(SUBS)
  for (let j = 0; j < SUBS; j++) {
    const sub = x.subarray(j * SUB, (j + 1) * SUB)
    const weights = weigh(sub, j)
    const magnitudes = sub.map(Math.abs)
    const own = Array.from({ length: OCTETS }, (_, k) => {
      const octet = sub.subarray(k * 8, k * 8 + 8)
      const minus = minusSigns(octet)
      if (evenSigns(minus & 127) === minus) return minus
      // Only an even number of minus signs can be stored.
      const i = cheapest(octet, weights.subarray(k * 8, k * 8 + 8))
      magnitudes[k * 8 + i] = -(magnitudes[k * 8 + i] ?? 0)
      return minus ^ (1 << i)
    })
    const found = searchEntries(magnitudes, weights, searchXxs())
    if (found === null) continue
    scales[j] = Math.abs(found.scale)
    const flip = found.scale < 0 ? 127 : 0
    signs[j] = own.reduce((bits, minus, k) => bits | (((minus ^ flip) & 127) << (7 * k)), 0)
    found.entries.forEach((entry, k) => out.setUint8(XXS_OFFSET.codes + j * 8 + k, entry))
  }
  if (scales.every((scale) => scale === 0)) return clear(out)
  writeScales(scales, 1.0125, out).forEach((code, j) =>
    out.setUint32(XXS_OFFSET.rest + j * 4, (signs[j] ?? 0) | (code << 28), true),
  )
}

function writeS(x: Float32Array, weigh: Weigh, out: DataView): void {
  clear(out)
  const scales = new Float32Array(SUBS)
  const all: Found3[] = []
  for (let j = 0; j < SUBS; j++) {
    const sub = x.subarray(j * SUB, (j + 1) * SUB)
    const found = searchEntries(sub.map(Math.abs), weigh(sub, j), searchS())
    if (found === null) continue
    // What follows 32 zeros ggml writes where their codes and signs belong, though not the high bits.
    const place = all.push(found) - 1
    scales[j] = found.scale
    let high = 0
    found.entries.forEach((entry, k) => {
      out.setUint8(S_OFFSET.codes + place * 8 + k, entry)
      high |= (entry >> 8) << k
    })
    out.setUint8(S_OFFSET.high + j, high)
    for (let k = 0; k < OCTETS; k++) {
      out.setUint8(S_OFFSET.signs + place * OCTETS + k, minusSigns(sub.subarray(k * 8, k * 8 + 8)))
    }
  }
  if (scales.every((scale) => scale === 0)) return
  writeScales(scales, 1.033, out).forEach((code, j) => {
    const at = S_OFFSET.scales + (j >> 1)
    out.setUint8(at, out.getUint8(at) | (code << (4 * (j & 1))))
  })
}

export const iq3_xxs: BlockCodec = {
  dtype: 'iq3_xxs',
  scales: [XXS_OFFSET.d],
  quantise: (x, out) => writeXxs(x, weighSquares, out),
  quantiseWeighted: (x, out, importance) => writeXxs(x, weighByImportance(x, importance), out),
  dequantise(block, y) {
    const d = decodeF16(block.getUint16(XXS_OFFSET.d, true))
    for (let group = 0; group < GROUPS; group++) {
      // For each 32 values the signs of eight at a time (7 bits each) and the scale.
      const rest = block.getUint32(XXS_OFFSET.rest + (group >> 3) * 4, true)
      const signs = evenSigns((rest >>> (7 * ((group >> 1) & 3))) & 127) >> (4 * (group & 1))
      const scale = d * (0.5 + (rest >>> 28)) * 0.5
      writeEntry(XXS, block.getUint8(XXS_OFFSET.codes + group), WIDTH, scale, signs, y, group * WIDTH)
    }
  },
}

export const iq3_s: BlockCodec = {
  dtype: 'iq3_s',
  scales: [S_OFFSET.d],
  quantise: (x, out) => writeS(x, weighSquares, out),
  quantiseWeighted: (x, out, importance) => writeS(x, weighByImportance(x, importance), out),
  dequantise(block, y) {
    const d = decodeF16(block.getUint16(S_OFFSET.d, true))
    for (let group = 0; group < GROUPS; group++) {
      const sub = group >> 3
      const high = (block.getUint8(S_OFFSET.high + sub) >> (group & 7)) & 1
      const signs = block.getUint8(S_OFFSET.signs + (group >> 1)) >> (4 * (group & 1))
      const scale = d * (1 + 2 * ((block.getUint8(S_OFFSET.scales + (sub >> 1)) >> (4 * (sub & 1))) & 15))
      const entry = block.getUint8(S_OFFSET.codes + group) | (high << 8)
      writeEntry(S, entry, WIDTH, scale, signs, y, group * WIDTH)
    }
  },
}
