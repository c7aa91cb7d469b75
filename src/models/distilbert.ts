import type { ModelConfig } from '../core/checkpoint.ts'
import type { JsonObject } from '../core/json.ts'
import type { Architecture } from './architecture.ts'
import { labels, linear, norm } from './bert.ts'
import { activationUnsupported } from './llama.ts'

const hidden = (config: ModelConfig): number => config.hiddenSize
const inner = (config: ModelConfig): number => config.intermediateSize
const masked = { when: (config: ModelConfig) => config.className === 'DistilBertForMaskedLM' }
const classified = { when: (config: ModelConfig) => config.className === 'DistilBertForSequenceClassification' }

/** Sinusoidal positions are stored like learned ones, so that they need no rule of their own. */
function unsupported(config: JsonObject): string | null {
  return activationUnsupported(config, 'activation', ['gelu', 'gelu_new', 'gelu_pytorch_tanh', 'relu'])
}

/** DistilBERT: BERT without token types and without a pooler. */
export const distilbert: Architecture = {
  id: 'distilbert',
  classNames: ['DistilBertModel', 'DistilBertForSequenceClassification', 'DistilBertForMaskedLM'],
  baseClassName: 'DistilBertModel',
  modelTypes: ['distilbert'],
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
  keys: {
    hiddenSize: 'dim',
    layers: 'n_layers',
    heads: 'n_heads',
    intermediateSize: 'hidden_dim',
    activation: 'activation',
  },
  facts: ({ raw, className }) => (className === 'DistilBertForSequenceClassification' ? { labels: labels(raw) } : {}),
  tensors: [
    {
      role: 'embed.weight',
      hf: 'distilbert.embeddings.word_embeddings.weight',
      shape: (c) => [c.vocabSize, c.hiddenSize],
    },
    {
      role: 'position.weight',
      hf: 'distilbert.embeddings.position_embeddings.weight',
      shape: (c) => [c.contextLength, c.hiddenSize],
    },
    ...norm('embed_norm', 'distilbert.embeddings.LayerNorm'),
    ...linear('blocks.{i}.attn.q', 'distilbert.transformer.layer.{i}.attention.q_lin', hidden, hidden),
    ...linear('blocks.{i}.attn.k', 'distilbert.transformer.layer.{i}.attention.k_lin', hidden, hidden),
    ...linear('blocks.{i}.attn.v', 'distilbert.transformer.layer.{i}.attention.v_lin', hidden, hidden),
    ...linear('blocks.{i}.attn.o', 'distilbert.transformer.layer.{i}.attention.out_lin', hidden, hidden),
    ...norm('blocks.{i}.post_attn_norm', 'distilbert.transformer.layer.{i}.sa_layer_norm'),
    ...linear('blocks.{i}.mlp.up', 'distilbert.transformer.layer.{i}.ffn.lin1', inner, hidden),
    ...linear('blocks.{i}.mlp.down', 'distilbert.transformer.layer.{i}.ffn.lin2', hidden, inner),
    ...norm('blocks.{i}.post_mlp_norm', 'distilbert.transformer.layer.{i}.output_layer_norm'),
    ...linear('classifier.dense', 'pre_classifier', hidden, hidden, classified),
    ...linear('classifier', 'classifier', (c) => c.labels?.length ?? 0, hidden, classified),
    ...linear('mlm.dense', 'vocab_transform', hidden, hidden, masked),
    ...norm('mlm.norm', 'vocab_layer_norm', masked),
    { role: 'mlm.bias', hf: 'vocab_projector.bias', shape: (c) => [c.vocabSize], ...masked },
    {
      role: 'lm_head.weight',
      hf: 'vocab_projector.weight',
      shape: (c) => [c.vocabSize, c.hiddenSize],
      when: (c) => !c.tied && masked.when(c),
    },
  ],
  // what a tied head repeats, buffers, and the head for which the checkpoint was trained
  ignored: [/\.position_ids$/, /^vocab_(?:transform|layer_norm|projector)\./],
  unsupported,
  slidingWindow: () => null,
  rotary: 'none',
}
