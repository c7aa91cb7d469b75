import type { ModelConfig } from '../core/checkpoint.ts'
import type { JsonObject } from '../core/json.ts'
import type { Architecture } from './architecture.ts'
import { linear, norm } from './bert.ts'
import { activationUnsupported } from './llama.ts'

const hidden = (config: ModelConfig): number => config.hiddenSize
const inner = (config: ModelConfig): number => config.intermediateSize

function unsupported(config: JsonObject): string | null {
  if (config.get('attention_bias') === false) return 'attention without biases (attention_bias)'
  return activationUnsupported(config, 'hidden_act', ['gelu'])
}

/**
 * GPT-NeoX and Pythia: LayerNorms and biases, attention and MLP beside each other unless the configuration says no, and
 * one matrix for query, key and value, head by head.
 */
export const gptNeox: Architecture = {
  id: 'gpt_neox',
  classNames: ['GPTNeoXForCausalLM'],
  baseClassName: 'GPTNeoXModel',
  modelTypes: ['gpt_neox'],
  defaults: {
    tied: false,
    ropeTheta: 10_000,
    rotaryFactor: 0.25,
    normEpsilon: 1e-5,
    contextLength: 2048,
    activation: 'gelu',
    headDim: null,
    kvHeads: null,
    bosId: 0,
    eosId: 2,
  },
  keys: { normEpsilon: 'layer_norm_eps' },
  partialRotary: true,
  rotaryKeys: { theta: 'rotary_emb_base', factor: 'rotary_pct' },
  tensors: [
    { role: 'embed.weight', hf: 'gpt_neox.embed_in.weight', shape: (c) => [c.vocabSize, c.hiddenSize] },
    ...norm('blocks.{i}.attn_norm', 'gpt_neox.layers.{i}.input_layernorm'),
    ...linear('blocks.{i}.attn.qkv', 'gpt_neox.layers.{i}.attention.query_key_value', (c) => 3 * c.hiddenSize, hidden),
    ...linear('blocks.{i}.attn.o', 'gpt_neox.layers.{i}.attention.dense', hidden, hidden),
    ...norm('blocks.{i}.mlp_norm', 'gpt_neox.layers.{i}.post_attention_layernorm'),
    ...linear('blocks.{i}.mlp.up', 'gpt_neox.layers.{i}.mlp.dense_h_to_4h', inner, hidden),
    ...linear('blocks.{i}.mlp.down', 'gpt_neox.layers.{i}.mlp.dense_4h_to_h', hidden, inner),
    ...norm('final_norm', 'gpt_neox.final_layer_norm'),
    { role: 'lm_head.weight', hf: 'embed_out.weight', shape: (c) => [c.vocabSize, c.hiddenSize], when: (c) => !c.tied },
  ],
  // the causal mask and frequencies, saved as buffers
  ignored: [/\.attention\.(?:masked_)?bias$/, /\.rotary_emb\.inv_freq$/],
  unsupported,
  slidingWindow: () => null,
  rotary: 'half',
}
