import { Decoder, type DecoderConfig } from './forward.ts'
import { linear, llama3, plain, rotate, yarn, type Rotary, type Scaling } from './rotary.ts'

/**
 * More decoders in float64, each as its class in transformers 5 computes it: what follows what in a block, where norms
 * are, how heads turn and which tokens they see.
 */
interface Family {
  /** RMS with the weight, or with 1 + weight; or LayerNorm without a bias. */
  readonly norm: 'weight' | 'one-plus-weight' | 'layer'
  /** Names of the norms before and after attention, and before and after the MLP; null where there is none. */
  readonly norms: readonly [string | null, string | null, string | null, string | null]
  /** Attention and MLP both see the block's input. */
  readonly parallel?: true
  readonly activation: (x: number) => number
  /** How the MLP differs from gate, up and down: gate and up in one matrix, or no gate. */
  readonly mlp?: 'fused' | 'plain'
  readonly embeddingScale?: (config: DecoderConfig) => number
  /** Norms of queries and keys: of each head or of all together, before they turn or after. */
  readonly queryNorm?: { readonly of: 'head' | 'all'; readonly names: readonly [string, string]; readonly last?: true }
  readonly biased?: (config: DecoderConfig) => boolean
  readonly window: (config: DecoderConfig, layer: number) => number
  readonly rotary: (config: DecoderConfig, layer: number) => Rotary | null
  readonly attentionScale?: (config: DecoderConfig) => number
  readonly logitScale?: (config: DecoderConfig) => number
}

const LLAMA_NORMS = ['input_layernorm', null, 'post_attention_layernorm', null] as const
const POST_NORMS = [null, 'post_attention_layernorm', null, 'post_feedforward_layernorm'] as const
const SANDWICH_NORMS = [
  'input_layernorm',
  'post_attention_layernorm',
  'pre_feedforward_layernorm',
  'post_feedforward_layernorm',
] as const
const QUERY_NORMS = ['q_norm', 'k_norm'] as const

const everything = (): number => Number.POSITIVE_INFINITY

const silu = (x: number): number => x / (1 + Math.exp(-x))
const gelu = (x: number): number => (x / 2) * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044_715 * x ** 3)))

/** Whether a block has a window: `layer_types`, or all but every n-th. */
const isSliding = (config: DecoderConfig, layer: number, usual: number): boolean => {
  const types = config['layer_types'] as readonly string[] | undefined
  const period = (config['sliding_window_pattern'] as number | undefined) ?? usual
  return types === undefined ? (layer + 1) % period !== 0 : types[layer] === 'sliding_attention'
}

const windowOf = (usual: number) => (config: DecoderConfig, layer: number) =>
  isSliding(config, layer, usual) ? (config['sliding_window'] as number) : Number.POSITIVE_INFINITY

/** What of a configuration says how a kind of block turns. */
const scalingOf = (config: DecoderConfig, kind: string): Scaling => {
  const all = config['rope_parameters'] as Record<string, Scaling> | undefined
  return all?.[kind] ?? (config['rope_scaling'] as Scaling | null | undefined) ?? {}
}

const partly = (config: DecoderConfig): Rotary => {
  const part = (config['partial_rotary_factor'] as number | undefined) ?? 0.5
  return plain(config.rope_theta, config.head_dim * part, true)
}

const FAMILIES: Readonly<Record<string, Family>> = {
  gemma: {
    norm: 'one-plus-weight',
    norms: LLAMA_NORMS,
    activation: gelu,
    embeddingScale: (c) => Math.sqrt(c.hidden_size),
    window: everything,
    rotary: (c) => plain(c.rope_theta, c.head_dim),
  },
  gemma3_text: {
    norm: 'one-plus-weight',
    norms: SANDWICH_NORMS,
    activation: gelu,
    embeddingScale: (c) => Math.sqrt(c.hidden_size),
    queryNorm: { of: 'head', names: QUERY_NORMS },
    window: windowOf(6),
    rotary: (c, i) => {
      if (!isSliding(c, i, 6)) {
        const { rope_theta: theta, factor } = scalingOf(c, 'full_attention')
        return linear(theta ?? c.rope_theta, c.head_dim, factor ?? 1)
      }
      const own = (c['rope_parameters'] as Record<string, Scaling> | undefined)?.['sliding_attention']
      return plain(own?.rope_theta ?? (c['rope_local_base_freq'] as number), c.head_dim)
    },
    attentionScale: (c) => (c['query_pre_attn_scalar'] as number) ** -0.5,
  },
  olmo2: {
    norm: 'weight',
    norms: POST_NORMS,
    activation: silu,
    queryNorm: { of: 'all', names: QUERY_NORMS },
    window: everything,
    rotary: (c) => plain(c.rope_theta, c.head_dim),
  },
  olmo3: {
    norm: 'weight',
    norms: POST_NORMS,
    activation: silu,
    queryNorm: { of: 'all', names: QUERY_NORMS },
    window: windowOf(4),
    rotary: (c, i) => {
      const scaling = scalingOf(c, 'full_attention')
      if (isSliding(c, i, 4) || scaling.rope_type !== 'yarn') return plain(c.rope_theta, c.head_dim)
      return yarn(c.rope_theta, c.head_dim, scaling)
    },
  },
  smollm3: {
    norm: 'weight',
    norms: LLAMA_NORMS,
    activation: silu,
    window: everything,
    rotary: (c, i) => {
      const turns = (c['no_rope_layers'] as readonly number[] | undefined)?.[i] ?? Number((i + 1) % 4 !== 0)
      return turns === 0 ? null : plain(c.rope_theta, c.head_dim)
    },
  },
  exaone4: {
    norm: 'weight',
    norms: POST_NORMS,
    activation: silu,
    queryNorm: { of: 'head', names: QUERY_NORMS },
    window: (c, i) => (c['sliding_window'] === null ? everything() : windowOf(4)(c, i)),
    rotary: (c, i) => {
      if (c['sliding_window'] !== null && !isSliding(c, i, 4)) return null
      const scaling = scalingOf(c, 'all')
      return scaling.rope_type === 'llama3'
        ? llama3(c.rope_theta, c.head_dim, scaling)
        : plain(c.rope_theta, c.head_dim)
    },
  },
  seed_oss: {
    norm: 'weight',
    norms: LLAMA_NORMS,
    activation: silu,
    biased: (c) => c['attention_bias'] !== false,
    window: everything,
    rotary: (c) => plain(c.rope_theta, c.head_dim),
  },
  ernie4_5: {
    norm: 'weight',
    norms: LLAMA_NORMS,
    activation: silu,
    window: everything,
    rotary: (c) => plain(c.rope_theta, c.head_dim, true),
  },
  glm: {
    norm: 'weight',
    norms: LLAMA_NORMS,
    activation: silu,
    mlp: 'fused',
    biased: (c) => c['attention_bias'] !== false,
    window: everything,
    rotary: partly,
  },
  glm4: {
    norm: 'weight',
    norms: ['input_layernorm', 'post_self_attn_layernorm', 'post_attention_layernorm', 'post_mlp_layernorm'],
    activation: silu,
    mlp: 'fused',
    biased: (c) => c['attention_bias'] !== false,
    window: everything,
    rotary: partly,
  },
  hunyuan_v1_dense: {
    norm: 'weight',
    norms: LLAMA_NORMS,
    activation: silu,
    queryNorm: { of: 'head', names: ['query_layernorm', 'key_layernorm'], last: true },
    window: everything,
    rotary: (c) => {
      const { alpha = 1 } = scalingOf(c, 'all')
      return plain(c.rope_theta * alpha ** (c.head_dim / (c.head_dim - 2)), c.head_dim)
    },
  },
  arcee: {
    norm: 'weight',
    norms: LLAMA_NORMS,
    activation: (x) => Math.max(0, x) ** 2,
    mlp: 'plain',
    window: everything,
    rotary: (c) => yarn(c.rope_theta, c.head_dim, scalingOf(c, 'all')),
  },
  cohere: {
    norm: 'layer',
    norms: ['input_layernorm', null, null, null],
    parallel: true,
    activation: silu,
    window: everything,
    rotary: (c) => plain(c.rope_theta, c.head_dim, true),
    logitScale: (c) => c['logit_scale'] as number,
  },
  cohere2: {
    norm: 'layer',
    norms: ['input_layernorm', null, null, null],
    parallel: true,
    activation: silu,
    window: windowOf(4),
    rotary: (c, i) => (isSliding(c, i, 4) ? plain(c.rope_theta, c.head_dim, true) : null),
    logitScale: (c) => c['logit_scale'] as number,
  },
}

const SIZES = {
  hidden_size: 64,
  intermediate_size: 96,
  num_hidden_layers: 3,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 16,
  vocab_size: 1024,
  rms_norm_eps: 1e-6,
  rope_theta: 10_000,
  max_position_embeddings: 512,
  tie_word_embeddings: false,
  hidden_act: 'silu',
  // those of the tokenizer that they are tested with
  bos_token_id: 0,
  eos_token_id: 2,
  pad_token_id: 0,
}

const GEMMA3 = {
  ...SIZES,
  architectures: ['Gemma3ForCausalLM'],
  model_type: 'gemma3_text',
  hidden_activation: 'gelu_pytorch_tanh',
  query_pre_attn_scalar: 16,
  sliding_window: 4,
  tie_word_embeddings: true,
} as const

/** A configuration of each family, and others that go another way through the same code. */
export const MADE_UP: Readonly<Record<string, DecoderConfig>> = {
  gemma: {
    ...SIZES,
    architectures: ['GemmaForCausalLM'],
    model_type: 'gemma',
    head_dim: 32,
    hidden_act: 'gelu',
    tie_word_embeddings: true,
  },
  gemma3_text: {
    ...GEMMA3,
    num_hidden_layers: 7,
    rope_theta: 1_000_000,
    rope_local_base_freq: 10_000,
    rope_scaling: { rope_type: 'linear', factor: 8 },
    sliding_window_pattern: 6,
  },
  'gemma3_text of transformers 5, another period and a head': {
    ...GEMMA3,
    layer_types: ['sliding_attention', 'full_attention', 'sliding_attention'],
    rope_parameters: {
      full_attention: { rope_type: 'linear', rope_theta: 500_000, factor: 2 },
      sliding_attention: { rope_type: 'default', rope_theta: 5000 },
    },
    tie_word_embeddings: false,
  },
  'gemma3_text without windows': {
    ...GEMMA3,
    layer_types: ['full_attention', 'full_attention', 'full_attention'],
    rope_scaling: null,
  },
  'gemma3_text with windows everywhere': {
    ...GEMMA3,
    num_hidden_layers: 7,
    layer_types: Array.from({ length: 7 }, () => 'sliding_attention'),
    rope_local_base_freq: 20_000,
    rope_scaling: null,
  },
  olmo2: { ...SIZES, architectures: ['Olmo2ForCausalLM'], model_type: 'olmo2' },
  olmo3: {
    ...SIZES,
    architectures: ['Olmo3ForCausalLM'],
    model_type: 'olmo3',
    num_hidden_layers: 5,
    sliding_window: 4,
    rope_theta: 500_000,
    rope_scaling: { rope_type: 'yarn', factor: 8, original_max_position_embeddings: 64 },
  },
  'olmo3 with another period': {
    ...SIZES,
    architectures: ['Olmo3ForCausalLM'],
    model_type: 'olmo3',
    sliding_window: 4,
    layer_types: ['sliding_attention', 'full_attention', 'sliding_attention'],
  },
  smollm3: {
    ...SIZES,
    architectures: ['SmolLM3ForCausalLM'],
    model_type: 'smollm3',
    num_hidden_layers: 5,
    tie_word_embeddings: true,
    no_rope_layers: [1, 1, 1, 0, 1],
  },
  exaone4: { ...SIZES, architectures: ['Exaone4ForCausalLM'], model_type: 'exaone4', sliding_window: null },
  'exaone4 of 64 blocks, most of them with windows': {
    ...SIZES,
    architectures: ['Exaone4ForCausalLM'],
    model_type: 'exaone4',
    hidden_size: 32,
    intermediate_size: 32,
    num_hidden_layers: 64,
    num_attention_heads: 2,
    num_key_value_heads: 1,
    sliding_window: 4,
    sliding_window_pattern: 4,
    rope_scaling: {
      rope_type: 'llama3',
      factor: 16,
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: 64,
    },
  },
  seed_oss: { ...SIZES, architectures: ['SeedOssForCausalLM'], model_type: 'seed_oss', head_dim: 32 },
  'seed_oss without biases': {
    ...SIZES,
    architectures: ['SeedOssForCausalLM'],
    model_type: 'seed_oss',
    attention_bias: false,
  },
  ernie4_5: {
    ...SIZES,
    architectures: ['Ernie4_5ForCausalLM'],
    model_type: 'ernie4_5',
    head_dim: 32,
    tie_word_embeddings: true,
  },
  glm: { ...SIZES, architectures: ['GlmForCausalLM'], model_type: 'glm', partial_rotary_factor: 1 },
  'glm of whose heads half the channels turn': { ...SIZES, architectures: ['GlmForCausalLM'], model_type: 'glm' },
  glm4: {
    ...SIZES,
    architectures: ['Glm4ForCausalLM'],
    model_type: 'glm4',
    head_dim: 32,
    attention_bias: false,
  },
  'glm4 with biases, of whose heads a quarter turns': {
    ...SIZES,
    architectures: ['Glm4ForCausalLM'],
    model_type: 'glm4',
    attention_bias: true,
    partial_rotary_factor: 0.25,
  },
  hunyuan_v1_dense: {
    ...SIZES,
    architectures: ['HunYuanDenseV1ForCausalLM'],
    model_type: 'hunyuan_v1_dense',
    head_dim: 32,
    rope_scaling: null,
  },
  'hunyuan_v1_dense with a raised base': {
    ...SIZES,
    architectures: ['HunYuanDenseV1ForCausalLM'],
    model_type: 'hunyuan_v1_dense',
    rope_scaling: { type: 'dynamic', alpha: 1000, factor: 1 },
  },
  arcee: {
    ...SIZES,
    architectures: ['ArceeForCausalLM'],
    model_type: 'arcee',
    hidden_act: 'relu2',
    rope_scaling: { rope_type: 'yarn', factor: 4, original_max_position_embeddings: 64 },
  },
  cohere: {
    ...SIZES,
    architectures: ['CohereForCausalLM'],
    model_type: 'cohere',
    layer_norm_eps: 1e-5,
    logit_scale: 0.0625,
    tie_word_embeddings: true,
  },
  cohere2: {
    ...SIZES,
    architectures: ['Cohere2ForCausalLM'],
    model_type: 'cohere2',
    num_hidden_layers: 5,
    layer_norm_eps: 1e-5,
    logit_scale: 0.25,
    sliding_window: 4,
    sliding_window_pattern: 4,
    tie_word_embeddings: true,
  },
}

type Vector = readonly number[]

/** A decoder of one of the families above. */
export class FamilyDecoder extends Decoder {
  readonly #family: Family

  constructor(config: DecoderConfig) {
    super(config)
    const family = FAMILIES[config.model_type]
    if (family === undefined) throw new Error(`${config.model_type} is no family of forward-families.ts`)
    this.#family = family
  }

  override logits(ids: readonly number[]): number[] {
    const { config } = this
    const { norms, embeddingScale, logitScale, parallel } = this.#family
    const [attentionIn, attentionOut, mlpIn, mlpOut] = norms
    const embedding = this.#weight('model.embed_tokens.weight', [config.vocab_size, config.hidden_size])
    const scale = embeddingScale?.(config) ?? 1
    let states: Vector[] = ids.map((id) =>
      Array.from(embedding.subarray(id * config.hidden_size, (id + 1) * config.hidden_size), (x) => x * scale),
    )
    for (let i = 0; i < config.num_hidden_layers; i++) {
      const at = `model.layers.${i}`
      const normed = (name: string | null, x: Vector): Vector =>
        name === null ? x : this.#norm(`${at}.${name}.weight`, x)
      const inputs = states.map((x) => normed(attentionIn, x))
      const attended = this.#attention(i, inputs)
      states = states.map((x, t) => add(x, normed(attentionOut, attended[t]!)))
      states = states.map((x, t) =>
        add(x, normed(mlpOut, this.#mlp(at, parallel === true ? inputs[t]! : normed(mlpIn, x)))),
      )
    }
    const head = config['tie_word_embeddings'] === true ? 'model.embed_tokens' : 'lm_head'
    return states.flatMap((x) =>
      this.#linear(head, this.#norm('model.norm.weight', x), config.vocab_size).map(
        (logit) => logit * (logitScale?.(config) ?? 1),
      ),
    )
  }

  /** Made up from its name: norms lie around what leaves a state as it is. */
  #weight(name: string, shape: readonly number[]): Float32Array {
    const found = this.weights.get(name)
    if (found !== undefined) return found.values
    let state = [...name].reduce((hash, letter) => Math.imul(hash ^ letter.charCodeAt(0), 16_777_619), 0x811c9dc5) >>> 0
    const middle = this.#family.norm === 'one-plus-weight' ? 0 : 1
    const values = Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => {
      state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
      const even = state / 2 ** 31 - 1
      // few digits: 1 can be added and taken away again without loss
      if (name.endsWith('norm.weight')) return middle + Math.round(even * 2 ** 14) / 2 ** 16
      return even * (shape.length === 1 ? 0.3 : 2 / Math.sqrt(shape.at(-1)!))
    })
    this.weights.set(name, { shape, values })
    return values
  }

  #linear(name: string, x: Vector, rows: number, biased = false): number[] {
    const matrix = this.#weight(`${name}.weight`, [rows, x.length])
    const bias = biased ? this.#weight(`${name}.bias`, [rows]) : null
    return Array.from({ length: rows }, (_, row) =>
      x.reduce((sum, value, column) => sum + value * matrix[row * x.length + column]!, bias?.[row] ?? 0),
    )
  }

  #norm(name: string, x: Vector): number[] {
    const { norm } = this.#family
    const weight = this.#weight(name, [x.length])
    const middle = norm === 'layer' ? x.reduce((sum, value) => sum + value, 0) / x.length : 0
    const power = x.reduce((sum, value) => sum + (value - middle) ** 2, 0) / x.length
    const epsilon = norm === 'layer' ? (this.config['layer_norm_eps'] as number) : this.config.rms_norm_eps
    const offset = norm === 'one-plus-weight' ? 1 : 0
    return x.map((value, i) => ((value - middle) / Math.sqrt(power + epsilon)) * (offset + weight[i]!))
  }

  #attention(layer: number, states: readonly Vector[]): number[][] {
    const { config } = this
    const { queryNorm, attentionScale, window, rotary, biased } = this.#family
    const at = `model.layers.${layer}.self_attn`
    const [heads, kvHeads, d] = [config.num_attention_heads, config.num_key_value_heads, config.head_dim]
    const turning = rotary(config, layer)
    const project = (which: 'q' | 'k' | 'v', count: number): Vector[][] =>
      states.map((x, position) => {
        const made = this.#linear(`${at}.${which}_proj`, x, count * d, biased?.(config))
        const name = queryNorm === undefined || which === 'v' ? null : queryNorm.names[which === 'q' ? 0 : 1]
        const normed = (part: Vector): Vector => (name === null ? part : this.#norm(`${at}.${name}.weight`, part))
        const flat = queryNorm?.of === 'all' ? normed(made) : made
        return Array.from({ length: count }, (_, head) => {
          const part = flat.slice(head * d, (head + 1) * d)
          if (which === 'v') return part
          const before = queryNorm?.of === 'head' && queryNorm.last === undefined ? normed(part) : part
          const turned = turning === null ? before : rotate(before, position, turning)
          return queryNorm?.last === true ? normed(turned) : turned
        })
      })
    const [q, k, v] = [project('q', heads), project('k', kvHeads), project('v', kvHeads)]
    const scale = attentionScale?.(config) ?? d ** -0.5
    const seen = window(config, layer)
    return q.map((queries, t) => {
      const first = Math.max(0, t - seen + 1)
      const joined = queries.flatMap((query, head) => {
        const group = Math.floor(head / (heads / kvHeads))
        const shares = softmax(k.slice(first, t + 1).map((keys) => dot(query, keys[group]!) * scale))
        return query.map((_, i) => shares.reduce((sum, share, s) => sum + share * v[first + s]![group]![i]!, 0))
      })
      return this.#linear(`${at}.o_proj`, joined, config.hidden_size)
    })
  }

  #mlp(layer: string, x: Vector): number[] {
    const { intermediate_size: width } = this.config
    if (this.#family.mlp === 'plain') {
      const inner = this.#linear(`${layer}.mlp.up_proj`, x, width).map(this.#family.activation)
      return this.#linear(`${layer}.mlp.down_proj`, inner, x.length)
    }
    const both = this.#family.mlp === 'fused' ? this.#linear(`${layer}.mlp.gate_up_proj`, x, 2 * width) : null
    const gate = both?.slice(0, width) ?? this.#linear(`${layer}.mlp.gate_proj`, x, width)
    const up = both?.slice(width) ?? this.#linear(`${layer}.mlp.up_proj`, x, width)
    return this.#linear(
      `${layer}.mlp.down_proj`,
      gate.map((value, i) => this.#family.activation(value) * up[i]!),
      x.length,
    )
  }
}

function add(x: Vector, y: Vector): number[] {
  return x.map((value, i) => value + y[i]!)
}

function dot(x: Vector, y: Vector): number {
  return x.reduce((sum, value, i) => sum + value * y[i]!, 0)
}

function softmax(x: Vector): number[] {
  const max = Math.max(...x)
  const powers = x.map((value) => Math.exp(value - max))
  const sum = powers.reduce((a, b) => a + b, 0)
  return powers.map((value) => value / sum)
}
