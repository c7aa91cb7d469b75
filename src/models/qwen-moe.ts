import type { ModelConfig } from '../core/checkpoint.ts'
import { isArray, type JsonObject } from '../core/json.ts'
import type { Architecture, TensorRow } from './architecture.ts'
import { activationUnsupported, decoderIgnored, decoderRows, numberAt, qkvBiases } from './llama.ts'
import { headNorms } from './qwen3.ts'
import { qwenSlidingWindow, qwenWindowUnsupported } from './qwen2.ts'

/** Qwen2MoeConfig's and Qwen3MoeConfig's own. */
const DEFAULTS2 = { count: 60, used: 4, width: 1408, shared: 5632 }
const DEFAULTS3 = { count: 128, used: 8, width: 768 }

const expertWidth = (config: ModelConfig): number => config.experts?.intermediateSize ?? 0
const sharedWidth = (config: ModelConfig): number => config.experts?.sharedIntermediateSize ?? 0

/** Experts must be in every block, and heads plain. */
function unsupported(config: JsonObject): string | null {
  const dense = config.get('mlp_only_layers')
  if (isArray(dense) && dense.length > 0) return 'experts in some blocks only (mlp_only_layers)'
  if ((numberAt(config, 'decoder_sparse_step') ?? 1) !== 1) return 'experts in some blocks only (decoder_sparse_step)'
  return activationUnsupported(config, 'hidden_act', ['silu', 'swish']) ?? qwenWindowUnsupported(config)
}

/** A router, and the gate, up and down projections of each expert. */
export const routedExperts: readonly TensorRow[] = [
  {
    role: 'blocks.{i}.mlp.router.weight',
    hf: 'model.layers.{i}.mlp.gate.weight',
    shape: (c) => [c.experts?.count ?? 0, c.hiddenSize],
  },
  {
    role: 'blocks.{i}.mlp.experts.{e}.gate.weight',
    hf: 'model.layers.{i}.mlp.experts.{e}.gate_proj.weight',
    shape: (c) => [expertWidth(c), c.hiddenSize],
  },
  {
    role: 'blocks.{i}.mlp.experts.{e}.up.weight',
    hf: 'model.layers.{i}.mlp.experts.{e}.up_proj.weight',
    shape: (c) => [expertWidth(c), c.hiddenSize],
  },
  {
    role: 'blocks.{i}.mlp.experts.{e}.down.weight',
    hf: 'model.layers.{i}.mlp.experts.{e}.down_proj.weight',
    shape: (c) => [c.hiddenSize, expertWidth(c)],
  },
]

const shared: readonly TensorRow[] = [
  {
    role: 'blocks.{i}.mlp.shared.gate.weight',
    hf: 'model.layers.{i}.mlp.shared_expert.gate_proj.weight',
    shape: (c) => [sharedWidth(c), c.hiddenSize],
  },
  {
    role: 'blocks.{i}.mlp.shared.up.weight',
    hf: 'model.layers.{i}.mlp.shared_expert.up_proj.weight',
    shape: (c) => [sharedWidth(c), c.hiddenSize],
  },
  {
    role: 'blocks.{i}.mlp.shared.down.weight',
    hf: 'model.layers.{i}.mlp.shared_expert.down_proj.weight',
    shape: (c) => [c.hiddenSize, sharedWidth(c)],
  },
  {
    role: 'blocks.{i}.mlp.shared_gate.weight',
    hf: 'model.layers.{i}.mlp.shared_expert_gate.weight',
    shape: (c) => [1, c.hiddenSize],
  },
]

/** Qwen 1.5 MoE and Qwen 2 MoE: Qwen 2 with routed experts, and one that every token passes through. */
export const qwen2moe: Architecture = {
  id: 'qwen2moe',
  classNames: ['Qwen2MoeForCausalLM'],
  baseClassName: 'Qwen2MoeModel',
  modelTypes: ['qwen2_moe'],
  defaults: {
    tied: false,
    ropeTheta: 10_000,
    normEpsilon: 1e-6,
    contextLength: 32_768,
    activation: 'silu',
    headDim: null,
    kvHeads: 16,
    bosId: null,
    eosId: null,
  },
  facts: ({ raw }) => ({
    experts: {
      count: numberAt(raw, 'num_experts') ?? DEFAULTS2.count,
      used: numberAt(raw, 'num_experts_per_tok') ?? DEFAULTS2.used,
      intermediateSize: numberAt(raw, 'moe_intermediate_size') ?? DEFAULTS2.width,
      sharedIntermediateSize: numberAt(raw, 'shared_expert_intermediate_size') ?? DEFAULTS2.shared,
    },
  }),
  tensors: decoderRows({ attention: qkvBiases(), insteadOfMlp: [...routedExperts, ...shared] }),
  ignored: decoderIgnored,
  unsupported: (config) =>
    config.get('norm_topk_prob') === true ? 'normalised routing weights (norm_topk_prob)' : unsupported(config),
  slidingWindow: qwenSlidingWindow,
  rotary: 'half',
}

/** Qwen 3 MoE: Qwen 3 with routed experts. */
export const qwen3moe: Architecture = {
  id: 'qwen3moe',
  classNames: ['Qwen3MoeForCausalLM'],
  baseClassName: 'Qwen3MoeModel',
  modelTypes: ['qwen3_moe'],
  defaults: {
    tied: false,
    ropeTheta: 10_000,
    normEpsilon: 1e-6,
    contextLength: 32_768,
    activation: 'silu',
    headDim: null,
    kvHeads: 4,
    bosId: null,
    eosId: null,
  },
  facts: ({ raw }) => ({
    experts: {
      count: numberAt(raw, 'num_experts') ?? DEFAULTS3.count,
      used: numberAt(raw, 'num_experts_per_tok') ?? DEFAULTS3.used,
      intermediateSize: numberAt(raw, 'moe_intermediate_size') ?? DEFAULTS3.width,
    },
  }),
  tensors: decoderRows({ attention: headNorms, insteadOfMlp: routedExperts }),
  ignored: decoderIgnored,
  unsupported: (config) => {
    if (config.get('norm_topk_prob') !== true) return 'routing weights that are not normalised (norm_topk_prob)'
    return config.get('attention_bias') === true ? 'attention biases (attention_bias)' : unsupported(config)
  },
  slidingWindow: qwenSlidingWindow,
  rotary: 'half',
}
