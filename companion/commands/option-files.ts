import { existsSync } from 'node:fs'
import { basename, extname, resolve } from 'node:path'
import { readFile } from '../../src/core/bytes.ts'
import { AppError } from '../../src/core/errors.ts'
import { parseJson, type Json } from '../../src/core/json.ts'
import { parseYaml } from '../../src/engines/containers/yaml.ts'
import { openPath } from '../bytes.ts'

/** What a config.json may have at the most, vision models' thousands of labels included. */
const MAX_OPTION_BYTES = 1 << 24

/** JSON as it is, or the text of the file whose path it is. */
export async function textOrFile(value: string): Promise<string> {
  return /^\s*[{[]/.test(value) ? value : textOf(value, MAX_OPTION_BYTES)
}

/**
 * JSON or YAML, given as it is or as the path of a file: by its ending, otherwise whichever it can be. `name` is for
 * messages. Throws `bad-option` with line and column where it is neither.
 */
export async function structureOf(
  value: string,
  limit: number,
  name: string,
): Promise<{ readonly json: Json; readonly file: string }> {
  const inline = /^\s*[{[]|:\s|\n/.test(value) && !existsSync(value)
  const text = inline ? value : await textOf(value, limit)
  const file = inline ? name : value
  const ending = inline ? '' : extname(value).toLowerCase()
  try {
    return { json: await structure(text, file, ending), file }
  } catch (cause) {
    const { message, where } = AppError.from(cause)
    throw new AppError('bad-option', message, { where, hint: 'It is JSON or YAML: mend it there.', cause })
  }
}

async function structure(text: string, file: string, ending: string): Promise<Json> {
  if (ending === '.yaml' || ending === '.yml') return parseYaml(text, file)
  const looksLikeJson = ending === '.json' || /^\s*[{[]/.test(text)
  if (!looksLikeJson) return parseYaml(text, file)
  try {
    return parseJson(text, file)
  } catch (error) {
    if (ending === '.json') throw withLine(error, text)
    // braces are YAML's too: {seed: 1}
    return parseYaml(text, file)
  }
}

/** An error of JSON with line and column besides the character. */
function withLine(error: unknown, text: string): AppError {
  const { code, message, where } = AppError.from(error)
  const before = text.slice(0, where.offset ?? 0).split('\n')
  const column = (before.at(-1)?.length ?? 0) + 1
  return new AppError(code, `${message} (line ${before.length}, column ${column})`, { where, cause: error })
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
