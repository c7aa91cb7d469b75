/** config.json as mlx-lm writes it: HuggingFace's, keys sorted, with what its classes need and the quantisation. */
import type { ModelConfig } from '../../core/checkpoint.ts'
import {
  editJson,
  formatJson,
  isArray,
  isObject,
  sortJson,
  withFloats,
  type Json,
  type JsonObject,
} from '../../core/json.ts'
import { CONFIG_KEYS, type Architecture } from '../../models/architecture.ts'
import { compareUtf8 } from '../containers/safetensors.ts'
import type { MlxModel } from './names.ts'
import { quantizationJson, type Quantization } from './quantization.ts'

/** Where mlx-lm's loader looks, and where the Hub does. */
export const QUANTIZATION_KEYS = ['quantization', 'quantization_config']

/** Numbers that Python writes with a point. */
const FLOATS: ReadonlySet<string> = new Set(['rope_theta', 'factor', 'low_freq_factor', 'high_freq_factor'])

/** The HuggingFace configuration `json` (of `config`) as mlx-lm wants it. */
export function mlxConfig(
  json: JsonObject,
  config: ModelConfig,
  architecture: Architecture,
  model: MlxModel,
  quantization: Quantization | null,
): JsonObject {
  const changes = new Map<string, Json | undefined>()
  const add = (key: string, value: Json): void => {
    if (!json.has(key)) changes.set(key, value)
  }
  for (const key of model.sizes) add(architecture.keys?.[key] ?? CONFIG_KEYS[key], config[key])
  for (const [key, value] of model.keys) add(key, value)
  for (const [key, value] of model.replacing) changes.set(key, value)
  // absent, it is false for some of HuggingFace's classes and true for their counterparts
  changes.set('tie_word_embeddings', model.tied)
  changes.set('vision_config', undefined)
  if (architecture.rotary !== 'none') for (const [key, value] of rotaryKeys(json, config)) changes.set(key, value)
  const ends = json.get('eos_token_id')
  if ((isArray(ends) ? ends.length : 1) < config.eosIds.length) changes.set('eos_token_id', config.eosIds)
  for (const key of QUANTIZATION_KEYS) changes.set(key, undefined)
  if (quantization !== null) {
    for (const key of QUANTIZATION_KEYS) changes.set(key, quantizationJson(quantization))
  }
  return sortJson(withFloats(editJson(json, changes), FLOATS), compareUtf8)
}

/** `rope_theta` and `rope_scaling`, which most of mlx-lm's classes read, for configs that have `rope_parameters`. */
function rotaryKeys(json: JsonObject, { rope }: ModelConfig): readonly (readonly [string, Json])[] {
  const keys: [string, Json][] = []
  const all = json.get('rope_parameters')
  const byKind = isObject(all) ? all.get('full_attention') : undefined
  const parameters = isObject(byKind) ? byKind : all
  const given = json.get('rope_scaling') ?? null
  if (!json.has('rope_theta')) keys.push(['rope_theta', rope.theta])
  const partial = isObject(parameters) ? parameters.get('partial_rotary_factor') : undefined
  if (partial !== undefined && !json.has('partial_rotary_factor')) keys.push(['partial_rotary_factor', partial])
  const scaling = isObject(given) ? given : isObject(parameters) ? parameters : null
  const kind = scaling?.get('rope_type') ?? scaling?.get('type') ?? 'default'
  if (scaling === null || kind === 'default') return keys
  const changes = new Map<string, Json | undefined>([
    ['rope_theta', undefined],
    ['partial_rotary_factor', undefined],
    ['type', kind],
  ])
  // Phi's stands beside it in HuggingFace's
  if (rope.scaling.kind === 'longrope') changes.set('original_max_position_embeddings', rope.scaling.originalContext)
  keys.push(['rope_scaling', withFloats(editJson(scaling, changes), FLOATS)])
  return keys
}

/** Text as Python's json.dump writes it with an indent of 4: no newline at the end, ASCII only. */
export function pythonJson(json: JsonObject): string {
  return formatJson(json, 4).replaceAll(/[\u0080-\uffff]/g, (unit) => {
    return `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`
  })
}
