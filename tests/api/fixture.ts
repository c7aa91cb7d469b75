import { readdirSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'

const FOLDER = resolve(import.meta.dirname, '../fixtures/tiny-llama')

/** The files of the tiny Llama that the tests carry, in memory. */
export function tinyLlama(): Record<string, Uint8Array> {
  return Object.fromEntries(readdirSync(FOLDER).map((name) => [name, new Uint8Array(readFileSync(join(FOLDER, name)))]))
}
