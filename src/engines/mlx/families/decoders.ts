/** Dense decoders with RMS norms. */
import type { ModelConfig } from '../../../core/checkpoint.ts'
import { layerTypesOf } from '../../../models/windows.ts'
import { ATTENTION, decoder, HEAD_NORMS, MLP, NORMS, plainRotary, SIZES, type MlxFamily } from './contract.ts'

const SANDWICH = [
  'input_layernorm',
  'post_attention_layernorm',
  'pre_feedforward_layernorm',
  'post_feedforward_layernorm',
]

const POST_NORMED = [...ATTENTION, ...HEAD_NORMS, ...MLP, 'post_attention_layernorm', 'post_feedforward_layernorm']

/** Its classes look for a block of either kind, and stop where there is none. */
function bothKindsOfBlocks({ layers, slidingWindow, windowPeriod }: ModelConfig): string | null {
  if (slidingWindow === null) return null
  return windowPeriod === undefined || windowPeriod > layers ? 'sliding window in every block' : null
}

export const DECODER_FAMILIES: readonly (readonly [string, MlxFamily])[] = [
  ['llama', decoder],
  ['mistral', decoder],
  ['qwen2', decoder],
  [
    'qwen3',
    {
      order: [...ATTENTION, ...HEAD_NORMS, ...MLP, ...NORMS],
      head: 'untied',
      sizes: [...SIZES, 'headDim', 'contextLength'],
    },
  ],
  [
    'gemma2',
    {
      order: [
        ...ATTENTION,
        ...MLP,
        'input_layernorm',
        'pre_feedforward_layernorm',
        'post_feedforward_layernorm',
        'post_attention_layernorm',
      ],
      head: 'never',
      sizes: [...SIZES, 'headDim'],
      keys: ({ attentionScale }) =>
        attentionScale === undefined ? [] : [['query_pre_attn_scalar', attentionScale ** -2]],
      unsupported: (config) =>
        config.attentionSoftcap === undefined || config.logitSoftcap === undefined
          ? 'scores or logits without a cap'
          : plainRotary(config),
    },
  ],
  [
    'phi3',
    {
      order: ['self_attn.qkv_proj', 'self_attn.o_proj', 'mlp.gate_up_proj', 'mlp.down_proj', ...NORMS],
      head: 'untied',
      sizes: SIZES,
    },
  ],
  // mlx-lm's loader adds a head to a tied model and then refuses it, and its tied logits are not scaled
  [
    'minicpm',
    {
      order: [...ATTENTION, 'mlp.gate_proj', 'mlp.up_proj', 'mlp.down_proj', ...NORMS],
      head: 'always',
      keys: ({ embeddingScale = 1, residualScale = 1, logitDivisor = 1, layers, hiddenSize }) => [
        ['scale_emb', embeddingScale],
        ['scale_depth', residualScale * Math.sqrt(layers)],
        ['dim_model_base', hiddenSize / logitDivisor],
      ],
      unsupported: ({ raw }) => (raw.get('attention_bias') === true ? 'biases in attention' : null),
    },
  ],
  [
    'granite',
    {
      ...decoder,
      sizes: [...SIZES, 'contextLength'],
      keys: (config) => [
        ['attention_bias', false],
        ['mlp_bias', false],
        ['embedding_multiplier', config.embeddingScale ?? 1],
        ['residual_multiplier', config.residualScale ?? 1],
        ['attention_multiplier', config.attentionScale ?? 1],
        ['logits_scaling', config.logitDivisor ?? 1],
      ],
    },
  ],
  ['gemma', { ...decoder, head: 'never', sizes: [...SIZES, 'headDim'], unsupported: plainRotary }],
  [
    'gemma3',
    {
      order: [...ATTENTION, ...HEAD_NORMS, ...MLP, ...SANDWICH],
      head: 'untied',
      sizes: [...SIZES, 'headDim', 'contextLength'],
      keys: ({ attentionScale = 1, slidingWindow, windowPeriod, rope }) => [
        ['query_pre_attn_scalar', attentionScale ** -2],
        ['sliding_window', slidingWindow ?? 0],
        ['sliding_window_pattern', windowPeriod ?? 1],
        ['rope_local_base_freq', rope.windowTheta ?? rope.theta],
      ],
      unsupported: (config) =>
        config.attentionSoftcap === undefined && config.logitSoftcap === undefined
          ? bothKindsOfBlocks(config)
          : 'caps on scores or logits',
    },
  ],
  ['olmo2', { ...decoder, order: POST_NORMED, sizes: [...SIZES, 'contextLength'] }],
  [
    'olmo3',
    {
      ...decoder,
      order: POST_NORMED,
      sizes: [...SIZES, 'contextLength'],
      keys: (config) => [
        ['sliding_window', config.slidingWindow ?? 0],
        ['layer_types', layerTypesOf(config.layers, config.slidingWindow, config.windowPeriod)],
      ],
      unsupported: (config) => {
        if (config.slidingWindow === null) return 'model without a sliding window'
        if (config.rope.windowTheta !== config.rope.theta) return 'another rotary base in blocks with a window'
        return bothKindsOfBlocks(config)
      },
    },
  ],
  [
    'smollm3',
    {
      ...decoder,
      sizes: [...SIZES, 'contextLength'],
      keys: (config) =>
        config.unrotatedPeriod === undefined
          ? [['no_rope_layers', Array.from({ length: config.layers }, () => 1)]]
          : [['no_rope_layer_interval', config.unrotatedPeriod]],
    },
  ],
  [
    'exaone4',
    {
      ...decoder,
      order: POST_NORMED,
      sizes: [...SIZES, 'headDim', 'contextLength'],
      keys: (config) => [
        ['rope_scaling', null],
        ['sliding_window', config.slidingWindow],
      ],
      replacing: ({ windowPeriod }) => [
        ['sliding_window_pattern', windowPeriod === undefined ? null : `${'L'.repeat(windowPeriod - 1)}G`],
      ],
      unsupported: bothKindsOfBlocks,
    },
  ],
  [
    'seed_oss',
    {
      ...decoder,
      sizes: [...SIZES, 'headDim', 'contextLength'],
      keys: () => [['attention_bias', true]],
    },
  ],
  [
    'ernie4_5',
    {
      ...decoder,
      sizes: [...SIZES, 'headDim', 'contextLength'],
      keys: () => [['use_bias', false]],
      unsupported: plainRotary,
    },
  ],
  [
    'glm',
    {
      order: [...ATTENTION, 'mlp.gate_up_proj', 'mlp.down_proj', ...NORMS],
      head: 'untied',
      sizes: [...SIZES, 'headDim', 'contextLength'],
      keys: () => [['attention_bias', true]],
      unsupported: (config) => (config.rope.dim === undefined ? plainRotary(config) : 'heads of which a part turns'),
    },
  ],
  [
    'glm4',
    {
      order: [
        'mlp.gate_up_proj',
        'mlp.down_proj',
        ...ATTENTION,
        ...NORMS,
        'post_self_attn_layernorm',
        'post_mlp_layernorm',
      ],
      head: 'always',
      sizes: [...SIZES, 'headDim', 'contextLength'],
      keys: ({ headDim, rope }) => [
        ['attention_bias', true],
        ['partial_rotary_factor', (rope.dim ?? headDim) / headDim],
      ],
      unsupported: plainRotary,
    },
  ],
  [
    'hunyuan',
    {
      order: [...ATTENTION, 'self_attn.query_layernorm', 'self_attn.key_layernorm', ...MLP, ...NORMS],
      head: 'untied',
      sizes: [...SIZES, 'headDim', 'contextLength'],
      unsupported: (config) => (config.rope.scaling.kind === 'alpha' ? null : plainRotary(config)),
    },
  ],
  [
    'cohere',
    {
      order: [...ATTENTION, 'mlp.gate_proj', 'mlp.up_proj', 'mlp.down_proj', 'input_layernorm'],
      head: 'never',
      sizes: SIZES,
      keys: ({ logitScale }) => [['logit_scale', logitScale ?? 1]],
      unsupported: plainRotary,
    },
  ],
  [
    'cohere2',
    {
      order: [...ATTENTION, 'mlp.gate_proj', 'mlp.up_proj', 'mlp.down_proj', 'input_layernorm'],
      head: 'never',
      sizes: [...SIZES, 'headDim'],
      keys: ({ logitScale, slidingWindow, windowPeriod }) => [
        ['logit_scale', logitScale ?? 1],
        ['sliding_window', slidingWindow],
        ['sliding_window_pattern', windowPeriod ?? 1],
      ],
      unsupported: (config) =>
        config.slidingWindow === null
          ? 'model without a sliding window'
          : (bothKindsOfBlocks(config) ?? plainRotary(config)),
    },
  ],
]
