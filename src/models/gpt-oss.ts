import type { ModelConfig } from '../core/checkpoint.ts'
import type { JsonObject } from '../core/json.ts'
import type { Architecture, TensorRow } from './architecture.ts'
import { activationUnsupported, decoderIgnored, decoderRows, layerTypes, numberAt, qkvBiases } from './llama.ts'
import { gateAndUp } from './parts.ts'

/** GptOssConfig's own. */
const DEFAULT_EXPERTS = 128
const DEFAULT_USED = 4
const DEFAULT_WINDOW = 128

/** What runtimes have built in: the bound of gate and up, and the factor within the sigmoid. */
const SWIGLU_LIMIT = 7
const SWIGLU_ALPHA = 1.702

const experts = (config: ModelConfig): number => config.experts?.count ?? 0
const width = (config: ModelConfig): number => config.intermediateSize

/** All experts of a block in one tensor each; gate and up in turns, row by row. */
const routed: readonly TensorRow[] = [
  {
    role: 'blocks.{i}.mlp.router.weight',
    hf: 'model.layers.{i}.mlp.router.weight',
    shape: (c) => [experts(c), c.hiddenSize],
  },
  { role: 'blocks.{i}.mlp.router.bias', hf: 'model.layers.{i}.mlp.router.bias', shape: (c) => [experts(c)] },
  {
    role: 'blocks.{i}.mlp.experts.gate_up.weight',
    hf: 'model.layers.{i}.mlp.experts.gate_up_proj',
    shape: (c) => [experts(c), 2 * width(c), c.hiddenSize],
    transposed: true,
    parts: (c) => gateAndUp('weight', 'turns', experts(c), width(c), c.hiddenSize),
  },
  {
    role: 'blocks.{i}.mlp.experts.gate_up.bias',
    hf: 'model.layers.{i}.mlp.experts.gate_up_proj_bias',
    shape: (c) => [experts(c), 2 * width(c)],
    parts: (c) => gateAndUp('bias', 'turns', experts(c), width(c), 1),
  },
  {
    role: 'blocks.{i}.mlp.experts.down.weight',
    hf: 'model.layers.{i}.mlp.experts.down_proj',
    shape: (c) => [experts(c), c.hiddenSize, width(c)],
    transposed: true,
  },
  {
    role: 'blocks.{i}.mlp.experts.down.bias',
    hf: 'model.layers.{i}.mlp.experts.down_proj_bias',
    shape: (c) => [experts(c), c.hiddenSize],
  },
]

function unsupported(config: JsonObject): string | null {
  if (config.get('attention_bias') === false) return 'projections without biases (attention_bias)'
  const limit = numberAt(config, 'swiglu_limit') ?? SWIGLU_LIMIT
  if (limit !== SWIGLU_LIMIT) return `gate and up bounded by ${limit} (swiglu_limit)`
  const alpha = numberAt(config, 'swiglu_alpha') ?? SWIGLU_ALPHA
  if (alpha !== SWIGLU_ALPHA) return `a swiglu_alpha of ${alpha}`
  const types = layerTypes(config)
  if (types?.some((type, index) => type !== (index % 2 === 0 ? 'sliding_attention' : 'full_attention')) === true)
    return 'another order of blocks with and without a sliding window (layer_types)'
  if (!config.has('rope_scaling') && !config.has('rope_parameters'))
    return 'a rotary scaling that is left to the class (rope_scaling)'
  return activationUnsupported(config, 'hidden_act', ['silu', 'swish'])
}

/**
 * GPT-OSS: experts with biases and a bounded SwiGLU, a learned score a head that attention may go to in place of a
 * token (sinks), and a sliding window in every other block, the first included.
 */
export const gptOss: Architecture = {
  id: 'gpt_oss',
  classNames: ['GptOssForCausalLM'],
  baseClassName: 'GptOssModel',
  modelTypes: ['gpt_oss'],
  defaults: {
    tied: false,
    ropeTheta: 150_000,
    normEpsilon: 1e-5,
    contextLength: 131_072,
    activation: 'silu',
    headDim: 64,
    kvHeads: 8,
    bosId: null,
    eosId: null,
  },
  facts: ({ raw, intermediateSize }) => ({
    experts: {
      count: numberAt(raw, 'num_local_experts') ?? DEFAULT_EXPERTS,
      used: numberAt(raw, 'num_experts_per_tok') ?? numberAt(raw, 'experts_per_token') ?? DEFAULT_USED,
      intermediateSize,
    },
  }),
  tensors: decoderRows({
    attention: [
      ...qkvBiases(),
      {
        role: 'blocks.{i}.attn.o.bias',
        hf: 'model.layers.{i}.self_attn.o_proj.bias',
        shape: (c) => [c.hiddenSize],
      },
      { role: 'blocks.{i}.attn.sinks.weight', hf: 'model.layers.{i}.self_attn.sinks', shape: (c) => [c.heads] },
    ],
    insteadOfMlp: routed,
  }),
  ignored: decoderIgnored,
  unsupported,
  slidingWindow: (config) => (config.has('sliding_window') ? numberAt(config, 'sliding_window') : DEFAULT_WINDOW),
  rotary: 'half',
}
