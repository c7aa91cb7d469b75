import { writeFile } from 'node:fs/promises'
import path from 'node:path'

/**
 * Decoders computed straight from what transformers' classes do, one token and one number at a time, in float64: for
 * architectures of which no trained test model is here. The weights are whatever the computation asks for, made up from
 * their names and rounded to float32.
 */
export interface DecoderConfig {
  readonly architectures: readonly [string]
  readonly model_type: string
  readonly hidden_size: number
  readonly intermediate_size: number
  readonly num_hidden_layers: number
  readonly num_attention_heads: number
  readonly num_key_value_heads: number
  readonly head_dim: number
  readonly vocab_size: number
  readonly rms_norm_eps: number
  readonly rope_theta: number
  readonly [key: string]: unknown
}

const SIZES = {
  hidden_size: 64,
  intermediate_size: 96,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 16,
  vocab_size: 1024,
  rms_norm_eps: 1e-6,
  rope_theta: 10_000,
  max_position_embeddings: 512,
  tie_word_embeddings: false,
  hidden_act: 'silu',
}
const EXPERTS = { num_experts: 4, num_experts_per_tok: 2, moe_intermediate_size: 32 }

/** The architectures of which no trained test model is here, and Llama to tell the computation itself from theirs. */
export const UNTRAINED: readonly DecoderConfig[] = [
  { ...SIZES, architectures: ['LlamaForCausalLM'], model_type: 'llama' },
  {
    ...SIZES,
    architectures: ['GraniteForCausalLM'],
    model_type: 'granite',
    embedding_multiplier: 12,
    residual_multiplier: 0.22,
    attention_multiplier: 0.15,
    logits_scaling: 8,
  },
  {
    ...SIZES,
    ...EXPERTS,
    architectures: ['Qwen2MoeForCausalLM'],
    model_type: 'qwen2_moe',
    norm_topk_prob: false,
    shared_expert_intermediate_size: 48,
  },
  { ...SIZES, ...EXPERTS, architectures: ['Qwen3MoeForCausalLM'], model_type: 'qwen3_moe', norm_topk_prob: true },
]

type Vector = readonly number[]

interface Made {
  readonly shape: readonly number[]
  readonly values: Float32Array
}

export class Decoder {
  readonly weights = new Map<string, Made>()
  readonly config: DecoderConfig

  constructor(config: DecoderConfig) {
    this.config = config
  }

  /** Logits of every position, [tokens, vocabulary]. */
  logits(ids: readonly number[]): number[] {
    const { config } = this
    const residual = this.#scale('residual_multiplier')
    let states = ids.map((id) => {
      const embed = this.#weight('model.embed_tokens.weight', [config.vocab_size, config.hidden_size])
      const start = id * config.hidden_size
      const row = embed.slice(start, start + config.hidden_size)
      return Array.from(row, (x) => x * this.#scale('embedding_multiplier'))
    })
    for (let i = 0; i < config.num_hidden_layers; i++) {
      const layer = `model.layers.${i}`
      const attended = this.#attention(
        layer,
        states.map((x) => this.#norm(`${layer}.input_layernorm`, x)),
      )
      states = states.map((x, t) => add(x, attended[t]!, residual))
      const mixed = states.map((x) => this.#mlp(layer, this.#norm(`${layer}.post_attention_layernorm`, x)))
      states = states.map((x, t) => add(x, mixed[t]!, residual))
    }
    return states.flatMap((x) =>
      this.#linear('lm_head', this.#norm('model.norm', x), config.vocab_size).map(
        (logit) => logit / this.#scale('logits_scaling'),
      ),
    )
  }

  /** Writes the checkpoint that was computed with. */
  async save(folder: string): Promise<void> {
    await writeFile(path.join(folder, 'config.json'), JSON.stringify({ ...this.config, torch_dtype: 'float32' }))
    const header: Record<string, unknown> = {}
    let at = 0
    for (const [name, { shape, values }] of this.weights) {
      header[name] = { dtype: 'F32', shape, data_offsets: [at, at + values.byteLength] }
      at += values.byteLength
    }
    const text = Buffer.from(JSON.stringify(header))
    const length = Buffer.alloc(8)
    length.writeBigUInt64LE(BigInt(text.length))
    const parts = [...this.weights.values()].map(({ values }) => Buffer.from(values.buffer))
    await writeFile(path.join(folder, 'model.safetensors'), Buffer.concat([length, text, ...parts]))
  }

  #scale(key: string): number {
    return typeof this.config[key] === 'number' ? this.config[key] : 1
  }

  #weight(name: string, shape: readonly number[]): Float32Array {
    const found = this.weights.get(name)
    if (found !== undefined) return found.values
    let state = [...name].reduce((hash, letter) => Math.imul(hash ^ letter.charCodeAt(0), 16_777_619), 0x811c9dc5) >>> 0
    const values = Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => {
      state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
      const even = state / 2 ** 31 - 1
      return name.endsWith('norm.weight')
        ? 1 + even / 4
        : even * (shape.length === 1 ? 0.3 : 2 / Math.sqrt(shape.at(-1)!))
    })
    this.weights.set(name, { shape, values })
    return values
  }

  #linear(name: string, x: Vector, rows: number, bias = false): number[] {
    const matrix = this.#weight(`${name}.weight`, [rows, x.length])
    const offset = bias ? this.#weight(`${name}.bias`, [rows]) : null
    return Array.from({ length: rows }, (_, row) =>
      x.reduce((sum, value, column) => sum + value * matrix[row * x.length + column]!, offset?.[row] ?? 0),
    )
  }

  #norm(name: string, x: Vector): number[] {
    const weight = this.#weight(`${name}.weight`, [x.length])
    const mean = x.reduce((sum, value) => sum + value * value, 0) / x.length
    return x.map((value, i) => (value / Math.sqrt(mean + this.config.rms_norm_eps)) * weight[i]!)
  }

  #attention(layer: string, states: readonly Vector[]): number[][] {
    const { config } = this
    const [heads, kvHeads, d] = [config.num_attention_heads, config.num_key_value_heads, config.head_dim]
    const biased = config.model_type === 'qwen2_moe'
    const project = (which: 'q' | 'k' | 'v', count: number): Vector[][] =>
      states.map((x, position) => {
        const flat = this.#linear(`${layer}.self_attn.${which}_proj`, x, count * d, biased)
        return Array.from({ length: count }, (_, head) => {
          const part = flat.slice(head * d, (head + 1) * d)
          if (which === 'v') return part
          const normed = config.model_type === 'qwen3_moe' ? this.#norm(`${layer}.self_attn.${which}_norm`, part) : part
          return rotate(normed, position, config.rope_theta)
        })
      })
    const [q, k, v] = [project('q', heads), project('k', kvHeads), project('v', kvHeads)]
    const scale = typeof config['attention_multiplier'] === 'number' ? config['attention_multiplier'] : d ** -0.5
    return q.map((queries, t) => {
      const joined = queries.flatMap((query, head) => {
        const group = Math.floor(head / (heads / kvHeads))
        const shares = softmax(k.slice(0, t + 1).map((keys) => dot(query, keys[group]!) * scale))
        return query.map((_, i) => shares.reduce((sum, share, s) => sum + share * v[s]![group]![i]!, 0))
      })
      return this.#linear(`${layer}.self_attn.o_proj`, joined, config.hidden_size)
    })
  }

  #gated(name: string, x: Vector, width: number): number[] {
    const gate = this.#linear(`${name}.gate_proj`, x, width)
    const up = this.#linear(`${name}.up_proj`, x, width)
    return this.#linear(
      `${name}.down_proj`,
      gate.map((value, i) => (value / (1 + Math.exp(-value))) * up[i]!),
      x.length,
    )
  }

  #mlp(layer: string, x: Vector): number[] {
    const { config } = this
    const count = config['num_experts']
    if (typeof count !== 'number') return this.#gated(`${layer}.mlp`, x, config.intermediate_size)
    const width = config['moe_intermediate_size'] as number
    const shares = softmax(this.#linear(`${layer}.mlp.gate`, x, count))
    const chosen = [...shares.keys()]
      .toSorted((a, b) => shares[b]! - shares[a]!)
      .slice(0, config['num_experts_per_tok'] as number)
    const total = config['norm_topk_prob'] === true ? chosen.reduce((sum, e) => sum + shares[e]!, 0) : 1
    // those that this token does not take are part of the checkpoint too
    const outputs = shares.map((_, expert) => this.#gated(`${layer}.mlp.experts.${expert}`, x, width))
    let sum: number[] = x.map(() => 0)
    for (const expert of chosen) sum = add(sum, outputs[expert]!, shares[expert]! / total)
    const shared = config['shared_expert_intermediate_size']
    if (typeof shared !== 'number') return sum
    const [gate] = this.#linear(`${layer}.mlp.shared_expert_gate`, x, 1)
    return add(sum, this.#gated(`${layer}.mlp.shared_expert`, x, shared), 1 / (1 + Math.exp(-gate!)))
  }
}

function add(x: Vector, y: Vector, factor: number): number[] {
  return x.map((value, i) => value + factor * y[i]!)
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
function rotate(x: Vector, position: number, theta: number): number[] {
  const half = x.length / 2
  return x.map((value, i) => {
    const angle = position * theta ** (-(i % half) / half)
    const other = i < half ? -x[i + half]! : x[i - half]!
    return value * Math.cos(angle) + other * Math.sin(angle)
  })
}
