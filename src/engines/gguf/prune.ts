/** Leaving out whole layers, as `llama-quantize --prune-layers` does. */
import { AppError } from '../../core/errors.ts'
import type { OptionSpec, OptionValues } from '../../core/option.ts'
import type { Finding } from '../../core/plan.ts'
import type { GgufArray, GgufValue } from '../containers/gguf/types.ts'
import type { Placed } from './lay.ts'
import type { WeightOptions } from './weights/options.ts'

/** The option of it. */
export const PRUNE_OPTION: OptionSpec = {
  name: 'prune-layers',
  title: 'Layers to leave out',
  group: 'Types',
  help: 'Their numbers from 0, with commas: 20,21,22. The others are counted anew. The model gets smaller and worse; for research.',
  kind: { kind: 'text', default: null },
}

/** No model has more. */
const MAX_LAYER = 99_999

/** Reads the option: numbers in order, each once. Throws `bad-option`. */
export function layersToPrune(options: OptionValues): readonly number[] {
  const text = options['prune-layers']
  if (typeof text !== 'string' || text.trim() === '') return []
  const numbers = text.split(',').map((one) => (/^\s*\d+\s*$/.test(one) ? Number(one) : -1))
  if (numbers.some((number) => number < 0 || number > MAX_LAYER)) {
    throw new AppError('bad-option', `--prune-layers cannot be ${JSON.stringify(text)}`, {
      hint: 'Give the numbers of layers, from 0, with commas: 20,21,22.',
    })
  }
  return [...new Set(numbers)].sort((a, b) => a - b)
}

/** A model's tensors without some of its layers. */
export interface Pruned {
  readonly tensors: readonly Placed[]
  /** Layers that are left. */
  readonly layers: number
  /** The importances under the new names. */
  readonly weights: WeightOptions
  readonly findings: readonly Finding[]
}

const LAYER = /^blk\.(\d+)\./

/** Leaves out `weights.prune` of `layers`. Throws `bad-option` for layers that are not there, and where none would be left. */
export function pruneLayers(tensors: readonly Placed[], layers: number, weights: WeightOptions): Pruned {
  const { prune, importances } = weights
  if (prune.length === 0) return { tensors, layers, weights, findings: [] }
  const missing = prune.filter((layer) => layer >= layers)
  if (missing.length > 0 || prune.length === layers) {
    const why = missing.length > 0 ? `there is no layer ${missing.join(', ')}` : 'no layer would be left'
    throw new AppError('bad-option', `--prune-layers: ${why}; the model has ${layers}, from 0 to ${layers - 1}`)
  }
  const stacked = tensors.find(({ name }) => /^(?:enc|dec)\.blk\./.test(name))
  if (stacked !== undefined) {
    throw new AppError('bad-option', '--prune-layers is for models of one stack; this is an encoder with a decoder', {
      where: { tensor: stacked.name },
    })
  }
  const kept = Array.from({ length: layers }, (_, layer) => layer).filter((layer) => !prune.includes(layer))
  const numbers = new Map(kept.map((layer, index) => [layer, index]))
  const renamed = (name: string): string | null => {
    const layer = LAYER.exec(name)?.[1]
    if (layer === undefined) return name
    const number = numbers.get(Number(layer))
    return number === undefined ? null : name.replace(LAYER, `blk.${number}.`)
  }
  const under = <T extends { readonly name: string }>(items: readonly T[]): readonly T[] =>
    items.flatMap((item) => {
      const name = renamed(item.name)
      return name === null ? [] : [{ ...item, name }]
    })
  const values = importances === null ? [] : under([...importances.of].map(([name, of]) => ({ name, of })))
  return {
    tensors: under(tensors),
    layers: kept.length,
    weights:
      importances === null
        ? weights
        : { ...weights, importances: { ...importances, of: new Map(values.map(({ name, of }) => [name, of])) } },
    findings: [
      {
        severity: 'warning',
        code: 'layers-pruned',
        message: `${prune.length} of ${layers} layers are left out (${prune.join(', ')}); the others are counted anew`,
        option: 'prune-layers',
        hint: 'The model was not trained so: measure what it has lost (check, compare).',
      },
    ],
  }
}

/** A list of which the length says nothing of layers. */
const SECTIONS = '.rope.dimension_sections'

/** A list of numbers or booleans less some of its entries. */
function without(list: GgufArray, removed: readonly number[]): GgufArray {
  const kept = <T>(items: ArrayLike<T>): T[] => Array.from(items).filter((_, at) => !removed.includes(at))
  switch (list.of) {
    case 'string':
    case 'array':
      return list
    case 'bool':
      return { ...list, value: kept(list.value) }
    case 'u64':
    case 'i64':
      return { ...list, value: kept(list.value) }
    default:
      return { ...list, value: kept(list.value) }
  }
}

/** A file's keys for the layers that are left: their number, and lists that have an entry for each. */
export function pruneMetadata(
  metadata: ReadonlyMap<string, GgufValue>,
  prefix: string,
  layers: number,
  prune: readonly number[],
): Map<string, GgufValue> {
  const pruned = new Map(metadata)
  if (prune.length === 0) return pruned
  for (const [key, value] of metadata) {
    const ofLayers = key.startsWith(`${prefix}.`) && !key.endsWith(SECTIONS)
    if (ofLayers && value.type === 'array' && value.value.length === layers) pruned.set(key, without(value, prune))
  }
  pruned.set(`${prefix}.block_count`, { type: 'u32', value: layers - prune.length })
  return pruned
}
