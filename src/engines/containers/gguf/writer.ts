import { tensorBytes, type TensorInfo } from '../../../core/tensor.ts'
import {
  GGUF_ALIGNMENT,
  GGUF_MAGIC,
  GGUF_MAX_DIMS,
  GGUF_MAX_NAME,
  GGUF_VALUE_BYTES,
  GGUF_VALUE_TYPES,
  GGUF_VERSION,
  alignUp,
  ggmlTypeOf,
  type GgufArray,
  type GgufNumberType,
  type GgufValue,
  type GgufValueType,
} from './types.ts'

/** A tensor to be written: its shape as HuggingFace writes it, slowest axis first. */
export interface GgufTensorSpec extends TensorInfo {
  readonly name: string
}

/** Where everything of a GGUF file lies. */
export interface GgufLayout {
  /** Everything before the first tensor, padding included. */
  readonly header: Uint8Array<ArrayBuffer>
  /** Of each tensor, from the start of the file and without its padding. */
  readonly tensors: readonly { readonly offset: number; readonly size: number }[]
  /** Bytes of the file. The last tensor is padded too. */
  readonly size: number
}

const INTEGER_RANGES: ReadonlyMap<GgufNumberType, readonly [number, number]> = new Map([
  ['u8', [0, 0xff]],
  ['i8', [-0x80, 0x7f]],
  ['u16', [0, 0xffff]],
  ['i16', [-0x8000, 0x7fff]],
  ['u32', [0, 0xffff_ffff]],
  ['i32', [-0x8000_0000, 0x7fff_ffff]],
])

/** Bytes of UTF-8 for a unit of UTF-16, at the most. */
const MOST_UTF8 = 3

/** Bytes, growing as needed. */
class Writer {
  private bytes = new Uint8Array(1 << 16)
  private view = new DataView(this.bytes.buffer)
  private length = 0
  private readonly encoder = new TextEncoder()

  private reserve(count: number): number {
    const at = this.length
    this.length += count
    if (this.length > this.bytes.length) {
      const grown = new Uint8Array(Math.max(this.length, this.bytes.length * 2))
      grown.set(this.bytes.subarray(0, at))
      this.bytes = grown
      this.view = new DataView(grown.buffer)
    }
    return at
  }

  raw(bytes: ArrayLike<number>): void {
    const at = this.reserve(bytes.length)
    this.bytes.set(bytes, at)
  }

  u32(value: number): void {
    const at = this.reserve(4)
    this.view.setUint32(at, value, true)
  }

  u64(value: number): void {
    this.setU64(this.reserve(8), value)
  }

  private setU64(at: number, value: number): void {
    this.view.setUint32(at, value % 2 ** 32, true)
    this.view.setUint32(at + 4, Math.floor(value / 2 ** 32), true)
  }

  /** Headers are strings nearly all: tokens and merges, by the hundred thousand. */
  string(text: string): void {
    const at = this.reserve(8 + text.length * MOST_UTF8)
    const size = this.plain(text, at + 8) ?? this.encoder.encodeInto(text, this.bytes.subarray(at + 8)).written
    this.setU64(at, size)
    this.length = at + 8 + size
  }

  /** Writes text of one and two bytes a character; null for any other. A call of the encoder takes longer than short text. */
  private plain(text: string, start: number): number | null {
    const { bytes } = this
    let at = start
    for (let i = 0; i < text.length; i++) {
      const code = text.charCodeAt(i)
      if (code < 0x80) bytes[at++] = code
      else if (code < 0x800) {
        bytes[at++] = 0xc0 | (code >> 6)
        bytes[at++] = 0x80 | (code & 0x3f)
      } else return null
    }
    return at - start
  }

  big(type: 'u64' | 'i64', value: bigint): void {
    const at = this.reserve(8)
    if (type === 'u64') this.view.setBigUint64(at, value, true)
    else this.view.setBigInt64(at, value, true)
  }

  number(type: GgufNumberType, value: number): void {
    const range = INTEGER_RANGES.get(type)
    if (range !== undefined && !(Number.isInteger(value) && value >= range[0] && value <= range[1]))
      throw new RangeError(`${value} does not fit ${type}`)
    const at = this.reserve(GGUF_VALUE_BYTES[type])
    switch (type) {
      case 'u8':
        return this.view.setUint8(at, value)
      case 'i8':
        return this.view.setInt8(at, value)
      case 'u16':
        return this.view.setUint16(at, value, true)
      case 'i16':
        return this.view.setInt16(at, value, true)
      case 'u32':
        return this.view.setUint32(at, value, true)
      case 'i32':
        return this.view.setInt32(at, value, true)
      case 'f32':
        return this.view.setFloat32(at, value, true)
      case 'f64':
        return this.view.setFloat64(at, value, true)
    }
  }

  /** Everything so far, zero-padded to a multiple of `alignment`. */
  finish(alignment: number): Uint8Array<ArrayBuffer> {
    this.reserve(alignUp(this.length, alignment) - this.length)
    return this.bytes.slice(0, this.length)
  }
}

function typeNumber(type: GgufValueType): number {
  return GGUF_VALUE_TYPES.indexOf(type)
}

function writeArray(writer: Writer, array: GgufArray): void {
  writer.u32(typeNumber(array.of))
  writer.u64(array.value.length)
  switch (array.of) {
    case 'array':
      for (const item of array.value) writeArray(writer, item)
      return
    case 'string':
      for (const item of array.value) writer.string(item)
      return
    case 'bool':
      for (const item of array.value) writer.number('u8', item ? 1 : 0)
      return
    case 'u64':
    case 'i64':
      for (const item of array.value) writer.big(array.of, item)
      return
    default:
      for (let i = 0; i < array.value.length; i++) writer.number(array.of, array.value[i] ?? 0)
  }
}

function writeValue(writer: Writer, value: GgufValue): void {
  writer.u32(typeNumber(value.type))
  switch (value.type) {
    case 'array':
      return writeArray(writer, value)
    case 'string':
      return writer.string(value.value)
    case 'bool':
      return writer.number('u8', value.value ? 1 : 0)
    case 'u64':
    case 'i64':
      return writer.big(value.type, value.value)
    default:
      return writer.number(value.type, value.value)
  }
}

/**
 * The header of a version 3 file, and where its tensors go: in the order given, each padded to `alignment`.
 * Throws RangeError for what llama.cpp would refuse: a long or repeated name, five axes, a type that ggml lacks.
 */
export function ggufLayout(
  metadata: ReadonlyMap<string, GgufValue>,
  tensors: readonly GgufTensorSpec[],
  alignment: number = GGUF_ALIGNMENT,
): GgufLayout {
  if (!Number.isSafeInteger(alignment) || alignment < 8 || (alignment & (alignment - 1)) !== 0)
    throw new RangeError(`an alignment of ${alignment} is no power of two from 8 on`)
  if (alignment !== GGUF_ALIGNMENT && metadata.get('general.alignment')?.value !== alignment)
    throw new RangeError(`general.alignment must say ${alignment}`)
  const writer = new Writer()
  writer.raw(GGUF_MAGIC)
  writer.u32(GGUF_VERSION)
  writer.u64(tensors.length)
  writer.u64(metadata.size)
  for (const [key, value] of metadata) {
    writer.string(key)
    writeValue(writer, value)
  }
  const names = new Set<string>()
  const relative: { offset: number; size: number }[] = []
  let end = 0
  for (const tensor of tensors) {
    const { name, dtype, shape } = tensor
    const type = ggmlTypeOf(dtype)
    if (type === null) throw new RangeError(`${name}: ggml has no type ${dtype}`)
    if (names.has(name)) throw new RangeError(`two tensors are called ${name}`)
    if (new TextEncoder().encode(name).length > GGUF_MAX_NAME) throw new RangeError(`the name ${name} is too long`)
    if (shape.length > GGUF_MAX_DIMS) throw new RangeError(`${name} has ${shape.length} axes, at most ${GGUF_MAX_DIMS}`)
    names.add(name)
    const size = tensorBytes(tensor)
    writer.string(name)
    writer.u32(shape.length)
    for (const axis of shape.toReversed()) writer.u64(axis)
    writer.u32(type.id)
    writer.u64(end)
    relative.push({ offset: end, size })
    end = alignUp(end + size, alignment)
  }
  const header = writer.finish(alignment)
  return {
    header,
    tensors: relative.map(({ offset, size }) => ({ offset: header.length + offset, size })),
    size: header.length + end,
  }
}
