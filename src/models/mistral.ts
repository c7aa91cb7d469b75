import type { Architecture } from './architecture.ts'
import { decoderIgnored, decoderRows, denseUnsupported } from './llama.ts'

/** Mistral 7B, Nemo, Small: Llama's block with a sliding window in the first of them. */
export const mistral: Architecture = {
  id: 'mistral',
  classNames: ['MistralForCausalLM'],
  modelTypes: ['mistral'],
  defaults: {
    tied: false,
    ropeTheta: 10_000,
    normEpsilon: 1e-6,
    contextLength: 131_072,
    activation: 'silu',
    headDim: null,
  },
  tensors: decoderRows({}),
  ignored: decoderIgnored,
  unsupported: denseUnsupported,
  rotary: 'half',
}
