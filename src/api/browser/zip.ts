import { createCRC32 } from 'hash-wasm'
import { AppError, throwIfAborted } from '../../core/errors.ts'
import { splitPath } from '../paths.ts'

/**
 * Several files as one stored (uncompressed) zip, for browsers that cannot pick a folder. The zip is a Blob made of
 * headers and of the files themselves: nothing is copied, only the checksums need one pass over the bytes.
 * APPNOTE.TXT 6.3.10: 4.3.7 local header, 4.3.12 central directory, 4.3.14-16 its end, 4.5.3 zip64.
 */

export interface ZipFile {
  readonly path: string
  readonly blob: Blob
}

/** What the headers say of a file. */
export interface ZipEntry {
  readonly path: string
  readonly size: number
  readonly crc32: number
}

/** A field of 32 bits that says: see the zip64 field instead. */
const IN_ZIP64 = 0xffff_ffff
const IN_ZIP64_SHORT = 0xffff

/** Version 2.0 knows folders, 4.5 knows zip64. */
const VERSION = 20
const VERSION_ZIP64 = 45

/** Names are UTF-8. */
const FLAGS = 0x0800

/** 1980-01-01, the earliest there is: the same files make the same zip. */
const DATE = 0x0021

/** Bytes read at once for the checksum. */
const READ_BYTES = 8 * 2 ** 20

/** Makes the zip. `progress` is told the bytes read so far. Throws `source-lost`, `cancelled`, `malformed`. */
export async function zipBlob(
  files: readonly ZipFile[],
  progress: (bytes: number) => void = () => {},
  signal?: AbortSignal,
): Promise<Blob> {
  const entries: ZipEntry[] = []
  let done = 0
  for (const { path, blob } of files) {
    const crc = await createCRC32()
    for (let at = 0; at < blob.size; at += READ_BYTES) {
      throwIfAborted(signal)
      let bytes: Uint8Array
      try {
        bytes = new Uint8Array(await blob.slice(at, at + READ_BYTES).arrayBuffer())
      } catch (error) {
        throw AppError.from(error, 'source-lost', { where: { file: path } })
      }
      crc.update(bytes)
      done += bytes.length
      progress(done)
    }
    entries.push({ path, size: blob.size, crc32: Number.parseInt(crc.digest('hex'), 16) })
  }
  const { headers, end } = zipHeaders(entries)
  const parts = files.flatMap(({ blob }, index) => [headers[index] ?? new Uint8Array(0), blob])
  return new Blob([...parts, end], { type: 'application/zip' })
}

/** The bytes before each file, and those after the last. Throws `malformed` for a hostile or a repeated path. */
export function zipHeaders(entries: readonly ZipEntry[]): {
  readonly headers: readonly Uint8Array<ArrayBuffer>[]
  readonly end: Uint8Array<ArrayBuffer>
} {
  const headers: Uint8Array<ArrayBuffer>[] = []
  const directory = new Writer()
  const seen = new Set<string>()
  let offset = 0
  for (const entry of entries) {
    splitPath(entry.path)
    if (seen.has(entry.path)) throw new AppError('malformed', `${entry.path} is there twice`)
    seen.add(entry.path)
    const name = new TextEncoder().encode(entry.path)
    const header = localHeader(entry, name)
    centralHeader(directory, entry, name, offset)
    headers.push(header)
    offset += header.length + entry.size
  }
  return { headers, end: endOf(directory, entries.length, offset) }
}

function localHeader(entry: ZipEntry, name: Uint8Array): Uint8Array<ArrayBuffer> {
  const large = entry.size >= IN_ZIP64
  const size = large ? IN_ZIP64 : entry.size
  const out = new Writer()
  out.u32(0x0403_4b50)
  out.u16(large ? VERSION_ZIP64 : VERSION, FLAGS, 0, 0, DATE)
  out.u32(entry.crc32, size, size)
  out.u16(name.length, large ? 20 : 0)
  out.bytes(name)
  if (large) {
    out.u16(1, 16)
    out.u64(entry.size, entry.size)
  }
  return out.done()
}

function centralHeader(out: Writer, entry: ZipEntry, name: Uint8Array, offset: number): void {
  const large = entry.size >= IN_ZIP64
  const size = large ? IN_ZIP64 : entry.size
  const far = offset >= IN_ZIP64
  const extra = [...(large ? [entry.size, entry.size] : []), ...(far ? [offset] : [])]
  const version = extra.length > 0 ? VERSION_ZIP64 : VERSION
  out.u32(0x0201_4b50)
  out.u16(version, version, FLAGS, 0, 0, DATE)
  out.u32(entry.crc32, size, size)
  out.u16(name.length, extra.length === 0 ? 0 : 4 + extra.length * 8, 0, 0, 0)
  out.u32(0, far ? IN_ZIP64 : offset)
  out.bytes(name)
  if (extra.length === 0) return
  out.u16(1, extra.length * 8)
  out.u64(...extra)
}

function endOf(directory: Writer, count: number, offset: number): Uint8Array<ArrayBuffer> {
  const central = directory.done()
  const out = new Writer()
  out.bytes(central)
  if (count >= IN_ZIP64_SHORT || offset >= IN_ZIP64 || central.length >= IN_ZIP64) {
    out.u32(0x0606_4b50)
    out.u64(44)
    out.u16(VERSION_ZIP64, VERSION_ZIP64)
    out.u32(0, 0)
    out.u64(count, count, central.length, offset)
    out.u32(0x0706_4b50, 0)
    out.u64(offset + central.length)
    out.u32(1)
  }
  const entries = Math.min(count, IN_ZIP64_SHORT)
  out.u32(0x0605_4b50)
  out.u16(0, 0, entries, entries)
  out.u32(Math.min(central.length, IN_ZIP64), Math.min(offset, IN_ZIP64))
  out.u16(0)
  return out.done()
}

/** Little-endian fields, appended. */
class Writer {
  readonly #pieces: Uint8Array[] = []
  #length = 0

  u16(...values: readonly number[]): void {
    this.#fields(values, 2, (view, at, value) => view.setUint16(at, value, true))
  }

  u32(...values: readonly number[]): void {
    this.#fields(values, 4, (view, at, value) => view.setUint32(at, value, true))
  }

  u64(...values: readonly number[]): void {
    this.#fields(values, 8, (view, at, value) => view.setBigUint64(at, BigInt(value), true))
  }

  bytes(bytes: Uint8Array): void {
    this.#pieces.push(bytes)
    this.#length += bytes.length
  }

  done(): Uint8Array<ArrayBuffer> {
    const all = new Uint8Array(this.#length)
    let at = 0
    for (const piece of this.#pieces) {
      all.set(piece, at)
      at += piece.length
    }
    return all
  }

  #fields(values: readonly number[], width: number, set: (view: DataView, at: number, value: number) => void): void {
    const bytes = new Uint8Array(values.length * width)
    const view = new DataView(bytes.buffer)
    for (const [index, value] of values.entries()) set(view, index * width, value)
    this.bytes(bytes)
  }
}
