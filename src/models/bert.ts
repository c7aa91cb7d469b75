import type { ModelConfig } from '../core/checkpoint.ts'
import { isObject, type JsonObject } from '../core/json.ts'
import type { Architecture, TensorRow } from './architecture.ts'
import { activationUnsupported, numberAt } from './llama.ts'

const DEFAULT_TOKEN_TYPES = 2

const isOf = (config: ModelConfig, ...names: readonly string[]): boolean => names.includes(config.className)

function unsupported(config: JsonObject): string | null {
  if (config.get('is_decoder') === true || config.get('add_cross_attention') === true) return 'a decoder (is_decoder)'
  const positions = config.get('position_embedding_type') ?? 'absolute'
  if (positions !== 'absolute') return `positions of the kind ${JSON.stringify(positions)}`
  return activationUnsupported(config, 'hidden_act', ['gelu', 'gelu_new', 'gelu_pytorch_tanh'])
}

/** Class names in order of their index. A config without them has two, as BertConfig does. */
export function labels(config: JsonObject): readonly string[] {
  const byId = config.get('id2label')
  if (!isObject(byId)) {
    const count = numberAt(config, 'num_labels') ?? 2
    return Array.from({ length: count }, (_, index) => `LABEL_${index}`)
  }
  return [...byId].sort(([a], [b]) => Number(a) - Number(b)).map(([, label]) => String(label))
}

/** A projection [out, in] and its bias. */
export function linear(
  role: string,
  hf: string,
  out: (config: ModelConfig) => number,
  into: (config: ModelConfig) => number,
  more: Pick<TensorRow, 'when' | 'optional'> = {},
): TensorRow[] {
  return [
    { role: `${role}.weight`, hf: `${hf}.weight`, shape: (c) => [out(c), into(c)], ...more },
    { role: `${role}.bias`, hf: `${hf}.bias`, shape: (c) => [out(c)], ...more },
  ]
}

/** A LayerNorm's weight and bias, which checkpoints converted from TensorFlow call gamma and beta. */
export function norm(role: string, hf: string, more: Pick<TensorRow, 'when'> = {}): TensorRow[] {
  return [
    { role: `${role}.weight`, hf: `${hf}.weight`, aliases: [`${hf}.gamma`], shape: (c) => [c.hiddenSize], ...more },
    { role: `${role}.bias`, hf: `${hf}.bias`, aliases: [`${hf}.beta`], shape: (c) => [c.hiddenSize], ...more },
  ]
}

const hidden = (config: ModelConfig): number => config.hiddenSize
const inner = (config: ModelConfig): number => config.intermediateSize
const masked: Pick<TensorRow, 'when'> = { when: (c) => isOf(c, 'BertForMaskedLM') }

/** BERT: an encoder with learned positions, norms after attention and MLP, and the head that its class has. */
export const bert: Architecture = {
  id: 'bert',
  classNames: ['BertModel', 'BertForSequenceClassification', 'BertForMaskedLM'],
  baseClassName: 'BertModel',
  modelTypes: ['bert'],
  defaults: {
    tied: true,
    ropeTheta: 10_000,
    normEpsilon: 1e-12,
    contextLength: 512,
    activation: 'gelu',
    headDim: null,
    kvHeads: null,
    bosId: null,
    eosId: null,
  },
  keys: { normEpsilon: 'layer_norm_eps' },
  facts: ({ raw, className }) => ({
    tokenTypes: numberAt(raw, 'type_vocab_size') ?? DEFAULT_TOKEN_TYPES,
    ...(className === 'BertForSequenceClassification' ? { labels: labels(raw) } : {}),
  }),
  tensors: [
    { role: 'embed.weight', hf: 'bert.embeddings.word_embeddings.weight', shape: (c) => [c.vocabSize, c.hiddenSize] },
    {
      role: 'position.weight',
      hf: 'bert.embeddings.position_embeddings.weight',
      shape: (c) => [c.contextLength, c.hiddenSize],
    },
    {
      role: 'token_type.weight',
      hf: 'bert.embeddings.token_type_embeddings.weight',
      shape: (c) => [c.tokenTypes ?? DEFAULT_TOKEN_TYPES, c.hiddenSize],
    },
    ...norm('embed_norm', 'bert.embeddings.LayerNorm'),
    ...linear('blocks.{i}.attn.q', 'bert.encoder.layer.{i}.attention.self.query', hidden, hidden),
    ...linear('blocks.{i}.attn.k', 'bert.encoder.layer.{i}.attention.self.key', hidden, hidden),
    ...linear('blocks.{i}.attn.v', 'bert.encoder.layer.{i}.attention.self.value', hidden, hidden),
    ...linear('blocks.{i}.attn.o', 'bert.encoder.layer.{i}.attention.output.dense', hidden, hidden),
    ...norm('blocks.{i}.post_attn_norm', 'bert.encoder.layer.{i}.attention.output.LayerNorm'),
    ...linear('blocks.{i}.mlp.up', 'bert.encoder.layer.{i}.intermediate.dense', inner, hidden),
    ...linear('blocks.{i}.mlp.down', 'bert.encoder.layer.{i}.output.dense', hidden, inner),
    ...norm('blocks.{i}.post_mlp_norm', 'bert.encoder.layer.{i}.output.LayerNorm'),
    ...linear('pooler', 'bert.pooler.dense', hidden, hidden, {
      when: (c) => isOf(c, 'BertForSequenceClassification'),
    }),
    // a bare BertModel may have been saved without its pooler
    ...linear('pooler', 'bert.pooler.dense', hidden, hidden, { when: (c) => isOf(c, 'BertModel'), optional: true }),
    ...linear('classifier', 'classifier', (c) => c.labels?.length ?? 0, hidden, {
      when: (c) => isOf(c, 'BertForSequenceClassification'),
    }),
    ...linear('mlm.dense', 'cls.predictions.transform.dense', hidden, hidden, masked),
    ...norm('mlm.norm', 'cls.predictions.transform.LayerNorm', masked),
    { role: 'mlm.bias', hf: 'cls.predictions.bias', shape: (c) => [c.vocabSize], ...masked },
    {
      role: 'lm_head.weight',
      hf: 'cls.predictions.decoder.weight',
      shape: (c) => [c.vocabSize, c.hiddenSize],
      when: (c) => !c.tied && isOf(c, 'BertForMaskedLM'),
    },
  ],
  // what a tied head repeats, buffers, and heads that the class does not have
  ignored: [/\.position_ids$/, /^cls\.predictions\.decoder\.(?:weight|bias)$/, /^cls\.seq_relationship\./],
  unsupported,
  slidingWindow: () => null,
  rotary: 'none',
}
