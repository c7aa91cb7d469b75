import { AppError } from './errors.ts'

/** JSON as it comes from model files. Objects are Maps: `__proto__` is a name like any other, and order is kept. */
export type Json = null | boolean | number | string | readonly Json[] | JsonObject
export type JsonObject = ReadonlyMap<string, Json>

/**
 * How a text spelled the numbers that JavaScript would spell otherwise (`30.0`, `1e-06`), by key or index of what holds
 * them: Python takes 30.0 and 30 for different types, so a config that is written again keeps them.
 */
const SPELLINGS = new WeakMap<object, Map<string | number, string>>()

const DAMAGED = 'The file is damaged or was edited by hand: download it again.'

/** Deeper than any real config or header; a hostile one could otherwise exhaust the stack. */
const MAX_DEPTH = 64

/**
 * Parses JSON strictly: duplicate keys, trailing bytes and nesting beyond 64 levels are refused. Throws `malformed`
 * with the byte-less character offset as `where.offset`. Python's `Infinity` and `NaN` are read as numbers, as
 * transformers writes them.
 */
export function parseJson(text: string, file: string): Json {
  let at = 0
  const fail = (why: string): never => {
    throw new AppError('malformed', `${file} is not valid JSON: ${why} at character ${at}`, {
      where: { file, offset: at },
      hint: DAMAGED,
    })
  }
  const skip = (): void => {
    for (;;) {
      const code = text.charCodeAt(at)
      if (code === 32 || code === 10 || code === 13 || code === 9) at++
      else return
    }
  }
  const string = (): string => {
    const start = at
    at++
    for (;;) {
      const code = text.charCodeAt(at)
      if (Number.isNaN(code)) fail('a string without end')
      if (code === 34) break
      at += code === 92 ? 2 : 1
    }
    at++
    try {
      return JSON.parse(text.slice(start, at)) as string
    } catch {
      at = start
      return fail('a string with a bad escape or control character')
    }
  }
  /** The last number as it was spelled; null after anything else, and where JavaScript spells it the same. */
  let spelling: string | null = null
  const keepSpelling = (holder: object, key: string | number): void => {
    if (spelling === null) return
    const known = SPELLINGS.get(holder)
    if (known === undefined) SPELLINGS.set(holder, new Map([[key, spelling]]))
    else known.set(key, spelling)
    spelling = null
  }
  const number = (): number => {
    const match = /-?(?:Infinity|NaN|(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?)/y
    match.lastIndex = at
    const found = match.exec(text)
    if (found === null) return fail(`unexpected ${at < text.length ? JSON.stringify(text[at]) : 'end'}`)
    at = match.lastIndex
    const parsed = Number(found[0])
    if (String(parsed) !== found[0] || !Number.isFinite(parsed)) spelling = found[0]
    return parsed
  }
  const value = (depth: number): Json => {
    if (depth > MAX_DEPTH) fail(`more than ${MAX_DEPTH} levels`)
    skip()
    const first = text[at]
    if (first === '"') return string()
    if (first === '{') {
      const object = new Map<string, Json>()
      at++
      skip()
      if (text[at] === '}') {
        at++
        return object
      }
      for (;;) {
        skip()
        if (text[at] !== '"') fail('expected a key')
        const key = string()
        if (object.has(key)) fail(`the key ${JSON.stringify(key)} occurs twice`)
        skip()
        if (text[at] !== ':') fail('expected ":"')
        at++
        object.set(key, value(depth + 1))
        keepSpelling(object, key)
        skip()
        const next = text[at++]
        if (next === '}') return object
        if (next !== ',') {
          at--
          fail('expected "," or "}"')
        }
      }
    }
    if (first === '[') {
      const array: Json[] = []
      at++
      skip()
      if (text[at] === ']') {
        at++
        return array
      }
      for (;;) {
        array.push(value(depth + 1))
        keepSpelling(array, array.length - 1)
        skip()
        const next = text[at++]
        if (next === ']') return array
        if (next !== ',') {
          at--
          fail('expected "," or "]"')
        }
      }
    }
    for (const [word, meaning] of WORDS) {
      if (text.startsWith(word, at)) {
        at += word.length
        return meaning
      }
    }
    return number()
  }
  const result = value(0)
  skip()
  if (at !== text.length) fail('text after the end')
  return result
}

const WORDS: readonly (readonly [string, Json])[] = [
  ['true', true],
  ['false', false],
  ['null', null],
]

/** Parses bytes that must hold a JSON object in UTF-8. */
export function parseJsonObject(bytes: Uint8Array, file: string): JsonObject {
  let text: string
  try {
    // a copy: TextDecoder refuses views of a SharedArrayBuffer in browsers
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: false }).decode(Uint8Array.from(bytes))
  } catch (cause) {
    throw new AppError('malformed', `${file} is not UTF-8 text`, { where: { file }, hint: DAMAGED, cause })
  }
  const json = parseJson(text, file)
  if (!isObject(json))
    throw new AppError('malformed', `${file} does not hold a JSON object`, { where: { file }, hint: DAMAGED })
  return json
}

export function isObject(json: Json | undefined): json is JsonObject {
  return json instanceof Map
}

export function isArray(json: Json | undefined): json is readonly Json[] {
  return Array.isArray(json)
}

/**
 * JSON as text, indented by some spaces. Numbers that {@link parseJson} read are spelled as they were. Throws RangeError
 * for numbers that JSON lacks (unless they were read from such a text, as Python writes it).
 */
export function formatJson(json: Json, indent = 2): string {
  return format(json, '\n', ' '.repeat(indent), undefined)
}

function format(json: Json, newline: string, indent: string, spelling: string | undefined): string {
  const inner = newline + indent
  if (isObject(json)) {
    if (json.size === 0) return '{}'
    const spellings = SPELLINGS.get(json)
    const entries = [...json].map(([key, value]) => {
      return `${JSON.stringify(key)}: ${format(value, inner, indent, spellings?.get(key))}`
    })
    return `{${inner}${entries.join(`,${inner}`)}${newline}}`
  }
  if (isArray(json)) {
    if (json.length === 0) return '[]'
    const spellings = SPELLINGS.get(json)
    const items = json.map((value, index) => format(value, inner, indent, spellings?.get(index)))
    return `[${inner}${items.join(`,${inner}`)}${newline}]`
  }
  if (typeof json !== 'number') return JSON.stringify(json)
  if (spelling !== undefined) return spelling
  if (!Number.isFinite(json)) throw new RangeError(`JSON has no number ${json}`)
  return String(json)
}

/**
 * A copy with some keys changed in their place, new ones added behind, and those that are undefined removed. Numbers
 * left alone keep their spelling.
 */
export function editJson(object: JsonObject, changes: ReadonlyMap<string, Json | undefined>): JsonObject {
  const edited = new Map(object)
  const spellings = new Map(SPELLINGS.get(object))
  for (const [key, value] of changes) {
    spellings.delete(key)
    if (value === undefined) edited.delete(key)
    else edited.set(key, value)
  }
  SPELLINGS.set(edited, spellings)
  return edited
}

/** A copy with its keys in another order; numbers keep their spelling. */
export function sortJson(object: JsonObject, compare: (a: string, b: string) => number): JsonObject {
  const sorted = new Map([...object].sort(([a], [b]) => compare(a, b)))
  SPELLINGS.set(sorted, new Map(SPELLINGS.get(object)))
  return sorted
}

/** An object whose numbers under `floats` are written with a point, as Python spells floats: 10000.0. */
export function withFloats(object: JsonObject, floats: ReadonlySet<string>): JsonObject {
  const spellings = new Map(SPELLINGS.get(object))
  for (const [key, value] of object) {
    if (floats.has(key) && Number.isInteger(value)) spellings.set(key, `${String(value)}.0`)
  }
  const copy = new Map(object)
  SPELLINGS.set(copy, spellings)
  return copy
}
