import type { ModelConfig, RopeConfig, RopeScaling } from '../../core/checkpoint.ts'
import type { DType } from '../../core/dtype.ts'
import { AppError } from '../../core/errors.ts'
import { isArray, isObject, type Json, type JsonObject } from '../../core/json.ts'
import type { Finding } from '../../core/plan.ts'
import { CONFIG_KEYS, type Architecture, type ConfigKey } from '../../models/architecture.ts'
import { architectureFor, isKnownArchitecture } from '../../models/index.ts'
import { longRopeAttention } from '../../models/phi3.ts'

/** A config.json under the one set of names. */
export interface NormalizedConfig {
  readonly config: ModelConfig
  /** False where config.json names no dtype: `config.dtype` is then only a guess. */
  readonly dtypeDeclared: boolean
  readonly findings: readonly Finding[]
}

/** Ten times the deepest model there is; a hostile config could otherwise make us list billions of tensors. */
const MAX_LAYERS = 10_000
/** Fifty times the largest vocabulary there is. */
const MAX_VOCABULARY = 1 << 24
/** Far beyond any width; products of two stay well below 2^53. */
const MAX_WIDTH = 1 << 24
/** What formats with a u32 can hold. */
const MAX_CONTEXT = 2 ** 32 - 1

const DTYPE_NAMES: ReadonlyMap<string, DType> = new Map([
  ['bfloat16', 'bf16'],
  ['float16', 'f16'],
  ['half', 'f16'],
  ['float32', 'f32'],
  ['float', 'f32'],
  ['float64', 'f64'],
])

/**
 * The description of the model that a config.json names. Throws `unsupported`, naming the class, for one that is not
 * described, and `malformed` if the file names none or contradicts itself.
 */
export async function architectureOf(raw: JsonObject, file: string): Promise<Architecture> {
  const listed = raw.get('architectures')
  const className = isArray(listed) ? listed[0] : undefined
  const modelType = raw.get('model_type')
  const name = typeof className === 'string' ? className : modelType
  if (typeof name !== 'string') {
    throw new AppError('malformed', `${file} names no architecture`, {
      where: { file },
      hint: 'A model’s config.json has "architectures" and "model_type". Check that this folder is a model.',
    })
  }
  const architecture = await architectureFor(name, file)
  const text = raw.get('text_config')
  if (isObject(text)) throw unsupported(file, `${name} with a text_config, a model of more than text,`)
  if (typeof modelType === 'string' && isKnownArchitecture(modelType) && !architecture.modelTypes.includes(modelType)) {
    throw new AppError('malformed', `${file} says model_type ${modelType}, but architectures ${name}`, {
      where: { file },
      hint: `Correct the one that is wrong: ${name} has the model_type ${architecture.modelTypes.join(' or ')}.`,
    })
  }
  return architecture
}

/**
 * A config.json, of transformers 4 or 5, under the one set of names, with what the class has as defaults filled in.
 * Throws `malformed` for values that no model has and `unsupported` for what the architecture's description lacks.
 */
export function normalizeConfig(raw: JsonObject, file: string, architecture: Architecture): NormalizedConfig {
  const { defaults } = architecture
  const reader = new ConfigReader(raw, file)
  const refused = architecture.unsupported(raw)
  if (refused !== null) throw unsupported(file, `${architecture.classNames[0]} with ${refused}`)

  const keyOf = (key: ConfigKey): string => architecture.keys?.[key] ?? CONFIG_KEYS[key]
  const count = (key: ConfigKey, max: number, fallback?: number): number => reader.count(keyOf(key), max, fallback)
  const hiddenSize = count('hiddenSize', MAX_WIDTH)
  const layers = count('layers', MAX_LAYERS)
  const heads = count('heads', MAX_WIDTH)
  const kvDefault = raw.has(keyOf('kvHeads')) ? heads : (defaults.kvHeads ?? heads)
  const kvHeads = count('kvHeads', MAX_WIDTH, kvDefault)
  if (heads % kvHeads !== 0) {
    throw reader.malformed(`${heads} attention heads cannot share ${kvHeads} key and value heads evenly`)
  }
  const headDefault = defaults.headDim ?? hiddenSize / heads
  if (!Number.isInteger(headDefault) && (raw.get(keyOf('headDim')) ?? null) === null) {
    throw reader.malformed(`hidden_size ${hiddenSize} is not a multiple of ${heads} heads, and there is no head_dim`)
  }
  const headDim = count('headDim', MAX_WIDTH, headDefault)
  if (architecture.rotary !== 'none' && headDim % 2 !== 0) {
    throw reader.malformed(`head_dim ${headDim} is odd: rotary positions need pairs of channels`)
  }
  const vocabSize = reader.count('vocab_size', MAX_VOCABULARY)
  const contextLength = count('contextLength', MAX_CONTEXT, defaults.contextLength)
  const window = architecture.slidingWindow(raw)
  if (window !== null && !(Number.isSafeInteger(window) && window > 0)) {
    throw reader.malformed(`sliding_window must be a whole number above 0, not ${window}`)
  }
  const { dtype, declared } = reader.dtype()
  const listed = raw.get('architectures')
  const known = architecture.classNames.find((name) => isArray(listed) && listed[0] === name)
  const ratio = defaults.intermediateRatio
  const base: ModelConfig = {
    modelType: reader.text('model_type') ?? architecture.modelTypes[0] ?? architecture.id,
    className: known ?? architecture.classNames[0] ?? architecture.id,
    hiddenSize,
    layers,
    intermediateSize: count('intermediateSize', MAX_WIDTH, ratio === undefined ? undefined : ratio * hiddenSize),
    heads,
    kvHeads,
    headDim,
    vocabSize,
    contextLength,
    normEpsilon: reader.positive(keyOf('normEpsilon'), raw, defaults.normEpsilon),
    activation: normalActivation(reader.text(keyOf('activation')) ?? defaults.activation),
    rope: readRope(reader, architecture, headDim, contextLength, window !== null),
    slidingWindow: window,
    tied: reader.flag('tie_word_embeddings', defaults.tied),
    dtype,
    bosId: reader.id('bos_token_id', vocabSize, defaults.bosId),
    eosIds: reader.ids('eos_token_id', vocabSize, defaults.eosId),
    padId: reader.id('pad_token_id', vocabSize, null),
    raw,
  }
  const config = withFacts(base, architecture, reader)
  if (raw.has('auto_map')) {
    reader.findings.push({
      severity: 'warning',
      code: 'custom-code',
      message: `${file} refers to code of its own (auto_map), which is not run: the model is taken for a plain ${config.className}`,
      where: { file },
    })
  }
  return { config, dtypeDeclared: declared, findings: reader.findings }
}

/** No model has more; a hostile config could otherwise make us list billions of tensors. */
const MAX_EXPERTS = 1 << 12

/** Adds what only the family's configurations have. Throws `malformed` for counts that no model has. */
function withFacts(base: ModelConfig, architecture: Architecture, reader: ConfigReader): ModelConfig {
  const facts = architecture.facts?.(base) ?? {}
  const { experts, decoder, relativePositions: positions, tokenTypes, labels } = facts
  const counts: readonly (readonly [string, number | undefined, number])[] = [
    ['number of experts', experts?.count, MAX_EXPERTS],
    ['number of experts for a token', experts?.used, experts?.count ?? 0],
    ['width of an expert', experts?.intermediateSize, MAX_WIDTH],
    ['width of the shared expert', experts?.sharedIntermediateSize, MAX_WIDTH],
    ['number of decoder layers', decoder?.layers, MAX_LAYERS],
    ['number of position buckets', positions?.buckets, MAX_WIDTH],
    ['distance of the last position bucket', positions?.maxDistance, MAX_CONTEXT],
    ['number of token types', tokenTypes, MAX_WIDTH],
    ['number of labels', labels?.length, MAX_WIDTH],
    ['number of blocks from one without a window to the next', facts.windowPeriod, MAX_LAYERS],
    ['number of blocks from one without positions to the next', facts.unrotatedPeriod, MAX_CONTEXT],
  ]
  for (const [what, value, max] of counts) {
    if (value === undefined || (Number.isSafeInteger(value) && value >= 1 && value <= max)) continue
    throw reader.malformed(`the ${what} must be a whole number from 1 to ${max}, not ${value}`)
  }
  const numbers = [facts.attentionSoftcap, facts.logitSoftcap, facts.attentionScale, facts.embeddingScale]
  for (const value of [...numbers, facts.residualScale, facts.logitDivisor, facts.logitScale]) {
    if (value !== undefined && !(Number.isFinite(value) && value > 0))
      throw reader.malformed(`caps and scales must be numbers above 0, not ${value}`)
  }
  return { ...base, ...facts }
}

/** Reads single keys, each with its check. */
class ConfigReader {
  readonly findings: Finding[] = []
  readonly raw: JsonObject
  readonly file: string

  constructor(raw: JsonObject, file: string) {
    this.raw = raw
    this.file = file
  }

  /** A whole number from 1 to `max`. A key that is absent or null takes the default; without one it is an error. */
  count(key: string, max: number, fallback?: number): number {
    const value = this.raw.get(key) ?? fallback
    if (value === undefined) throw this.malformed(`there is no ${key}`)
    if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 1 || value > max) {
      throw this.malformed(`${key} must be a whole number from 1 to ${max}, not ${display(value)}`)
    }
    return value
  }

  positive(key: string, from: JsonObject, fallback?: number): number {
    const value = from.get(key) ?? fallback
    if (value === undefined) throw this.malformed(`there is no ${key}`)
    if (typeof value !== 'number' || !Number.isFinite(value) || value <= 0) {
      throw this.malformed(`${key} must be a number above 0, not ${display(value)}`)
    }
    return value
  }

  flag(key: string, fallback: boolean): boolean {
    const value = this.raw.get(key) ?? fallback
    if (typeof value !== 'boolean') throw this.malformed(`${key} must be true or false, not ${display(value)}`)
    return value
  }

  text(key: string): string | null {
    const value = this.raw.get(key) ?? null
    if (value !== null && typeof value !== 'string') throw this.malformed(`${key} must be text, not ${display(value)}`)
    return value
  }

  id(key: string, vocabSize: number, fallback: number | null): number | null {
    return this.ids(key, vocabSize, fallback)[0] ?? null
  }

  /** One id, a list, or null. Ids that no token has (-1 among them) are left out, with a finding. */
  ids(key: string, vocabSize: number, fallback: number | null): readonly number[] {
    const value = this.raw.has(key) ? (this.raw.get(key) ?? null) : fallback
    const list = isArray(value) ? value : value === null ? [] : [value]
    return list.filter((id): id is number => {
      const whole = Number.isSafeInteger(id)
      if (!whole) throw this.malformed(`${key} must be a token id or a list of them, not ${display(id)}`)
      const inside = (id as number) >= 0 && (id as number) < vocabSize
      if (!inside && this.raw.has(key) && id !== -1) {
        this.findings.push({
          severity: 'warning',
          code: 'id-out-of-range',
          message: `${key} ${String(id)} is not a token: there are ${vocabSize}. It is left out`,
          where: { file: this.file },
        })
      }
      return inside
    })
  }

  dtype(): { readonly dtype: DType; readonly declared: boolean } {
    const value = this.raw.get('dtype') ?? this.raw.get('torch_dtype')
    const found = typeof value === 'string' ? DTYPE_NAMES.get(value.replace(/^torch\./, '')) : undefined
    return { dtype: found ?? 'f32', declared: found !== undefined }
  }

  malformed(why: string): AppError {
    return new AppError('malformed', `${this.file}: ${why}`, {
      where: { file: this.file },
      hint: 'Compare it with the config.json that the model was published with.',
    })
  }
}

/** `rope_parameters` of transformers 5, or `rope_theta` and `rope_scaling` of 4. */
function readRope(
  reader: ConfigReader,
  architecture: Architecture,
  headDim: number,
  contextLength: number,
  windowed: boolean,
): RopeConfig {
  const { raw, file } = reader
  if (architecture.rotary === 'none') return { theta: architecture.defaults.ropeTheta, scaling: { kind: 'none' } }
  const parameters = raw.get('rope_parameters') ?? null
  const scaling = raw.get('rope_scaling') ?? null
  for (const [key, value] of [
    ['rope_parameters', parameters],
    ['rope_scaling', scaling],
  ] as const) {
    if (value !== null && !isObject(value)) throw reader.malformed(`${key} must be an object`)
  }
  const all = isObject(parameters) ? parameters : isObject(scaling) ? scaling : NO_KEYS
  const own = architecture.windowRotary
  const byKind = [...all.values()].some((value) => isObject(value))
  if (byKind && own === undefined) {
    throw unsupported(file, 'rotary positions that differ by kind of block (rope_parameters)')
  }
  const given = byKind ? keysOf(all, 'full_attention') : all
  const thetas = given.has('rope_theta') ? given : raw
  const spelled = architecture.rotaryKeys
  const fallback = reader.positive(spelled?.theta ?? 'rope_theta', raw, architecture.defaults.ropeTheta)
  const theta = reader.positive('rope_theta', thetas, fallback)
  const usual = architecture.defaults.rotaryFactor ?? 1
  const factor = spelled === undefined ? undefined : raw.get(spelled.factor)
  const partial = given.get('partial_rotary_factor') ?? raw.get('partial_rotary_factor') ?? factor ?? usual
  const dim = typeof partial === 'number' ? Math.trunc(headDim * partial) : Number.NaN
  if (partial !== 1 && architecture.partialRotary !== true)
    throw unsupported(file, `rotary positions on part of a head (partial_rotary_factor ${display(partial)})`)
  if (!(dim > 0 && dim <= headDim && dim % 2 === 0))
    throw reader.malformed(`partial_rotary_factor ${display(partial)} leaves no pairs of ${headDim} channels`)
  const rope: RopeConfig = {
    theta,
    ...(dim === headDim ? {} : { dim }),
    scaling: readScaling(reader, architecture, given, contextLength, dim),
  }
  if (own === undefined || !windowed) return rope
  const inWindow = byKind ? keysOf(all, 'sliding_attention') : NO_KEYS
  if (readScaling(reader, architecture, inWindow, contextLength, dim).kind !== 'none')
    throw unsupported(file, 'scaled rotary positions in blocks with a sliding window')
  const windowTheta = inWindow.has('rope_theta')
    ? reader.positive('rope_theta', inWindow)
    : reader.positive(own.key, own.key === 'rope_theta' ? thetas : raw, own.theta)
  return { ...rope, windowTheta }
}

function keysOf(parameters: JsonObject, kind: string): JsonObject {
  const keys = parameters.get(kind)
  return isObject(keys) ? keys : NO_KEYS
}

const NO_KEYS: JsonObject = new Map()

function readScaling(
  reader: ConfigReader,
  { raisedBase, scaledYarn }: Architecture,
  given: JsonObject,
  contextLength: number,
  dim: number,
): RopeScaling {
  const kind = given.get('rope_type') ?? given.get('type') ?? 'default'
  const number = (key: string): number => reader.positive(key, given)
  const optional = (key: string): number | null =>
    (given.get(key) ?? null) === null ? null : reader.positive(key, given)
  const original = optional('original_max_position_embeddings')
  switch (kind) {
    case 'default':
      return { kind: 'none' }
    case 'linear':
      return { kind: 'linear', factor: number('factor') }
    case 'dynamic':
      if (raisedBase === true && given.has('alpha')) return { kind: 'alpha', alpha: number('alpha') }
      throw unsupported(reader.file, 'rotary scaling of the kind "dynamic"')
    case 'llama3':
      return {
        kind: 'llama3',
        factor: number('factor'),
        lowFreqFactor: number('low_freq_factor'),
        highFreqFactor: number('high_freq_factor'),
        originalContext: number('original_max_position_embeddings'),
      }
    case 'yarn': {
      for (const key of ['mscale', 'mscale_all_dim']) {
        if ((given.get(key) ?? null) !== null && scaledYarn !== true) throw unsupported(reader.file, `YaRN with ${key}`)
      }
      return {
        kind: 'yarn',
        factor: optional('factor') ?? contextLength / (original ?? contextLength),
        originalContext: original ?? contextLength,
        betaFast: optional('beta_fast'),
        betaSlow: optional('beta_slow'),
        attentionFactor: optional('attention_factor'),
        ...(given.get('truncate') === false ? { truncate: false as const } : {}),
        ...(optional('mscale') === null ? {} : { mscale: number('mscale') }),
        ...(optional('mscale_all_dim') === null ? {} : { mscaleAllDim: number('mscale_all_dim') }),
      }
    }
    case 'longrope':
    case 'su':
      return readLongRope(reader, given, contextLength, dim)
    default:
      throw unsupported(reader.file, `rotary scaling of the kind ${display(kind)}`)
  }
}

/** Phi 3's: a divisor for each frequency, one list within the original context and one beyond. */
function readLongRope(reader: ConfigReader, given: JsonObject, contextLength: number, dim: number): RopeScaling {
  const factors = (key: string): readonly number[] => {
    const list = given.get(key)
    const good = isArray(list) && list.length === dim / 2
    if (!good) throw reader.malformed(`${key} must be a list of ${dim / 2} numbers`)
    return list.map((value) => {
      if (typeof value !== 'number' || !Number.isFinite(value) || value <= 0)
        throw reader.malformed(`${key} holds ${display(value)}, which is no number above 0`)
      return value
    })
  }
  const key = 'original_max_position_embeddings'
  const originalContext = reader.positive(key, given.has(key) ? given : reader.raw, contextLength)
  const told = given.get('factor') ?? null
  const reach = told === null ? contextLength : reader.positive('factor', given) * originalContext
  const derived = longRopeAttention(reach, originalContext)
  return {
    kind: 'longrope',
    shortFactors: factors('short_factor'),
    longFactors: factors('long_factor'),
    originalContext,
    attentionFactor: reader.positive('attention_factor', given, derived),
  }
}

/** PyTorch has two names for it. */
function normalActivation(name: string): string {
  return name === 'swish' ? 'silu' : name
}

function display(value: Json | undefined): string {
  if (isObject(value)) return 'an object'
  if (isArray(value)) return 'a list'
  return String(typeof value === 'string' ? JSON.stringify(value) : value).slice(0, 100)
}

function unsupported(file: string, what: string): AppError {
  return new AppError('unsupported', `${what} is not supported yet`, {
    where: { file },
    hint: 'Convert another model, or ask for this one: the architecture would have to be described first.',
  })
}
