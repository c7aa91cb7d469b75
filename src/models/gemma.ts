import type { JsonObject } from '../core/json.ts'
import type { Architecture } from './architecture.ts'
import { activationUnsupported, decoderIgnored, decoderRows } from './llama.ts'

/** The activation of all Gemmas; early configurations call it gelu, and mean this one. */
const ACTIVATIONS = ['gelu_pytorch_tanh', 'gelu']

function unsupported(config: JsonObject): string | null {
  if (config.get('attention_bias') === true) return 'attention biases (attention_bias)'
  if (config.get('use_bidirectional_attention') === true) return 'attention to both sides'
  return (
    activationUnsupported(config, 'hidden_activation', ACTIVATIONS) ??
    activationUnsupported(config, 'hidden_act', ACTIVATIONS)
  )
}

/** Gemma 1: Llama's block with norms whose weights are offsets from 1, and embeddings multiplied by a root. */
export const gemma: Architecture = {
  id: 'gemma',
  classNames: ['GemmaForCausalLM'],
  baseClassName: 'GemmaModel',
  modelTypes: ['gemma'],
  defaults: {
    tied: true,
    ropeTheta: 10_000,
    normEpsilon: 1e-6,
    contextLength: 8192,
    activation: 'gelu_pytorch_tanh',
    headDim: 256,
    kvHeads: 16,
    bosId: 2,
    eosId: 1,
  },
  keys: { activation: 'hidden_activation' },
  tensors: decoderRows({}),
  ignored: decoderIgnored,
  unsupported,
  slidingWindow: () => null,
  rotary: 'half',
}
