import type { Folder, OutputFolder, Source } from '../../src/core/bytes.ts'
import { AppError, type ErrorCode } from '../../src/core/errors.ts'

/**
 * What the contract of bytes needs of a host, and its own few assertions: its cases also run inside a browser's worker,
 * where there is no test framework.
 */
export interface BytesHarness {
  /** A folder for reading that holds these files. */
  folder(files: Readonly<Record<string, Uint8Array>>): Promise<Folder>
  /** A fresh output folder; null where the host only reads. */
  output: (() => Promise<OutputHarness>) | null
  /** Cuts a file of the folder last made to `size` bytes, behind its back; null where that cannot be. */
  shorten: ((path: string, size: number) => Promise<void>) | null
  /** Removes a file of the folder last made; null where that cannot be (or an open file stays readable, as on POSIX). */
  vanish: ((path: string) => Promise<void>) | null
  /** Whether files of more than 4 GiB may be made (sparse). */
  readonly large: boolean
}

export interface OutputHarness {
  readonly folder: OutputFolder
  /** Every name there is, unfinished ones too, sorted, seen past the folder's own methods. */
  names(): Promise<readonly string[]>
  /** Puts a file there past the folder's own methods. */
  put(path: string, bytes: Uint8Array): Promise<void>
  /** Another process writes and flushes `bytes` to `path`, dies without closing, and the folder is opened anew. */
  interrupted(path: string, bytes: Uint8Array): Promise<OutputFolder>
}

export interface BytesCase {
  readonly name: string
  /** Why this host does not run it, or null. */
  readonly skip?: (harness: BytesHarness) => string | null
  readonly run: (harness: BytesHarness) => Promise<void>
}

/** Bytes that tell where they are from. */
export function pattern(size: number, seed = 1): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(size)
  let state = seed >>> 0
  for (let i = 0; i < size; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    bytes[i] = state >>> 24
  }
  return bytes
}

/** Throws `message` unless the condition holds. */
export function check(condition: boolean, message: string): asserts condition {
  if (!condition) throw new Error(message)
}

/** Compares two plain values. */
export function same(actual: unknown, expected: unknown, what: string): void {
  const [a, b] = [JSON.stringify(actual), JSON.stringify(expected)]
  check(a === b, `${what}: ${a} instead of ${b}`)
}

/** Compares bytes and names the first that differs. */
export function sameBytes(actual: Uint8Array, expected: Uint8Array, what: string): void {
  check(actual.length === expected.length, `${what}: ${actual.length} bytes instead of ${expected.length}`)
  const at = actual.findIndex((byte, i) => byte !== expected[i])
  check(at < 0, `${what}: byte ${at} is ${actual[at]} instead of ${expected[at]}`)
}

/** Demands an AppError of that code. */
export async function fails(promise: Promise<unknown>, code: ErrorCode, what: string): Promise<void> {
  try {
    await promise
  } catch (error) {
    check(error instanceof AppError, `${what}: ${String(error)} is no AppError`)
    check(error.code === code, `${what}: ${error.code} instead of ${code} (${error.message})`)
    return
  }
  throw new Error(`${what}: did not fail with ${code}`)
}

/** Reads a file whole. */
export async function content(folder: Folder, path: string): Promise<Uint8Array> {
  const source = await folder.open(path)
  try {
    const bytes = new Uint8Array(source.size)
    await source.read(0, bytes)
    return bytes
  } finally {
    await source.close()
  }
}

/** Writes a file whole, without publishing it. */
export async function write(folder: OutputFolder, path: string, bytes: Uint8Array): Promise<void> {
  const sink = await folder.create(path, { keep: 0 })
  await sink.write(bytes, 0)
  await sink.close()
}

/** Opens a file of these bytes for a while. */
export async function withSource(
  harness: BytesHarness,
  bytes: Uint8Array,
  use: (s: Source) => Promise<void>,
): Promise<void> {
  const folder = await harness.folder({ 'model.bin': bytes })
  const source = await folder.open('model.bin')
  try {
    await use(source)
  } finally {
    await source.close()
  }
}

/** Larger than any buffer or block of the hosts, and no multiple of one. */
export const SIZE = 3 * 2 ** 20 + 77
/** Paths that lead out of a folder on some platform, or are none. */
export const HOSTILE = [
  '../up',
  'a/../../up',
  '/etc/passwd',
  'a\\b',
  '..\\up',
  'C:/x',
  'C:x',
  '',
  '.',
  'a//b',
  'a/',
  './a',
  'a\0b',
]
