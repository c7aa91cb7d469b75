import type { ModelConfig } from '../../../core/checkpoint.ts'
import type { Json } from '../../../core/json.ts'
import type { ModelFacts } from '../../../models/architecture.ts'
import { ggufNumber, type GgufHeader } from '../../containers/gguf/reader.ts'
import { POOLING } from '../metadata/keys.ts'

/** What a file's keys and tensors tell beyond the sizes that all models have. */
export interface GgufFacts {
  readonly facts: ModelFacts & Pick<ModelConfig, 'pooling'>
  /** Entries of HuggingFace's config that change which tensors there are. */
  readonly raw: ReadonlyMap<string, Json>
  /** The class, where the head tells it from the others of its architecture. */
  readonly className: string | null
  /** Channels of a head that turn; null for all. */
  readonly rotaryDim: number | null
}

/** T5's bucket distance, which llama.cpp has built in. */
const T5_DISTANCE = 128

/** Architectures whose graphs multiply by `logit_scale`; those of muP models divide. */
const MULTIPLIED: ReadonlySet<string> = new Set(['command-r', 'cohere2'])

/** Architectures with biases of query, key and value, unless the configuration says that there are none. */
const BIASED_AS_SAID: ReadonlySet<string> = new Set(['seed_oss', 'chatglm', 'glm4'])

/** llama.cpp's number of sigmoid scores. */
const SIGMOID = 2

function normalises(metadata: GgufHeader['metadata'], prefix: string): boolean {
  const value = metadata.get(`${prefix}.expert_weights_norm`)
  return value?.type === 'bool' && value.value
}

/** The width of a head; of latent attention, that of what turns. Null where a file says nothing. */
export function headDimOf(at: (key: string) => number | null): number | null {
  return at(at('attention.kv_lora_rank') === null ? 'attention.key_length' : 'rope.dimension_count')
}

/** Heads of keys and values; of latent attention, where a file has one for all, as many as of queries. */
export function kvHeadsOf(at: (key: string) => number | null, heads: number): number {
  return at('attention.kv_lora_rank') === null ? (at('attention.head_count_kv') ?? heads) : heads
}

/** The inverse of the keys that each architecture adds, as far as tensors and configurations depend on them. */
export function readFacts({ metadata, tensors }: Pick<GgufHeader, 'metadata' | 'tensors'>, prefix: string): GgufFacts {
  const at = (key: string): number | null => ggufNumber(metadata, `${prefix}.${key}`)
  const has = (name: string): boolean => tensors.some((tensor) => tensor.name === name)
  const scaled = <K extends string>(name: K, value: number | null): Partial<Record<K, number>> =>
    value === null || value === 0 ? {} : ({ [name]: value } as Record<K, number>)
  const experts = at('expert_count') ?? 0
  const width = at('expert_feed_forward_length') ?? at('feed_forward_length') ?? 0
  const decoder = at('decoder_block_count')
  const buckets = at('attention.relative_buckets_count')
  const types = tensors.find(({ name }) => name === 'token_types.weight')?.shape[0]
  const labels = metadata.get(`${prefix}.classifier.output_labels`)
  const pooling = (['mean', 'cls', 'last'] as const).find((kind) => POOLING[kind] === at('pooling_type'))
  const dim = at('rope.dimension_count')
  const headDim = headDimOf(at)
  const rank = at('attention.kv_lora_rank')
  const sharedWidth = at('expert_shared_feed_forward_length') ?? (at('expert_shared_count') ?? 0) * width
  const gating = at('expert_gating_func')
  const parallel = metadata.get(`${prefix}.use_parallel_residual`)
  const groups = at('expert_group_count') ?? 1
  return {
    facts: {
      ...(experts > 0
        ? {
            experts: {
              count: experts,
              used: at('expert_used_count') ?? 0,
              intermediateSize: width,
              ...scaled('sharedIntermediateSize', sharedWidth),
              ...(at('leading_dense_block_count') === null
                ? {}
                : { denseBlocks: at('leading_dense_block_count') ?? 0 }),
              ...scaled('weightScale', at('expert_weights_scale')),
              ...(gating === SIGMOID ? { scores: 'sigmoid' as const, normalised: normalises(metadata, prefix) } : {}),
              ...(groups > 1 ? { groups, groupsUsed: at('expert_group_used_count') ?? groups } : {}),
            },
          }
        : {}),
      ...(rank === null
        ? {}
        : {
            latent: {
              queryRank: at('attention.q_lora_rank'),
              rank,
              plainDim: (at('attention.key_length_mla') ?? 0) - (headDim ?? 0),
              valueDim: at('attention.value_length_mla') ?? 0,
            },
          }),
      ...scaled('attentionSoftcap', at('attn_logit_softcapping')),
      ...scaled('logitSoftcap', at('final_logit_softcapping')),
      ...scaled('attentionScale', at('attention.scale')),
      ...scaled('embeddingScale', at('embedding_scale')),
      ...scaled('residualScale', at('residual_scale')),
      ...scaled(MULTIPLIED.has(prefix) ? 'logitScale' : 'logitDivisor', at('logit_scale')),
      ...(types === undefined ? {} : { tokenTypes: types }),
      ...(labels?.type === 'array' && labels.of === 'string' ? { labels: labels.value } : {}),
      ...(decoder === null ? {} : { decoder: { layers: decoder, startId: at('decoder_start_token_id') ?? 0 } }),
      ...(buckets === null ? {} : { relativePositions: { buckets, maxDistance: T5_DISTANCE } }),
      ...(pooling === undefined ? {} : { pooling }),
    },
    raw: new Map<string, Json>([
      ...(has('enc.blk.0.ffn_gate.weight') ? [['feed_forward_proj', 'gated-gelu'] as const] : []),
      ...(prefix === 'stablelm' ? [['use_qkv_bias', has('blk.0.attn_q.bias')] as const] : []),
      ...(parallel?.type === 'bool' ? [['use_parallel_residual', parallel.value] as const] : []),
      ...(BIASED_AS_SAID.has(prefix) ? [['attention_bias', has('blk.0.attn_q.bias')] as const] : []),
    ]),
    className: has('cls.output.weight') ? 'BertForSequenceClassification' : null,
    rotaryDim: dim === headDim ? null : dim,
  }
}
