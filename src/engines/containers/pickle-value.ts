/** What a pickle says, as records: see pickle.ts. */

export type PickleValue =
  | null
  | boolean
  | number
  | bigint
  | string
  | Uint8Array
  | PickleSequence
  | PickleDict
  | PickleGlobal
  | PickleCall
  | PicklePersistent

export interface PickleSequence {
  readonly kind: 'list' | 'tuple' | 'set'
  readonly items: PickleValue[]
}

export interface PickleDict {
  readonly kind: 'dict'
  /** In the order they were set; a key may occur twice, and the last one counts in Python. */
  readonly entries: (readonly [PickleValue, PickleValue])[]
}

/** The name of something that Python would import. Nothing is. */
export interface PickleGlobal {
  readonly kind: 'global'
  readonly module: string
  readonly name: string
}

/** What Python would make by calling, or by filling in an instance of, a global. */
export interface PickleCall {
  readonly kind: 'call'
  /** `call` for a function's result, `new` for an instance made without its constructor. */
  readonly how: 'call' | 'new'
  readonly callee: PickleGlobal
  readonly args: readonly PickleValue[]
  /** What BUILD gave it. */
  state: PickleValue
  /** Items appended and set after it was made (a dict or list subclass). */
  readonly items: PickleValue[]
  readonly entries: (readonly [PickleValue, PickleValue])[]
}

/** What the file keeps outside of the pickle, by an id of its own: PyTorch's storages. */
export interface PicklePersistent {
  readonly kind: 'persistent'
  readonly id: PickleValue
}

export function isSequence(value: PickleValue | undefined): value is PickleSequence {
  return isRecord(value) && (value.kind === 'list' || value.kind === 'tuple' || value.kind === 'set')
}

export function isDict(value: PickleValue | undefined): value is PickleDict {
  return isRecord(value) && value.kind === 'dict'
}

export function isGlobal(value: PickleValue | undefined): value is PickleGlobal {
  return isRecord(value) && value.kind === 'global'
}

export function isCall(value: PickleValue | undefined): value is PickleCall {
  return isRecord(value) && value.kind === 'call'
}

export function isPersistent(value: PickleValue | undefined): value is PicklePersistent {
  return isRecord(value) && value.kind === 'persistent'
}

function isRecord(
  value: PickleValue | undefined,
): value is PickleSequence | PickleDict | PickleGlobal | PickleCall | PicklePersistent {
  return typeof value === 'object' && value !== null && 'kind' in value
}

/** What calls of Python's own types and codecs give, as protocol 2 spells sets and bytes; undefined for all others. */
export function pythonValue(module: string, name: string, args: readonly PickleValue[]): PickleValue | undefined {
  const [first = null, second = null] = args
  if (module === '_codecs' && name === 'encode') {
    if (typeof first !== 'string' || second !== 'latin1') return undefined
    return Uint8Array.from(first, (character) => character.charCodeAt(0))
  }
  if (module !== 'builtins' && module !== '__builtin__') return undefined
  if (name === 'set' || name === 'frozenset') return { kind: 'set', items: isSequence(first) ? [...first.items] : [] }
  return name === 'bytes' && args.length === 0 ? new Uint8Array(0) : undefined
}
