/** The families with experts from GPT-OSS on. */
import { layerTypesOf } from '../../models/windows.ts'
import { ATTENTION, EXPERT_PARTS, EXPERTS, HEAD_NORMS, NORMS, QWEN_EXPERTS, SIZES, type MlxFamily } from './family.ts'

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
  [
    'olmoe',
    {
      order: [...ATTENTION, ...HEAD_NORMS, ...EXPERTS('mlp'), ...NORMS],
      experts: QWEN_EXPERTS,
      head: 'untied',
      sizes: [...SIZES, 'contextLength'],
      keys: ({ experts }) => [
        ['num_experts', experts?.count ?? 0],
        ['num_experts_per_tok', experts?.used ?? 0],
      ],
    },
  ],
  [
    'granitemoe',
    {
      names: expertNames('block_sparse_moe.switch_mlp'),
      order: [
        ...ATTENTION,
        ...EXPERT_PARTS.map((name) => `block_sparse_moe.switch_mlp.${name}`),
        'block_sparse_moe.router.layer',
        ...NORMS,
      ],
      head: 'untied',
      sensitive: { suffix: 'block_sparse_moe.router.layer', bits: 8 },
      sizes: [...SIZES, 'contextLength'],
      keys: (config) => [
        ['attention_bias', false],
        ['embedding_multiplier', config.embeddingScale ?? 1],
        ['residual_multiplier', config.residualScale ?? 1],
        ['attention_multiplier', config.attentionScale ?? 1],
        ['logits_scaling', config.logitDivisor ?? 1],
        ['num_local_experts', config.experts?.count ?? 0],
        ['num_experts_per_tok', config.experts?.used ?? 0],
      ],
      unsupported: ({ headDim, heads, hiddenSize }) =>
        headDim * heads === hiddenSize ? null : `heads of ${headDim} channels`,
    },
  ],
]
