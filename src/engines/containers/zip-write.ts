/**
 * Plans zips of stored entries as PyTorch has them: all headers known now, tensors between them, checksums filled in as
 * they are written. Formats: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT and
 * https://github.com/pytorch/pytorch/blob/main/caffe2/serialize/inline_container.h
 */
import type { Checksum, Segment } from '../../core/plan.ts'
import { segmentSize } from '../../core/plan.ts'
import { tensorBytes, type Recipe } from '../../core/tensor.ts'

/** An entry: bytes known now, or a tensor and its name for messages. */
export type ZipPart =
  | { readonly name: string; readonly bytes: Uint8Array }
  | { readonly name: string; readonly tensor: string; readonly recipe: Recipe }

/** A zip's place in a file. */
export interface PlannedZip {
  readonly size: number
  readonly segments: readonly Segment[]
}

/** Entries start on multiples of this, so that they can be mapped. */
const ALIGNMENT = 64
/** The extra field that fills the gap before: `FB`, as PyTorch has it. */
const PADDING_ID = 0x4246
const PADDING = 0x5a
const ZIP64_ID = 0x0001
/** 2.0 knows descriptors, 4.5 knows zip64. */
const VERSION = 20
const VERSION_ZIP64 = 45
/** 1980-01-01, the earliest there is: the same model makes the same file. */
const DATE = 0x0021
/** Names are UTF-8. */
const UTF8 = 0x0800
/** Sizes and checksum follow the contents. */
const DESCRIPTOR = 0x0008
const IN_ZIP64 = 0xffff_ffff
const IN_ZIP64_SHORT = 0xffff

/** A zip of entries as they are, each aligned from the zip's own beginning, which is at `start` of the file. */
export function planZip(entries: readonly ZipPart[], start = 0): PlannedZip {
  const segments: Segment[] = []
  const directory: Fields[] = []
  let at = 0
  const literal = (fields: Fields): void => {
    segments.push(fields.segment(start + at))
    at += fields.size
  }
  for (const entry of entries) {
    const size = 'bytes' in entry ? entry.bytes.length : tensorBytes(entry.recipe)
    const name = new TextEncoder().encode(entry.name)
    const header = at
    if ('bytes' in entry || size === 0) {
      const bytes = 'bytes' in entry ? entry.bytes : new Uint8Array(0)
      const crc = crc32(bytes)
      literal(localHeader(name, size, crc, at))
      segments.push({ kind: 'bytes', offset: start + at, bytes })
      at += size
      directory.push(directoryEntry(name, size, crc, header))
      continue
    }
    literal(localHeader(name, size, null, at))
    const crc: Range = { start: start + at, size }
    segments.push({ kind: 'tensor', offset: start + at, size, name: entry.tensor, recipe: entry.recipe })
    at += size
    literal(descriptor(size, crc))
    directory.push(directoryEntry(name, size, crc, header))
  }
  const begin = at
  for (const fields of directory) literal(fields)
  literal(endOf(directory.length, begin, at - begin))
  return { size: at, segments: joinLiterals(segments) }
}

/** Segments with neighbouring literal ones as one, so that they are written at once. */
export function joinLiterals(segments: readonly Segment[]): readonly Segment[] {
  const result: Segment[] = []
  let run: (Segment & { kind: 'bytes' | 'seal' })[] = []
  const flush = (): void => {
    const [first] = run
    if (first === undefined) return
    const bytes = new Uint8Array(run.reduce((sum, segment) => sum + segmentSize(segment), 0))
    const checksums: Checksum[] = []
    for (const segment of run) {
      const at = segment.offset - first.offset
      bytes.set(segment.bytes, at)
      if (segment.kind === 'seal') for (const one of segment.checksums) checksums.push({ ...one, at: at + one.at })
    }
    const { offset } = first
    if (bytes.length > 0)
      result.push(
        checksums.length === 0 ? { kind: 'bytes', offset, bytes } : { kind: 'seal', offset, bytes, checksums },
      )
    run = []
  }
  for (const segment of segments) {
    if (segment.kind === 'bytes' || segment.kind === 'seal') run.push(segment)
    else {
      flush()
      result.push(segment)
    }
  }
  flush()
  return result
}

/** Bytes of a file whose checksum is known once they are written. */
type Range = Pick<Checksum, 'start' | 'size'>

/** Little-endian fields, some of which are checksums. */
class Fields {
  readonly #bytes: number[] = []
  readonly #checksums: Checksum[] = []

  get size(): number {
    return this.#bytes.length
  }

  u16(...values: readonly number[]): this {
    for (const value of values) this.#bytes.push(value & 0xff, (value >>> 8) & 0xff)
    return this
  }

  u32(...values: readonly number[]): this {
    for (const value of values) this.u16(value & 0xffff, (value >>> 16) & 0xffff)
    return this
  }

  u64(...values: readonly number[]): this {
    for (const value of values) this.u32(value % 2 ** 32, Math.floor(value / 2 ** 32))
    return this
  }

  crc(value: number | Range): this {
    if (typeof value === 'number') return this.u32(value)
    this.#checksums.push({ at: this.#bytes.length, ...value })
    return this.u32(0)
  }

  raw(bytes: Iterable<number>): this {
    for (const byte of bytes) this.#bytes.push(byte)
    return this
  }

  done(): Uint8Array {
    return Uint8Array.from(this.#bytes)
  }

  segment(offset: number): Segment {
    const bytes = this.done()
    if (this.#checksums.length === 0) return { kind: 'bytes', offset, bytes }
    return { kind: 'seal', offset, bytes, checksums: this.#checksums }
  }
}

const LOCAL_BYTES = 30
const EXTRA_BYTES = 4

/** The header of an entry at `at`; without a checksum the sizes follow the contents with it. */
function localHeader(name: Uint8Array, size: number, crc: number | null, at: number): Fields {
  const large = size >= IN_ZIP64
  const shown = large ? IN_ZIP64 : crc === null ? 0 : size
  const zip64 = large ? new Fields().u16(ZIP64_ID, 16).u64(size, size).done() : new Uint8Array(0)
  const before = at + LOCAL_BYTES + name.length + zip64.length + EXTRA_BYTES
  const padding = (ALIGNMENT - (before % ALIGNMENT)) % ALIGNMENT
  return new Fields()
    .u32(0x0403_4b50)
    .u16(large ? VERSION_ZIP64 : VERSION, crc === null ? UTF8 | DESCRIPTOR : UTF8, 0, 0, DATE)
    .u32(crc ?? 0, shown, shown)
    .u16(name.length, zip64.length + EXTRA_BYTES + padding)
    .raw(name)
    .raw(zip64)
    .u16(PADDING_ID, padding)
    .raw(new Uint8Array(padding).fill(PADDING))
}

/** What follows contents whose checksum was not known before: sizes of 8 bytes where the header has the zip64 field. */
function descriptor(size: number, crc: Range): Fields {
  const fields = new Fields().u32(0x0807_4b50).crc(crc)
  return size >= IN_ZIP64 ? fields.u64(size, size) : fields.u32(size, size)
}

function directoryEntry(name: Uint8Array, size: number, crc: number | Range, at: number): Fields {
  const large = size >= IN_ZIP64
  const far = at >= IN_ZIP64
  const zip64 = [...(large ? [size, size] : []), ...(far ? [at] : [])]
  const version = zip64.length === 0 ? VERSION : VERSION_ZIP64
  const fields = new Fields()
    .u32(0x0201_4b50)
    .u16(version, version, typeof crc === 'number' ? UTF8 : UTF8 | DESCRIPTOR, 0, 0, DATE)
    .crc(crc)
    .u32(large ? IN_ZIP64 : size, large ? IN_ZIP64 : size)
    .u16(name.length, zip64.length === 0 ? 0 : EXTRA_BYTES + 8 * zip64.length, 0, 0, 0)
    .u32(0, far ? IN_ZIP64 : at)
    .raw(name)
  return zip64.length === 0 ? fields : fields.u16(ZIP64_ID, 8 * zip64.length).u64(...zip64)
}

function endOf(count: number, start: number, size: number): Fields {
  const fields = new Fields()
  if (start >= IN_ZIP64 || size >= IN_ZIP64 || count >= IN_ZIP64_SHORT) {
    fields
      .u32(0x0606_4b50)
      .u64(44)
      .u16(VERSION_ZIP64, VERSION_ZIP64)
      .u32(0, 0)
      .u64(count, count, size, start)
      .u32(0x0706_4b50, 0)
      .u64(start + size)
      .u32(1)
  }
  return fields
    .u32(0x0605_4b50)
    .u16(0, 0, Math.min(count, IN_ZIP64_SHORT), Math.min(count, IN_ZIP64_SHORT))
    .u32(Math.min(size, IN_ZIP64), Math.min(start, IN_ZIP64))
    .u16(0)
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
