import type { ModelConfig } from '../core/checkpoint.ts'
import { log } from '../core/math.ts'
import type { Architecture } from './architecture.ts'
import { decoderIgnored, decoderRows, denseUnsupported, numberAt } from './llama.ts'

/** What LongRoPE multiplies queries and keys by together, where a configuration does not say: of Phi 3's own code. */
export function longRopeAttention(contextLength: number, originalContext: number): number {
  const factor = contextLength / originalContext
  return factor <= 1 ? 1 : Math.sqrt(1 + log(factor) / log(originalContext))
}

/** Rows of the fused projection: queries, then keys, then values. */
const fusedWidth = (config: ModelConfig): number => (config.heads + 2 * config.kvHeads) * config.headDim

const fused = decoderRows({
  insteadOfMlp: [
    {
      role: 'blocks.{i}.mlp.gate_up.weight',
      hf: 'model.layers.{i}.mlp.gate_up_proj.weight',
      shape: (c) => [2 * c.intermediateSize, c.hiddenSize],
    },
    {
      role: 'blocks.{i}.mlp.down.weight',
      hf: 'model.layers.{i}.mlp.down_proj.weight',
      shape: (c) => [c.hiddenSize, c.intermediateSize],
    },
  ],
}).flatMap((row) => {
  if (row.role === 'blocks.{i}.attn.k.weight' || row.role === 'blocks.{i}.attn.v.weight') return []
  if (row.role !== 'blocks.{i}.attn.q.weight') return [row]
  return [
    {
      role: 'blocks.{i}.attn.qkv.weight',
      hf: 'model.layers.{i}.self_attn.qkv_proj.weight',
      shape: (c: ModelConfig) => [fusedWidth(c), c.hiddenSize],
    },
  ]
})

/** Phi 3, 3.5 and 4, dense: Llama's block with query, key and value in one matrix, and gate and up in another. */
export const phi3: Architecture = {
  id: 'phi3',
  classNames: ['Phi3ForCausalLM'],
  baseClassName: 'Phi3Model',
  modelTypes: ['phi3'],
  defaults: {
    tied: false,
    ropeTheta: 10_000,
    normEpsilon: 1e-5,
    contextLength: 4096,
    activation: 'silu',
    headDim: null,
    kvHeads: null,
    bosId: 1,
    eosId: 32_000,
  },
  partialRotary: true,
  tensors: fused,
  ignored: decoderIgnored,
  unsupported: denseUnsupported,
  slidingWindow: (config) => numberAt(config, 'sliding_window'),
  rotary: 'half',
}
