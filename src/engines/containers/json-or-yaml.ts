/** Settings that people write by hand. */
import { AppError } from '../../core/errors.ts'
import { parseJson, type Json } from '../../core/json.ts'
import { parseYaml } from './yaml.ts'

/**
 * JSON or YAML: by the ending of its name, otherwise whichever it can be. Throws `bad-option` with line and column where
 * it is neither.
 */
export async function parseJsonOrYaml(text: string, name: string): Promise<Json> {
  try {
    return await parse(text, name, /\.[^./\\]*$/.exec(name)?.[0]?.toLowerCase() ?? '')
  } catch (cause) {
    const { message, where } = AppError.from(cause)
    throw new AppError('bad-option', message, { where, hint: 'It is JSON or YAML: mend it there.', cause })
  }
}

async function parse(text: string, name: string, ending: string): Promise<Json> {
  if (ending === '.yaml' || ending === '.yml') return parseYaml(text, name)
  const looksLikeJson = ending === '.json' || /^\s*[{[]/.test(text)
  if (!looksLikeJson) return parseYaml(text, name)
  try {
    return parseJson(text, name)
  } catch (error) {
    if (ending === '.json') throw withLine(error, text)
    // braces are YAML's too: {seed: 1}
    return parseYaml(text, name)
  }
}

/** An error of JSON with line and column besides the character. */
function withLine(error: unknown, text: string): AppError {
  const { code, message, where } = AppError.from(error)
  const before = text.slice(0, where.offset ?? 0).split('\n')
  const column = (before.at(-1)?.length ?? 0) + 1
  return new AppError(code, `${message} (line ${before.length}, column ${column})`, { where, cause: error })
}
