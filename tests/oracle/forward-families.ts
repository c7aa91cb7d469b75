import { Decoder, type DecoderConfig } from './forward.ts'

/**
 * More decoders in float64, each as its class in transformers 5 computes it: what follows what in a block, where norms
 * are, how heads turn and which tokens they see.
 */
interface Family {
  /** RMS with the weight, or with 1 + weight. */
  readonly norm: 'weight' | 'one-plus-weight'
  /** Names of the norms before and after attention, and before and after the MLP; null where there is none. */
  readonly norms: readonly [string | null, string | null, string | null, string | null]
  readonly activation: (x: number) => number
  readonly embeddingScale?: (config: DecoderConfig) => number
  /** Norms of queries and keys: of each head. */
  readonly queryNorm?: 'head'
  readonly window: (config: DecoderConfig, layer: number) => number
  readonly rotary: (config: DecoderConfig, layer: number) => Rotary | null
  readonly attentionScale?: (config: DecoderConfig) => number
}

interface Rotary {
  readonly theta: number
  /** Positions are divided by it. */
  readonly factor: number
}

const LLAMA_NORMS = ['input_layernorm', null, 'post_attention_layernorm', null] as const
const SANDWICH_NORMS = [
  'input_layernorm',
  'post_attention_layernorm',
  'pre_feedforward_layernorm',
  'post_feedforward_layernorm',
] as const

const everything = (): number => Number.POSITIVE_INFINITY

const gelu = (x: number): number => (x / 2) * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044_715 * x ** 3)))

const layerType = (config: DecoderConfig, layer: number, period: number): string => {
  const types = config['layer_types'] as readonly string[] | undefined
  return types?.[layer] ?? ((layer + 1) % period === 0 ? 'full_attention' : 'sliding_attention')
}

const FAMILIES: Readonly<Record<string, Family>> = {
  gemma: {
    norm: 'one-plus-weight',
    norms: LLAMA_NORMS,
    activation: gelu,
    embeddingScale: (c) => Math.sqrt(c.hidden_size),
    window: everything,
    rotary: (c) => ({ theta: c.rope_theta, factor: 1 }),
  },
  gemma3_text: {
    norm: 'one-plus-weight',
    norms: SANDWICH_NORMS,
    activation: gelu,
    embeddingScale: (c) => Math.sqrt(c.hidden_size),
    queryNorm: 'head',
    window: (c, i) =>
      layerType(c, i, period(c)) === 'full_attention' ? everything() : (c['sliding_window'] as number),
    rotary: (c, i) => {
      const type = layerType(c, i, period(c))
      const parameters = (c['rope_parameters'] as Record<string, Scaling> | undefined)?.[type]
      if (type !== 'full_attention')
        return { theta: parameters?.rope_theta ?? (c['rope_local_base_freq'] as number), factor: 1 }
      const scaling = parameters ?? (c['rope_scaling'] as Scaling | null)
      return { theta: parameters?.rope_theta ?? c.rope_theta, factor: scaling?.factor ?? 1 }
    },
    attentionScale: (c) => (c['query_pre_attn_scalar'] as number) ** -0.5,
  },
}

interface Scaling {
  readonly rope_theta?: number
  readonly factor?: number
}

function period(config: DecoderConfig): number {
  return (config['sliding_window_pattern'] as number | undefined) ?? 6
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
    const { norms, embeddingScale } = this.#family
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
      const attended = this.#attention(
        i,
        states.map((x) => normed(attentionIn, x)),
      )
      states = states.map((x, t) => add(x, normed(attentionOut, attended[t]!)))
      states = states.map((x) => add(x, normed(mlpOut, this.#mlp(at, normed(mlpIn, x)))))
    }
    const head = config['tie_word_embeddings'] === true ? 'model.embed_tokens' : 'lm_head'
    return states.flatMap((x) => this.#linear(head, this.#norm('model.norm.weight', x), config.vocab_size))
  }

  /** Made up from its name: norms lie around what leaves a state as it is. */
  #weight(name: string, shape: readonly number[]): Float32Array {
    const found = this.weights.get(name)
    if (found !== undefined) return found.values
    let state = [...name].reduce((hash, letter) => Math.imul(hash ^ letter.charCodeAt(0), 16_777_619), 0x811c9dc5) >>> 0
    const middle = this.#family.norm === 'weight' ? 1 : 0
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

  #linear(name: string, x: Vector, rows: number): number[] {
    const matrix = this.#weight(`${name}.weight`, [rows, x.length])
    return Array.from({ length: rows }, (_, row) =>
      x.reduce((sum, value, column) => sum + value * matrix[row * x.length + column]!, 0),
    )
  }

  #norm(name: string, x: Vector): number[] {
    const weight = this.#weight(name, [x.length])
    const mean = x.reduce((sum, value) => sum + value * value, 0) / x.length
    const offset = this.#family.norm === 'weight' ? 0 : 1
    return x.map((value, i) => (value / Math.sqrt(mean + this.config.rms_norm_eps)) * (offset + weight[i]!))
  }

  #attention(layer: number, states: readonly Vector[]): number[][] {
    const { config } = this
    const { queryNorm, attentionScale, window, rotary } = this.#family
    const at = `model.layers.${layer}.self_attn`
    const [heads, kvHeads, d] = [config.num_attention_heads, config.num_key_value_heads, config.head_dim]
    const turning = rotary(config, layer)
    const project = (which: 'q' | 'k' | 'v', count: number): Vector[][] =>
      states.map((x, position) => {
        const flat = this.#linear(`${at}.${which}_proj`, x, count * d)
        return Array.from({ length: count }, (_, head) => {
          const part = flat.slice(head * d, (head + 1) * d)
          if (which === 'v') return part
          const normed = queryNorm === 'head' ? this.#norm(`${at}.${which}_norm.weight`, part) : part
          return turning === null ? normed : rotate(normed, position, turning)
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
    const gate = this.#linear(`${layer}.mlp.gate_proj`, x, width)
    const up = this.#linear(`${layer}.mlp.up_proj`, x, width)
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

/** Channel i turns with channel i + d/2. */
function rotate(x: Vector, position: number, { theta, factor }: Rotary): number[] {
  const half = x.length / 2
  return x.map((value, i) => {
    const angle = (position / factor) * theta ** (-(i % half) / half)
    const other = i < half ? -x[i + half]! : x[i - half]!
    return value * Math.cos(angle) + other * Math.sin(angle)
  })
}
