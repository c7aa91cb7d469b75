import type { ModelConfig, RopeScaling } from '../../../core/checkpoint.ts'
import { dtypeInfo, elementCount, type DType } from '../../../core/dtype.ts'
import type { Json } from '../../../core/json.ts'
import { log } from '../../../core/math.ts'
import type { Architecture } from '../../../models/architecture.ts'
import { longRopeAttention } from '../../../models/phi3.ts'
import { ggufNumber, ggufString } from '../../containers/gguf/reader.ts'
import { ggufArchitecture } from '../arch/index.ts'
import { implausibleCounts } from './sizes.ts'
import { headDimOf, kvHeadsOf, readFacts } from './facts.ts'
import type { GgufModel } from '../files.ts'
import { readWindows } from './windows.ts'
import { huggingFaceFacts } from './hf-facts.ts'
import { solveLlama3 } from '../rope.ts'
import { shortestF32, shortestWhere } from '../metadata/shortest.ts'

/** llama.cpp's default for a file that leaves the key out. */
const DEFAULT_ROPE_BASE = 10_000

/** Which optional biases a file has, under HuggingFace's flags: they change the set of tensors that is expected. */
const BIAS_FLAGS: readonly (readonly [flag: string, tensor: string])[] = [
  ['attention_bias', 'blk.0.attn_output.bias'],
  ['mlp_bias', 'blk.0.ffn_down.bias'],
]

/** Families whose configurations have those flags; others have their biases always, or never. */
const WITH_BIAS_FLAGS: ReadonlySet<string> = new Set(['llama', 'granite', 'minicpm'])

/** A configuration rebuilt from keys, or why there is none. */
export type RebuiltConfig = { readonly config: ModelConfig } | { readonly because: string }

/** The small tensors beside a model's own that say how its heads turn; null where there is none. */
export interface RopeFactors {
  readonly freqs: Float32Array | null
  readonly long: Float32Array | null
  readonly short: Float32Array | null
}

/** A file's numbers by their keys, without the architecture's prefix; null if there is none. */
type NumberAt = (key: string) => number | null

/** The configuration that a file's keys describe, as one of `architecture`. */
export function rebuildConfig(model: GgufModel, architecture: Architecture, factors: RopeFactors): RebuiltConfig {
  const { metadata, tensors } = model
  const prefix = ggufString(metadata, 'general.architecture') ?? ''
  const at: NumberAt = (key) => {
    const value = ggufNumber(metadata, `${prefix}.${key}`)
    return value !== null && metadata.get(`${prefix}.${key}`)?.type === 'f32' ? shortestF32(value) : value
  }
  const sizes = {
    layers: at('block_count'),
    hiddenSize: at('embedding_length'),
    heads: at('attention.head_count'),
    contextLength: at('context_length'),
    intermediateSize: at('feed_forward_length') ?? at('expert_feed_forward_length'),
  }
  for (const [name, value] of Object.entries(sizes)) {
    if (value === null || !Number.isSafeInteger(value) || value < 1)
      return { because: `its keys give no ${SIZE_NAMES.get(name) ?? name}` }
  }
  const {
    layers = 0,
    hiddenSize = 0,
    heads = 0,
    contextLength = 0,
    intermediateSize = 0,
  } = sizes as Record<string, number>
  const names = new Map(tensors.map((tensor) => [tensor.name, tensor]))
  const headDim = headDimOf(at) ?? hiddenSize / heads
  const theta = at('rope.freq_base') ?? DEFAULT_ROPE_BASE
  if (!(theta > 0 && Number.isFinite(theta))) return { because: `its rope.freq_base is ${theta}` }
  const normEpsilon =
    at('attention.layer_norm_rms_epsilon') ?? at('attention.layer_norm_epsilon') ?? architecture.defaults.normEpsilon
  if (!(normEpsilon > 0 && Number.isFinite(normEpsilon)))
    return { because: `the epsilon of its norms is ${normEpsilon}` }
  const scaling = ropeScaling(metadata, prefix, at, theta, headDim, factors)
  if ('because' in scaling) return scaling
  const target = ggufArchitecture(architecture.id)
  const windows = readWindows(metadata, prefix, target, architecture, at, theta)
  if ('because' in windows) return windows
  const { slidingWindow, windowPeriod, windowTheta } = windows
  const { facts, raw: shape, className, rotaryDim } = readFacts(model, prefix)
  const config: ModelConfig = {
    ...facts,
    modelType: architecture.modelTypes[0] ?? architecture.id,
    className: className ?? architecture.classNames[0] ?? architecture.id,
    hiddenSize,
    layers,
    intermediateSize,
    heads,
    kvHeads: kvHeadsOf(at, heads),
    headDim,
    vocabSize: names.get('token_embd.weight')?.shape[0] ?? at('vocab_size') ?? 0,
    contextLength,
    normEpsilon,
    activation: architecture.defaults.activation,
    rope: {
      theta,
      scaling: untruncated(scaling.scaling, target.yarnTruncates ?? true),
      ...(rotaryDim === null || rotaryDim === headDim ? {} : { dim: rotaryDim }),
      ...(windowTheta === undefined ? {} : { windowTheta }),
    },
    slidingWindow,
    ...(windowPeriod === undefined ? {} : { windowPeriod }),
    tied: !names.has('output.weight'),
    dtype: commonType(model),
    ...tokenIds(model),
    raw: shape,
  }
  const implausible = implausibleCounts(config, tensors.length)
  if (implausible !== null) return { because: implausible }
  return withFamilyFacts(model, architecture, config, names)
}

/** The facts that HuggingFace's config gives under keys of the family's own, checked against the file's. */
function withFamilyFacts(
  { metadata }: GgufModel,
  architecture: Architecture,
  config: ModelConfig,
  names: ReadonlyMap<string, unknown>,
): RebuiltConfig {
  const flags = WITH_BIAS_FLAGS.has(architecture.id) ? BIAS_FLAGS.filter(([, tensor]) => names.has(tensor)) : []
  const raw = new Map<string, Json>([
    ...flags.map(([flag]): [string, Json] => [flag, true]),
    ...config.raw,
    ...huggingFaceFacts(architecture.id, config),
  ])
  const complete: ModelConfig = { ...config, raw, ...architecture.facts?.({ ...config, raw }) }
  const target = ggufArchitecture(architecture.id)
  const refused = target.refuses?.(complete) ?? null
  if (refused !== null) return { because: `${architecture.id} models have not what it has: ${refused}` }
  for (const [key, value] of target.keys?.(complete) ?? []) {
    const full = key.replace('{arch}', target.name)
    const found = metadata.get(full)
    if (found === undefined || found.type === 'array' || value.type === 'array') continue
    if (!sameValue(found.value, value.value))
      return { because: `its ${full} is ${found.value}, where ${architecture.id} models have ${value.value}` }
  }
  return { config: complete }
}

function sameValue(a: string | boolean | number | bigint, b: string | boolean | number | bigint): boolean {
  return typeof a === 'number' && typeof b === 'number' ? Math.fround(a) === Math.fround(b) : String(a) === String(b)
}

const SIZE_NAMES: ReadonlyMap<string, string> = new Map([
  ['layers', 'block_count'],
  ['hiddenSize', 'embedding_length'],
  ['heads', 'attention.head_count'],
  ['contextLength', 'context_length'],
  ['intermediateSize', 'feed_forward_length'],
])

function tokenIds({ metadata }: GgufModel): Pick<ModelConfig, 'bosId' | 'eosIds' | 'padId'> {
  const id = (name: string): number | null => ggufNumber(metadata, `tokenizer.ggml.${name}_token_id`)
  const ends = [id('eos'), id('eot')].filter((one) => one !== null)
  return { bosId: id('bos'), eosIds: [...new Set(ends)], padId: id('padding') }
}

/** The type of most weights; F16 stands for quantised ones, whose values it holds to a thousandth. */
function commonType({ tensors }: GgufModel): DType {
  const elements = new Map<DType, number>()
  for (const { type, shape } of tensors) {
    if (type.dtype !== null) elements.set(type.dtype, (elements.get(type.dtype) ?? 0) + elementCount(shape))
  }
  const most = [...elements].sort((a, b) => b[1] - a[1])[0]?.[0] ?? 'f32'
  return dtypeInfo(most).kind === 'float' ? most : 'f16'
}

/** The file has a tenth of it, as an f32. */
function mscales(logMultiplier: number): { readonly mscale: number; readonly mscaleAllDim: number } {
  const tenth = Math.fround(logMultiplier)
  const mscale = shortestWhere(10 * tenth, (value) => Math.fround(0.1 * value) === tenth)
  return { mscale, mscaleAllDim: mscale }
}

function untruncated(scaling: RopeScaling, truncates: boolean): RopeScaling {
  return scaling.kind === 'yarn' && !truncates ? { ...scaling, truncate: false } : scaling
}

type RebuiltScaling = { readonly scaling: RopeScaling } | { readonly because: string }

function ropeScaling(
  metadata: GgufModel['metadata'],
  prefix: string,
  at: NumberAt,
  theta: number,
  headDim: number,
  { freqs, long, short }: RopeFactors,
): RebuiltScaling {
  const kind =
    ggufString(metadata, `${prefix}.rope.scaling.type`) ?? (at('rope.scale_linear') === null ? 'none' : 'linear')
  if (freqs !== null) {
    const scaling = kind === 'none' ? solveLlama3(freqs, theta, at('rope.dimension_count') ?? headDim) : null
    return scaling === null
      ? { because: 'no rope_scaling of HuggingFace gives the factors of its rope_freqs.weight' }
      : { scaling }
  }
  if (long !== null || short !== null) {
    const originalContext = at('rope.scaling.original_context_length')
    if (long === null || short === null || originalContext === null)
      return { because: 'its rotary factors are not complete: long, short and the original context' }
    const [longFactors, shortFactors] = [long, short].map((values) => Array.from(values, shortestF32))
    if (longFactors === undefined || shortFactors === undefined) return { because: 'its rotary factors are empty' }
    const told = at('rope.scaling.attn_factor') ?? 1
    const derived = longRopeAttention(at('context_length') ?? originalContext, originalContext)
    const attentionFactor = Math.fround(derived) === Math.fround(told) ? derived : told
    return { scaling: { kind: 'longrope', longFactors, shortFactors, originalContext, attentionFactor } }
  }
  switch (kind) {
    case 'none':
      return { scaling: { kind: 'none' } }
    case 'linear': {
      const factor = at('rope.scaling.factor') ?? at('rope.scale_linear') ?? 1
      return { scaling: factor === 1 ? { kind: 'none' } : { kind: 'linear', factor } }
    }
    case 'yarn': {
      const factor = at('rope.scaling.factor')
      const originalContext = at('rope.scaling.original_context_length')
      if (factor === null || originalContext === null)
        return { because: 'its YaRN scaling lacks a factor or a context' }
      const attention = at('rope.scaling.attn_factor')
      const logMultiplier = at('rope.scaling.yarn_log_multiplier')
      return {
        scaling: {
          kind: 'yarn',
          factor,
          originalContext,
          betaFast: at('rope.scaling.yarn_beta_fast'),
          betaSlow: at('rope.scaling.yarn_beta_slow'),
          // the file has it without llama.cpp's own 1 + ln(factor) / 10
          attentionFactor: attention === null ? null : shortestF32(Math.fround(attention * (1 + 0.1 * log(factor)))),
          ...(logMultiplier === null ? {} : mscales(logMultiplier)),
        },
      }
    }
    default:
      return { because: `its rotary scaling is of the kind ${JSON.stringify(kind)}` }
  }
}
