import type { Source } from '../../core/bytes.ts'
import { AppError } from '../../core/errors.ts'
import { ggufNumber, readGguf, type GgufTensor } from './gguf/reader.ts'
import { GGUF_MAGIC, type GgufValue } from './gguf/types.ts'
import { ggufLayout } from './gguf/writer.ts'

/**
 * Importance matrices of llama.cpp: the mean square of what each input column of a matrix was multiplied by, over some
 * text. The older form (.dat) holds `mean * calls`, the newer one is a GGUF file with sums and counts.
 * Source: tools/imatrix and common/imatrix-loader.cpp of llama.cpp v0.5.0.
 */

export interface Imatrix {
  readonly form: ImatrixForm
  /** By the name of the matrix: `blk.0.attn_q.weight`. */
  readonly entries: ReadonlyMap<string, ImatrixEntry>
  /** Names of the texts. */
  readonly datasets: readonly string[]
  /** Pieces of text that were evaluated, and tokens in each; 0 where the file does not say. */
  readonly chunkCount: number
  readonly chunkSize: number
}

export type ImatrixForm = 'legacy' | 'gguf'

/** What was collected for one matrix, or for a stack of experts. */
export interface ImatrixEntry {
  /** Sums of squares, expert by expert; in the legacy form `mean * counts[0]`. */
  readonly sums: Float32Array
  /** Tokens that each expert saw; in the legacy form the number of calls alone. */
  readonly counts: readonly number[]
}

/** Larger models have some 50 000 matrices. */
const MAX_ENTRIES = 2 ** 18
/** Far more than any tensor's name. */
const MAX_NAME_BYTES = 1024
/** A path, at most. */
const MAX_DATASET_BYTES = 65_536

const SUMS = '.in_sum2'
const COUNTS = '.counts'
const KEYS = { datasets: 'imatrix.datasets', chunks: 'imatrix.chunk_count', size: 'imatrix.chunk_size' } as const

/** Reads either form. Throws `malformed` and `truncated`, naming the entry. */
export function readImatrix(bytes: Uint8Array, file: string): Promise<Imatrix> {
  const isGguf = GGUF_MAGIC.every((byte, index) => bytes[index] === byte)
  return isGguf ? readGgufForm(bytes, file) : Promise.resolve().then(() => readLegacy(bytes, file))
}

function malformed(file: string, message: string, offset?: number): AppError {
  return new AppError('malformed', `${file}: ${message}`, {
    where: { file, ...(offset === undefined ? {} : { offset }) },
    hint: 'Give a file that llama-imatrix wrote, whole.',
  })
}

function readLegacy(bytes: Uint8Array, file: string): Imatrix {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  let at = 0
  const need = (count: number, what: string): void => {
    if (count > bytes.length - at) {
      throw new AppError('truncated', `${file} ends within ${what}`, {
        where: { file, offset: at },
        hint: 'Get the file again, or give one that llama-imatrix wrote.',
      })
    }
  }
  const int = (what: string, max: number): number => {
    need(4, what)
    const value = view.getInt32(at, true)
    if (value < 0 || value > max) throw malformed(file, `${what} is ${value}`, at)
    at += 4
    return value
  }
  const string = (length: number, what: string): string => {
    need(length, what)
    const text = new TextDecoder().decode(bytes.slice(at, at + length))
    at += length
    return text
  }
  const count = int('the number of entries', MAX_ENTRIES)
  if (count === 0) throw malformed(file, 'it has no entries', 0)
  const entries = new Map<string, ImatrixEntry>()
  for (let i = 0; i < count; i++) {
    const name = string(int(`the name's length of entry ${i}`, MAX_NAME_BYTES), `the name of entry ${i}`)
    if (entries.has(name)) throw malformed(file, `${name} occurs twice`, at)
    const calls = int(`the calls of ${name}`, 0x7fff_ffff)
    const values = int(`the number of values of ${name}`, 0x7fff_ffff)
    if (values === 0) throw malformed(file, `${name} has no values`, at)
    need(values * 4, `the values of ${name}`)
    const sums = floats(bytes, at, values)
    requireFinite(sums, name, file)
    at += values * 4
    entries.set(name, { sums, counts: [calls] })
  }
  // older files end here
  const chunkCount = at < bytes.length ? int('the number of chunks', 0x7fff_ffff) : 0
  const dataset =
    at < bytes.length ? string(int('the length of the text name', MAX_DATASET_BYTES), 'the text name') : ''
  return { form: 'legacy', entries, datasets: dataset === '' ? [] : [dataset], chunkCount, chunkSize: 0 }
}

/** A copy, since values need not lie aligned. */
function floats(bytes: Uint8Array, offset: number, count: number): Float32Array {
  const copy = new Uint8Array(count * 4)
  copy.set(bytes.subarray(offset, offset + count * 4))
  return new Float32Array(copy.buffer)
}

function requireFinite(values: Float32Array, name: string, file: string): void {
  const bad = values.findIndex((value) => !Number.isFinite(value))
  if (bad >= 0) throw malformed(file, `${name} holds ${values[bad]} at ${bad}`)
}

/** Bytes in memory as a file. */
function memorySource(bytes: Uint8Array, name: string): Source {
  return {
    name,
    size: bytes.length,
    modified: null,
    async read(offset, into) {
      if (offset + into.length > bytes.length) {
        throw new AppError('truncated', `${name} ends at ${bytes.length} bytes`, { where: { file: name, offset } })
      }
      into.set(bytes.subarray(offset, offset + into.length))
    },
    close: async () => {},
  }
}

async function readGgufForm(bytes: Uint8Array, file: string): Promise<Imatrix> {
  const { metadata, tensors } = await readGguf(memorySource(bytes, file))
  const type = metadata.get('general.type')
  if (type?.type !== 'string' || type.value !== 'imatrix')
    throw malformed(file, 'it is a GGUF file, but not of an importance matrix')
  const byName = new Map(tensors.map((tensor) => [tensor.name, tensor]))
  const entries = new Map<string, ImatrixEntry>()
  for (const tensor of tensors) {
    if (!tensor.name.endsWith(SUMS)) continue
    const name = tensor.name.slice(0, -SUMS.length)
    const counted = byName.get(name + COUNTS)
    if (counted === undefined) throw malformed(file, `${name} has sums without counts`)
    const sums = valuesOf(tensor, bytes, file)
    const counts = [...valuesOf(counted, bytes, file)].map(roundAway)
    if (counts.length === 0 || sums.length === 0 || sums.length % counts.length !== 0)
      throw malformed(file, `${name} has ${sums.length} sums and ${counts.length} counts`)
    entries.set(name, { sums, counts })
  }
  if (entries.size === 0) throw malformed(file, 'it has no entries')
  const datasets = metadata.get(KEYS.datasets)
  return {
    form: 'gguf',
    entries,
    datasets: datasets?.type === 'array' && datasets.of === 'string' ? datasets.value : [],
    chunkCount: ggufNumber(metadata, KEYS.chunks) ?? 0,
    chunkSize: ggufNumber(metadata, KEYS.size) ?? 0,
  }
}

/** C's `lround`; counts are not negative. */
function roundAway(value: number): number {
  return Math.floor(value + 0.5)
}

function valuesOf(tensor: GgufTensor, bytes: Uint8Array, file: string): Float32Array {
  if (tensor.type.name !== 'f32') throw malformed(file, `${tensor.name} is ${tensor.type.name}, not f32`, tensor.offset)
  if (tensor.offset + tensor.size > bytes.length) {
    throw new AppError('truncated', `${file} ends within ${tensor.name}`, {
      where: { file, tensor: tensor.name, offset: tensor.offset },
      hint: 'Get the file again.',
    })
  }
  const values = floats(bytes, tensor.offset, tensor.size / 4)
  requireFinite(values, tensor.name, file)
  return values
}

/**
 * The weight of each input column of a matrix, [experts * columns], as quantisation takes it: the mean square. An
 * expert that saw no token has ones.
 */
export function importanceOf({ sums, counts }: ImatrixEntry, form: ImatrixForm): Float32Array {
  const columns = sums.length / counts.length
  return sums.map((sum, index) => {
    const count = counts[Math.floor(index / columns)] ?? 0
    if (count > 0) return sum / count
    return form === 'gguf' ? 1 : sum
  })
}

/** The file's bytes in the form asked for. Throws RangeError for an entry whose sums are not whole matrices. */
export function writeImatrix(imatrix: Imatrix, form: ImatrixForm): Uint8Array<ArrayBuffer> {
  const names = [...imatrix.entries.keys()].toSorted((a, b) => (a < b ? -1 : 1))
  const entries = names.flatMap((name) => {
    const entry = imatrix.entries.get(name)
    return entry === undefined ? [] : [{ name, ...entry }]
  })
  for (const { name, sums, counts } of entries)
    if (sums.length % counts.length !== 0) throw new RangeError(`${name}: ${sums.length} sums, ${counts.length} counts`)
  return form === 'gguf' ? writeGgufForm(imatrix, entries) : writeLegacy(imatrix, entries)
}

type Named = ImatrixEntry & { readonly name: string }

/** What an entry of the legacy form counts is calls; a call is a chunk, of 512 tokens unless the file says otherwise. */
const LEGACY_CHUNK = 512

function writeGgufForm(imatrix: Imatrix, entries: readonly Named[]): Uint8Array<ArrayBuffer> {
  const chunkSize = imatrix.chunkSize === 0 ? LEGACY_CHUNK : imatrix.chunkSize
  const factor = imatrix.form === 'legacy' ? chunkSize : 1
  const metadata = new Map<string, GgufValue>([
    ['general.type', { type: 'string', value: 'imatrix' }],
    [KEYS.datasets, { type: 'array', of: 'string', value: imatrix.datasets }],
    [KEYS.chunks, { type: 'u32', value: imatrix.chunkCount }],
    [KEYS.size, { type: 'u32', value: chunkSize }],
  ])
  const tensors = entries.flatMap(({ name, sums, counts }) => [
    { name: name + SUMS, dtype: 'f32' as const, shape: [counts.length, sums.length / counts.length], values: sums },
    { name: name + COUNTS, dtype: 'f32' as const, shape: [counts.length, 1], values: counts },
  ])
  const layout = ggufLayout(metadata, tensors)
  const bytes = new Uint8Array(layout.size)
  bytes.set(layout.header)
  tensors.forEach(({ values }, index) => {
    const at = layout.tensors[index]
    if (at === undefined) return
    const scaled = Float32Array.from(values, (value) => value * factor)
    bytes.set(new Uint8Array(scaled.buffer), at.offset)
  })
  return bytes
}

function writeLegacy(imatrix: Imatrix, all: readonly Named[]): Uint8Array<ArrayBuffer> {
  const f32 = Math.fround
  const encoder = new TextEncoder()
  // what no token passed through has nothing to say
  const entries = all.filter(({ counts }) => imatrix.form === 'legacy' || counts.some((count) => count > 0))
  const dataset = encoder.encode(imatrix.datasets.at(-1) ?? '')
  const names = entries.map(({ name }) => encoder.encode(name))
  const size = entries.reduce((sum, { sums }, i) => sum + 12 + (names[i]?.length ?? 0) + sums.length * 4, 12)
  const bytes = new Uint8Array(size + dataset.length)
  const view = new DataView(bytes.buffer)
  let at = 0
  const int = (value: number): void => {
    view.setInt32(at, value, true)
    at += 4
  }
  const put = (part: Uint8Array): void => {
    bytes.set(part, at)
    at += part.length
  }
  int(entries.length)
  entries.forEach(({ sums, counts }, index) => {
    const name = names[index] ?? new Uint8Array()
    const most = counts.reduce((a, b) => Math.max(a, b), 0)
    const calls = imatrix.form === 'legacy' ? most : Math.ceil(most / Math.max(1, imatrix.chunkSize))
    int(name.length)
    put(name)
    int(calls)
    int(sums.length)
    const columns = sums.length / counts.length
    sums.forEach((sum, i) => {
      const count = counts[Math.floor(i / columns)] ?? 0
      const mean = count === 0 ? 1 : f32(sum / f32(count))
      view.setFloat32(at, imatrix.form === 'legacy' ? sum : mean * f32(calls), true)
      at += 4
    })
  })
  int(imatrix.chunkCount)
  int(dataset.length)
  put(dataset)
  return bytes
}
