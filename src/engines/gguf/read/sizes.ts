import type { ModelConfig } from '../../../core/checkpoint.ts'
import { ggufNumber, type GgufHeader } from '../../containers/gguf/reader.ts'
import { headDimOf, kvHeadsOf, readFacts } from './facts.ts'

/** What a file of this architecture must say, less the architecture's prefix. */
export const REQUIRED_KEYS: readonly string[] = [
  'block_count',
  'context_length',
  'embedding_length',
  'feed_forward_length',
  'attention.head_count',
]

/** llama.cpp's defaults for keys that a file may leave out. */
const DEFAULT_ROPE_BASE = 10_000

/**
 * The sizes that a GGUF file states, as far as tensor shapes depend on them; null if one is missing or not a number.
 * `flags` are configuration keys to take as true (`attention_bias`).
 */
export function configOf(
  header: Pick<GgufHeader, 'metadata' | 'tensors'>,
  prefix: string,
  flags: readonly string[],
): ModelConfig | null {
  const at = (key: string): number | null => ggufNumber(header.metadata, `${prefix}.${key}`)
  const layers = at('block_count')
  const hiddenSize = at('embedding_length')
  const intermediateSize = at('feed_forward_length')
  const heads = at('attention.head_count')
  const contextLength = at('context_length')
  const normEpsilon = at('attention.layer_norm_rms_epsilon') ?? at('attention.layer_norm_epsilon')
  if (layers === null || hiddenSize === null || intermediateSize === null || heads === null) return null
  if (contextLength === null || normEpsilon === null) return null
  const names = new Map(header.tensors.map((tensor) => [tensor.name, tensor]))
  const { facts, raw, className, rotaryDim } = readFacts(header, prefix)
  return {
    ...facts,
    modelType: prefix,
    className: className ?? prefix,
    hiddenSize,
    layers,
    intermediateSize,
    heads,
    kvHeads: kvHeadsOf(at, heads),
    headDim: headDimOf(at) ?? hiddenSize / heads,
    vocabSize: names.get('token_embd.weight')?.shape[0] ?? at('vocab_size') ?? 0,
    contextLength,
    normEpsilon,
    activation: 'silu',
    rope: {
      theta: at('rope.freq_base') ?? DEFAULT_ROPE_BASE,
      scaling: { kind: 'none' },
      ...(rotaryDim === null ? {} : { dim: rotaryDim }),
    },
    slidingWindow: null,
    tied: !names.has('output.weight'),
    dtype: 'f32',
    bosId: null,
    eosIds: [],
    padId: null,
    raw: new Map([...raw, ...flags.map((flag) => [flag, true] as const)]),
  }
}

/** Tensors that have a role each: ten times what the largest mixture of experts has. */
const MAX_ROLES = 1_000_000

/**
 * Why the counts of a configuration cannot be those of a file with so many tensors; null if they can. A count that a
 * hostile file made up would otherwise cost memory without limit.
 */
export function implausibleCounts({ layers, experts, decoder }: ModelConfig, tensors: number): string | null {
  const whole = (value: number): boolean => Number.isSafeInteger(value) && value >= 0
  if (!whole(layers) || layers > tensors) return `its block_count is ${layers}, but it has ${tensors} tensors`
  if (decoder !== undefined && (!whole(decoder.layers) || decoder.layers > tensors))
    return `its decoder_block_count is ${decoder.layers}, but it has ${tensors} tensors`
  if (experts !== undefined && (!whole(experts.count) || experts.count * layers > MAX_ROLES))
    return `its expert_count is ${experts.count}`
  return null
}
