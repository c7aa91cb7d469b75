import type { Architecture } from './architecture.ts'
import { decoderIgnored, decoderRows, denseUnsupported, qkvBiases } from './llama.ts'

/** Qwen 1.5, 2 and 2.5: Llama's block with biases on query, key and value. */
export const qwen2: Architecture = {
  id: 'qwen2',
  classNames: ['Qwen2ForCausalLM'],
  modelTypes: ['qwen2'],
  defaults: {
    tied: false,
    ropeTheta: 10_000,
    normEpsilon: 1e-6,
    contextLength: 32_768,
    activation: 'silu',
    headDim: null,
  },
  tensors: decoderRows({ attention: qkvBiases() }),
  ignored: decoderIgnored,
  unsupported: denseUnsupported,
  rotary: 'half',
}
