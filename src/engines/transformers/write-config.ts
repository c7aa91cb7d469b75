/**
 * config.json and generation_config.json of a checkpoint: the one it came with, adjusted, or one made from what is known
 * of the model. New ones have the keys of transformers 4 (`rope_theta`, `rope_scaling`, `torch_dtype`), which 5 reads too.
 */
import type { Checkpoint, ModelConfig, RopeScaling } from '../../core/checkpoint.ts'
import type { DType } from '../../core/dtype.ts'
import { AppError } from '../../core/errors.ts'
import { editJson, withFloats, type Json, type JsonObject } from '../../core/json.ts'
import { CONFIG_KEYS, type Architecture, type ConfigKey } from '../../models/architecture.ts'
import { normalizeConfig } from './config.ts'
import { CONFIG_FILE } from './files.ts'

/** What of a config says how weights are quantised: what is written here never is. */
const QUANTIZATION_KEYS = ['quantization_config', 'quantization', 'compression_config']
/** Of the machine that saved it, and of code that is not copied. */
const DROPPED_KEYS = ['_name_or_path', 'auto_map', ...QUANTIZATION_KEYS]

/** Numbers that Python's configs declare as floats. */
const FLOATS: ReadonlySet<string> = new Set([
  'rope_theta',
  'factor',
  'alpha',
  'low_freq_factor',
  'high_freq_factor',
  'beta_fast',
  'beta_slow',
  'attention_factor',
  'mscale',
  'mscale_all_dim',
  'routed_scaling_factor',
  'attn_logit_softcapping',
  'final_logit_softcapping',
  'rope_local_base_freq',
])

const TORCH_NAMES: ReadonlyMap<DType, string> = new Map([
  ['f32', 'float32'],
  ['f16', 'float16'],
  ['bf16', 'bfloat16'],
  ['f64', 'float64'],
])

/** Whether a checkpoint's raw configuration is a config.json already. */
export function isHuggingFace(raw: JsonObject): boolean {
  return raw.has('architectures') || raw.has('model_type')
}

/**
 * The config.json for weights of the type `dtype`. Throws `unsupported` where the model came without one and none can be
 * made that says all that is known of it.
 */
export function configJson(checkpoint: Checkpoint, architecture: Architecture, dtype: DType): JsonObject {
  const { config } = checkpoint
  return isHuggingFace(config.raw) ? adjusted(config, architecture, dtype) : rebuilt(config, architecture, dtype)
}

/** The config that the model came with: the same keys in the same order, but for what is no longer true. */
function adjusted({ raw, tied }: ModelConfig, { defaults }: Architecture, dtype: DType): JsonObject {
  const changes = new Map<string, Json | undefined>(DROPPED_KEYS.map((key) => [key, undefined]))
  const name = TORCH_NAMES.get(dtype) ?? null
  const keys = ['dtype', 'torch_dtype'].filter((key) => raw.has(key))
  for (const key of keys.length > 0 ? keys : ['torch_dtype']) changes.set(key, name)
  if (raw.has('tie_word_embeddings') || tied !== defaults.tied) changes.set('tie_word_embeddings', tied)
  return editJson(raw, changes)
}

/** The configuration of a model that nothing is known of, for weights that were cast; null keeps their types. */
export function castConfig(raw: JsonObject, dtype: DType | null): JsonObject {
  const keys = ['dtype', 'torch_dtype'].filter((key) => raw.has(key))
  if (dtype === null || keys.length === 0) return raw
  return editJson(raw, new Map(keys.map((key) => [key, TORCH_NAMES.get(dtype)])))
}

function rebuilt(config: ModelConfig, architecture: Architecture, dtype: DType): JsonObject {
  const spelled = (key: ConfigKey): string => architecture.keys?.[key] ?? CONFIG_KEYS[key]
  const json = new Map<string, Json>([
    ['architectures', [config.className]],
    ['model_type', config.modelType],
    ['vocab_size', config.vocabSize],
  ])
  for (const key of Object.keys(CONFIG_KEYS) as ConfigKey[]) json.set(spelled(key), config[key])
  json.set('rope_theta', config.rope.theta)
  json.set('rope_scaling', ropeScaling(config.rope.scaling))
  if (config.rope.dim !== undefined || architecture.defaults.rotaryFactor !== undefined)
    json.set('partial_rotary_factor', (config.rope.dim ?? config.headDim) / config.headDim)
  // Phi 3's class refuses it within rope_scaling
  if (config.rope.scaling.kind === 'longrope')
    json.set('original_max_position_embeddings', config.rope.scaling.originalContext)
  if (architecture.rotaryKeys !== undefined) {
    json.set(architecture.rotaryKeys.theta, config.rope.theta)
    json.set(architecture.rotaryKeys.factor, (config.rope.dim ?? config.headDim) / config.headDim)
  }
  json.set('tie_word_embeddings', config.tied)
  json.set('bos_token_id', config.bosId)
  json.set('eos_token_id', idOrIds(config.eosIds))
  json.set('pad_token_id', config.padId)
  json.set('torch_dtype', TORCH_NAMES.get(dtype) ?? null)
  json.set('use_cache', true)
  if (architecture.rotary === 'none') for (const key of ['rope_theta', 'rope_scaling']) json.delete(key)
  // flags and facts that a reader left under their HuggingFace names; other formats' own keys have dots
  for (const [key, value] of config.raw) if (!json.has(key) && !key.includes('.')) json.set(key, value)
  setWindow(json, config, architecture)
  const result = withFloats(json, FLOATS)
  requireSame(config, result, architecture)
  return result
}

/** The family's own way to say how far a position sees, if its default says otherwise. */
function setWindow(json: Map<string, Json>, { slidingWindow, contextLength }: ModelConfig, of: Architecture): void {
  const says = (): boolean => of.slidingWindow(json) === slidingWindow
  if (says()) return
  json.set('sliding_window', slidingWindow)
  if (says()) return
  json.set('use_sliding_window', slidingWindow !== null)
  // in all blocks: none but those from this one on have a window
  json.set('max_window_layers', 0)
  if (says()) return
  throw new AppError('unsupported', `A config.json for a window of ${String(slidingWindow ?? contextLength)} tokens`, {
    hint: `${of.classNames[0] ?? of.id} has none.`,
  })
}

function idOrIds(ids: readonly number[]): Json {
  return ids.length > 1 ? ids : (ids[0] ?? null)
}

function ropeScaling(scaling: RopeScaling): Json {
  const object = (entries: readonly (readonly [string, Json])[]): Json =>
    withFloats(new Map(entries.filter(([, value]) => value !== null)), FLOATS)
  switch (scaling.kind) {
    case 'none':
      return null
    case 'linear':
      return object([
        ['rope_type', 'linear'],
        ['factor', scaling.factor],
      ])
    case 'alpha':
      return object([
        ['type', 'dynamic'],
        ['alpha', scaling.alpha],
        ['factor', 1],
      ])
    case 'llama3':
      return object([
        ['rope_type', 'llama3'],
        ['factor', scaling.factor],
        ['low_freq_factor', scaling.lowFreqFactor],
        ['high_freq_factor', scaling.highFreqFactor],
        ['original_max_position_embeddings', scaling.originalContext],
      ])
    case 'yarn':
      return object([
        ['rope_type', 'yarn'],
        ['factor', scaling.factor],
        ['original_max_position_embeddings', scaling.originalContext],
        ['beta_fast', scaling.betaFast],
        ['beta_slow', scaling.betaSlow],
        ['attention_factor', scaling.attentionFactor],
        ['truncate', scaling.truncate ?? null],
        ['mscale', scaling.mscale ?? null],
        ['mscale_all_dim', scaling.mscaleAllDim ?? null],
      ])
    case 'longrope':
      return object([
        ['type', 'longrope'],
        ['short_factor', scaling.shortFactors],
        ['long_factor', scaling.longFactors],
      ])
  }
}

/** What is written must mean the same when it is read: a family with keys of its own would lose them here. */
function requireSame(config: ModelConfig, json: JsonObject, architecture: Architecture): void {
  let read: ModelConfig
  try {
    read = normalizeConfig(json, CONFIG_FILE, architecture).config
  } catch (cause) {
    throw cannotRebuild(AppError.from(cause).message, cause)
  }
  for (const key of new Set([...Object.keys(config), ...Object.keys(read)]) as Set<keyof ModelConfig>) {
    // the dtype is that of the output; ids that generation adds are in generation_config.json
    if (key === 'raw' || key === 'dtype') continue
    if (canonical(config[key]) !== canonical(read[key])) throw cannotRebuild(key)
  }
}

/** The same text for the same values, in whatever order their keys are. */
function canonical(value: unknown): string | undefined {
  return JSON.stringify(value, (_, part: unknown) =>
    typeof part === 'object' && part !== null && !Array.isArray(part)
      ? Object.fromEntries(Object.entries(part).sort(([a], [b]) => (a < b ? -1 : 1)))
      : part,
  )
}

function cannotRebuild(what: string, cause?: unknown): AppError {
  return new AppError('unsupported', `No config.json can be made for this model yet: ${what}`, {
    hint: 'Give the config.json of the original model with --config.',
    cause,
  })
}

/** The generation_config.json of a model that has none; `sampling` is how it is to be sampled, if anything says so. */
export function generationJson({ bosId, eosIds, padId }: ModelConfig, sampling: JsonObject = new Map()): JsonObject {
  // transformers samples only where it is told to
  const json = new Map<string, Json>(sampling.size > 0 ? [['do_sample', true]] : [['_from_model_config', true]])
  if (bosId !== null) json.set('bos_token_id', bosId)
  if (eosIds.length > 0) json.set('eos_token_id', idOrIds(eosIds))
  if (padId !== null) json.set('pad_token_id', padId)
  for (const [key, value] of sampling) if (!json.has(key)) json.set(key, value)
  return json
}
