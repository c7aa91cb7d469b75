import type { Source } from '../../../src/core/bytes.ts'
import { memoryFolder } from '../../contracts/memory.ts'

/** Little-endian pieces of a GGUF file, put together by hand: independent of the writer under test. */

export type Bytes = readonly number[]

export function le(value: number | bigint, bytes: number): Bytes {
  return Array.from({ length: bytes }, (_, i) => Number((BigInt(value) >> BigInt(8 * i)) & 0xffn))
}

export const u32 = (value: number): Bytes => le(value, 4)
export const u64 = (value: number | bigint): Bytes => le(value, 8)

export function f32(value: number): Bytes {
  return [...new Uint8Array(Float32Array.of(value).buffer)]
}

/** UTF-8 with its length before it. */
export function str(text: string): Bytes {
  const bytes = new TextEncoder().encode(text)
  return [...u64(bytes.length), ...bytes]
}

/** A key with a value of the numbered type. */
export function kv(key: string, type: number, ...value: readonly Bytes[]): Bytes {
  return [...str(key), ...u32(type), ...value.flat()]
}

/** A tensor info; `ne` fastest axis first, as in the file. */
export function info(name: string, ne: readonly (number | bigint)[], type: number, offset: number | bigint): Bytes {
  return [...str(name), ...u32(ne.length), ...ne.flatMap((axis) => u64(axis)), ...u32(type), ...u64(offset)]
}

/** What a file is made of. */
export interface FileParts {
  readonly magic?: Bytes
  readonly version?: number
  readonly tensors?: readonly Bytes[]
  readonly kvs?: readonly Bytes[]
  readonly tensorCount?: number | bigint
  readonly kvCount?: number | bigint
  readonly alignment?: number
  /** Bytes after the header. */
  readonly data?: number
}

/** A whole file, its header padded. */
export function file(parts: FileParts): Uint8Array<ArrayBuffer> {
  const { tensors = [], kvs = [], alignment = 32, data = 0 } = parts
  const header = [
    ...(parts.magic ?? [0x47, 0x47, 0x55, 0x46]),
    ...u32(parts.version ?? 3),
    ...u64(parts.tensorCount ?? tensors.length),
    ...u64(parts.kvCount ?? kvs.length),
    ...kvs.flat(),
    ...tensors.flat(),
  ]
  const start = Math.ceil(header.length / alignment) * alignment
  const bytes = new Uint8Array(start + data)
  bytes.set(header)
  return bytes
}

/** Bytes as a Source called `model.gguf`. */
export function sourceOf(bytes: Uint8Array): Promise<Source> {
  return memoryFolder({ 'model.gguf': bytes }).open('model.gguf')
}
