import { existsSync } from 'node:fs'
import { basename, resolve } from 'node:path'
import { readFile } from '../../src/core/bytes.ts'
import type { TextFile } from '../../src/core/transform.ts'
import { openPath } from '../bytes.ts'

/** What a config.json may have at the most, vision models' thousands of labels included. */
const MAX_OPTION_BYTES = 1 << 24

/** JSON as it is, or the text of the file whose path it is. */
export async function textOrFile(value: string): Promise<string> {
  return /^\s*[{[]/.test(value) ? value : textOf(value, MAX_OPTION_BYTES)
}

/** Text given as it is or as the path of a file. `name` is what the former is called in messages. */
export async function textFile(value: string, limit: number, name: string): Promise<TextFile> {
  const inline = /^\s*[{[]|:\s|\n/.test(value) && !existsSync(value)
  return inline ? { name, text: value } : { name: value, text: await textOf(value, limit) }
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
