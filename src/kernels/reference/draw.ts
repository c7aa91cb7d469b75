/**
 * Random values from a counter: element i depends on the seed and i alone, and on integer arithmetic only, so that any
 * tile can be made by itself, the same everywhere. These bytes must never change: a seed is a promise.
 */
import { QUANTILES, type DrawType } from '../backend.ts'
import { ENCODE } from './float.ts'

const WORD = 2 ** 32

/** Values from `low` up to `high` at `from` to `from + count` of a run; the first that does not fit the type, or null. */
export function drawUniform(
  to: DrawType,
  output: DataView,
  from: number,
  count: number,
  { seed, start }: { readonly seed: number; readonly start: number },
  { low, high }: { readonly low: number; readonly high: number },
): number | null {
  const span = Math.fround(high - low)
  const encode = ENCODE[to]
  for (let i = from; i < from + count; i++) {
    const index = start + i
    const bits = mix(mix(seed ^ 0x9e3779b9, index % WORD), Math.floor(index / WORD))
    const value = Math.fround(low + Math.fround(span * ((bits >>> 8) / 2 ** 24)))
    if (!Number.isFinite(encode?.(output, i, value))) return i
  }
  return null
}

/** One round of a 32-bit integer hash (MurmurHash3's finaliser) over state and word. */
function mix(state: number, word: number): number {
  let h = (state + Math.imul(word, 0x85ebca6b)) | 0
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b)
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35)
  return (h ^ (h >>> 16)) | 0
}

/** Elements of a table: two come of one 32-bit hash, of the low half for even indices, of the high half for odd ones. All fit. */
export function drawNormal(
  table: Uint8Array,
  output: Uint8Array,
  from: number,
  count: number,
  { seed, start }: { readonly seed: number; readonly start: number },
): null {
  const [values, target] =
    table.length === 4 * QUANTILES
      ? [words32(table, QUANTILES), words32(output, from + count)]
      : [words16(table, QUANTILES), words16(output, from + count)]
  for (let i = from; i < from + count; i++) {
    const index = start + i
    const pair = (index - (index % 2)) / 2
    const hash = hashPair(seed, pair)
    target[i] = values[index % 2 === 0 ? hash & 0xffff : hash >>> 16] ?? 0
  }
  return null
}

/** Three multiplications with the key between them, so that streams of different seeds are no shifted copies. */
function hashPair(seed: number, pair: number): number {
  const key = mix(seed ^ 0x9e3779b9, Math.floor(pair / WORD))
  let h = (Math.imul(pair, 0x9e3779b1) + key) | 0
  h = Math.imul(h ^ (h >>> 16), 0x21f0aaad)
  h = Math.imul(h ^ (h >>> 15) ^ seed, 0x735a2d97)
  h = Math.imul(h ^ (h >>> 15), 0x846ca68b)
  return h ^ (h >>> 16)
}

const words32 = (bytes: Uint8Array, count: number): Uint32Array =>
  new Uint32Array(bytes.buffer, bytes.byteOffset, count)
const words16 = (bytes: Uint8Array, count: number): Uint16Array =>
  new Uint16Array(bytes.buffer, bytes.byteOffset, count)
