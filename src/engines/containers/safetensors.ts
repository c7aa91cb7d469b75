/**
 * The safetensors container: a u64 header length, a JSON header, and one buffer that the tensors cover without holes.
 * Format and reference reader: https://github.com/huggingface/safetensors
 */
import type { Source } from '../../core/bytes.ts'
import type { DType } from '../../core/dtype.ts'
import { AppError, type ErrorPlace } from '../../core/errors.ts'
import { isArray, isObject, parseJsonObject, type Json, type JsonObject } from '../../core/json.ts'
import { tensorBytes, type TensorInfo } from '../../core/tensor.ts'

/** One tensor of a file. */
export interface SafetensorsEntry extends TensorInfo {
  readonly name: string
  /** Of its first byte, from the start of the file. */
  readonly offset: number
  readonly bytes: number
}

export interface SafetensorsHeader {
  /** By ascending offset. */
  readonly entries: readonly SafetensorsEntry[]
  /** `__metadata__`. */
  readonly metadata: ReadonlyMap<string, string>
  /** Bytes before the buffer. */
  readonly length: number
}

/** The reference reader's own limit. */
export const MAX_HEADER_BYTES = 100_000_000

/** PyTorch's and NumPy's own limit is 64. */
const MAX_RANK = 64

/** Bytes of the length field. */
const PREFIX = 8

/** Headers are padded with spaces, so that the buffer starts on a multiple of this. */
const ALIGNMENT = 8

/** Longer names are cut in messages: a hostile one may be megabytes long. */
const SHOWN_NAME = 200

/**
 * What the specification names, in the reference's order (by alignment): the writer sorts by it. `dtype` is null for
 * what {@link DType} lacks.
 */
const STORED_TYPES: readonly StoredType[] = [
  { stored: 'BOOL', bits: 8, dtype: 'bool' },
  { stored: 'F4', bits: 4, dtype: null },
  { stored: 'F6_E2M3', bits: 6, dtype: null },
  { stored: 'F6_E3M2', bits: 6, dtype: null },
  { stored: 'U8', bits: 8, dtype: 'u8' },
  { stored: 'I8', bits: 8, dtype: 'i8' },
  { stored: 'F8_E5M2', bits: 8, dtype: 'f8_e5m2' },
  { stored: 'F8_E4M3', bits: 8, dtype: 'f8_e4m3' },
  { stored: 'F8_E8M0', bits: 8, dtype: null },
  { stored: 'F8_E4M3FNUZ', bits: 8, dtype: null },
  { stored: 'F8_E5M2FNUZ', bits: 8, dtype: null },
  { stored: 'I16', bits: 16, dtype: 'i16' },
  { stored: 'U16', bits: 16, dtype: 'u16' },
  { stored: 'F16', bits: 16, dtype: 'f16' },
  { stored: 'BF16', bits: 16, dtype: 'bf16' },
  { stored: 'I32', bits: 32, dtype: 'i32' },
  { stored: 'U32', bits: 32, dtype: 'u32' },
  { stored: 'F32', bits: 32, dtype: 'f32' },
  { stored: 'C64', bits: 64, dtype: null },
  { stored: 'F64', bits: 64, dtype: 'f64' },
  { stored: 'I64', bits: 64, dtype: 'i64' },
  { stored: 'U64', bits: 64, dtype: 'u64' },
]

interface StoredType {
  readonly stored: string
  readonly bits: number
  readonly dtype: DType | null
}

const BY_STORED = new Map(STORED_TYPES.map((type) => [type.stored, type]))
const ORDER = new Map(
  STORED_TYPES.flatMap((type, index) => (type.dtype === null ? [] : [[type.dtype, index] as const])),
)

const REMEDY = 'The file is damaged or was not written by a safetensors library: download or export it again.'
const DOWNLOAD_AGAIN = 'The download was cut short: download the file again.'

/**
 * Reads and checks the header of a file, and nothing else of it. Throws `truncated` if the file ends before the header
 * or the last tensor does, `malformed` if it breaks any rule of the format, `unsupported` for a type that is not
 * converted.
 */
export async function readSafetensorsHeader(source: Source, signal?: AbortSignal): Promise<SafetensorsHeader> {
  const file = source.name
  if (source.size < PREFIX) throw truncated(file, PREFIX - source.size, 'its header length', 0)
  const prefix = new Uint8Array(PREFIX)
  await source.read(0, prefix, signal)
  const length = headerLength(prefix, file)
  if (length > source.size - PREFIX) throw truncated(file, length - (source.size - PREFIX), 'its header', PREFIX)
  const json = new Uint8Array(length)
  await source.read(PREFIX, json, signal)
  return parseSafetensorsHeader(json, file, source.size)
}

function headerLength(prefix: Uint8Array, file: string): number {
  if (new TextDecoder().decode(prefix) === 'version ') {
    throw new AppError('malformed', `${file} is a Git LFS pointer, not the weights`, {
      where: { file, offset: 0 },
      hint: 'Fetch the weights themselves with "git lfs pull", or download the file again.',
    })
  }
  const length = new DataView(prefix.buffer, prefix.byteOffset, PREFIX).getBigUint64(0, true)
  if (length > BigInt(MAX_HEADER_BYTES)) {
    throw new AppError(
      'malformed',
      `${file} claims a header of ${length} bytes; at most ${MAX_HEADER_BYTES} are legal`,
      {
        where: { file, offset: 0 },
        hint: REMEDY,
      },
    )
  }
  return Number(length)
}

/** Checks the JSON of a header (without its length) against a file of `fileSize` bytes. */
export function parseSafetensorsHeader(json: Uint8Array, file: string, fileSize: number): SafetensorsHeader {
  if (json[0] !== 0x7b) {
    throw new AppError('malformed', `The header of ${file} does not start with "{"`, {
      where: { file, offset: PREFIX },
      hint: REMEDY,
    })
  }
  const header = parseJson(json, file)
  const length = PREFIX + json.length
  const parsed: { readonly entry: Omit<SafetensorsEntry, 'dtype'>; readonly type: StoredType }[] = []
  let metadata: ReadonlyMap<string, string> = new Map()
  for (const [name, value] of header) {
    if (name === '__metadata__') metadata = parseMetadata(value, file)
    else parsed.push(parseEntry(name, value, file, length))
  }
  parsed.sort((a, b) => a.entry.offset - b.entry.offset || a.entry.bytes - b.entry.bytes)
  requireCover(
    parsed.map(({ entry }) => entry),
    file,
    length,
    fileSize,
  )
  const entries = parsed.map(({ entry, type }): SafetensorsEntry => {
    if (type.dtype !== null) return Object.assign(entry, { dtype: type.dtype })
    throw new AppError(
      'unsupported',
      `${shown(entry.name)} in ${file} is stored as ${type.stored}, which cannot be read yet`,
      {
        where: place(file, entry.name, entry.offset),
        hint: 'Save the model as F32, F16 or BF16 first.',
      },
    )
  })
  return { entries, metadata, length }
}

function parseJson(json: Uint8Array, file: string): JsonObject {
  try {
    return parseJsonObject(json, file)
  } catch (error) {
    const known = AppError.from(error)
    const offset = PREFIX + (known.where.offset ?? 0)
    throw new AppError('malformed', `The header of ${known.message}`, {
      where: { file, offset },
      hint: REMEDY,
      cause: error,
    })
  }
}

function parseMetadata(value: Json, file: string): ReadonlyMap<string, string> {
  if (!isObject(value)) throw malformed(file, '__metadata__', 'must be an object')
  const metadata = new Map<string, string>()
  for (const [key, text] of value) {
    if (typeof text !== 'string') throw malformed(file, '__metadata__', `holds ${shown(key)}, which is not text`)
    metadata.set(key, text)
  }
  return metadata
}

function parseEntry(
  name: string,
  value: Json,
  file: string,
  start: number,
): { readonly entry: Omit<SafetensorsEntry, 'dtype'>; readonly type: StoredType } {
  if (!isObject(value)) throw malformed(file, name, 'is not described by an object')
  const stored = value.get('dtype')
  const type = typeof stored === 'string' ? BY_STORED.get(stored) : undefined
  if (type === undefined) {
    throw malformed(file, name, `has the type ${shown(stored)}, which the format does not know`)
  }
  const shape = parseSizes(value.get('shape'))
  if (shape === null || shape.length > MAX_RANK) {
    throw malformed(file, name, `has a shape that is not a list of at most ${MAX_RANK} whole numbers`)
  }
  const offsets = parseSizes(value.get('data_offsets'))
  const [begin, end] = offsets ?? []
  if (offsets?.length !== 2 || begin === undefined || end === undefined || begin > end) {
    throw malformed(file, name, 'has data_offsets that are not two ascending whole numbers below 2^53')
  }
  if (!Number.isSafeInteger(start + end)) throw malformed(file, name, 'ends beyond 2^53 bytes')
  const bits = bitsOf(shape, type.bits)
  if (bits === null) throw malformed(file, name, `has a shape of too many elements, [${shape.join(', ')}]`)
  if (bits !== BigInt(end - begin) * 8n) {
    const needed = bits % 8n === 0n ? `${bits / 8n} bytes` : `${bits} bits, which are not whole bytes`
    const what = `of type ${type.stored} and shape [${shape.join(', ')}] needs ${needed}, but has ${end - begin} bytes`
    throw malformed(file, name, what, start + begin)
  }
  return { entry: { name, shape, offset: start + begin, bytes: end - begin }, type }
}

function parseSizes(value: Json | undefined): readonly number[] | null {
  if (!isArray(value)) return null
  const sizes = value.filter((size): size is number => Number.isSafeInteger(size) && (size as number) >= 0)
  // -0 would print and hash differently
  return sizes.length === value.length ? sizes.map((size) => size + 0) : null
}

/** Bits of a tensor; null if its elements are beyond 2^53. */
function bitsOf(shape: readonly number[], bits: number): bigint | null {
  if (shape.includes(0)) return 0n
  let count = 1
  for (const size of shape) {
    count *= size
    if (!Number.isSafeInteger(count)) return null
  }
  return BigInt(count) * BigInt(bits)
}

/** The tensors must lie end to end and fill the buffer exactly. */
function requireCover(
  sorted: readonly Omit<SafetensorsEntry, 'dtype'>[],
  file: string,
  start: number,
  fileSize: number,
): void {
  let end = start
  let previous = 'the header'
  for (const { name, offset, bytes } of sorted) {
    if (offset < end) throw malformed(file, name, `overlaps ${previous} by ${end - offset} bytes`, offset)
    if (offset > end) throw malformed(file, name, `leaves a hole of ${offset - end} bytes after ${previous}`, offset)
    end = offset + bytes
    previous = shown(name)
  }
  if (end > fileSize) {
    const first = sorted.find((entry) => entry.offset + entry.bytes > fileSize)
    throw truncated(file, end - fileSize, 'its last tensor', first?.offset ?? start, first?.name)
  }
  if (end < fileSize) {
    throw new AppError('malformed', `${file} has ${fileSize - end} bytes after its last tensor`, {
      where: { file, offset: end },
      hint: REMEDY,
    })
  }
}

function place(file: string, tensor: string | undefined, offset: number): ErrorPlace {
  return tensor === undefined ? { file, offset } : { file, offset, tensor: tensor.slice(0, SHOWN_NAME) }
}

function shown(value: Json | undefined): string {
  const text = typeof value === 'string' ? value : value === undefined ? 'none' : `of another kind (${typeof value})`
  return text.length > SHOWN_NAME ? `${text.slice(0, SHOWN_NAME)}…` : text
}

function malformed(file: string, tensor: string, why: string, offset = PREFIX): AppError {
  return new AppError('malformed', `${shown(tensor)} in ${file} ${why}`, {
    where: place(file, tensor, offset),
    hint: REMEDY,
  })
}

function truncated(file: string, missing: number, before: string, offset: number, tensor?: string): AppError {
  return new AppError('truncated', `${file} ends ${missing} bytes before ${before} does`, {
    where: place(file, tensor, offset),
    hint: DOWNLOAD_AGAIN,
  })
}

/** A tensor to be written. */
export interface SafetensorsTensor extends TensorInfo {
  readonly name: string
}

/**
 * The header of a file of these tensors, its length field and padding included, and where each tensor goes (offsets
 * from the start of the file). Ordered and spelled as the reference writer does: by type, widest first, then by name;
 * or in the order given, which readers take as well. Throws RangeError for block types, which the format does not know.
 */
export function safetensorsHeader(
  tensors: readonly SafetensorsTensor[],
  metadata: ReadonlyMap<string, string>,
  order: 'type' | 'given' = 'type',
): { readonly bytes: Uint8Array<ArrayBuffer>; readonly entries: readonly SafetensorsEntry[] } {
  const sorted = order === 'given' ? tensors : byType(tensors)
  let end = 0
  const placed = sorted.map((tensor) => {
    const bytes = tensorBytes(tensor)
    end += bytes
    return { name: tensor.name, dtype: tensor.dtype, shape: tensor.shape, offset: end - bytes, bytes }
  })
  const parts = placed.map((entry) => {
    const info = {
      dtype: safetensorsType(entry.dtype),
      shape: entry.shape,
      data_offsets: [entry.offset, entry.offset + entry.bytes],
    }
    return `${JSON.stringify(entry.name)}:${JSON.stringify(info)}`
  })
  if (metadata.size > 0) {
    const texts = [...metadata].map(([key, text]) => `${JSON.stringify(key)}:${JSON.stringify(text)}`)
    parts.unshift(`"__metadata__":{${texts.join(',')}}`)
  }
  const json = new TextEncoder().encode(`{${parts.join(',')}}`)
  const length = Math.ceil(json.length / ALIGNMENT) * ALIGNMENT
  const bytes = new Uint8Array(PREFIX + length).fill(0x20)
  new DataView(bytes.buffer).setBigUint64(0, BigInt(length), true)
  bytes.set(json, PREFIX)
  const entries = placed.map(({ name, dtype, shape, offset, bytes: size }) => {
    return { name, dtype, shape, offset: bytes.length + offset, bytes: size }
  })
  return { bytes, entries }
}

function byType(tensors: readonly SafetensorsTensor[]): readonly SafetensorsTensor[] {
  return tensors
    .map((tensor) => ({ tensor, order: typeOrder(tensor.dtype) }))
    .sort((a, b) => b.order - a.order || compareUtf8(a.tensor.name, b.tensor.name))
    .map(({ tensor }) => tensor)
}

/** The format's name of a type: `BF16`. Throws RangeError for block types. */
export function safetensorsType(dtype: DType): string {
  return (STORED_TYPES[typeOrder(dtype)] as StoredType).stored
}

function typeOrder(dtype: DType): number {
  const order = ORDER.get(dtype)
  if (order === undefined) throw new RangeError(`safetensors has no type ${dtype}`)
  return order
}

/** Compares by code point, which is the order of UTF-8 bytes; JavaScript's own is by UTF-16 unit. */
export function compareUtf8(a: string, b: string): number {
  const left = [...a]
  const right = [...b]
  for (let i = 0; i < Math.min(left.length, right.length); i++) {
    const difference = (left[i]?.codePointAt(0) ?? 0) - (right[i]?.codePointAt(0) ?? 0)
    if (difference !== 0) return difference
  }
  return left.length - right.length
}
