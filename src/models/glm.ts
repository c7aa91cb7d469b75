import type { Architecture, TensorRow } from './architecture.ts'
import { decoderIgnored, decoderRows, denseUnsupported, qkvBiases } from './llama.ts'

const rows = decoderRows({
  attention: qkvBiases(({ raw }) => raw.get('attention_bias') !== false),
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
})

/** GLM 4 of 2024 (and Edge): Llama's block with gate and up in one matrix, of whose heads half the channels turn. */
export const glm: Architecture = {
  id: 'glm',
  classNames: ['GlmForCausalLM'],
  baseClassName: 'GlmModel',
  modelTypes: ['glm'],
  defaults: {
    tied: false,
    ropeTheta: 10_000,
    rotaryFactor: 0.5,
    normEpsilon: 1.5625e-7,
    contextLength: 131_072,
    activation: 'silu',
    headDim: 128,
    kvHeads: 2,
    bosId: null,
    eosId: 151_329,
  },
  partialRotary: true,
  tensors: rows,
  ignored: decoderIgnored,
  unsupported: denseUnsupported,
  slidingWindow: () => null,
  rotary: 'interleaved',
}

const norm = (role: string, name: string): TensorRow => ({
  role: `blocks.{i}.${role}.weight`,
  hf: `model.layers.{i}.${name}.weight`,
  shape: (c) => [c.hiddenSize],
})

/** GLM 4 and Z1 of 2025 (0414): GLM with norms behind attention and MLP as well. */
export const glm4: Architecture = {
  ...glm,
  id: 'glm4',
  classNames: ['Glm4ForCausalLM'],
  baseClassName: 'Glm4Model',
  modelTypes: ['glm4'],
  tensors: rows.flatMap((row) => {
    if (row.role === 'blocks.{i}.mlp_norm.weight') return [norm('post_attn_norm', 'post_self_attn_layernorm'), row]
    return row.role === 'blocks.{i}.mlp.down.weight' ? [row, norm('post_mlp_norm', 'post_mlp_layernorm')] : [row]
  }),
}
