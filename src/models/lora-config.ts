/** adapter_config.json, as PEFT writes it: https://github.com/huggingface/peft, LoraConfig. */
import { AppError } from '../core/errors.ts'
import { isArray, isObject, type Json, type JsonObject } from '../core/json.ts'
import { numberAt } from './llama.ts'

/** What of a LoRA adapter's configuration says how it is merged. */
export interface LoraConfig {
  /** The base model as its trainer called it; null if it does not say. */
  readonly base: string | null
  readonly rank: number
  readonly alpha: number
  /** Whether products are scaled by alpha / sqrt(rank), not by alpha / rank. */
  readonly rankStabilized: boolean
  /** Whether each row has a length of its own (DoRA). */
  readonly dora: boolean
  /** Other ranks and alphas, by expressions for the ends of module names; the first that fits counts. */
  readonly rankPattern: ReadonlyMap<string, number>
  readonly alphaPattern: ReadonlyMap<string, number>
  /** Ends of module names, or one expression for whole names (`all-linear` for all but embedding and head); null if unsaid. */
  readonly targets: string | readonly string[] | null
  /** Blocks that `targets` is restricted to, if it is a list; null for all. */
  readonly layers: readonly number[] | null
  /** Ends of the names of modules that were trained whole. */
  readonly saved: readonly string[]
  /** Whether embedding and head stay one where the base ties them. */
  readonly keepsTie: boolean
}

/** LoraConfig's own. */
const DEFAULT_RANK = 8
const DEFAULT_ALPHA = 8

/** Flags whose meaning is known. */
const KNOWN_FLAGS: ReadonlySet<string> = new Set(['use_rslora', 'use_dora'])

/** What changes a model otherwise than by W + scale B A, or by more than the file holds. */
const REFUSED_KEYS: readonly (readonly [key: string, what: string])[] = [
  ['layer_replication', 'repeats layers'],
  ['alora_invocation_tokens', 'works only behind certain tokens (aLoRA)'],
  ['arrow_config', 'chooses among adapters for each token (Arrow)'],
  ['trainable_token_indices', 'trains single rows of the embedding'],
  ['target_parameters', 'changes parameters that are no module of their own'],
  ['megatron_config', 'is for layers of Megatron'],
]

/** Beginnings whose first step changes the base itself. */
const CHANGES_BASE = /^(?:pissa|olora|corda|loftq|lora_ga)/i

const MERGE_HINT = 'Merge it with PEFT (merge_and_unload, then save_pretrained) and convert the result.'

/** Throws `unsupported`, by name, for what is no LoRA or cannot be merged exactly; `malformed` for what makes no sense. */
export function parseLoraConfig(raw: JsonObject, file: string): LoraConfig {
  const refuse = (what: string, hint = MERGE_HINT): AppError =>
    new AppError('unsupported', what, { where: { file }, hint })
  const kind = raw.get('peft_type')
  if (kind === undefined && (raw.has('lora_parameters') || raw.has('fine_tune_type'))) {
    throw refuse(`${file} is of an adapter of mlx-lm, which cannot be merged yet`, 'Fuse it with mlx_lm.fuse.')
  }
  if (kind !== 'LORA') {
    const named = typeof kind === 'string' ? `an adapter of the kind ${kind}` : 'no adapter of a kind that is known'
    throw refuse(`${file} is of ${named}: only LoRA and DoRA can be merged`)
  }
  for (const [key, what] of REFUSED_KEYS) {
    if (isGiven(raw.get(key))) throw refuse(`The adapter ${what} (${key} of ${file}), which cannot be merged`)
  }
  for (const [key, value] of raw) {
    if (!key.startsWith('use_') || value !== true || KNOWN_FLAGS.has(key)) continue
    throw refuse(`The adapter is of a variant of LoRA that is not known here (${key} of ${file})`)
  }
  const init = raw.get('init_lora_weights')
  if (typeof init === 'string' && CHANGES_BASE.test(init)) {
    throw refuse(
      `The adapter was begun with ${init}, which changes the base model too: merged into the base as published it would be wrong`,
      'Save it as a plain LoRA (save_pretrained with path_initial_model_for_weight_conversion), or merge it with PEFT.',
    )
  }
  const number = (key: string, fallback: number): number => {
    const value = raw.has(key) ? numberAt(raw, key) : fallback
    if (value !== null && Number.isFinite(value) && value > 0) return value
    throw malformed(file, `${key} is no number above 0`)
  }
  const base = raw.get('base_model_name_or_path')
  const targets = raw.get('target_modules') ?? null
  return {
    base: typeof base === 'string' && base !== '' ? base : null,
    rank: number('r', DEFAULT_RANK),
    alpha: number('lora_alpha', DEFAULT_ALPHA),
    rankStabilized: raw.get('use_rslora') === true,
    dora: raw.get('use_dora') === true,
    rankPattern: numbersAt(raw, 'rank_pattern', file),
    alphaPattern: numbersAt(raw, 'alpha_pattern', file),
    targets: typeof targets === 'string' ? targets : targets === null ? null : textsAt(raw, 'target_modules', file),
    layers: layersOf(raw.get('layers_to_transform') ?? null, file),
    saved: raw.get('modules_to_save') === undefined ? [] : textsAt(raw, 'modules_to_save', file),
    keepsTie: raw.get('ensure_weight_tying') === true,
  }
}

function isGiven(value: Json | undefined): boolean {
  if (value === undefined || value === null) return false
  return isArray(value) ? value.length > 0 : !isObject(value) || value.size > 0
}

function malformed(file: string, why: string): AppError {
  return new AppError('malformed', `${file}: ${why}`, {
    where: { file },
    hint: 'Download the adapter again.',
  })
}

function numbersAt(raw: JsonObject, key: string, file: string): ReadonlyMap<string, number> {
  const value = raw.get(key) ?? null
  if (value === null) return new Map()
  const entries = isObject(value) ? [...value] : []
  const numbers = entries.filter((entry): entry is [string, number] => typeof entry[1] === 'number' && entry[1] > 0)
  if (!isObject(value) || numbers.length !== entries.length) throw malformed(file, `${key} does not give numbers`)
  return new Map(numbers)
}

function textsAt(raw: JsonObject, key: string, file: string): readonly string[] {
  const value = raw.get(key) ?? []
  const items = isArray(value) ? value : [value]
  const texts = items.filter((item) => typeof item === 'string')
  if (texts.length !== items.length) throw malformed(file, `${key} does not list names`)
  return texts
}

function layersOf(value: Json, file: string): readonly number[] | null {
  if (value === null) return null
  const items = isArray(value) ? value : [value]
  const layers = items.filter((item): item is number => Number.isSafeInteger(item))
  if (layers.length !== items.length) throw malformed(file, 'layers_to_transform does not list whole numbers')
  return layers
}

/** Longer than any that names modules. */
const MAX_PATTERN = 1000
/** A repeated group with a repetition in it can take for ever on a name that it does not fit. */
const NESTED_REPETITION = /\([^()]*[*+{][^()]*\)[*+{]/

/** An expression of Python's as it is meant for module names. Throws `unsupported` for one that cannot be taken over. */
export function modulePattern(text: string, file: string): RegExp {
  const refuse = (cause?: unknown): AppError =>
    new AppError('unsupported', `The expression ${JSON.stringify(text.slice(0, 100))} of ${file} cannot be followed`, {
      where: { file },
      hint: 'Name the modules in it one by one.',
      ...(cause === undefined ? {} : { cause }),
    })
  if (text.length > MAX_PATTERN || NESTED_REPETITION.test(text)) throw refuse()
  try {
    return new RegExp(`^(?:.*\\.)?(?:${text})$`, 's')
  } catch (cause) {
    throw refuse(cause)
  }
}

/** The number that the first fitting expression gives, or the general one. */
export function patterned(
  patterns: ReadonlyMap<string, number>,
  module: string,
  general: number,
  file: string,
): number {
  for (const [pattern, value] of patterns) if (modulePattern(pattern, file).test(module)) return value
  return general
}

/** What a module's product is multiplied by. */
export function scaleOf(config: LoraConfig, module: string, rank: number, file: string): number {
  const alpha = patterned(config.alphaPattern, module, config.alpha, file)
  return alpha / (config.rankStabilized ? Math.sqrt(rank) : rank)
}

/** Whether the configuration says that a matrix has an adapter. `block` is null outside the blocks. */
export function isTargeted(config: LoraConfig, module: string, block: number | null, file: string): boolean {
  const { targets, layers } = config
  if (targets === null) return false
  if (typeof targets === 'string') {
    if (targets === 'all-linear') return block !== null
    return modulePattern(targets, file).test(module)
  }
  if (layers !== null && (block === null || !layers.includes(block))) return false
  return targets.some((target) => module === target || module.endsWith(`.${target}`))
}
