import type { ModelConfig } from '../../core/checkpoint.ts'
import type { Json } from '../../core/json.ts'
import type { ModelFacts } from '../../models/architecture.ts'
import { ggufNumber, type GgufHeader } from '../containers/gguf/reader.ts'
import { POOLING } from './metadata.ts'

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
  const headDim = at('attention.key_length')
  return {
    facts: {
      ...(experts > 0
        ? {
            experts: {
              count: experts,
              used: at('expert_used_count') ?? 0,
              intermediateSize: width,
              ...scaled('sharedIntermediateSize', at('expert_shared_feed_forward_length')),
            },
          }
        : {}),
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
      ...(BIASED_AS_SAID.has(prefix) ? [['attention_bias', has('blk.0.attn_q.bias')] as const] : []),
    ]),
    className: has('cls.output.weight') ? 'BertForSequenceClassification' : null,
    rotaryDim: dim === headDim ? null : dim,
  }
}
