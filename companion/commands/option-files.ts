import { basename, resolve } from 'node:path'
import { readFile } from '../../src/core/bytes.ts'
import { openPath } from '../bytes.ts'

/** What a config.json may have at the most, vision models' thousands of labels included. */
const MAX_OPTION_BYTES = 1 << 24

/** JSON as it is, or the text of the file whose path it is. */
export async function textOrFile(value: string): Promise<string> {
  return /^\s*[{[]/.test(value) ? value : textOf(value, MAX_OPTION_BYTES)
}

/** The text of a small file. */
export async function textOf(path: string, limit: number): Promise<string> {
  return new TextDecoder().decode(await bytesOf(path, limit))
}

/** The bytes of a small file. */
export async function bytesOf(path: string, limit: number): Promise<Uint8Array> {
  const full = resolve(path)
  return readFile(await openPath(full), basename(full), limit)
}
