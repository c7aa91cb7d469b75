/** What Megatron pickles: arguments and nested dicts of tensors. */
import { AppError } from '../../core/errors.ts'
import type { Json } from '../../core/json.ts'
import type { Recipe } from '../../core/tensor.ts'
import { isCall, isDict, isGlobal, isSequence, type PickleCall, type PickleValue } from '../containers/pickle.ts'

/** Megatron's command-line arguments, as far as they are plain values. */
export type Args = ReadonlyMap<string, Json>

/** Modules nest four levels deep in what Megatron writes. */
const MAX_DEPTH = 32

/** A dict or OrderedDict by its keys that are text, or an object by its attributes; null for anything else. */
export function membersOf(value: PickleValue | undefined): ReadonlyMap<string, PickleValue> | null {
  const state = isCall(value) && isDict(value.state) ? value.state : value
  if (!isDict(state) && !isCall(state)) return null
  return new Map(state.entries.filter((entry): entry is readonly [string, PickleValue] => typeof entry[0] === 'string'))
}

/** A pickled Namespace, or dict, of arguments. */
export function argsOf(value: PickleValue | undefined): Args {
  const args = new Map<string, Json>()
  for (const [key, item] of membersOf(value) ?? []) {
    const json = jsonOf(item)
    if (json !== undefined) args.set(key, json)
  }
  return args
}

function jsonOf(value: PickleValue): Json | undefined {
  if (value === null || typeof value === 'boolean' || typeof value === 'number' || typeof value === 'string')
    return value
  if (isGlobal(value)) return value.name
  if (!isSequence(value)) return undefined
  const items = value.items.map(jsonOf)
  return items.every((item) => item !== undefined) ? items : undefined
}

const isTensor = (value: PickleValue): value is PickleCall =>
  isCall(value) && value.how === 'call' && /^torch\._(?:utils|tensor)$/.test(value.callee.module)

/** All tensors of nested dicts, their keys joined by dots. Throws `malformed` for dicts without end. */
export function flatten(
  root: PickleValue,
  file: string,
  recipe: (name: string, tensor: PickleCall) => Recipe,
): Map<string, Recipe> {
  const found = new Map<string, Recipe>()
  const visit = (value: PickleValue, prefix: string, depth: number): void => {
    if (depth > MAX_DEPTH) {
      throw new AppError('malformed', `${file} nests its modules without end`, {
        where: { file, tensor: prefix },
        hint: 'The file is damaged: copy it again.',
      })
    }
    for (const [key, item] of membersOf(value) ?? []) {
      const name = `${prefix}${key}`
      if (isTensor(item)) found.set(name, recipe(name, item))
      else if (isDict(item) || isCall(item)) visit(item, `${name}.`, depth + 1)
    }
  }
  visit(root, '', 0)
  return found
}
