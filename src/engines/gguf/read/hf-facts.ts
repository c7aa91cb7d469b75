import type { ModelConfig } from '../../../core/checkpoint.ts'
import type { Json } from '../../../core/json.ts'
import { layerTypesOf } from '../../../models/windows.ts'
import { queryScalar } from '../arch/gemma.ts'
import { UNROTATED_PERIOD } from '../arch/smollm3.ts'
import { shortestF32, shortestWhere } from '../metadata/shortest.ts'

/**
 * What of a model HuggingFace's config says under keys of the family's own, from what a GGUF file says of it: the inverse
 * of each family's `facts`. Its reader then makes the same facts of them.
 */
export function huggingFaceFacts(id: string, config: ModelConfig): ReadonlyMap<string, Json> {
  return new Map(
    entries(id, config).flatMap(([key, value]): [string, Json][] =>
      value === undefined ? [] : [[key, typeof value === 'number' ? shortestF32(value) : value]],
    ),
  )
}

type Entry = readonly [key: string, value: Json | undefined]

/** The first MiniCPM's scales, which its files left to llama.cpp. */
const UNSAID_MINICPM = { embedding: 12, depth: 1.4, base: 256 }

/** Bucket distance of T5, which llama.cpp has built in. */
const T5_DISTANCE = 128

function entries(id: string, config: ModelConfig): readonly Entry[] {
  const { experts } = config
  switch (id) {
    case 'mixtral':
    case 'gpt_oss':
      return [
        ['num_local_experts', experts?.count],
        ['num_experts_per_tok', experts?.used],
      ]
    case 'qwen2moe':
    case 'qwen3moe':
      return [
        ['num_experts', experts?.count],
        ['num_experts_per_tok', experts?.used],
        ['moe_intermediate_size', experts?.intermediateSize],
        ['shared_expert_intermediate_size', experts?.sharedIntermediateSize],
        // what llama.cpp's graphs of the two do
        ['norm_topk_prob', id === 'qwen3moe'],
      ]
    case 'gemma2':
      return [
        ['attn_logit_softcapping', config.attentionSoftcap],
        ['final_logit_softcapping', config.logitSoftcap],
        ['query_pre_attn_scalar', queryScalar('gemma2', config)],
      ]
    case 'gemma3':
      return [
        ['final_logit_softcapping', config.logitSoftcap],
        ['query_pre_attn_scalar', queryScalar('gemma3', config)],
        ['rope_local_base_freq', config.rope.windowTheta],
        config.windowPeriod === undefined ? layerTypesEntry(config) : ['sliding_window_pattern', config.windowPeriod],
      ]
    case 'olmo3':
      return [layerTypesEntry(config)]
    case 'exaone4':
      return [['sliding_window', config.slidingWindow], layerTypesEntry(config)]
    case 'smollm3':
      // what llama.cpp's graph does
      return [['no_rope_layer_interval', UNROTATED_PERIOD]]
    case 'cohere':
      return [['logit_scale', config.logitScale ?? null]]
    case 'cohere2':
      return [['logit_scale', config.logitScale], layerTypesEntry(config)]
    case 'bert':
      return [['type_vocab_size', config.tokenTypes], ...labelEntries(config.labels)]
    case 't5':
      return [
        ['num_decoder_layers', config.decoder?.layers],
        ['decoder_start_token_id', config.decoder?.startId],
        ['relative_attention_num_buckets', config.relativePositions?.buckets],
        ['relative_attention_max_distance', T5_DISTANCE],
        ['is_encoder_decoder', true],
      ]
    case 'minicpm':
      return [
        ['scale_emb', config.embeddingScale ?? UNSAID_MINICPM.embedding],
        ['scale_depth', config.residualScale === undefined ? UNSAID_MINICPM.depth : rooted(config)],
        [
          'dim_model_base',
          config.logitDivisor === undefined ? UNSAID_MINICPM.base : config.hiddenSize / config.logitDivisor,
        ],
      ]
    case 'deepseek_v2':
    case 'deepseek_v3':
      return deepseekEntries(config)
    case 'olmoe':
      return [
        ['num_experts', experts?.count],
        ['num_experts_per_tok', experts?.used],
      ]
    case 'granite':
    case 'granitemoe':
      return [
        ['num_local_experts', experts?.count],
        ['num_experts_per_tok', experts?.used],
        ['embedding_multiplier', config.embeddingScale],
        ['residual_multiplier', config.residualScale],
        // its class takes 1 where nothing is said, llama.cpp what all models have
        ['attention_multiplier', config.attentionScale ?? 1 / Math.sqrt(config.headDim)],
        ['logits_scaling', config.logitDivisor],
      ]
    default:
      return []
  }
}

function layerTypesEntry({ layers, slidingWindow, windowPeriod }: ModelConfig): Entry {
  return ['layer_types', layerTypesOf(layers, slidingWindow, windowPeriod)]
}

function deepseekEntries({ experts, latent }: ModelConfig): readonly Entry[] {
  if (experts === undefined || latent === undefined) return []
  const { intermediateSize: width, sharedIntermediateSize: shared = 0 } = experts
  const sigmoid = experts.scores === 'sigmoid'
  return [
    ['n_routed_experts', experts.count],
    ['num_experts_per_tok', experts.used],
    ['moe_intermediate_size', width],
    ['n_shared_experts', shared / width],
    ['first_k_dense_replace', experts.denseBlocks ?? 0],
    ['routed_scaling_factor', experts.weightScale ?? 1],
    ['norm_topk_prob', experts.normalised ?? false],
    ['scoring_func', sigmoid ? 'sigmoid' : 'softmax'],
    ['topk_method', sigmoid ? 'noaux_tc' : 'greedy'],
    ['n_group', experts.groups ?? 1],
    ['topk_group', experts.groupsUsed ?? 1],
    ['q_lora_rank', latent.queryRank],
    ['kv_lora_rank', latent.rank],
    ['qk_nope_head_dim', latent.plainDim],
    ['v_head_dim', latent.valueDim],
  ]
}

/** The scale of a whole stack whose share of each block the file has, as an f32. */
function rooted({ residualScale = 1, layers }: ModelConfig): number {
  const share = Math.fround(residualScale)
  return shortestWhere(share * Math.sqrt(layers), (depth) => Math.fround(depth / Math.sqrt(layers)) === share)
}

function labelEntries(labels: readonly string[] | undefined): readonly Entry[] {
  if (labels === undefined) return []
  return [
    ['id2label', new Map(labels.map((label, index) => [String(index), label]))],
    ['label2id', new Map(labels.map((label, index) => [label, index]))],
  ]
}
