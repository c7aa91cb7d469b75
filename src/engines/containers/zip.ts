/**
 * The zip container, as PyTorch writes it: found by its central directory, checked against the local headers, payloads
 * left where they are. Format: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT
 */
import type { Source } from '../../core/bytes.ts'
import { AppError, type ErrorPlace } from '../../core/errors.ts'

/** One file of an archive. */
export interface ZipEntry {
  readonly name: string
  /** `deflate` only names what the payload is: nothing here inflates. */
  readonly method: 'store' | 'deflate'
  /** Bytes of the payload as it lies in the file. */
  readonly packed: number
  /** Bytes of the contents; `packed` where they are stored. */
  readonly size: number
  /** Of the payload's first byte, from the start of the file. */
  readonly offset: number
  /** As the directory says; not compared with the contents. */
  readonly crc32: number
}

export interface ZipArchive {
  readonly file: string
  /** By name, in the directory's order. */
  readonly entries: ReadonlyMap<string, ZipEntry>
}

const LOCAL = 0x0403_4b50
const CENTRAL = 0x0201_4b50
const END = 0x0605_4b50
const END64 = 0x0606_4b50
const LOCATOR64 = 0x0706_4b50

const LOCAL_BYTES = 30
const CENTRAL_BYTES = 46
const END_BYTES = 22
const END64_BYTES = 56
const LOCATOR64_BYTES = 20
const MAX_COMMENT = 0xffff

/** In these fields, "see the zip64 extra field". */
const BIG16 = 0xffff
const BIG32 = 0xffff_ffff
const ZIP64_FIELD = 1

/** A checkpoint has one entry a storage: the largest some 50 000, in 10 MB of directory. */
const MAX_DIRECTORY_BYTES = 1 << 26
/** Paths in an archive are short; a hostile one may be 64 KiB. */
const SHOWN_NAME = 100
/** No deflate stream is longer than this many times what it unpacks from. */
const MAX_DEFLATE_RATIO = 1032

/** Flags: sizes and CRC follow the payload; names are UTF-8. Both harmless, as are the deflate levels of bits 1 and 2. */
const DESCRIPTOR = 1 << 3
const UTF8 = 1 << 11
const HARMLESS = DESCRIPTOR | UTF8 | (1 << 1) | (1 << 2)
const ENCRYPTED = (1 << 0) | (1 << 6) | (1 << 13)

const METHODS: ReadonlyMap<number, ZipEntry['method']> = new Map([
  [0, 'store'],
  [8, 'deflate'],
])

const REMEDY = 'The file is damaged or was not written by PyTorch: download or save it again.'

interface Listed {
  readonly name: string
  readonly nameBytes: Uint8Array
  readonly flags: number
  readonly method: ZipEntry['method']
  readonly crc32: number
  readonly packed: number
  readonly size: number
  /** Of its local header. */
  readonly header: number
}

/**
 * Reads and checks an archive's directory and local headers, and no payload. Throws `truncated` if the directory is not
 * at the end of the file, `malformed` where directory and headers disagree, entries overlap or a name occurs twice,
 * `unsupported` for encryption and for methods other than stored and deflated.
 */
export async function readZip(source: Source, signal?: AbortSignal): Promise<ZipArchive> {
  const file = source.name
  const directory = await findDirectory(source, signal)
  const bytes = new Uint8Array(directory.size)
  await source.read(directory.offset, bytes, signal)
  const listed = parseDirectory(bytes, directory, file)
  const entries = new Map<string, ZipEntry>()
  const inFileOrder: { readonly entry: ZipEntry; readonly header: number }[] = []
  for (const one of listed) {
    const entry = await readLocalHeader(source, one, directory.offset, signal)
    entries.set(one.name, entry)
    inFileOrder.push({ entry, header: one.header })
  }
  inFileOrder.sort((a, b) => a.header - b.header)
  let end = 0
  let before = ''
  for (const { entry, header } of inFileOrder) {
    if (header < end) {
      throw malformed(file, `${shown(entry.name)} overlaps ${shown(before)}`, { offset: header })
    }
    end = entry.offset + entry.packed
    before = entry.name
  }
  return { file, entries }
}

/** An entry whose payload is its contents. Throws `missing-file` if there is none, `unsupported` if it is compressed. */
export function storedEntry(archive: ZipArchive, name: string): ZipEntry {
  const { file } = archive
  const entry = archive.entries.get(name)
  if (entry === undefined) {
    throw new AppError('missing-file', `${file} has no ${shown(name)} in it`, { where: { file }, hint: REMEDY })
  }
  if (entry.method !== 'store') {
    throw new AppError('unsupported', `${shown(name)} in ${file} is compressed`, {
      where: { file, offset: entry.offset },
      hint: 'PyTorch stores without compression: unpack the archive, or save the model with torch.save again.',
    })
  }
  return entry
}

/** The payload of a stored entry of at most `limit` bytes. Throws `malformed` beyond. */
export async function readStored(
  source: Source,
  archive: ZipArchive,
  name: string,
  limit: number,
  signal?: AbortSignal,
): Promise<Uint8Array<ArrayBuffer>> {
  const entry = storedEntry(archive, name)
  if (entry.size > limit) {
    throw malformed(source.name, `${shown(name)} has ${entry.size} bytes; at most ${limit} are believed`, {
      offset: entry.offset,
    })
  }
  const bytes = new Uint8Array(entry.size)
  await source.read(entry.offset, bytes, signal)
  return bytes
}

interface Directory {
  readonly offset: number
  readonly size: number
  readonly entries: number
}

/** The end record is the last one whose comment ends with the file. */
async function findDirectory(source: Source, signal: AbortSignal | undefined): Promise<Directory> {
  const file = source.name
  const tail = new Uint8Array(Math.min(source.size, END_BYTES + MAX_COMMENT + LOCATOR64_BYTES))
  const tailStart = source.size - tail.length
  await source.read(tailStart, tail, signal)
  const view = new DataView(tail.buffer)
  let at = tail.length - END_BYTES
  while (
    at >= 0 &&
    !(view.getUint32(at, true) === END && at + END_BYTES + view.getUint16(at + 20, true) === tail.length)
  )
    at--
  if (at < 0) {
    throw new AppError('truncated', `${file} is a zip archive without its directory at the end`, {
      where: { file, offset: source.size },
      hint: 'The download was cut short: download the file again.',
    })
  }
  const offset = tailStart + at
  const record = {
    entries: view.getUint16(at + 10, true),
    size: view.getUint32(at + 12, true),
    offset: view.getUint32(at + 16, true),
  }
  const single =
    view.getUint16(at + 4, true) === 0 &&
    view.getUint16(at + 6, true) === 0 &&
    view.getUint16(at + 8, true) === record.entries
  const hasLocator = at >= LOCATOR64_BYTES && view.getUint32(at - LOCATOR64_BYTES, true) === LOCATOR64
  if (hasLocator) {
    const where = offset - LOCATOR64_BYTES
    const disks = view.getUint32(at - LOCATOR64_BYTES + 16, true)
    if (view.getUint32(at - LOCATOR64_BYTES + 4, true) !== 0 || disks > 1) throw split(file)
    const target = safeU64(view, at - LOCATOR64_BYTES + 8, file, where)
    return checkDirectory(await readEnd64(source, target, where, record, signal), target, file)
  }
  if (!single) throw split(file)
  if (record.entries === BIG16 || record.size === BIG32 || record.offset === BIG32) {
    throw malformed(file, 'its directory is said to be zip64, but there is no zip64 record', { offset })
  }
  return checkDirectory(record, offset, file)
}

/** The zip64 end record, which must agree with the plain one wherever that one says anything. */
async function readEnd64(
  source: Source,
  offset: number,
  end: number,
  plain: Directory,
  signal: AbortSignal | undefined,
): Promise<Directory> {
  const file = source.name
  if (offset + END64_BYTES > end) throw malformed(file, 'its zip64 record is not before its locator', { offset: end })
  const bytes = new Uint8Array(END64_BYTES)
  await source.read(offset, bytes, signal)
  const view = new DataView(bytes.buffer)
  if (view.getUint32(0, true) !== END64) throw malformed(file, 'its zip64 record is not where it should be', { offset })
  if (offset + 12 + safeU64(view, 4, file, offset) !== end) {
    throw malformed(file, 'its zip64 record does not reach its locator', { offset })
  }
  if (view.getUint32(16, true) !== 0 || view.getUint32(20, true) !== 0) throw split(file)
  const found: Directory = {
    entries: safeU64(view, 32, file, offset),
    size: safeU64(view, 40, file, offset),
    offset: safeU64(view, 48, file, offset),
  }
  const agrees =
    (plain.entries === BIG16 || plain.entries === found.entries) &&
    (plain.size === BIG32 || plain.size === found.size) &&
    (plain.offset === BIG32 || plain.offset === found.offset)
  if (!agrees) throw malformed(file, 'its zip64 record and its plain one disagree', { offset })
  return found
}

function checkDirectory(directory: Directory, end: number, file: string): Directory {
  if (directory.size > MAX_DIRECTORY_BYTES) {
    throw malformed(file, `its directory has ${directory.size} bytes; at most ${MAX_DIRECTORY_BYTES} are believed`, {
      offset: directory.offset,
    })
  }
  if (directory.offset + directory.size !== end) {
    throw malformed(file, 'its directory does not end where the end record starts', { offset: directory.offset })
  }
  if (directory.entries * CENTRAL_BYTES > directory.size) {
    throw malformed(file, `${directory.entries} entries do not fit in its directory`, { offset: directory.offset })
  }
  return directory
}

function parseDirectory(bytes: Uint8Array, directory: Directory, file: string): readonly Listed[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  const listed: Listed[] = []
  const names = new Set<string>()
  let at = 0
  for (let index = 0; index < directory.entries; index++) {
    const offset = directory.offset + at
    if (at + CENTRAL_BYTES > bytes.length || view.getUint32(at, true) !== CENTRAL) {
      throw malformed(file, `entry ${index} of its directory is not one`, { offset })
    }
    const nameLength = view.getUint16(at + 28, true)
    const extraLength = view.getUint16(at + 30, true)
    const next = at + CENTRAL_BYTES + nameLength + extraLength + view.getUint16(at + 32, true)
    if (next > bytes.length) throw malformed(file, `entry ${index} of its directory runs past the end`, { offset })
    const nameBytes = bytes.slice(at + CENTRAL_BYTES, at + CENTRAL_BYTES + nameLength)
    const name = decodeName(nameBytes, file, offset)
    if (names.has(name)) throw malformed(file, `${shown(name)} occurs twice`, { offset })
    names.add(name)
    const extra = bytes.subarray(at + CENTRAL_BYTES + nameLength, at + CENTRAL_BYTES + nameLength + extraLength)
    const flags = view.getUint16(at + 8, true)
    const method = checkMethod(flags, view.getUint16(at + 10, true), name, file, offset)
    const [size, packed, header] = withZip64(
      [view.getUint32(at + 24, true), view.getUint32(at + 20, true), view.getUint32(at + 42, true)],
      extra,
      name,
      file,
      offset,
    )
    if (view.getUint16(at + 34, true) !== 0) throw split(file)
    if (method === 'store' && packed !== size) {
      throw malformed(file, `${shown(name)} is stored, but of ${size} bytes in ${packed}`, { offset })
    }
    if (method === 'deflate' && size > packed * MAX_DEFLATE_RATIO) {
      throw malformed(file, `${shown(name)} claims ${size} bytes in ${packed}, more than deflate can`, { offset })
    }
    listed.push({ name, nameBytes, flags, method, crc32: view.getUint32(at + 16, true), packed, size, header })
    at = next
  }
  if (at !== bytes.length) {
    throw malformed(file, `its directory goes on after its ${directory.entries} entries`, {
      offset: directory.offset + at,
    })
  }
  return listed
}

function checkMethod(flags: number, method: number, name: string, file: string, offset: number): ZipEntry['method'] {
  if ((flags & ENCRYPTED) !== 0) {
    throw new AppError('unsupported', `${shown(name)} in ${file} is encrypted`, {
      where: { file, offset },
      hint: 'Checkpoints never are: get the file from where it was published.',
    })
  }
  if ((flags & ~HARMLESS) !== 0) {
    throw new AppError('unsupported', `${shown(name)} in ${file} has the zip flags 0x${flags.toString(16)}`, {
      where: { file, offset },
      hint: REMEDY,
    })
  }
  const known = METHODS.get(method)
  if (known === undefined) {
    throw new AppError('unsupported', `${shown(name)} in ${file} is compressed by method ${method}`, {
      where: { file, offset },
      hint: 'PyTorch stores without compression: save the model with torch.save again.',
    })
  }
  return known
}

/** Size, packed size and header offset: those that are all ones stand in the zip64 field, in this order. */
function withZip64(
  values: readonly [number, number, number],
  extra: Uint8Array,
  name: string,
  file: string,
  offset: number,
): readonly [number, number, number] {
  if (!values.includes(BIG32)) return values
  const view = new DataView(extra.buffer, extra.byteOffset, extra.length)
  let at = 0
  while (at + 4 <= extra.length) {
    const length = view.getUint16(at + 2, true)
    if (view.getUint16(at, true) === ZIP64_FIELD) {
      const end = Math.min(at + 4 + length, extra.length)
      let from = at + 4
      const [size, packed, header] = values.map((value) => {
        if (value !== BIG32) return value
        if (from + 8 > end) throw malformed(file, `the zip64 field of ${shown(name)} is too short`, { offset })
        from += 8
        return safeU64(view, from - 8, file, offset)
      })
      return [size ?? 0, packed ?? 0, header ?? 0]
    }
    at += 4 + length
  }
  throw malformed(file, `${shown(name)} needs a zip64 field and has none`, { offset })
}

async function readLocalHeader(
  source: Source,
  listed: Listed,
  directory: number,
  signal: AbortSignal | undefined,
): Promise<ZipEntry> {
  const file = source.name
  const { name, nameBytes, header, packed, size } = listed
  const disagree = (what: string): AppError =>
    malformed(file, `its directory and the header of ${shown(name)} disagree on the ${what}`, { offset: header })
  if (header + LOCAL_BYTES + nameBytes.length > directory) {
    throw malformed(file, `${shown(name)} does not lie before the directory`, { offset: header })
  }
  const bytes = new Uint8Array(LOCAL_BYTES + nameBytes.length)
  await source.read(header, bytes, signal)
  const view = new DataView(bytes.buffer)
  if (view.getUint32(0, true) !== LOCAL) throw malformed(file, `${shown(name)} has no header`, { offset: header })
  const flags = view.getUint16(6, true)
  if (((flags ^ listed.flags) & ~(DESCRIPTOR | UTF8)) !== 0) throw disagree('flags')
  if (METHODS.get(view.getUint16(8, true)) !== listed.method) throw disagree('method')
  if (view.getUint16(26, true) !== nameBytes.length) throw disagree('name')
  if (nameBytes.some((byte, index) => byte !== bytes[LOCAL_BYTES + index])) throw disagree('name')
  // 0 where a descriptor follows, all ones where a zip64 field does
  const free = (value: number): boolean => value === BIG32 || ((flags & DESCRIPTOR) !== 0 && value === 0)
  for (const [value, expected] of [
    [view.getUint32(18, true), packed],
    [view.getUint32(22, true), size],
  ] as const) {
    if (value !== expected && !free(value)) throw disagree('size')
  }
  const offset = header + LOCAL_BYTES + nameBytes.length + view.getUint16(28, true)
  if (offset + packed > directory) {
    throw malformed(file, `${shown(name)} runs into the directory`, { offset: header })
  }
  return { name, method: listed.method, packed, size, offset, crc32: listed.crc32 }
}

function decodeName(bytes: Uint8Array, file: string, offset: number): string {
  try {
    const name = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
    if (name !== '' && !name.includes('\0')) return name
  } catch {
    // told below
  }
  throw malformed(file, 'a name in its directory is not text', { offset })
}

function safeU64(view: DataView, at: number, file: string, offset: number): number {
  const value = view.getBigUint64(at, true)
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw malformed(file, `it names the offset or size ${value}`, { offset })
  return Number(value)
}

function shown(name: string): string {
  return name.length > SHOWN_NAME ? `${name.slice(0, SHOWN_NAME)}...` : name
}

function split(file: string): AppError {
  return new AppError('unsupported', `${file} is one part of a zip archive in several`, {
    where: { file },
    hint: 'Join the parts first; PyTorch never writes any.',
  })
}

function malformed(file: string, why: string, where: ErrorPlace): AppError {
  return new AppError('malformed', `${file} is not a proper zip archive: ${why}`, {
    where: { file, ...where },
    hint: REMEDY,
  })
}
