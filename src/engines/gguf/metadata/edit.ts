import { AppError } from '../../../core/errors.ts'
import { isArray, isObject, parseJson, type Json } from '../../../core/json.ts'
import { listItems, splitItem, type ListPart, type OptionSpec, type OptionValues } from '../../../core/option.ts'
import type { GgufArray, GgufNumberType, GgufValue, GgufValueType } from '../../containers/gguf/types.ts'
import { GGUF_VALUE_TYPES } from '../../containers/gguf/types.ts'

/** A key, its type where it is not that of the value, and the value. */
const ASSIGNMENT: readonly ListPart[] = [
  { title: 'Key', before: '', example: 'general.name', metadataKey: true },
  { title: 'Type', before: ':', example: 'by itself', optional: true, choices: GGUF_VALUE_TYPES },
  { title: 'Value', before: '=', example: 'My model', lines: true },
]

/** The options that change keys of the header; the weights stay as they are. */
export const EDIT_OPTIONS: readonly OptionSpec[] = [
  {
    name: 'set-metadata',
    title: 'Set metadata',
    group: 'Header',
    help: 'A key of the header and its value; the type (u32, f32, string, array ...) is that of the key as it is, else of the value. A JSON object sets several.',
    kind: { kind: 'list', parts: ASSIGNMENT, default: null },
  },
  {
    name: 'remove-metadata',
    title: 'Remove metadata',
    group: 'Header',
    help: 'A key of the header to leave out.',
    kind: {
      kind: 'list',
      parts: [{ title: 'Key', before: '', example: 'general.url', metadataKey: true }],
      default: null,
    },
  },
]

/** Changes of the header's keys. */
export interface MetadataEdit {
  readonly set: readonly Assignment[]
  readonly remove: readonly string[]
}

interface Assignment {
  readonly key: string
  /** Null: that of the key if there is one, else by the value. */
  readonly type: GgufValueType | null
  readonly value: Json
  /** Whether the value was typed without quotes: `12` may then be a string. */
  readonly bare: boolean
}

/** The specification's own limit. */
const MAX_KEY_BYTES = 65_535

/** What follows from the layout and would contradict it. */
const DERIVED: ReadonlyMap<string, string> = new Map([
  ['general.alignment', 'it says where the tensors lie'],
  ['general.architecture', 'every other key and every tensor depends on it'],
  ['split.no', 'it follows from how the model is split'],
  ['split.count', 'it follows from how the model is split'],
  ['split.tensors.count', 'it follows from how the model is split'],
])

/** Reads the options of editing. Throws `bad-option`, naming the key. */
export function metadataEdit(options: OptionValues): MetadataEdit {
  const edit: MetadataEdit = {
    set: listItems(options['set-metadata']).flatMap(assignments),
    remove: listItems(options['remove-metadata']).flatMap((keys) =>
      keys.split(/[,\n]/).flatMap((key) => key.trim() || []),
    ),
  }
  for (const key of [...edit.set.map((one) => one.key), ...edit.remove]) {
    const why = DERIVED.get(key)
    if (why !== undefined) throw badOption(`${key} cannot be edited: ${why}`, 'Leave this key out.')
  }
  return edit
}

function badOption(message: string, hint: string): AppError {
  return new AppError('bad-option', message, { hint })
}

function assignments(text: string): readonly Assignment[] {
  if (text.trimStart().startsWith('{')) {
    let json: Json
    try {
      json = parseJson(text, '--set-metadata')
    } catch (cause) {
      throw badOption(AppError.from(cause).message, 'Give an object: {"general.name": "My model"}.')
    }
    if (isObject(json)) return [...json].map(([spelled, value]) => fromJson(spelled, value))
  }
  if (text.indexOf('=') < 1) throw badOption(`--set-metadata cannot be ${JSON.stringify(text)}`, 'Give KEY=VALUE.')
  const [key = '', type, value = ''] = splitItem(ASSIGNMENT, text)
  return [assignment(key.trim(), value, true, GGUF_VALUE_TYPES.find((one) => one === type) ?? null)]
}

/** A key of a JSON object may name its type too. */
function fromJson(spelled: string, value: Json): Assignment {
  const [key = '', type] = splitItem(ASSIGNMENT.slice(0, 2), spelled)
  return assignment(key, value, false, GGUF_VALUE_TYPES.find((one) => one === type) ?? null)
}

function assignment(key: string, value: Json, bare: boolean, type: GgufValueType | null): Assignment {
  if (key === '' || new TextEncoder().encode(key).length > MAX_KEY_BYTES)
    throw badOption(`--set-metadata has a key that is empty or too long`, 'Give KEY=VALUE.')
  return { key, type, value, bare }
}

/** The keys as edited; the order stays, new keys come last. Throws `bad-option` for a value that its type cannot hold. */
export function editMetadata(metadata: ReadonlyMap<string, GgufValue>, edit: MetadataEdit): Map<string, GgufValue> {
  const edited = new Map(metadata)
  for (const key of edit.remove) {
    if (!edited.delete(key))
      throw badOption(`--remove-metadata: there is no key ${key}`, 'Look at the keys that the file has.')
  }
  for (const one of edit.set) {
    const old = edited.get(one.key)
    edited.set(one.key, valueOf(one, one.type ?? old?.type ?? null, old))
  }
  return edited
}

function valueOf(one: Assignment, type: GgufValueType | null, old: GgufValue | undefined): GgufValue {
  const wanted = type ?? guessType(one)
  if (wanted === 'array') return arrayOf(one, old)
  if (wanted === 'string') {
    if (typeof one.value === 'string') return { type: 'string', value: one.value }
    throw doesNotFit(one, wanted)
  }
  const value = one.bare ? parseBare(String(one.value).trim()) : one.value
  if (wanted === 'bool') {
    if (typeof value !== 'boolean') throw doesNotFit(one, wanted)
    return { type: 'bool', value }
  }
  if (wanted === 'u64' || wanted === 'i64') return { type: wanted, value: bigOf(one, value, wanted) }
  return { type: wanted, value: numberOf(one, value, wanted) }
}

function doesNotFit({ key, value }: Assignment, type: string): AppError {
  const shown = isObject(value) || isArray(value) ? 'a list or object' : JSON.stringify(value)
  return badOption(`--set-metadata: ${key} is of the type ${type}, which ${shown} is not`, 'Or give KEY:TYPE=VALUE.')
}

/** What a value typed without quotes is, if it is to be anything but text. */
function parseBare(text: string): Json {
  if (text === 'true' || text === 'false') return text === 'true'
  return text !== '' && /^[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?$/i.test(text) ? Number(text) : text
}

function guessType(one: Assignment): GgufValueType {
  const value = one.bare ? parseBare(String(one.value).trim()) : one.value
  if (isArray(value)) return 'array'
  if (typeof value === 'boolean') return 'bool'
  if (typeof value !== 'number') return 'string'
  if (!Number.isInteger(value)) return 'f32'
  if (value < 0) return value >= -(2 ** 31) ? 'i32' : 'i64'
  return value < 2 ** 32 ? 'u32' : 'u64'
}

const RANGES: ReadonlyMap<GgufNumberType, readonly [number, number]> = new Map([
  ['u8', [0, 2 ** 8 - 1]],
  ['i8', [-(2 ** 7), 2 ** 7 - 1]],
  ['u16', [0, 2 ** 16 - 1]],
  ['i16', [-(2 ** 15), 2 ** 15 - 1]],
  ['u32', [0, 2 ** 32 - 1]],
  ['i32', [-(2 ** 31), 2 ** 31 - 1]],
])

function numberOf(one: Assignment, value: Json, type: GgufNumberType): number {
  const range = RANGES.get(type)
  const fits =
    typeof value === 'number' &&
    Number.isFinite(type === 'f32' ? Math.fround(value) : value) &&
    (range === undefined || (Number.isInteger(value) && value >= range[0] && value <= range[1]))
  if (!fits) throw doesNotFit(one, type)
  return value
}

function bigOf(one: Assignment, value: Json, type: 'u64' | 'i64'): bigint {
  const digits = one.bare ? String(one.value).trim() : typeof value === 'number' ? String(value) : ''
  if (!/^-?\d+$/.test(digits)) throw doesNotFit(one, type)
  const big = BigInt(digits)
  const fits = type === 'u64' ? BigInt.asUintN(64, big) === big : BigInt.asIntN(64, big) === big
  if (!fits) throw doesNotFit(one, type)
  return big
}

/** Arrays of text, booleans or numbers; of the element type that the key had, if it had one. */
function arrayOf(one: Assignment, old: GgufValue | undefined): GgufArray {
  let list = one.value
  if (one.bare) {
    try {
      list = parseJson(String(one.value), one.key)
    } catch {
      throw doesNotFit(one, 'array')
    }
  }
  if (!isArray(list)) throw doesNotFit(one, 'array')
  const of = old?.type === 'array' ? old.of : typeof list[0] === 'number' ? numberTypeFor(list) : undefined
  if (list.every((item) => typeof item === 'string') && (of === undefined || of === 'string'))
    return { type: 'array', of: 'string', value: list }
  if (list.every((item) => typeof item === 'boolean') && (of === undefined || of === 'bool'))
    return { type: 'array', of: 'bool', value: list }
  switch (of) {
    case undefined:
    case 'string':
    case 'bool':
    case 'array':
      throw doesNotFit(one, `array of ${of ?? 'text, booleans or numbers'}`)
    case 'u64':
    case 'i64':
      return { type: 'array', of, value: list.map((item) => bigOf({ ...one, bare: false }, item, of)) }
    default:
      return { type: 'array', of, value: list.map((item) => numberOf(one, item, of)) }
  }
}

function numberTypeFor(list: readonly Json[]): GgufNumberType {
  return list.every((item) => Number.isInteger(item)) ? 'i32' : 'f32'
}
