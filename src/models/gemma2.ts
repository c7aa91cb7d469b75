import type { JsonObject } from '../core/json.ts'
import type { Architecture, TensorRow } from './architecture.ts'
import { activationUnsupported, decoderIgnored, decoderRows, layerTypes, numberAt } from './llama.ts'

/** Gemma2Config's own. */
const DEFAULT_WINDOW = 4096
const DEFAULT_QUERY_SCALAR = 256
const DEFAULT_ATTENTION_CAP = 50
const DEFAULT_LOGIT_CAP = 30

/** A cap that an explicit null switches off. */
function cap(config: JsonObject, key: string, fallback: number): number | null {
  return config.has(key) ? numberAt(config, key) : fallback
}

function unsupported(config: JsonObject): string | null {
  if (config.get('attention_bias') === true) return 'attention biases (attention_bias)'
  if (config.get('use_bidirectional_attention') === true) return 'attention to both sides'
  const types = layerTypes(config)
  if (types?.some((type, index) => type !== (index % 2 === 0 ? 'sliding_attention' : 'full_attention')) === true)
    return 'another order of blocks with and without a sliding window (layer_types)'
  // the class goes by hidden_activation; hidden_act is there for older readers and says gelu
  return activationUnsupported(config, 'hidden_activation', ['gelu_pytorch_tanh'])
}

/** The rows of Llama with two norms more; `mlp_norm` is the one right before the MLP. */
function rows(): readonly TensorRow[] {
  const norm = (role: string, hf: string): TensorRow => ({ role, hf, shape: (c) => [c.hiddenSize] })
  return decoderRows({
    mlp: [norm('blocks.{i}.post_mlp_norm.weight', 'model.layers.{i}.post_feedforward_layernorm.weight')],
  }).flatMap((row) =>
    row.role === 'blocks.{i}.mlp_norm.weight'
      ? [
          norm('blocks.{i}.post_attn_norm.weight', 'model.layers.{i}.post_attention_layernorm.weight'),
          norm('blocks.{i}.mlp_norm.weight', 'model.layers.{i}.pre_feedforward_layernorm.weight'),
        ]
      : [row],
  )
}

/**
 * Gemma 2: norms before and after attention and MLP, whose weights are offsets from 1; capped scores and logits; a
 * sliding window in every other block, the first included; embeddings multiplied by the root of the hidden size.
 */
export const gemma2: Architecture = {
  id: 'gemma2',
  classNames: ['Gemma2ForCausalLM'],
  baseClassName: 'Gemma2Model',
  modelTypes: ['gemma2'],
  defaults: {
    tied: true,
    ropeTheta: 10_000,
    normEpsilon: 1e-6,
    contextLength: 8192,
    activation: 'gelu_pytorch_tanh',
    headDim: 256,
    kvHeads: 4,
    bosId: 2,
    eosId: 1,
  },
  keys: { activation: 'hidden_activation' },
  facts: ({ raw }) => {
    const attention = cap(raw, 'attn_logit_softcapping', DEFAULT_ATTENTION_CAP)
    const logits = cap(raw, 'final_logit_softcapping', DEFAULT_LOGIT_CAP)
    return {
      ...(attention === null ? {} : { attentionSoftcap: attention }),
      ...(logits === null ? {} : { logitSoftcap: logits }),
      attentionScale: 1 / Math.sqrt(numberAt(raw, 'query_pre_attn_scalar') ?? DEFAULT_QUERY_SCALAR),
    }
  },
  tensors: rows(),
  ignored: decoderIgnored,
  unsupported,
  slidingWindow: (config) => (config.has('sliding_window') ? numberAt(config, 'sliding_window') : DEFAULT_WINDOW),
  rotary: 'half',
}
