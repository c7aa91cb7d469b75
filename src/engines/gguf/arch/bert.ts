import type { ModelConfig } from '../../../core/checkpoint.ts'
import type { GgufValue } from '../../containers/gguf/types.ts'
import { LAYER_NORM, u32, type GgufArchitecture } from './contract.ts'

/** The first token's vector through the classifier. */
const RANK = 4

type Keys = readonly (readonly [string, GgufValue])[]

function tokenTypeKeys({ tokenTypes }: ModelConfig): Keys {
  return [
    ['{arch}.attention.causal', { type: 'bool', value: false }],
    ['tokenizer.ggml.token_type_count', u32(tokenTypes ?? 1)],
  ]
}

/** BERT: an encoder for embeddings, or with its pooler and classifier for ranking. */
export const bert: GgufArchitecture = {
  name: 'bert',
  interleavedRotary: false,
  ignoresWindow: true,
  epsilonKeys: LAYER_NORM,
  names: {
    'blocks.{i}.post_attn_norm': 'blk.{i}.attn_output_norm',
    'blocks.{i}.post_mlp_norm': 'blk.{i}.layer_output_norm',
    pooler: 'cls',
    classifier: 'cls.output',
  },
  // heads that predict words, which the runtime has no place for
  omitted: [/^mlm\./, /^lm_head\./],
  keys: (config) =>
    config.labels === undefined
      ? tokenTypeKeys(config)
      : [
          ...tokenTypeKeys(config),
          ['{arch}.pooling_type', u32(RANK)],
          ['{arch}.classifier.output_labels', { type: 'array', of: 'string', value: config.labels }],
        ],
}

/** DistilBERT: BERT for embeddings. The runtime's classifier has a tanh where this one has a ReLU, so it is left out. */
export const distilbert: GgufArchitecture = {
  ...bert,
  names: {
    'blocks.{i}.post_attn_norm': 'blk.{i}.attn_output_norm',
    'blocks.{i}.post_mlp_norm': 'blk.{i}.layer_output_norm',
  },
  omitted: [/^classifier/, /^mlm\./, /^lm_head\./],
  keys: tokenTypeKeys,
  refuses: ({ activation }) => (activation === 'relu' ? 'the activation "relu"' : null),
}
