import type { Architecture, TensorRow } from './architecture.ts'
import { decoderRows } from './llama.ts'

const norm = (role: string, name: string): TensorRow => ({
  role: `blocks.{i}.${role}.weight`,
  hf: `model.layers.{i}.${name}.weight`,
  shape: (c) => [c.hiddenSize],
})

/** The rows of a decoder whose only norms in a block are behind attention and behind the MLP, besides `queryNorms`. */
export function postNormRows(queryNorms: readonly TensorRow[]): Architecture['tensors'] {
  const mlp = [norm('post_mlp_norm', 'post_feedforward_layernorm')]
  return decoderRows({ attention: queryNorms, mlp }).flatMap((row) => {
    if (row.role === 'blocks.{i}.attn_norm.weight') return []
    return row.role === 'blocks.{i}.mlp_norm.weight' ? [norm('post_attn_norm', 'post_attention_layernorm')] : [row]
  })
}
