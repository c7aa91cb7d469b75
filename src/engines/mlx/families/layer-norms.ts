/** Dense decoders with LayerNorms. */
import type { ModelConfig } from '../../../core/checkpoint.ts'
import { ATTENTION, MLP, NORMS, plainRotary, type MlxFamily } from './contract.ts'

/** Heads are as wide as the hidden size divided by their number, and turn unstretched. */
function plain(config: ModelConfig): string | null {
  const { heads, headDim, hiddenSize } = config
  return heads * headDim === hiddenSize ? plainRotary(config) : `heads of ${headDim} channels`
}

const rotaryPart = ({ rope, headDim }: ModelConfig): number => (rope.dim ?? headDim) / headDim

export const LAYER_NORM_FAMILIES: readonly (readonly [string, MlxFamily])[] = [
  [
    'gpt2',
    {
      renames: [['transformer.', 'model.']],
      order: ['attn.c_attn', 'attn.c_proj', 'mlp.c_fc', 'mlp.c_proj', 'ln_1', 'ln_2'],
      head: 'never',
      sizes: ['contextLength', 'normEpsilon'],
      keys: ({ contextLength }) => [['n_ctx', contextLength]],
      unsupported: ({ intermediateSize, hiddenSize }) =>
        intermediateSize === 4 * hiddenSize ? null : `an MLP of ${intermediateSize} for a hidden size of ${hiddenSize}`,
    },
  ],
  [
    'starcoder2',
    {
      order: [...ATTENTION, 'mlp.c_fc', 'mlp.c_proj', ...NORMS],
      head: 'untied',
      sizes: ['kvHeads', 'normEpsilon'],
      unsupported: plain,
    },
  ],
  [
    'phi',
    {
      order: [...ATTENTION.slice(0, 3), 'self_attn.dense', 'input_layernorm', 'mlp.fc1', 'mlp.fc2'],
      head: 'always',
      sizes: ['kvHeads', 'normEpsilon', 'contextLength'],
      keys: (config) => [['partial_rotary_factor', rotaryPart(config)]],
      unsupported: (config) => (config.tied ? 'tied head' : plain(config)),
    },
  ],
  [
    'gpt_neox',
    {
      renames: [
        ['gpt_neox.layers.', 'model.h.'],
        ['gpt_neox.', 'model.'],
        ['embed_out.', 'model.embed_out.'],
      ],
      order: ['attention.query_key_value', 'attention.dense', 'mlp.dense_h_to_4h', 'mlp.dense_4h_to_h', ...NORMS],
      head: 'always',
      sizes: ['contextLength', 'normEpsilon'],
      keys: (config) => [
        ['rotary_emb_base', config.rope.theta],
        ['rotary_pct', rotaryPart(config)],
      ],
      unsupported: (config) => {
        if (config.tied) return 'tied head'
        return config.intermediateSize === 4 * config.hiddenSize
          ? plain(config)
          : `MLP of ${config.intermediateSize} for a hidden size of ${config.hiddenSize}`
      },
    },
  ],
  [
    'stablelm',
    {
      order: [...ATTENTION, ...MLP, ...NORMS],
      head: 'always',
      sizes: ['kvHeads', 'normEpsilon'],
      keys: (config) => [
        ['use_qkv_bias', config.raw.get('use_qkv_bias') === true],
        ['partial_rotary_factor', rotaryPart(config)],
        ['rope_theta', config.rope.theta],
      ],
      unsupported: (config) => (config.tied ? 'tied head' : plain(config)),
    },
  ],
]
