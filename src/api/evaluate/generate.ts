import { bytesOf, elementCount, type DType } from '../../core/dtype.ts'
import { AppError } from '../../core/errors.ts'
import { log } from '../../core/math.ts'
import type { Generation, Recipe } from '../../core/tensor.ts'
import { stackBytes, type Evaluator, type Run } from './node.ts'

/** Values are made in f32 and rounded to the recipe's type. */
export function generateEvaluator(recipe: Recipe & { op: 'generate' }): Evaluator {
  const { how, dtype } = recipe
  const quick = how.kind === 'normal' || (how.kind === 'constant' && how.value === 0)
  const direct = dtype === 'f32' || quick
  return {
    info: recipe,
    elements: elementCount(recipe.shape),
    quantum: 1,
    scratch: (_, count) => (direct ? 0 : stackBytes(count * 4)),
    reads: () => 0,
    fill: (start, count, into, run) =>
      run.stack.scope(async () => {
        if (how.kind === 'normal') {
          const table = await normalTable(how.std, dtype, run)
          generateNormal(table, how.seed, start, count, into)
          return
        }
        // zero is all bits zero in every type
        if (quick) {
          into.fill(0)
          return
        }
        const buffer = direct ? into : run.stack.take(count * 4)
        generateF32(how, start, new Float32Array(buffer.buffer, buffer.byteOffset, count))
        if (!direct) await castGenerated(run, dtype, buffer, into, count)
      }),
  }
}

async function castGenerated(run: Run, to: DType, from: Uint8Array, into: Uint8Array, count: number): Promise<void> {
  const { bad } = await run.kernel({ kind: 'cast', from: 'f32', to }).run(from, into, count, run.signal)
  if (bad !== null) throw new AppError('bad-weights', `A generated value does not fit ${to}`)
}

/** Element i depends on the seed and i alone, and on integer arithmetic only: the same everywhere, tile by tile. */
function generateF32(how: Exclude<Generation, { kind: 'normal' }>, start: number, into: Float32Array): void {
  if (how.kind === 'constant') {
    into.fill(how.value)
    return
  }
  const { low, high, seed } = how
  const span = Math.fround(high - low)
  for (let i = 0; i < into.length; i++) {
    const index = start + i
    const bits = mix(mix(seed ^ 0x9e3779b9, index % 2 ** 32), Math.floor(index / 2 ** 32))
    into[i] = Math.fround(low + Math.fround(span * ((bits >>> 8) / 2 ** 24)))
  }
}

/** One round of a 32-bit integer hash (MurmurHash3's finaliser) over state and word. */
function mix(state: number, word: number): number {
  let h = (state + Math.imul(word, 0x85ebca6b)) | 0
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b)
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35)
  return (h ^ (h >>> 16)) | 0
}

/** Values of the normal distribution are drawn from this many, which have the same probability each. */
const QUANTILES = 1 << 16

/** Two quantiles come of one 32-bit hash: of the low half for even elements, of the high half for odd ones. */
function generateNormal(table: Uint8Array, seed: number, start: number, count: number, into: Uint8Array): void {
  const width = table.length / QUANTILES
  const [values, target] =
    width === 4
      ? [words32(table), new Uint32Array(into.buffer, into.byteOffset, count)]
      : width === 2
        ? [words16(table), new Uint16Array(into.buffer, into.byteOffset, count)]
        : [table, into]
  if (width > 4) throw new AppError('internal', `normal values of ${width} bytes`)
  let i = 0
  if (start % 2 === 1 && count > 0) target[i++] = values[hashPair(seed, (start - 1) / 2) >>> 16] ?? 0
  while (i < count) {
    const pair = (start + i) / 2
    // all of a batch have the same high word of the counter
    const pairs = Math.min((count - i) >> 1, 2 ** 32 - (pair % 2 ** 32))
    const key = hashKey(seed, pair)
    const low = pair | 0
    for (let j = 0; j < pairs; j++) {
      const hash = hashWord(key, seed, (low + j) | 0)
      target[i] = values[hash & 0xffff] ?? 0
      target[i + 1] = values[hash >>> 16] ?? 0
      i += 2
    }
    if (count - i === 1) target[i++] = values[hashPair(seed, (start + i) / 2) & 0xffff] ?? 0
  }
}

function hashPair(seed: number, pair: number): number {
  return hashWord(hashKey(seed, pair), seed, pair | 0)
}

function hashKey(seed: number, pair: number): number {
  return mix(seed ^ 0x9e3779b9, Math.floor(pair / 2 ** 32))
}

/** Three multiplications with the key between them, so that streams of different seeds are no shifted copies. */
function hashWord(key: number, seed: number, word: number): number {
  let h = (Math.imul(word, 0x9e3779b1) + key) | 0
  h = Math.imul(h ^ (h >>> 16), 0x21f0aaad)
  h = Math.imul(h ^ (h >>> 15) ^ seed, 0x735a2d97)
  h = Math.imul(h ^ (h >>> 15), 0x846ca68b)
  return h ^ (h >>> 16)
}

const words32 = (bytes: Uint8Array): Uint32Array => new Uint32Array(bytes.buffer, bytes.byteOffset, QUANTILES)
const words16 = (bytes: Uint8Array): Uint16Array => new Uint16Array(bytes.buffer, bytes.byteOffset, QUANTILES)

/** Tables kept: a model has two deviations, each of 256 KiB at most. */
const MAX_TABLES = 4
const tables = new Map<string, Promise<Uint8Array>>()

/** The quantiles times `std`, rounded to f32, then to the type. */
function normalTable(std: number, dtype: DType, run: Run): Promise<Uint8Array> {
  const key = `${dtype} ${std}`
  const known = tables.get(key)
  if (known !== undefined) return known
  const made = makeTable(std, dtype, run)
  made.catch(() => tables.delete(key))
  const [oldest] = tables.keys()
  if (tables.size >= MAX_TABLES && oldest !== undefined) tables.delete(oldest)
  tables.set(key, made)
  return made
}

async function makeTable(std: number, dtype: DType, run: Run): Promise<Uint8Array> {
  unit ??= unitQuantiles()
  const values = unit.map((value) => value * std)
  const bytes = new Uint8Array(values.buffer)
  if (dtype === 'f32') return bytes
  const table = new Uint8Array(bytesOf(dtype, QUANTILES))
  await castGenerated(run, dtype, bytes, table, QUANTILES)
  return table
}

/** The middle of each quantile of N(0, 1): the upper half first, then its negative. */
let unit: Float64Array | Float32Array | null = null

function unitQuantiles(): Float32Array {
  const values = new Float32Array(QUANTILES)
  const half = QUANTILES / 2
  for (let k = 0; k < half; k++) {
    const value = Math.fround(normalQuantile((k + 0.5) / QUANTILES))
    values[k] = value
    values[k + half] = -value
  }
  return values
}

/** Wichura's AS 241 (1988), for a probability of 1/2 + q with q from 0 up to 1/2 - e^-25: to 16 digits. */
export function normalQuantile(q: number): number {
  if (q <= 0.425) return q * ratio(CENTRE, 0.180625 - q * q)
  return ratio(TAIL, Math.sqrt(-log(0.5 - q)) - 1.6)
}

function ratio([over, under]: readonly [readonly number[], readonly number[]], r: number): number {
  return horner(over, r) / horner(under, r)
}

/** Coefficients from the highest power down. */
function horner(coefficients: readonly number[], r: number): number {
  return coefficients.reduce((sum, coefficient) => sum * r + coefficient, 0)
}

const CENTRE = [
  [
    2509.0809287301227, 33430.57558358813, 67265.7709270087, 45921.95393154987, 13731.69376550946, 1971.5909503065513,
    133.14166789178438, 3.3871328727963665,
  ],
  [
    5226.495278852854, 28729.085735721943, 39307.89580009271, 21213.794301586597, 5394.196021424751, 687.1870074920579,
    42.31333070160091, 1,
  ],
] as const
const TAIL = [
  [
    0.0007745450142783414, 0.022723844989269184, 0.2417807251774506, 1.2704582524523684, 3.6478483247632045,
    5.769497221460691, 4.630337846156546, 1.4234371107496835,
  ],
  [
    1.0507500716444169e-9, 0.0005475938084995345, 0.015198666563616457, 0.14810397642748008, 0.6897673349851,
    1.6763848301838038, 2.053191626637759, 1,
  ],
] as const
