/** The families with experts from GPT-OSS on. */
import { layerTypesOf } from '../../models/windows.ts'
import { ATTENTION, EXPERT_PARTS, NORMS, SIZES, type MlxFamily } from './family.ts'

/** Experts that HuggingFace has in one tensor, gate and up together, under `at` of a block. */
function expertNames(at: string): Readonly<Record<string, string>> {
  return Object.fromEntries(
    ['gate', 'up', 'down'].map((part) => [`blocks.{i}.mlp.experts.${part}`, `model.layers.{i}.${at}.${part}_proj`]),
  )
}

export const EXPERT_FAMILIES: readonly (readonly [string, MlxFamily])[] = [
  [
    'gpt_oss',
    {
      names: expertNames('mlp.experts'),
      order: ['self_attn', ...ATTENTION, ...EXPERT_PARTS.map((name) => `mlp.experts.${name}`), 'mlp.router', ...NORMS],
      head: 'always',
      sensitive: { suffix: 'mlp.router', bits: 8 },
      sizes: [...SIZES, 'headDim'],
      windowed: true,
      keys: (config) => [
        ['num_local_experts', config.experts?.count ?? 0],
        ['num_experts_per_tok', config.experts?.used ?? 0],
        ['layer_types', layerTypesOf(config.layers, config.slidingWindow, 2)],
      ],
      unsupported: ({ layers, slidingWindow }) =>
        slidingWindow === null ? 'blocks without a sliding window' : layers < 2 ? 'single block' : null,
    },
  ],
]
