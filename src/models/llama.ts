import type { ModelConfig } from '../core/checkpoint.ts'
import { isArray, type Json, type JsonObject } from '../core/json.ts'
import type { Architecture, TensorRow } from './architecture.ts'

const attentionWidth = (config: ModelConfig): number => config.heads * config.headDim
const kvWidth = (config: ModelConfig): number => config.kvHeads * config.headDim
const flag = (config: ModelConfig, key: string): boolean => config.raw.get(key) === true

/** The rows of a pre-norm decoder with rotary attention and a gated MLP: what Llama and its descendants share. */
export function decoderRows(extra: {
  readonly attention?: readonly TensorRow[]
  readonly mlp?: readonly TensorRow[]
  /** In place of gate, up and down. */
  readonly insteadOfMlp?: readonly TensorRow[]
}): TensorRow[] {
  return [
    { role: 'embed.weight', hf: 'model.embed_tokens.weight', shape: (c) => [c.vocabSize, c.hiddenSize] },
    {
      role: 'blocks.{i}.attn_norm.weight',
      hf: 'model.layers.{i}.input_layernorm.weight',
      shape: (c) => [c.hiddenSize],
    },
    {
      role: 'blocks.{i}.attn.q.weight',
      hf: 'model.layers.{i}.self_attn.q_proj.weight',
      shape: (c) => [attentionWidth(c), c.hiddenSize],
    },
    {
      role: 'blocks.{i}.attn.k.weight',
      hf: 'model.layers.{i}.self_attn.k_proj.weight',
      shape: (c) => [kvWidth(c), c.hiddenSize],
    },
    {
      role: 'blocks.{i}.attn.v.weight',
      hf: 'model.layers.{i}.self_attn.v_proj.weight',
      shape: (c) => [kvWidth(c), c.hiddenSize],
    },
    {
      role: 'blocks.{i}.attn.o.weight',
      hf: 'model.layers.{i}.self_attn.o_proj.weight',
      shape: (c) => [c.hiddenSize, attentionWidth(c)],
    },
    ...(extra.attention ?? []),
    {
      role: 'blocks.{i}.mlp_norm.weight',
      hf: 'model.layers.{i}.post_attention_layernorm.weight',
      shape: (c) => [c.hiddenSize],
    },
    ...(extra.insteadOfMlp ?? gatedMlp()),
    ...(extra.mlp ?? []),
    { role: 'final_norm.weight', hf: 'model.norm.weight', shape: (c) => [c.hiddenSize] },
    { role: 'lm_head.weight', hf: 'lm_head.weight', shape: (c) => [c.vocabSize, c.hiddenSize], when: (c) => !c.tied },
  ]
}

/** The gate, up and down projections of a dense MLP. */
function gatedMlp(): TensorRow[] {
  return [
    {
      role: 'blocks.{i}.mlp.gate.weight',
      hf: 'model.layers.{i}.mlp.gate_proj.weight',
      shape: (c) => [c.intermediateSize, c.hiddenSize],
    },
    {
      role: 'blocks.{i}.mlp.up.weight',
      hf: 'model.layers.{i}.mlp.up_proj.weight',
      shape: (c) => [c.intermediateSize, c.hiddenSize],
    },
    {
      role: 'blocks.{i}.mlp.down.weight',
      hf: 'model.layers.{i}.mlp.down_proj.weight',
      shape: (c) => [c.hiddenSize, c.intermediateSize],
    },
  ]
}

/** Biases of the query, key and value projections, where `when` holds. */
export function qkvBiases(when?: (config: ModelConfig) => boolean): TensorRow[] {
  const rows: TensorRow[] = [
    { role: 'blocks.{i}.attn.q.bias', hf: 'model.layers.{i}.self_attn.q_proj.bias', shape: (c) => [attentionWidth(c)] },
    { role: 'blocks.{i}.attn.k.bias', hf: 'model.layers.{i}.self_attn.k_proj.bias', shape: (c) => [kvWidth(c)] },
    { role: 'blocks.{i}.attn.v.bias', hf: 'model.layers.{i}.self_attn.v_proj.bias', shape: (c) => [kvWidth(c)] },
  ]
  return when === undefined ? rows : rows.map(({ role, hf, shape }) => ({ role, hf, shape, when }))
}

/** Buffers that older transformers saved with the weights. */
export const decoderIgnored: readonly RegExp[] = [/\.rotary_emb\.inv_freq$/]

/** Weights that something has quantised already, or null. */
export function quantizedUnsupported(config: JsonObject): string | null {
  for (const key of ['quantization_config', 'quantization', 'compression_config']) {
    if ((config.get(key) ?? null) !== null) return `weights that are already quantised (${key})`
  }
  return null
}

/** Quantised weights, or an activation that is none of those named; an absent one is the class's own. */
export function activationUnsupported(config: JsonObject, key: string, names: readonly string[]): string | null {
  const activation = config.get(key) ?? null
  if (activation === null || names.includes(String(activation))) return quantizedUnsupported(config)
  return `the activation ${JSON.stringify(activation)}`
}

/** What no dense decoder of this kind is: quantised weights, experts, another activation, part-rotary heads. */
export function denseUnsupported(config: JsonObject): string | null {
  const refused = activationUnsupported(config, 'hidden_act', ['silu', 'swish'])
  if (refused !== null) return refused
  for (const key of ['num_local_experts', 'num_experts', 'n_routed_experts']) {
    const experts = config.get(key)
    if (typeof experts === 'number' && experts > 0) return `experts (${key})`
  }
  return null
}

/** The `layer_types` of transformers 4.52 and later, or null. */
export function layerTypes(config: JsonObject): readonly Json[] | null {
  const types = config.get('layer_types')
  return isArray(types) ? types : null
}

/** The number under a key; null if there is none. */
export function numberAt(config: JsonObject, key: string): number | null {
  const value = config.get(key)
  return typeof value === 'number' ? value : null
}

const attentionBias = (config: ModelConfig): boolean => flag(config, 'attention_bias')
const mlpBias = (config: ModelConfig): boolean => flag(config, 'mlp_bias')

/** Llama 1 to 3.x, and the many models saved as LlamaForCausalLM. */
export const llama: Architecture = {
  id: 'llama',
  classNames: ['LlamaForCausalLM', 'LLaMAForCausalLM'],
  baseClassName: 'LlamaModel',
  modelTypes: ['llama'],
  defaults: {
    tied: false,
    ropeTheta: 10_000,
    normEpsilon: 1e-6,
    contextLength: 2048,
    activation: 'silu',
    headDim: null,
    kvHeads: null,
    bosId: 1,
    eosId: 2,
  },
  tensors: decoderRows({
    attention: [
      ...qkvBiases(attentionBias),
      {
        role: 'blocks.{i}.attn.o.bias',
        hf: 'model.layers.{i}.self_attn.o_proj.bias',
        shape: (c) => [c.hiddenSize],
        when: attentionBias,
      },
    ],
    mlp: [
      {
        role: 'blocks.{i}.mlp.gate.bias',
        hf: 'model.layers.{i}.mlp.gate_proj.bias',
        shape: (c) => [c.intermediateSize],
        when: mlpBias,
      },
      {
        role: 'blocks.{i}.mlp.up.bias',
        hf: 'model.layers.{i}.mlp.up_proj.bias',
        shape: (c) => [c.intermediateSize],
        when: mlpBias,
      },
      {
        role: 'blocks.{i}.mlp.down.bias',
        hf: 'model.layers.{i}.mlp.down_proj.bias',
        shape: (c) => [c.hiddenSize],
        when: mlpBias,
      },
    ],
  }),
  ignored: decoderIgnored,
  unsupported: denseUnsupported,
  slidingWindow: () => null,
  rotary: 'half',
}
