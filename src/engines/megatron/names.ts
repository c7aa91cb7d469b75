/**
 * Megatron's names for tensors. Checkpoints spell them in three ways (before Megatron-Core, Core's own layers, and those
 * of Transformer Engine); here all have those of Core's own layers.
 */

/** How tensor parallelism divides a tensor: in rows, in columns, in the rows of each of two halves, or not at all. */
export type Split = 'rows' | 'columns' | 'halves' | 'whole'

const RENAMES: readonly (readonly [RegExp, string])[] = [
  [/^(?:module\.|model\.)+/, ''],
  [/^language_model\./, ''],
  [/^(?:encoder|transformer)\./, 'decoder.'],
  [/^decoder\.output_layer\./, 'output_layer.'],
  [/^word_embeddings_for_head\./, 'output_layer.'],
  [/^decoder\.(?:final_norm|final_layernorm)\./, 'decoder.final_layernorm.'],
  [/\.attention\./, '.self_attention.'],
  [/\.self_attention\.query_key_value\./, '.self_attention.linear_qkv.'],
  [/\.self_attention\.dense\./, '.self_attention.linear_proj.'],
  [/\.mlp\.dense_h_to_4h\./, '.mlp.linear_fc1.'],
  [/\.mlp\.dense_4h_to_h\./, '.mlp.linear_fc2.'],
  [/\.input_norm\./, '.input_layernorm.'],
  [/\.(?:post_attention_norm|post_attention_layernorm)\./, '.pre_mlp_layernorm.'],
  [/\.self_attention\.linear_qkv\.layer_norm_/, '.input_layernorm.'],
  [/\.mlp\.linear_fc1\.layer_norm_/, '.pre_mlp_layernorm.'],
  // of distributed checkpoints, then of grouped experts
  [/\.mlp\.experts\.experts\.(\d+)\./, '.mlp.experts.local_experts.$1.'],
  [/\.mlp\.experts\.experts\./, '.mlp.experts.'],
  [/\.mlp\.experts\.(linear_fc[12])\.(weight|bias)(\d+)$/, '.mlp.experts.local_experts.$3.$1.$2'],
]

/** A tensor's name, whichever of the ways it was spelled. */
export function canonicalName(name: string): string {
  return RENAMES.reduce((text, [from, to]) => text.replace(from, to), name)
}

/** As layers of Transformer Engine, Megatron's default, spell it: they hold the norm before them. */
export function engineName(name: string, experts: boolean): string {
  const attention = name.replace('.input_layernorm.', '.self_attention.linear_qkv.layer_norm_')
  return experts ? attention : attention.replace('.pre_mlp_layernorm.', '.mlp.linear_fc1.layer_norm_')
}

/** A tensor's name in a distributed checkpoint, where one holds all experts, and with `stacked` all layers. */
export function distName(name: string, experts: boolean, stacked: boolean): string {
  const known = engineName(name, experts).replace(EXPERT, '.experts.')
  return stacked ? known.replace(LAYER, 'decoder.layers.') : known
}

/** State of Transformer Engine's FP8 scaling and the like, which holds no weights. */
export function isState(name: string): boolean {
  return /(?:^|\.)_extra_state\b|\.(?:inv_freq|expert_bias|local_tokens_per_expert)$/.test(name)
}

/** How a tensor is divided. `gated`: whether the MLP has a gate, whose rows come before the others. */
export function splitOf(name: string, gated: boolean): Split {
  if (/^(?:embedding\.word_embeddings|output_layer)\.weight$/.test(name)) return 'rows'
  if (/\.linear_qkv\.(?:weight|bias)$/.test(name)) return 'rows'
  if (/\.linear_fc1\.(?:weight|bias)$/.test(name)) return gated ? 'halves' : 'rows'
  return /\.linear_(?:proj|fc2)\.weight$/.test(name) ? 'columns' : 'whole'
}

const LAYER = /^decoder\.layers\.(\d+)\./
const EXPERT = /\.local_experts\.(\d+)\./

/** The layer that a tensor belongs to, counted from 0; null for the others. */
export function layerOf(name: string): number | null {
  const found = LAYER.exec(name)?.[1]
  return found === undefined ? null : Number(found)
}

/** The same tensor of another layer. */
export function withLayer(name: string, layer: number): string {
  return name.replace(LAYER, `decoder.layers.${layer}.`)
}

/** The expert that a tensor belongs to; null for the others. */
export function expertOf(name: string): number | null {
  const found = EXPERT.exec(name)?.[1]
  return found === undefined ? null : Number(found)
}

/** The same tensor of another expert. */
export function withExpert(name: string, expert: number): string {
  return name.replace(EXPERT, `.local_experts.${expert}.`)
}
