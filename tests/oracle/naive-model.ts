import { writeFile } from 'node:fs/promises'
import path from 'node:path'

export type Vector = readonly number[]

/** A config.json with the sizes that every computation here asks for. */
export interface NaiveConfig {
  readonly architectures: readonly [string]
  readonly model_type: string
  readonly hidden_size: number
  readonly num_hidden_layers: number
  readonly num_attention_heads: number
  readonly vocab_size: number
  readonly [key: string]: unknown
}

/** Sizes at which every quantised type of GGUF fits a row, and a run takes a moment. */
export const SIZES = {
  hidden_size: 256,
  intermediate_size: 256,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  vocab_size: 1024,
  rope_theta: 10_000,
  max_position_embeddings: 512,
  tie_word_embeddings: false,
}

/**
 * A model computed straight from what its class in transformers does, one token and one number at a time, in float64. The
 * weights are whatever the computation asks for, made up from their names and rounded to float32.
 */
export abstract class NaiveModel {
  readonly weights = new Map<string, { readonly shape: readonly number[]; readonly values: Float32Array }>()
  readonly config: NaiveConfig

  constructor(config: NaiveConfig) {
    this.config = config
  }

  /** Logits of every position, [tokens, vocabulary]. */
  abstract logits(ids: readonly number[]): number[]

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

  /** A number of the configuration. */
  protected size(key: string): number {
    const value = this.config[key]
    if (typeof value !== 'number') throw new Error(`${this.config.model_type} has no ${key}`)
    return value
  }

  /** A tensor, made up when first asked for: about `middle`, as far from it as `reach` says. */
  protected weight(name: string, shape: readonly number[], reach: number, middle = 0): Float32Array {
    const found = this.weights.get(name)
    if (found !== undefined) return found.values
    let state = [...name].reduce((hash, letter) => Math.imul(hash ^ letter.charCodeAt(0), 16_777_619), 0x811c9dc5) >>> 0
    const values = Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => {
      state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
      return middle + (state / 2 ** 31 - 1) * reach
    })
    this.weights.set(name, { shape, values })
    return values
  }

  protected row(name: string, rows: number, columns: number, index: number): number[] {
    return Array.from(
      this.weight(name, [rows, columns], 2 / Math.sqrt(columns)).subarray(index * columns, (index + 1) * columns),
    )
  }

  protected bias(name: string, length: number): Float32Array {
    return this.weight(name, [length], 0.3)
  }

  linear(name: string, x: Vector, rows: number, bias = false): number[] {
    const matrix = this.weight(`${name}.weight`, [rows, x.length], 2 / Math.sqrt(x.length))
    return times(matrix, x, bias ? this.bias(`${name}.bias`, rows) : new Float32Array(rows))
  }

  protected rmsNorm(name: string, x: Vector, epsilon: number): number[] {
    const weight = this.weight(`${name}.weight`, [x.length], 0.25, 1)
    const mean = x.reduce((sum, value) => sum + value * value, 0) / x.length
    return x.map((value, i) => (value / Math.sqrt(mean + epsilon)) * weight[i]!)
  }

  protected layerNorm(name: string, x: Vector, epsilon: number, bias = true): number[] {
    const weight = this.weight(`${name}.weight`, [x.length], 0.25, 1)
    const offset = bias ? this.weight(`${name}.bias`, [x.length], 0.3) : null
    const mean = x.reduce((sum, value) => sum + value, 0) / x.length
    const variance = x.reduce((sum, value) => sum + (value - mean) ** 2, 0) / x.length
    return x.map((value, i) => ((value - mean) / Math.sqrt(variance + epsilon)) * weight[i]! + (offset?.[i] ?? 0))
  }
}

/** `matrix` [rows, columns] times `x`, and `offset`. */
export function times(matrix: Float32Array, x: Vector, offset: ArrayLike<number>): number[] {
  return Array.from(offset, (start, row) => {
    let sum = start
    for (let column = 0; column < x.length; column++) sum += x[column]! * matrix[row * x.length + column]!
    return sum
  })
}

export function add(x: Vector, y: Vector, factor = 1): number[] {
  return x.map((value, i) => value + factor * y[i]!)
}

export function dot(x: Vector, y: Vector): number {
  return x.reduce((sum, value, i) => sum + value * y[i]!, 0)
}

export function softmax(x: Vector): number[] {
  const max = Math.max(...x)
  const powers = x.map((value) => Math.exp(value - max))
  const sum = powers.reduce((a, b) => a + b, 0)
  return powers.map((value) => value / sum)
}

export const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x))
export const silu = (x: number): number => x * sigmoid(x)

/** The indices of the `count` largest. */
export function largest(x: Vector, count: number): number[] {
  return [...x.keys()].toSorted((a, b) => x[b]! - x[a]!).slice(0, count)
}

/** Heads of one flat vector. */
export function heads(flat: Vector, count: number): Vector[] {
  const width = flat.length / count
  return Array.from({ length: count }, (_, head) => flat.slice(head * width, (head + 1) * width))
}

/** How fast each pair of channels turns, and what is multiplied into both. */
export interface Rotation {
  readonly frequencies: Vector
  readonly factor: number
}

export function plainRotation(dim: number, theta: number): Rotation {
  return { frequencies: Array.from({ length: dim / 2 }, (_, i) => theta ** ((-2 * i) / dim)), factor: 1 }
}

/** YaRN as modeling_rope_utils.py has it. */
export function yarnRotation(
  dim: number,
  theta: number,
  scaling: Readonly<Record<string, number | boolean>>,
): Rotation {
  const at = (key: string, fallback: number): number => (scaling[key] as number | undefined) ?? fallback
  const [factor, original] = [at('factor', 1), at('original_max_position_embeddings', 0)]
  const bound = (turns: number): number => (dim * Math.log(original / (turns * 2 * Math.PI))) / (2 * Math.log(theta))
  const rounds = scaling['truncate'] !== false
  const [from, to] = [bound(at('beta_fast', 32)), bound(at('beta_slow', 1))]
  const low = Math.max(0, rounds ? Math.floor(from) : from)
  const high = Math.min(dim - 1, rounds ? Math.ceil(to) : to)
  const frequencies = plainRotation(dim, theta).frequencies.map((plain, i) => {
    const stretched = Math.min(1, Math.max(0, (i - low) / (high - low || 0.001)))
    return plain * (1 - stretched) + (plain / factor) * stretched
  })
  const scale = (by: number): number => (factor <= 1 ? 1 : 0.1 * by * Math.log(factor) + 1)
  const [one, all] = [at('mscale', 0), at('mscale_all_dim', 0)]
  return { frequencies, factor: one !== 0 && all !== 0 ? scale(one) / scale(all) : scale(1) }
}

/** Turns the first channels of a head: channel i with i + d/2, or 2i with 2i + 1 where they lie `interleaved`. */
export function turn(x: Vector, position: number, { frequencies, factor }: Rotation, interleaved = false): number[] {
  const result = [...x]
  for (const [i, frequency] of frequencies.entries()) {
    const [a, b] = interleaved ? [2 * i, 2 * i + 1] : [i, i + frequencies.length]
    const [cos, sin] = [factor * Math.cos(position * frequency), factor * Math.sin(position * frequency)]
    result[a] = x[a]! * cos - x[b]! * sin
    result[b] = x[b]! * cos + x[a]! * sin
  }
  return result
}

/** What each head of a position makes of those that it sees; `window` tokens at most, `sink` a score that none has. */
export function attend(
  q: readonly Vector[][],
  k: readonly Vector[][],
  v: readonly Vector[][],
  scale: number,
  { window = Number.POSITIVE_INFINITY, sinks }: { window?: number; sinks?: Float32Array } = {},
): number[][] {
  return q.map((queries, t) =>
    queries.flatMap((query, head) => {
      const group = Math.floor((head * k[0]!.length) / queries.length)
      const first = Math.max(0, t - window + 1)
      const scores = k.slice(first, t + 1).map((keys) => dot(query, keys[group]!) * scale)
      const shares = softmax(sinks === undefined ? scores : [...scores, sinks[head]!])
      return v[0]![group]!.map((_, i) => scores.reduce((sum, _s, s) => sum + shares[s]! * v[first + s]![group]![i]!, 0))
    }),
  )
}
