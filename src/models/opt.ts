import type { ModelConfig } from '../core/checkpoint.ts'
import type { JsonObject } from '../core/json.ts'
import type { Architecture } from './architecture.ts'
import { linear, norm } from './bert.ts'
import { activationUnsupported } from './llama.ts'

/** The first two rows of the position table belong to no position. */
const POSITION_OFFSET = 2

const hidden = (config: ModelConfig): number => config.hiddenSize
const inner = (config: ModelConfig): number => config.intermediateSize

/** What OPT-350m has, and no other. */
function unsupported(config: JsonObject): string | null {
  if (config.get('do_layer_norm_before') === false) return 'norms after attention and MLP (do_layer_norm_before)'
  if (config.get('_remove_final_layer_norm') === true) return 'no final norm (_remove_final_layer_norm)'
  if (config.get('enable_bias') === false) return 'projections without biases (enable_bias)'
  if (config.get('layer_norm_elementwise_affine') === false)
    return 'norms without weights (layer_norm_elementwise_affine)'
  const width = config.get('word_embed_proj_dim') ?? config.get('hidden_size')
  if (width !== config.get('hidden_size')) return 'embeddings of another width (word_embed_proj_dim)'
  return activationUnsupported(config, 'activation_function', ['relu', 'gelu'])
}

/** OPT and Galactica: learned positions, LayerNorms with biases before attention and MLP, ReLU. */
export const opt: Architecture = {
  id: 'opt',
  classNames: ['OPTForCausalLM'],
  baseClassName: 'OPTModel',
  modelTypes: ['opt'],
  defaults: {
    tied: true,
    ropeTheta: 10_000,
    normEpsilon: 1e-5,
    contextLength: 2048,
    activation: 'relu',
    headDim: null,
    kvHeads: null,
    bosId: 2,
    eosId: 2,
  },
  keys: { intermediateSize: 'ffn_dim', activation: 'activation_function' },
  tensors: [
    { role: 'embed.weight', hf: 'model.decoder.embed_tokens.weight', shape: (c) => [c.vocabSize, c.hiddenSize] },
    {
      role: 'position.weight',
      hf: 'model.decoder.embed_positions.weight',
      shape: (c) => [c.contextLength + POSITION_OFFSET, c.hiddenSize],
    },
    ...norm('blocks.{i}.attn_norm', 'model.decoder.layers.{i}.self_attn_layer_norm'),
    ...linear('blocks.{i}.attn.q', 'model.decoder.layers.{i}.self_attn.q_proj', hidden, hidden),
    ...linear('blocks.{i}.attn.k', 'model.decoder.layers.{i}.self_attn.k_proj', hidden, hidden),
    ...linear('blocks.{i}.attn.v', 'model.decoder.layers.{i}.self_attn.v_proj', hidden, hidden),
    ...linear('blocks.{i}.attn.o', 'model.decoder.layers.{i}.self_attn.out_proj', hidden, hidden),
    ...norm('blocks.{i}.mlp_norm', 'model.decoder.layers.{i}.final_layer_norm'),
    ...linear('blocks.{i}.mlp.up', 'model.decoder.layers.{i}.fc1', inner, hidden),
    ...linear('blocks.{i}.mlp.down', 'model.decoder.layers.{i}.fc2', hidden, inner),
    ...norm('final_norm', 'model.decoder.final_layer_norm'),
    { role: 'lm_head.weight', hf: 'lm_head.weight', shape: (c) => [c.vocabSize, c.hiddenSize], when: (c) => !c.tied },
  ],
  ignored: [],
  unsupported,
  slidingWindow: () => null,
  rotary: 'none',
}
