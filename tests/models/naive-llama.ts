import type { ModelConfig } from '../../src/core/checkpoint.ts'

/** A Llama's forward pass in the plainest way, in doubles, with the multipliers of muP where the models apply them. */

export interface Multipliers {
  readonly embedding: number
  readonly residual: number
  readonly attention: number
  /** Logits are divided by it. */
  readonly logits: number
}

type Tensors = ReadonlyMap<string, Float64Array>

/** Logits of every position, [ids, vocabulary]. `tensors` by role, matrices [out, in]. */
export function forward(
  config: ModelConfig,
  tensors: Tensors,
  scale: Multipliers,
  ids: readonly number[],
): Float64Array {
  const { hiddenSize, heads, kvHeads, headDim, layers } = config
  const embedding = tensors.get('embed.weight')!
  const rows = ids.map((id) =>
    embedding.slice(id * hiddenSize, (id + 1) * hiddenSize).map((value) => value * scale.embedding),
  )
  for (let layer = 0; layer < layers; layer++) {
    const at = (name: string): string => `blocks.${layer}.${name}`
    const normed = rows.map((row) => norm(row, tensors.get(at('attn_norm.weight'))!, config.normEpsilon))
    const project = (name: string): Float64Array[] => normed.map((row) => linear(tensors, at(`attn.${name}`), row))
    const [q, k, v] = [project('q'), project('k'), project('v')]
    for (const [vectors, count] of [
      [q, heads],
      [k, kvHeads],
    ] as const) {
      vectors.forEach((vector, position) => rotate(vector, count, headDim, position, config.rope.theta))
    }
    rows.forEach((row, position) => {
      const mixed = new Float64Array(heads * headDim)
      for (let head = 0; head < heads; head++) {
        const shared = Math.floor(head / (heads / kvHeads)) * headDim
        const scores = k.slice(0, position + 1).map((key) => {
          let dot = 0
          for (let i = 0; i < headDim; i++) dot += q[position]![head * headDim + i]! * key[shared + i]!
          return dot * scale.attention
        })
        const top = Math.max(...scores)
        const weights = scores.map((score) => Math.exp(score - top))
        const sum = weights.reduce((total, weight) => total + weight, 0)
        weights.forEach((weight, past) => {
          for (let i = 0; i < headDim; i++) mixed[head * headDim + i]! += (weight / sum) * v[past]![shared + i]!
        })
      }
      addScaled(row, linear(tensors, at('attn.o'), mixed), scale.residual)
      const inner = norm(row, tensors.get(at('mlp_norm.weight'))!, config.normEpsilon)
      const up = linear(tensors, at('mlp.up'), inner)
      const gated = linear(tensors, at('mlp.gate'), inner).map((value, i) => (value / (1 + Math.exp(-value))) * up[i]!)
      addScaled(row, linear(tensors, at('mlp.down'), gated), scale.residual)
    })
  }
  const head = tensors.get('lm_head.weight') ?? embedding
  return Float64Array.from(
    rows.flatMap((row) => {
      const last = norm(row, tensors.get('final_norm.weight')!, config.normEpsilon)
      return [...multiply(head, last)].map((value) => value / scale.logits)
    }),
  )
}

function addScaled(row: Float64Array, delta: Float64Array, by: number): void {
  delta.forEach((value, i) => (row[i]! += value * by))
}

function norm(row: Float64Array, weight: Float64Array, epsilon: number): Float64Array {
  const mean = row.reduce((sum, value) => sum + value * value, 0) / row.length
  return row.map((value, i) => (value / Math.sqrt(mean + epsilon)) * weight[i]!)
}

function linear(tensors: Tensors, name: string, input: Float64Array): Float64Array {
  const bias = tensors.get(`${name}.bias`)
  return multiply(tensors.get(`${name}.weight`)!, input).map((value, i) => value + (bias?.[i] ?? 0))
}

function multiply(matrix: Float64Array, input: Float64Array): Float64Array {
  const output = new Float64Array(matrix.length / input.length)
  for (let row = 0; row < output.length; row++) {
    let sum = 0
    for (let i = 0; i < input.length; i++) sum += matrix[row * input.length + i]! * input[i]!
    output[row] = sum
  }
  return output
}

/** Channel i turns with channel i + headDim / 2. */
function rotate(vector: Float64Array, heads: number, headDim: number, position: number, theta: number): void {
  const half = headDim / 2
  for (let head = 0; head < heads; head++) {
    for (let i = 0; i < half; i++) {
      const angle = position * theta ** (-i / half)
      const [a, b] = [vector[head * headDim + i]!, vector[head * headDim + i + half]!]
      vector[head * headDim + i] = a * Math.cos(angle) - b * Math.sin(angle)
      vector[head * headDim + i + half] = b * Math.cos(angle) + a * Math.sin(angle)
    }
  }
}
