import type { ModelConfig } from '../../../core/checkpoint.ts'
import { log } from '../../../core/math.ts'
import type { GgufValue } from '../../containers/gguf/types.ts'
import { f32, RMS, u32, type GgufArchitecture } from './contract.ts'
import { stretchRefused } from './shared.ts'

/** llama.cpp's numbers of the scores that experts are chosen by. */
const GATING = { softmax: 1, sigmoid: 2 } as const

/** Norms of latents have this epsilon in the class, whatever the others have. */
const LATENT_EPSILON = 1e-6

/** What YaRN's `mscale_all_dim` is multiplied by in the file. */
const LOG_MULTIPLIER = 0.1

/**
 * Heads in the file are those of the latent, one for keys and values together, as wide as it and what turns; how wide
 * they are by themselves is told beside (`_mla`).
 */
function keys(config: ModelConfig): readonly (readonly [string, GgufValue])[] {
  const { latent, experts, headDim, rope } = config
  if (latent === undefined || experts === undefined) return []
  const { rank, queryRank, plainDim, valueDim } = latent
  const { count, used, intermediateSize: width, sharedIntermediateSize: shared = 0, groups } = experts
  const { scaling } = rope
  return [
    ['{arch}.attention.head_count_kv', u32(1)],
    ['{arch}.attention.key_length', u32(rank + headDim)],
    ['{arch}.attention.value_length', u32(rank)],
    ['{arch}.attention.key_length_mla', u32(plainDim + headDim)],
    ['{arch}.attention.value_length_mla', u32(valueDim)],
    ['{arch}.attention.kv_lora_rank', u32(rank)],
    ...(queryRank === null ? [] : [['{arch}.attention.q_lora_rank', u32(queryRank)] as const]),
    ['{arch}.leading_dense_block_count', u32(experts.denseBlocks ?? 0)],
    ['{arch}.expert_count', u32(count)],
    ['{arch}.expert_used_count', u32(used)],
    ['{arch}.expert_feed_forward_length', u32(width)],
    ['{arch}.expert_shared_count', u32(shared / width)],
    ['{arch}.expert_weights_scale', f32(experts.weightScale ?? 1)],
    ['{arch}.expert_weights_norm', { type: 'bool', value: experts.normalised ?? false }],
    ['{arch}.expert_gating_func', u32(GATING[experts.scores ?? 'softmax'])],
    ...(groups === undefined
      ? []
      : ([
          ['{arch}.expert_group_count', u32(groups)],
          ['{arch}.expert_group_used_count', u32(experts.groupsUsed ?? groups)],
        ] as const)),
    ...(scaling.kind === 'yarn' && scaling.mscaleAllDim !== undefined
      ? [['{arch}.rope.scaling.yarn_log_multiplier', f32(LOG_MULTIPLIER * scaling.mscaleAllDim)] as const]
      : []),
  ]
}

/** Blocks of the models without a latent of the queries (V2 Lite, GigaChat 3), by which llama.cpp knows them. */
const LITE_LAYERS: readonly number[] = [26, 27]

function refuses(config: ModelConfig): string | null {
  const { normEpsilon, experts, rope, layers, latent } = config
  if (LITE_LAYERS.includes(layers) !== (latent?.queryRank === null))
    return latent?.queryRank === null
      ? `queries without a latent in ${layers} blocks, where it expects them in ${LITE_LAYERS.join(' or ')} only`
      : `a latent of the queries in ${layers} blocks, where it expects none`
  const { scaling } = rope
  if (normEpsilon !== LATENT_EPSILON) return `an rms_norm_eps other than ${LATENT_EPSILON}`
  if (experts?.sharedIntermediateSize === undefined) return 'no expert that all tokens share'
  if (scaling.kind === 'yarn' && log(scaling.factor) !== 0) {
    if (scaling.mscaleAllDim === undefined || scaling.mscale !== scaling.mscaleAllDim)
      return 'YaRN whose mscale is not its mscale_all_dim'
    if (scaling.attentionFactor !== null) return 'YaRN with an attention_factor'
  }
  return stretchRefused(config)
}

/** DeepSeek V2, and V3 with its correction of scores. */
export const deepseek: GgufArchitecture = {
  name: 'deepseek2',
  interleavedRotary: true,
  ignoresWindow: true,
  epsilonKeys: RMS,
  names: {
    'blocks.{i}.attn.q_a': 'blk.{i}.attn_q_a',
    'blocks.{i}.attn.q_a_norm': 'blk.{i}.attn_q_a_norm',
    'blocks.{i}.attn.q_b': 'blk.{i}.attn_q_b',
    'blocks.{i}.attn.kv_a': 'blk.{i}.attn_kv_a_mqa',
    'blocks.{i}.attn.kv_a_norm': 'blk.{i}.attn_kv_a_norm',
    'blocks.{i}.attn.k_b': 'blk.{i}.attn_k_b',
    'blocks.{i}.attn.v_b': 'blk.{i}.attn_v_b',
    'blocks.{i}.mlp.correction': 'blk.{i}.exp_probs_b',
  },
  keys,
  refuses,
}
