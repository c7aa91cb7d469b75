import type { ModelConfig } from '../core/checkpoint.ts'
import type { JsonObject } from '../core/json.ts'
import type { Architecture, TensorRow } from './architecture.ts'
import { numberAt, quantizedUnsupported } from './llama.ts'

/** T5Config's own. */
const DEFAULT_BUCKETS = 32
const DEFAULT_DISTANCE = 128

const width = (config: ModelConfig): number => config.heads * config.headDim

/** What `feed_forward_proj` says: `relu`, or `gated-gelu` for a gated MLP. */
function projection(config: JsonObject): { readonly gated: boolean; readonly activation: string } {
  const text = config.get('feed_forward_proj')
  const [, gate, name] = /^(gated-)?(.+)$/.exec(typeof text === 'string' ? text : 'relu') ?? []
  return { gated: gate !== undefined, activation: name ?? 'relu' }
}

/** Whether the MLP has a gate besides its up projection. */
export function isGatedT5(config: ModelConfig): boolean {
  return projection(config.raw).gated
}

function unsupported(config: JsonObject): string | null {
  const { gated, activation } = projection(config)
  // "gated-gelu" means gelu_new to this class, for the sake of its first checkpoints
  const known = gated ? ['gelu', 'gelu_new'].includes(activation) : activation === 'relu'
  if (!known) return `the MLP ${JSON.stringify(config.get('feed_forward_proj'))}`
  return quantizedUnsupported(config)
}

interface Stack {
  /** Of roles. */
  readonly prefix: string
  readonly hf: string
  readonly blocks: (config: ModelConfig) => number
  /** Position of the MLP among a block's layers. */
  readonly mlp: number
}

/** The rows that both stacks' blocks have. */
function attention(stack: Stack, layer: number, role: string, norm: string, module: string): TensorRow[] {
  const at = `${stack.hf}.block.{i}.layer.${layer}`
  const { blocks } = stack
  const row = (name: string, hf: string, shape: TensorRow['shape']): TensorRow => ({
    role: `${stack.prefix}.blocks.{i}.${name}`,
    hf: `${at}.${hf}`,
    shape,
    blocks,
  })
  return [
    row(`${norm}.weight`, 'layer_norm.weight', (c) => [c.hiddenSize]),
    row(`${role}.q.weight`, `${module}.q.weight`, (c) => [width(c), c.hiddenSize]),
    row(`${role}.k.weight`, `${module}.k.weight`, (c) => [width(c), c.hiddenSize]),
    row(`${role}.v.weight`, `${module}.v.weight`, (c) => [width(c), c.hiddenSize]),
    row(`${role}.o.weight`, `${module}.o.weight`, (c) => [c.hiddenSize, width(c)]),
  ]
}

function stackRows(stack: Stack): TensorRow[] {
  const { prefix, hf, blocks, mlp } = stack
  const up = `${hf}.block.{i}.layer.${mlp}.DenseReluDense`
  return [
    ...attention(stack, 0, 'attn', 'attn_norm', 'SelfAttention'),
    {
      role: `${prefix}.blocks.{i}.attn.position_bias.weight`,
      hf: `${hf}.block.{i}.layer.0.SelfAttention.relative_attention_bias.weight`,
      shape: (c) => [c.relativePositions?.buckets ?? DEFAULT_BUCKETS, c.heads],
      // the first block's serves all
      when: (_, block) => block === 0,
      blocks,
    },
    ...(mlp === 2 ? attention(stack, 1, 'cross', 'cross_norm', 'EncDecAttention') : []),
    {
      role: `${prefix}.blocks.{i}.mlp_norm.weight`,
      hf: `${hf}.block.{i}.layer.${mlp}.layer_norm.weight`,
      shape: (c) => [c.hiddenSize],
      blocks,
    },
    {
      role: `${prefix}.blocks.{i}.mlp.gate.weight`,
      hf: `${up}.wi_0.weight`,
      shape: (c) => [c.intermediateSize, c.hiddenSize],
      when: isGatedT5,
      blocks,
    },
    {
      role: `${prefix}.blocks.{i}.mlp.up.weight`,
      hf: `${up}.wi_1.weight`,
      shape: (c) => [c.intermediateSize, c.hiddenSize],
      when: isGatedT5,
      blocks,
    },
    {
      role: `${prefix}.blocks.{i}.mlp.up.weight`,
      hf: `${up}.wi.weight`,
      shape: (c) => [c.intermediateSize, c.hiddenSize],
      when: (c) => !isGatedT5(c),
      blocks,
    },
    {
      role: `${prefix}.blocks.{i}.mlp.down.weight`,
      hf: `${up}.wo.weight`,
      shape: (c) => [c.hiddenSize, c.intermediateSize],
      blocks,
    },
    { role: `${prefix}.final_norm.weight`, hf: `${hf}.final_layer_norm.weight`, shape: (c) => [c.hiddenSize] },
  ]
}

/**
 * T5, T5 1.1 and Flan-T5: an encoder and a decoder with relative positions, RMS norms and scores that are not scaled.
 * A tied head takes the decoder's output divided by the root of the hidden size.
 */
export const t5: Architecture = {
  id: 't5',
  classNames: ['T5ForConditionalGeneration', 'T5WithLMHeadModel'],
  baseClassName: 'T5Model',
  modelTypes: ['t5'],
  defaults: {
    tied: true,
    ropeTheta: 10_000,
    normEpsilon: 1e-6,
    contextLength: 512,
    activation: 'relu',
    headDim: 64,
    kvHeads: null,
    bosId: null,
    eosId: 1,
  },
  keys: {
    hiddenSize: 'd_model',
    layers: 'num_layers',
    intermediateSize: 'd_ff',
    heads: 'num_heads',
    headDim: 'd_kv',
    contextLength: 'n_positions',
    normEpsilon: 'layer_norm_epsilon',
    activation: 'dense_act_fn',
  },
  facts: ({ raw, layers, padId }) => ({
    attentionScale: 1,
    decoder: {
      layers: numberAt(raw, 'num_decoder_layers') ?? layers,
      startId: numberAt(raw, 'decoder_start_token_id') ?? padId ?? 0,
    },
    relativePositions: {
      buckets: numberAt(raw, 'relative_attention_num_buckets') ?? DEFAULT_BUCKETS,
      maxDistance: numberAt(raw, 'relative_attention_max_distance') ?? DEFAULT_DISTANCE,
    },
  }),
  tensors: [
    {
      role: 'embed.weight',
      hf: 'shared.weight',
      aliases: ['encoder.embed_tokens.weight', 'decoder.embed_tokens.weight'],
      shape: (c) => [c.vocabSize, c.hiddenSize],
    },
    ...stackRows({ prefix: 'encoder', hf: 'encoder', blocks: (c) => c.layers, mlp: 1 }),
    ...stackRows({ prefix: 'decoder', hf: 'decoder', blocks: (c) => c.decoder?.layers ?? c.layers, mlp: 2 }),
    { role: 'lm_head.weight', hf: 'lm_head.weight', shape: (c) => [c.vocabSize, c.hiddenSize], when: (c) => !c.tied },
  ],
  // copies of the embedding, and a bias that the first checkpoints have and no version reads
  ignored: [/^(?:encoder|decoder)\.embed_tokens\.weight$/, /\.EncDecAttention\.relative_attention_bias\.weight$/],
  unsupported,
  slidingWindow: () => null,
  rotary: 'none',
}
