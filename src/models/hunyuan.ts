import type { JsonObject } from '../core/json.ts'
import type { Architecture, TensorRow } from './architecture.ts'
import { activationUnsupported, decoderIgnored, decoderRows, numberAt } from './llama.ts'

/** Norms on each head's query and key, behind their turn. */
const norms: readonly TensorRow[] = [
  {
    role: 'blocks.{i}.attn.q_norm.weight',
    hf: 'model.layers.{i}.self_attn.query_layernorm.weight',
    shape: (c) => [c.headDim],
  },
  {
    role: 'blocks.{i}.attn.k_norm.weight',
    hf: 'model.layers.{i}.self_attn.key_layernorm.weight',
    shape: (c) => [c.headDim],
  },
]

function unsupported(config: JsonObject): string | null {
  for (const key of ['attention_bias', 'mlp_bias']) if (config.get(key) === true) return `biases (${key})`
  if (config.get('use_qk_norm') === false) return 'no norms of queries and keys (use_qk_norm)'
  if (config.get('use_cla') === true) return 'keys and values that blocks share (use_cla)'
  // dense ones say 1 there, if anything
  const experts = numberAt(config, 'num_experts') ?? 1
  if (experts > 1) return 'experts (num_experts)'
  return activationUnsupported(config, 'hidden_act', ['silu', 'swish'])
}

/** Hunyuan, dense: Llama's block with a norm on each head's query and key, behind rotary positions of a raised base. */
export const hunyuan: Architecture = {
  id: 'hunyuan',
  classNames: ['HunYuanDenseV1ForCausalLM'],
  baseClassName: 'HunYuanDenseV1Model',
  modelTypes: ['hunyuan_v1_dense'],
  defaults: {
    tied: false,
    ropeTheta: 10_000,
    normEpsilon: 1e-5,
    contextLength: 2048,
    activation: 'silu',
    headDim: null,
    kvHeads: null,
    bosId: 1,
    eosId: 2,
  },
  tensors: decoderRows({ attention: norms }),
  ignored: decoderIgnored,
  unsupported,
  slidingWindow: () => null,
  raisedBase: true,
  rotary: 'half',
}
