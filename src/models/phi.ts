import type { ModelConfig } from '../core/checkpoint.ts'
import type { JsonObject } from '../core/json.ts'
import type { Architecture } from './architecture.ts'
import { linear, norm } from './bert.ts'
import { activationUnsupported, decoderIgnored } from './llama.ts'

const hidden = (config: ModelConfig): number => config.hiddenSize
const inner = (config: ModelConfig): number => config.intermediateSize
const queries = (config: ModelConfig): number => config.heads * config.headDim
const keys = (config: ModelConfig): number => config.kvHeads * config.headDim

function unsupported(config: JsonObject): string | null {
  if (config.get('qk_layernorm') === true) return 'norms of queries and keys (qk_layernorm)'
  return activationUnsupported(config, 'hidden_act', ['gelu_new', 'gelu_pytorch_tanh'])
}

/** Phi 1, 1.5 and 2: attention and MLP beside each other behind one LayerNorm, biases everywhere, the head's too. */
export const phi: Architecture = {
  id: 'phi',
  classNames: ['PhiForCausalLM'],
  baseClassName: 'PhiModel',
  modelTypes: ['phi'],
  defaults: {
    tied: false,
    ropeTheta: 10_000,
    rotaryFactor: 0.5,
    normEpsilon: 1e-5,
    contextLength: 2048,
    activation: 'gelu_new',
    headDim: null,
    kvHeads: null,
    bosId: 1,
    eosId: 2,
  },
  keys: { normEpsilon: 'layer_norm_eps' },
  partialRotary: true,
  tensors: [
    { role: 'embed.weight', hf: 'model.embed_tokens.weight', shape: (c) => [c.vocabSize, c.hiddenSize] },
    ...norm('blocks.{i}.attn_norm', 'model.layers.{i}.input_layernorm'),
    ...linear('blocks.{i}.attn.q', 'model.layers.{i}.self_attn.q_proj', queries, hidden),
    ...linear('blocks.{i}.attn.k', 'model.layers.{i}.self_attn.k_proj', keys, hidden),
    ...linear('blocks.{i}.attn.v', 'model.layers.{i}.self_attn.v_proj', keys, hidden),
    ...linear('blocks.{i}.attn.o', 'model.layers.{i}.self_attn.dense', hidden, queries),
    ...linear('blocks.{i}.mlp.up', 'model.layers.{i}.mlp.fc1', inner, hidden),
    ...linear('blocks.{i}.mlp.down', 'model.layers.{i}.mlp.fc2', hidden, inner),
    ...norm('final_norm', 'model.final_layernorm'),
    { role: 'lm_head.weight', hf: 'lm_head.weight', shape: (c) => [c.vocabSize, c.hiddenSize], when: (c) => !c.tied },
    { role: 'lm_head.bias', hf: 'lm_head.bias', shape: (c) => [c.vocabSize] },
  ],
  ignored: decoderIgnored,
  unsupported,
  slidingWindow: () => null,
  rotary: 'half',
}
