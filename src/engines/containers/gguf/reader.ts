import type { Source } from '../../../core/bytes.ts'
import { AppError } from '../../../core/errors.ts'
import { Cursor } from './cursor.ts'
import {
  GGUF_ALIGNMENT,
  GGUF_MAGIC,
  GGUF_MAX_DIMS,
  GGUF_MAX_NAME,
  GGUF_VALUE_BYTES,
  GGUF_VALUE_TYPES,
  alignUp,
  ggmlType,
  removedGgmlType,
  type GgmlType,
  type GgufArray,
  type GgufNumberType,
  type GgufValue,
  type GgufValueType,
} from './types.ts'

/** Metadata and tensor infos of the largest vocabularies take some 30 MiB. */
const MAX_HEADER_BYTES = 128 * 2 ** 20
/** Real files have up to a hundred. */
const MAX_KEYS = 65_536
/** The specification's own. */
const MAX_KEY_BYTES = 65_535
/** Chat templates and licences have some 100 KiB. */
const MAX_STRING_BYTES = 16 * 2 ** 20
/** Vocabularies have up to a million tokens, Unigram's character map a few million bytes. */
const MAX_ARRAY_ITEMS = 2 ** 24
/** No known key has arrays of arrays; each inner one costs far more memory than its bytes. */
const MAX_NESTED_ITEMS = 65_536
const MAX_ARRAY_DEPTH = 4
/** Mixtures with unstacked experts have some 50 000. */
const MAX_TENSORS = 2 ** 18
/** Larger than any page; more would only make room to hide things in. */
const MAX_ALIGNMENT = 2 ** 20

/** A key of one letter with a boolean, and a tensor of one letter without axes: what each takes at least. */
const LEAST_KEY_BYTES = 14
const LEAST_TENSOR_BYTES = 25

/** A tensor of a GGUF file. */
export interface GgufTensor {
  readonly name: string
  /** Slowest axis first, as HuggingFace writes them: the reverse of the file's order. */
  readonly shape: readonly number[]
  readonly type: GgmlType
  /** From the start of the file. */
  readonly offset: number
  readonly size: number
}

/** Everything of a GGUF file but its weights. */
export interface GgufHeader {
  readonly version: 2 | 3
  readonly metadata: ReadonlyMap<string, GgufValue>
  /** In the order of the file. */
  readonly tensors: readonly GgufTensor[]
  readonly alignment: number
  /** Where the first tensor may lie. */
  readonly dataOffset: number
  readonly fileSize: number
}

interface TensorInfo {
  readonly name: string
  readonly shape: readonly number[]
  readonly type: GgmlType
  /** From the start of the data. */
  readonly offset: bigint
  readonly size: number
  /** Of the offset's own bytes, for messages. */
  readonly at: number
}

/**
 * Reads the header of a GGUF file of version 2 or 3, in bounded memory. Throws `not-a-model` for another magic,
 * `unsupported` for version 1, big endian and removed types, `truncated`, and `malformed` for everything that breaks
 * the format: each naming the key or tensor and the offset.
 */
export async function readGguf(source: Source, signal?: AbortSignal): Promise<GgufHeader> {
  const cursor = new Cursor(source, MAX_HEADER_BYTES, signal)
  const version = await readVersion(cursor, source.name)
  await cursor.fill(16, 'the counts')
  const tensorCount = cursor.count(MAX_TENSORS, 'the number of tensors')
  const keyCount = cursor.count(MAX_KEYS, 'the number of metadata keys')
  cursor.require(keyCount * LEAST_KEY_BYTES + tensorCount * LEAST_TENSOR_BYTES, 'the header')
  const { metadata, alignment } = await readMetadata(cursor, keyCount)
  const infos = await readTensorInfos(cursor, tensorCount)
  const dataOffset = alignUp(cursor.position, alignment)
  const tensors = infos.map((info) => placeTensor(info, alignment, dataOffset, source, cursor))
  refuseOverlaps(tensors, cursor)
  return { version, metadata, tensors, alignment, dataOffset, fileSize: source.size }
}

async function readVersion(cursor: Cursor, file: string): Promise<2 | 3> {
  if (cursor.remaining < 4) cursor.require(4, 'the magic')
  const magic = await cursor.bytes(4, 'the magic')
  if (!GGUF_MAGIC.every((byte, index) => magic[index] === byte)) {
    throw new AppError('not-a-model', `${file} does not start with "GGUF"`, {
      where: { file, offset: 0 },
      hint: 'It is another kind of file, or its beginning is damaged.',
    })
  }
  await cursor.fill(4, 'the version')
  const version = cursor.u32()
  if (version === 2 || version === 3) return version
  const bigEndian = version !== 0 && (version & 0xffff) === 0
  const what = bigEndian ? 'big-endian GGUF' : `GGUF version ${version}`
  throw new AppError('unsupported', `${file} is ${what}; versions 2 and 3, little endian, can be read`, {
    where: { file, offset: 4 },
    hint:
      version === 1
        ? 'The file is of August 2023. Convert the original model again.'
        : 'Get the file in its usual little-endian form, or convert the original model again.',
  })
}

async function readMetadata(
  cursor: Cursor,
  count: number,
): Promise<{ readonly metadata: ReadonlyMap<string, GgufValue>; readonly alignment: number }> {
  const metadata = new Map<string, GgufValue>()
  let alignment = GGUF_ALIGNMENT
  for (let i = 0; i < count; i++) {
    const at = cursor.position
    const key = await cursor.string(MAX_KEY_BYTES, `the name of key ${i}`, true)
    if (key === '') cursor.fail(`key ${i} has no name`, at)
    if (metadata.has(key)) cursor.fail(`the key ${key} occurs twice`, at)
    const type = await readType(cursor, key)
    const valueAt = cursor.position
    const value = await readValue(cursor, type, key)
    if (key === 'general.alignment') alignment = alignmentOf(value, cursor, valueAt)
    metadata.set(key, value)
  }
  return { metadata, alignment }
}

async function readType(cursor: Cursor, key: string): Promise<GgufValueType> {
  await cursor.fill(4, key)
  const at = cursor.position
  const number = cursor.u32()
  return GGUF_VALUE_TYPES[number] ?? cursor.fail(`${key} has the unknown value type ${number}`, at)
}

async function readValue(cursor: Cursor, type: GgufValueType, key: string): Promise<GgufValue> {
  switch (type) {
    case 'string':
      return { type, value: await cursor.string(MAX_STRING_BYTES, key, false) }
    case 'array':
      return readArray(cursor, key, 1)
    case 'bool':
      await cursor.fill(1, key)
      return { type, value: boolean(cursor, key) }
    case 'u64':
    case 'i64':
      await cursor.fill(8, key)
      return { type, value: type === 'u64' ? cursor.u64() : cursor.i64() }
    default:
      await cursor.fill(GGUF_VALUE_BYTES[type], key)
      return { type, value: cursor[type]() }
  }
}

function boolean(cursor: Cursor, key: string): boolean {
  const at = cursor.position
  const value = cursor.u8()
  return value > 1 ? cursor.fail(`${key} is a boolean of value ${value}`, at) : value === 1
}

async function readArray(cursor: Cursor, key: string, depth: number): Promise<GgufArray> {
  if (depth > MAX_ARRAY_DEPTH) cursor.fail(`${key} nests arrays more than ${MAX_ARRAY_DEPTH} deep`)
  const of = await readType(cursor, key)
  await cursor.fill(8, key)
  const count = cursor.count(of === 'array' ? MAX_NESTED_ITEMS : MAX_ARRAY_ITEMS, `the length of ${key}`)
  cursor.require(count * GGUF_VALUE_BYTES[of], key)
  switch (of) {
    case 'array': {
      const value: GgufArray[] = []
      for (let i = 0; i < count; i++) value.push(await readArray(cursor, key, depth + 1))
      return { type: 'array', of, value }
    }
    case 'string': {
      const value: string[] = []
      for (let i = 0; i < count; i++) value.push(await cursor.string(MAX_STRING_BYTES, key, false))
      return { type: 'array', of, value }
    }
    case 'bool':
      return { type: 'array', of, value: await items(cursor, key, count, 1, () => boolean(cursor, key)) }
    case 'u64':
    case 'i64':
      return { type: 'array', of, value: await items(cursor, key, count, 8, () => cursor[of]()) }
    default: {
      const value = numberArray(of, count)
      for (let i = 0; i < count; i++) {
        if (!cursor.has(GGUF_VALUE_BYTES[of])) await cursor.fill(GGUF_VALUE_BYTES[of], key)
        value[i] = cursor[of]()
      }
      return { type: 'array', of, value }
    }
  }
}

async function items<T>(cursor: Cursor, key: string, count: number, bytes: number, next: () => T): Promise<T[]> {
  const value: T[] = []
  for (let i = 0; i < count; i++) {
    if (!cursor.has(bytes)) await cursor.fill(bytes, key)
    value.push(next())
  }
  return value
}

function numberArray(of: GgufNumberType, count: number): { [index: number]: number; readonly length: number } {
  switch (of) {
    case 'u8':
      return new Uint8Array(count)
    case 'i8':
      return new Int8Array(count)
    case 'u16':
      return new Uint16Array(count)
    case 'i16':
      return new Int16Array(count)
    case 'u32':
      return new Uint32Array(count)
    case 'i32':
      return new Int32Array(count)
    case 'f32':
      return new Float32Array(count)
    case 'f64':
      return new Float64Array(count)
  }
}

function alignmentOf(value: GgufValue, cursor: Cursor, at: number): number {
  if (value.type !== 'u32') return cursor.fail(`general.alignment has the type ${value.type} instead of u32`, at)
  const alignment = value.value
  const good = alignment > 0 && alignment <= MAX_ALIGNMENT && (alignment & (alignment - 1)) === 0
  return good ? alignment : cursor.fail(`general.alignment is ${alignment}, which is no power of two up to 1 MiB`, at)
}

async function readTensorInfos(cursor: Cursor, count: number): Promise<readonly TensorInfo[]> {
  const infos: TensorInfo[] = []
  const names = new Set<string>()
  for (let i = 0; i < count; i++) {
    const start = cursor.position
    const name = await cursor.string(GGUF_MAX_NAME, `the name of tensor ${i}`, true)
    if (name === '') cursor.fail(`tensor ${i} has no name`, start)
    if (names.has(name)) cursor.fail(`the tensor ${name} occurs twice`, start, name)
    names.add(name)
    await cursor.fill(4, name)
    const dimsAt = cursor.position
    const dims = cursor.u32()
    if (dims > GGUF_MAX_DIMS) cursor.fail(`${name} has ${dims} axes, at most ${GGUF_MAX_DIMS}`, dimsAt, name)
    await cursor.fill(dims * 8 + 12, name)
    const shape: number[] = []
    for (let axis = 0; axis < dims; axis++) {
      shape.unshift(cursor.count(Number.MAX_SAFE_INTEGER, `an axis of ${name}`, name))
    }
    const typeAt = cursor.position
    const type = tensorType(cursor, cursor.u32(), name, typeAt)
    const at = cursor.position
    const size = tensorSize(cursor, name, shape, type, dimsAt)
    infos.push({ name, shape, type, offset: cursor.u64(), size, at })
  }
  return infos
}

function tensorType(cursor: Cursor, id: number, name: string, at: number): GgmlType {
  const type = ggmlType(id)
  if (type !== null) return type
  const removed = removedGgmlType(id)
  if (removed === null) cursor.fail(`${name} has the unknown type ${id}`, at, name)
  throw new AppError('unsupported', `${name} has the type ${removed}, which llama.cpp no longer reads`, {
    where: { file: cursor.file, tensor: name, offset: at },
    hint: 'Convert the original model again.',
  })
}

function tensorSize(cursor: Cursor, name: string, shape: readonly number[], type: GgmlType, at: number): number {
  const row = shape.at(-1) ?? 1
  if (row % type.block !== 0) {
    cursor.fail(`${name} has rows of ${row}, which are not whole blocks of ${type.name} (${type.block})`, at, name)
  }
  // an axis of 0 must not hide what the others come to
  const most = shape.reduce((product, axis) => product * Math.max(1, axis), 1)
  const size = shape.includes(0) ? 0 : (most / type.block) * type.bytes
  if (!Number.isSafeInteger(most) || !Number.isSafeInteger((most / type.block) * type.bytes))
    cursor.fail(`${name} of shape [${shape.join(', ')}] has too many elements`, at, name)
  return size
}

function placeTensor(
  info: TensorInfo,
  alignment: number,
  dataOffset: number,
  source: Source,
  cursor: Cursor,
): GgufTensor {
  const { name, shape, type, size, at } = info
  if (info.offset % BigInt(alignment) !== 0n)
    cursor.fail(`${name} lies at ${info.offset}, which is no multiple of ${alignment}`, at, name)
  const end = BigInt(dataOffset) + info.offset + BigInt(size)
  if (end > BigInt(source.size)) {
    throw new AppError('truncated', `${source.name} has ${source.size} bytes, but ${name} ends at byte ${end}`, {
      where: { file: source.name, tensor: name, offset: at },
      hint: 'The file is incomplete. Download or convert it again.',
    })
  }
  return { name, shape, type, offset: dataOffset + Number(info.offset), size }
}

function refuseOverlaps(tensors: readonly GgufTensor[], cursor: Cursor): void {
  const sorted = [...tensors].sort((a, b) => a.offset - b.offset || a.size - b.size)
  let before: GgufTensor | null = null
  for (const tensor of sorted) {
    if (before !== null && tensor.offset < before.offset + before.size)
      cursor.fail(`${tensor.name} overlaps ${before.name}`, tensor.offset, tensor.name)
    if (tensor.size > 0) before = tensor
  }
}

/** The string under a key; null if there is none, or another type. */
export function ggufString(metadata: ReadonlyMap<string, GgufValue>, key: string): string | null {
  const value = metadata.get(key)
  return value?.type === 'string' ? value.value : null
}

/** The number under a key, of any integer or float type; null if there is none, or beyond 2^53. */
export function ggufNumber(metadata: ReadonlyMap<string, GgufValue>, key: string): number | null {
  const value = metadata.get(key)
  if (value === undefined || value.type === 'array' || value.type === 'string' || value.type === 'bool') return null
  const number = Number(value.value)
  return typeof value.value === 'bigint' && !Number.isSafeInteger(number) ? null : number
}
