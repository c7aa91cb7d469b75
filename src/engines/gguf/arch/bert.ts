import type { GgufValue } from '../../containers/gguf/types.ts'
import { LAYER_NORM, u32, type GgufArchitecture } from './contract.ts'

/** llama.cpp's numbers of the ways to make one vector of a text. */
const POOLING = { mean: 1, cls: 2, last: 3 } as const
/** The first token's vector through the classifier. */
const RANK = 4

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
  keys: ({ labels, pooling, tokenTypes }) => {
    const keys: (readonly [string, GgufValue])[] = [
      ['{arch}.attention.causal', { type: 'bool', value: false }],
      ['tokenizer.ggml.token_type_count', u32(tokenTypes ?? 1)],
    ]
    if (labels !== undefined) {
      keys.push(['{arch}.pooling_type', u32(RANK)])
      keys.push(['{arch}.classifier.output_labels', { type: 'array', of: 'string', value: labels }])
    } else if (pooling !== undefined) keys.push(['{arch}.pooling_type', u32(POOLING[pooling])])
    return keys
  },
}
