/**
 * Plans files of torch.save: a stored zip whose pickle and headers are known now, with tensors between them. Layout:
 * https://github.com/pytorch/pytorch/blob/main/caffe2/serialize/inline_container.h
 */
import { elementCount, type DType } from '../../core/dtype.ts'
import { AppError } from '../../core/errors.ts'
import type { PlannedFile, Segment } from '../../core/plan.ts'
import { tensorBytes, type Recipe } from '../../core/tensor.ts'
import type { PickleValue } from './pickle.ts'
import { pickledCall, pickledGlobal, pickledTuple, writePickle } from './pickle-write.ts'

/** Storages start on multiples of this, so that they can be mapped. */
const ALIGNMENT = 64
/** The extra field that fills the gap before: `FB`, as PyTorch has it. */
const PADDING_ID = 0x4246
const ZIP64_ID = 0x0001
const VERSION_ZIP64 = 45
/** 1980-01-01, the earliest there is: the same model makes the same file. */
const DATE = 0x0021
/** Names are UTF-8. */
const FLAGS = 0x0800
const IN_ZIP64 = 0xffff_ffff
const IN_ZIP64_SHORT = 0xffff

const STORAGES: ReadonlyMap<DType, string> = new Map([
  ['f32', 'FloatStorage'],
  ['f16', 'HalfStorage'],
  ['bf16', 'BFloat16Storage'],
])

/** Collects the tensors of a file while its pickle is put together. */
export class TorchFileWriter {
  readonly #tensors: { readonly name: string; readonly recipe: Recipe }[] = []

  /** What stands for a tensor in the pickle. Throws `unsupported` for types without a storage. */
  tensor(name: string, recipe: Recipe): PickleValue {
    const storage = STORAGES.get(recipe.dtype)
    if (storage === undefined) {
      throw new AppError('unsupported', `${name} is ${recipe.dtype}, which is not written for PyTorch`, {
        where: { tensor: name },
        hint: 'Choose --dtype bf16, f16 or f32.',
      })
    }
    const { shape } = recipe
    const key = String(this.#tensors.length)
    this.#tensors.push({ name, recipe })
    const strides = shape.map((_, axis) => elementCount(shape.slice(axis + 1)))
    const id = pickledTuple('storage', pickledGlobal('torch', storage), key, 'cpu', elementCount(shape))
    return pickledCall(pickledGlobal('torch._utils', '_rebuild_tensor_v2'), [
      { kind: 'persistent', id },
      0,
      pickledTuple(...shape),
      pickledTuple(...strides),
      false,
      pickledCall(pickledGlobal('collections', 'OrderedDict'), []),
    ])
  }

  /** The file with `root` as its pickle; `stem` is the folder of all entries. */
  plan(path: string, stem: string, root: PickleValue): PlannedFile {
    const text = (string: string): Uint8Array => new TextEncoder().encode(string)
    return planZip(path, [
      { name: `${stem}/data.pkl`, bytes: writePickle(root) },
      { name: `${stem}/byteorder`, bytes: text('little') },
      ...this.#tensors.map(({ name, recipe }, key) => ({ name: `${stem}/data/${key}`, tensor: name, recipe })),
      { name: `${stem}/version`, bytes: text('3\n') },
    ])
  }
}

type Entry =
  | { readonly name: string; readonly bytes: Uint8Array }
  | { readonly name: string; readonly tensor: string; readonly recipe: Recipe }

/** A zip of entries as they are, each aligned. */
function planZip(path: string, entries: readonly Entry[]): PlannedFile {
  const segments: Segment[] = []
  const directory: Uint8Array[] = []
  let at = 0
  const literal = (bytes: Uint8Array): void => {
    segments.push({ kind: 'bytes', offset: at, bytes })
    at += bytes.length
  }
  for (const entry of entries) {
    const size = 'bytes' in entry ? entry.bytes.length : tensorBytes(entry.recipe)
    // PyTorch's reader compares no checksums, and those of tensors are not known before they are written
    const crc = 'bytes' in entry ? crc32(entry.bytes) : 0
    const name = new TextEncoder().encode(entry.name)
    directory.push(directoryEntry(name, size, crc, at))
    literal(localHeader(name, size, crc, at))
    if ('bytes' in entry) literal(entry.bytes)
    else if (size > 0) {
      segments.push({ kind: 'tensor', offset: at, size, name: entry.tensor, recipe: entry.recipe })
      at += size
    }
  }
  const start = at
  for (const bytes of directory) literal(bytes)
  literal(endOf(directory.length, start, at - start))
  return { path, size: at, segments: merged(segments) }
}

/** Neighbouring literals as one. */
function merged(segments: readonly Segment[]): readonly Segment[] {
  const result: Segment[] = []
  for (const segment of segments) {
    const last = result.at(-1)
    if (last?.kind !== 'bytes' || segment.kind !== 'bytes') {
      result.push(segment)
      continue
    }
    const bytes = new Uint8Array(last.bytes.length + segment.bytes.length)
    bytes.set(last.bytes)
    bytes.set(segment.bytes, last.bytes.length)
    result[result.length - 1] = { kind: 'bytes', offset: last.offset, bytes }
  }
  return result
}

class Fields {
  readonly #bytes: number[] = []

  u16(value: number): this {
    this.#bytes.push(value & 0xff, (value >>> 8) & 0xff)
    return this
  }

  u32(value: number): this {
    return this.u16(value & 0xffff).u16((value >>> 16) & 0xffff)
  }

  u64(value: number): this {
    return this.u32(value % 2 ** 32).u32(Math.floor(value / 2 ** 32))
  }

  raw(bytes: Iterable<number>): this {
    for (const byte of bytes) this.#bytes.push(byte)
    return this
  }

  done(): Uint8Array {
    return Uint8Array.from(this.#bytes)
  }
}

const LOCAL_BYTES = 30
const EXTRA_BYTES = 4

function localHeader(name: Uint8Array, size: number, crc: number, at: number): Uint8Array {
  const large = size >= IN_ZIP64
  const zip64 = large ? new Fields().u16(ZIP64_ID).u16(16).u64(size).u64(size).done() : new Uint8Array(0)
  const before = at + LOCAL_BYTES + name.length + zip64.length + EXTRA_BYTES
  const padding = (ALIGNMENT - (before % ALIGNMENT)) % ALIGNMENT
  return new Fields()
    .u32(0x0403_4b50)
    .u16(large ? VERSION_ZIP64 : 0)
    .u16(FLAGS)
    .u16(0)
    .u16(0)
    .u16(DATE)
    .u32(crc)
    .u32(large ? IN_ZIP64 : size)
    .u32(large ? IN_ZIP64 : size)
    .u16(name.length)
    .u16(zip64.length + EXTRA_BYTES + padding)
    .raw(name)
    .raw(zip64)
    .u16(PADDING_ID)
    .u16(padding)
    .raw(new Uint8Array(padding).fill(0x5a))
    .done()
}

function directoryEntry(name: Uint8Array, size: number, crc: number, at: number): Uint8Array {
  const large = size >= IN_ZIP64
  const far = at >= IN_ZIP64
  const inside = new Fields()
  if (large) inside.u64(size).u64(size)
  if (far) inside.u64(at)
  const fields = inside.done()
  const extra = fields.length === 0 ? fields : new Fields().u16(ZIP64_ID).u16(fields.length).raw(fields).done()
  const version = fields.length === 0 ? 0 : VERSION_ZIP64
  return new Fields()
    .u32(0x0201_4b50)
    .u16(version)
    .u16(version)
    .u16(FLAGS)
    .u16(0)
    .u16(0)
    .u16(DATE)
    .u32(crc)
    .u32(large ? IN_ZIP64 : size)
    .u32(large ? IN_ZIP64 : size)
    .u16(name.length)
    .u16(extra.length)
    .u16(0)
    .u16(0)
    .u16(0)
    .u32(0)
    .u32(far ? IN_ZIP64 : at)
    .raw(name)
    .raw(extra)
    .done()
}

function endOf(count: number, start: number, size: number): Uint8Array {
  const fields = new Fields()
  if (start >= IN_ZIP64 || size >= IN_ZIP64 || count >= IN_ZIP64_SHORT) {
    fields
      .u32(0x0606_4b50)
      .u64(44)
      .u16(VERSION_ZIP64)
      .u16(VERSION_ZIP64)
      .u32(0)
      .u32(0)
      .u64(count)
      .u64(count)
      .u64(size)
      .u64(start)
      .u32(0x0706_4b50)
      .u32(0)
      .u64(start + size)
      .u32(1)
  }
  return fields
    .u32(0x0605_4b50)
    .u16(0)
    .u16(0)
    .u16(Math.min(count, IN_ZIP64_SHORT))
    .u16(Math.min(count, IN_ZIP64_SHORT))
    .u32(Math.min(size, IN_ZIP64))
    .u32(Math.min(start, IN_ZIP64))
    .u16(0)
    .done()
}

const CRC_POLYNOMIAL = 0xedb8_8320

/** Of small entries: bit by bit. */
function crc32(bytes: Uint8Array): number {
  let crc = 0xffff_ffff
  for (const byte of bytes) {
    crc ^= byte
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? CRC_POLYNOMIAL : 0)
  }
  return (crc ^ 0xffff_ffff) >>> 0
}
