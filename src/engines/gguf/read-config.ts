import type { ModelConfig, RopeConfig, RopeScaling } from '../../core/checkpoint.ts'
import { dtypeInfo, elementCount, type DType } from '../../core/dtype.ts'
import type { Json } from '../../core/json.ts'
import { log } from '../../core/math.ts'
import type { Architecture } from '../../models/architecture.ts'
import { ggufNumber, ggufString } from '../containers/gguf/reader.ts'
import { readFacts } from './facts.ts'
import type { GgufModel } from './files.ts'
import { solveLlama3 } from './rope.ts'

/** llama.cpp's default for a file that leaves the key out. */
const DEFAULT_ROPE_BASE = 10_000

/** Which optional biases a file has, under HuggingFace's flags: they change the set of tensors that is expected. */
const BIAS_FLAGS: readonly (readonly [flag: string, tensor: string])[] = [
  ['attention_bias', 'blk.0.attn_output.bias'],
  ['mlp_bias', 'blk.0.ffn_down.bias'],
]

/** A configuration rebuilt from keys, or why there is none. */
export type RebuiltConfig = { readonly config: ModelConfig } | { readonly because: string }

/** Numbers of a file by their keys without the architecture's prefix; null if there is none. */
export type NumberAt = (key: string) => number | null

/**
 * The configuration that a file's keys describe, as one of `architecture`. `ropeFactors` is what `rope_freqs.weight`
 * holds, if it is there.
 */
export function rebuildConfig(
  model: GgufModel,
  architecture: Architecture,
  ropeFactors: Float32Array | null,
): RebuiltConfig {
  const { metadata, tensors } = model
  const prefix = ggufString(metadata, 'general.architecture') ?? ''
  const at: NumberAt = (key) =>
    shortest(metadata.get(`${prefix}.${key}`)?.type, ggufNumber(metadata, `${prefix}.${key}`))
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
  // a block count that a hostile file made up would otherwise cost memory without limit
  if (layers > tensors.length) return { because: `its block_count is ${layers}, but it has ${tensors.length} tensors` }
  const names = new Map(tensors.map((tensor) => [tensor.name, tensor]))
  const headDim = at('attention.key_length') ?? hiddenSize / heads
  const theta = at('rope.freq_base') ?? DEFAULT_ROPE_BASE
  const scaling = ropeScaling(metadata, prefix, at, theta, headDim, ropeFactors)
  if ('because' in scaling) return scaling
  const { facts, raw: shape, className, rotaryDim } = readFacts(model, prefix)
  const flags = new Map<string, Json>(BIAS_FLAGS.flatMap(([flag, name]) => (names.has(name) ? [[flag, true]] : [])))
  const raw = new Map<string, Json>([...flags, ...shape])
  const ids = tokenIds(model)
  const rope: RopeConfig = { theta, scaling: scaling.scaling, ...(rotaryDim === null ? {} : { dim: rotaryDim }) }
  const config: ModelConfig = {
    ...facts,
    modelType: architecture.modelTypes[0] ?? architecture.id,
    className: className ?? architecture.classNames[0] ?? architecture.id,
    hiddenSize,
    layers,
    intermediateSize,
    heads,
    kvHeads: at('attention.head_count_kv') ?? heads,
    headDim,
    vocabSize: names.get('token_embd.weight')?.shape[0] ?? at('vocab_size') ?? 0,
    contextLength,
    normEpsilon:
      at('attention.layer_norm_rms_epsilon') ?? at('attention.layer_norm_epsilon') ?? architecture.defaults.normEpsilon,
    activation: architecture.defaults.activation,
    rope,
    slidingWindow: at('attention.sliding_window') || null,
    tied: !names.has('output.weight'),
    dtype: commonType(model),
    ...ids,
    raw,
  }
  return { config }
}

const SIZE_NAMES: ReadonlyMap<string, string> = new Map([
  ['layers', 'block_count'],
  ['hiddenSize', 'embedding_length'],
  ['heads', 'attention.head_count'],
  ['contextLength', 'context_length'],
  ['intermediateSize', 'feed_forward_length'],
])

/** Of all decimals that round to the same f32, the shortest: what was 1e-5 before it became a float is so again. */
export function shortest(type: string | undefined, value: number | null): number | null {
  if (type !== 'f32' || value === null || !Number.isFinite(value)) return value
  for (let digits = 1; digits <= 9; digits++) {
    const decimal = Number(value.toPrecision(digits))
    if (Math.fround(decimal) === value) return decimal
  }
  return value
}

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

type RebuiltScaling = { readonly scaling: RopeScaling } | { readonly because: string }

function ropeScaling(
  metadata: GgufModel['metadata'],
  prefix: string,
  at: NumberAt,
  theta: number,
  headDim: number,
  factors: Float32Array | null,
): RebuiltScaling {
  const kind =
    ggufString(metadata, `${prefix}.rope.scaling.type`) ?? (at('rope.scale_linear') === null ? 'none' : 'linear')
  if (factors !== null) {
    const scaling = kind === 'none' ? solveLlama3(factors, theta, headDim) : null
    return scaling === null
      ? { because: 'no rope_scaling of HuggingFace gives the factors of its rope_freqs.weight' }
      : { scaling }
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
      return {
        scaling: {
          kind: 'yarn',
          factor,
          originalContext,
          betaFast: at('rope.scaling.yarn_beta_fast'),
          betaSlow: at('rope.scaling.yarn_beta_slow'),
          // the file has it without llama.cpp's own 1 + ln(factor) / 10
          attentionFactor:
            attention === null ? null : shortest('f32', Math.fround(attention * (1 + 0.1 * log(factor)))),
        },
      }
    }
    default:
      return { because: `its rotary scaling is of the kind ${JSON.stringify(kind)}` }
  }
}
