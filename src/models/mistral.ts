import type { JsonObject } from '../core/json.ts'
import type { Architecture } from './architecture.ts'
import { decoderIgnored, decoderRows, denseUnsupported, layerTypes, numberAt } from './llama.ts'

/** MistralConfig has a window unless the config says null. */
const DEFAULT_WINDOW = 4096

function unsupported(config: JsonObject): string | null {
  const types = layerTypes(config)
  if (types !== null && new Set(types).size > 1) return 'a sliding window in some blocks only (layer_types)'
  return denseUnsupported(config)
}

/**
 * Mistral 7B, Nemo, Small: Llama's block with a sliding window in the first of them. There are no biases, whatever
 * `attention_bias` says: the class has no such option.
 */
export const mistral: Architecture = {
  id: 'mistral',
  classNames: ['MistralForCausalLM'],
  baseClassName: 'MistralModel',
  modelTypes: ['mistral'],
  defaults: {
    tied: false,
    ropeTheta: 10_000,
    normEpsilon: 1e-6,
    contextLength: 131_072,
    activation: 'silu',
    headDim: null,
    kvHeads: 8,
    bosId: 1,
    eosId: 2,
  },
  tensors: decoderRows({}),
  ignored: decoderIgnored,
  unsupported,
  slidingWindow: (config) => (config.has('sliding_window') ? numberAt(config, 'sliding_window') : DEFAULT_WINDOW),
  rotary: 'half',
}
