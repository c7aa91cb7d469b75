import type { ModelConfig } from '../core/checkpoint.ts'
import type { JsonObject } from '../core/json.ts'
import type { Architecture, TensorRow } from './architecture.ts'
import { activationUnsupported } from './llama.ts'

function unsupported(config: JsonObject): string | null {
  if (config.get('add_cross_attention') === true) return 'attention to an encoder (add_cross_attention)'
  if (config.get('scale_attn_by_inverse_layer_idx') === true)
    return 'scores scaled by block (scale_attn_by_inverse_layer_idx)'
  if (config.get('scale_attn_weights') === false) return 'scores that are not scaled (scale_attn_weights)'
  return activationUnsupported(config, 'activation_function', ['gelu_new', 'gelu_pytorch_tanh', 'gelu_fast'])
}

/** A projection with its bias, stored as Conv1D does: [in, out]. */
function conv1d(
  role: string,
  hf: string,
  out: (config: ModelConfig) => number,
  into: (config: ModelConfig) => number,
): TensorRow[] {
  return [
    { role: `${role}.weight`, hf: `${hf}.weight`, shape: (c) => [out(c), into(c)], transposed: true },
    { role: `${role}.bias`, hf: `${hf}.bias`, shape: (c) => [out(c)] },
  ]
}

function norm(role: string, hf: string): TensorRow[] {
  return [
    { role: `${role}.weight`, hf: `${hf}.weight`, shape: (c) => [c.hiddenSize] },
    { role: `${role}.bias`, hf: `${hf}.bias`, shape: (c) => [c.hiddenSize] },
  ]
}

const hidden = (config: ModelConfig): number => config.hiddenSize
const inner = (config: ModelConfig): number => config.intermediateSize

/** GPT-2 and its kin: learned positions, LayerNorms with biases, one matrix for query, key and value. */
export const gpt2: Architecture = {
  id: 'gpt2',
  classNames: ['GPT2LMHeadModel'],
  baseClassName: 'GPT2Model',
  modelTypes: ['gpt2'],
  defaults: {
    tied: true,
    ropeTheta: 10_000,
    normEpsilon: 1e-5,
    contextLength: 1024,
    activation: 'gelu_new',
    headDim: null,
    kvHeads: null,
    intermediateRatio: 4,
    bosId: 50_256,
    eosId: 50_256,
  },
  keys: {
    hiddenSize: 'n_embd',
    layers: 'n_layer',
    heads: 'n_head',
    intermediateSize: 'n_inner',
    contextLength: 'n_positions',
    normEpsilon: 'layer_norm_epsilon',
    activation: 'activation_function',
  },
  tensors: [
    { role: 'embed.weight', hf: 'transformer.wte.weight', shape: (c) => [c.vocabSize, c.hiddenSize] },
    { role: 'position.weight', hf: 'transformer.wpe.weight', shape: (c) => [c.contextLength, c.hiddenSize] },
    ...norm('blocks.{i}.attn_norm', 'transformer.h.{i}.ln_1'),
    ...conv1d('blocks.{i}.attn.qkv', 'transformer.h.{i}.attn.c_attn', (c) => 3 * c.hiddenSize, hidden),
    ...conv1d('blocks.{i}.attn.o', 'transformer.h.{i}.attn.c_proj', hidden, hidden),
    ...norm('blocks.{i}.mlp_norm', 'transformer.h.{i}.ln_2'),
    ...conv1d('blocks.{i}.mlp.up', 'transformer.h.{i}.mlp.c_fc', inner, hidden),
    ...conv1d('blocks.{i}.mlp.down', 'transformer.h.{i}.mlp.c_proj', hidden, inner),
    ...norm('final_norm', 'transformer.ln_f'),
    { role: 'lm_head.weight', hf: 'lm_head.weight', shape: (c) => [c.vocabSize, c.hiddenSize], when: (c) => !c.tied },
  ],
  // the causal mask, saved as a buffer
  ignored: [/\.attn\.(?:masked_)?bias$/],
  unsupported,
  slidingWindow: () => null,
  rotary: 'none',
}
