/** The families of mlx-lm from Gemma 3 on. */
import type { ModelConfig } from '../../core/checkpoint.ts'
import { layerTypesOf } from '../../models/windows.ts'
import { ATTENTION, decoder, HEAD_NORMS, MLP, plainRotary, SIZES, type MlxFamily } from './family.ts'

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

export const LATER: readonly (readonly [string, MlxFamily])[] = [
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
]
