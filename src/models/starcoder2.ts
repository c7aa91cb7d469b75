import type { ModelConfig } from '../core/checkpoint.ts'
import type { JsonObject } from '../core/json.ts'
import type { Architecture } from './architecture.ts'
import { linear, norm } from './bert.ts'
import { activationUnsupported, decoderIgnored, numberAt } from './llama.ts'

const hidden = (config: ModelConfig): number => config.hiddenSize
const inner = (config: ModelConfig): number => config.intermediateSize
const queries = (config: ModelConfig): number => config.heads * config.headDim
const keys = (config: ModelConfig): number => config.kvHeads * config.headDim

function unsupported(config: JsonObject): string | null {
  if (config.get('use_bias') === false) return 'projections without biases (use_bias)'
  if ((config.get('norm_type') ?? 'layer_norm') !== 'layer_norm') return 'norms that are no LayerNorms (norm_type)'
  if ((config.get('mlp_type') ?? 'default') !== 'default') return 'a gated MLP (mlp_type)'
  return activationUnsupported(config, 'hidden_act', ['gelu_pytorch_tanh'])
}

/** StarCoder 2: LayerNorms and biases everywhere, rotary attention with few heads of keys, an MLP without a gate. */
export const starcoder2: Architecture = {
  id: 'starcoder2',
  classNames: ['Starcoder2ForCausalLM'],
  baseClassName: 'Starcoder2Model',
  modelTypes: ['starcoder2'],
  defaults: {
    tied: true,
    ropeTheta: 10_000,
    normEpsilon: 1e-5,
    contextLength: 4096,
    activation: 'gelu_pytorch_tanh',
    headDim: null,
    kvHeads: 2,
    bosId: 50_256,
    eosId: 50_256,
  },
  keys: { normEpsilon: 'norm_epsilon' },
  tensors: [
    { role: 'embed.weight', hf: 'model.embed_tokens.weight', shape: (c) => [c.vocabSize, c.hiddenSize] },
    ...norm('blocks.{i}.attn_norm', 'model.layers.{i}.input_layernorm'),
    ...linear('blocks.{i}.attn.q', 'model.layers.{i}.self_attn.q_proj', queries, hidden),
    ...linear('blocks.{i}.attn.k', 'model.layers.{i}.self_attn.k_proj', keys, hidden),
    ...linear('blocks.{i}.attn.v', 'model.layers.{i}.self_attn.v_proj', keys, hidden),
    ...linear('blocks.{i}.attn.o', 'model.layers.{i}.self_attn.o_proj', hidden, queries),
    ...norm('blocks.{i}.mlp_norm', 'model.layers.{i}.post_attention_layernorm'),
    ...linear('blocks.{i}.mlp.up', 'model.layers.{i}.mlp.c_fc', inner, hidden),
    ...linear('blocks.{i}.mlp.down', 'model.layers.{i}.mlp.c_proj', hidden, inner),
    ...norm('final_norm', 'model.norm'),
    { role: 'lm_head.weight', hf: 'lm_head.weight', shape: (c) => [c.vocabSize, c.hiddenSize], when: (c) => !c.tied },
  ],
  ignored: decoderIgnored,
  unsupported,
  slidingWindow: (config) => numberAt(config, 'sliding_window'),
  rotary: 'half',
}
