/** Decoders with experts. */
import type { ModelConfig } from '../../../core/checkpoint.ts'
import type { Json } from '../../../core/json.ts'
import { layerTypesOf } from '../../../models/windows.ts'
import {
  ATTENTION,
  expertKeys,
  EXPERT_PARTS,
  EXPERTS,
  HEAD_NORMS,
  MIXTRAL_EXPERTS,
  MLP,
  NORMS,
  plainRotary,
  QWEN_EXPERTS,
  SHARED,
  SIZES,
  type MlxFamily,
} from './contract.ts'

/** Experts that HuggingFace has in one tensor, gate and up together, under `at` of a block. */
function expertNames(at: string): Readonly<Record<string, string>> {
  return Object.fromEntries(
    ['gate', 'up', 'down'].map((part) => [`blocks.{i}.mlp.experts.${part}`, `model.layers.{i}.${at}.${part}_proj`]),
  )
}

function deepseekKeys(config: ModelConfig): readonly (readonly [string, Json])[] {
  const { experts, latent, headDim, kvHeads, normEpsilon } = config
  if (experts === undefined || latent === undefined) return []
  const { intermediateSize: width, sharedIntermediateSize: shared = 0 } = experts
  return [
    ['moe_intermediate_size', width],
    ['num_key_value_heads', kvHeads],
    ['n_shared_experts', shared / width],
    ['n_routed_experts', experts.count],
    ['routed_scaling_factor', experts.weightScale ?? 1],
    ['kv_lora_rank', latent.rank],
    ['q_lora_rank', latent.queryRank],
    ['qk_rope_head_dim', headDim],
    ['v_head_dim', latent.valueDim],
    ['qk_nope_head_dim', latent.plainDim],
    ['norm_topk_prob', experts.normalised ?? true],
    ['n_group', experts.groups ?? 1],
    ['topk_group', experts.groupsUsed ?? 1],
    ['num_experts_per_tok', experts.used],
    ['first_k_dense_replace', experts.denseBlocks ?? 0],
    ['rms_norm_eps', normEpsilon],
  ]
}

export const EXPERT_FAMILIES: readonly (readonly [string, MlxFamily])[] = [
  [
    'mixtral',
    {
      order: [...ATTENTION, ...EXPERTS('block_sparse_moe'), ...NORMS],
      experts: MIXTRAL_EXPERTS,
      head: 'untied',
      sizes: SIZES,
      unsupported: plainRotary,
    },
  ],
  [
    'qwen2moe',
    {
      order: [...ATTENTION, ...EXPERTS('mlp'), ...SHARED, 'mlp.shared_expert_gate', ...NORMS],
      experts: QWEN_EXPERTS,
      head: 'always',
      sizes: SIZES,
      keys: (config) => [
        ...expertKeys(config),
        ['shared_expert_intermediate_size', config.experts?.sharedIntermediateSize ?? 0],
      ],
    },
  ],
  [
    'qwen3moe',
    {
      order: [...ATTENTION, ...HEAD_NORMS, ...NORMS, ...EXPERTS('mlp')],
      experts: QWEN_EXPERTS,
      head: 'untied',
      sensitive: { suffix: 'mlp.gate', bits: 8 },
      sizes: [...SIZES, 'headDim', 'contextLength'],
      keys: (config) => [
        ...expertKeys(config),
        ['decoder_sparse_step', 1],
        ['mlp_only_layers', []],
        ['norm_topk_prob', true],
      ],
    },
  ],
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
    'deepseek_v3',
    {
      names: {
        'blocks.{i}.attn.k_b': 'model.layers.{i}.self_attn.embed_q',
        'blocks.{i}.attn.v_b': 'model.layers.{i}.self_attn.unembed_out',
      },
      order: [
        ...['q_proj', 'q_a_proj', 'q_a_layernorm', 'q_b_proj', 'kv_a_proj_with_mqa', 'kv_a_layernorm'].map(
          (name) => `self_attn.${name}`,
        ),
        ...['embed_q', 'unembed_out', 'o_proj'].map((name) => `self_attn.${name}`),
        ...EXPERT_PARTS.map((name) => `mlp.switch_mlp.${name}`),
        'mlp.gate',
        ...MLP.map((name) => name.replace('mlp.', 'mlp.shared_experts.')),
        ...MLP,
        ...NORMS,
      ],
      experts: QWEN_EXPERTS,
      parameters: ['mlp.gate'],
      head: 'always',
      keys: deepseekKeys,
      unsupported: ({ experts, rope }) => {
        if (experts?.sharedIntermediateSize === undefined) return 'experts without one for all tokens'
        return rope.scaling.kind === 'yarn' && rope.scaling.attentionFactor !== null ? 'attention_factor of YaRN' : null
      },
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
