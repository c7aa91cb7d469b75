import type { JsonObject } from '../core/json.ts'
import type { Architecture } from './architecture.ts'
import { decoderIgnored, decoderRows, denseUnsupported } from './llama.ts'

function unsupported(config: JsonObject): string | null {
  return config.get('use_bias') === true ? 'biases (use_bias)' : denseUnsupported(config)
}

/** ERNIE 4.5, dense: Llama's block, whose heads turn neighbouring channels. */
export const ernie4_5: Architecture = {
  id: 'ernie4_5',
  classNames: ['Ernie4_5ForCausalLM', 'Ernie4_5_ForCausalLM'],
  baseClassName: 'Ernie4_5Model',
  modelTypes: ['ernie4_5'],
  defaults: {
    tied: true,
    ropeTheta: 500_000,
    normEpsilon: 1e-5,
    contextLength: 131_072,
    activation: 'silu',
    headDim: 128,
    kvHeads: 2,
    bosId: 1,
    eosId: 2,
  },
  tensors: decoderRows({}),
  ignored: decoderIgnored,
  unsupported,
  slidingWindow: () => null,
  rotary: 'interleaved',
}
