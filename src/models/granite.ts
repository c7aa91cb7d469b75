import type { Architecture } from './architecture.ts'
import { decoderIgnored, denseUnsupported, llama, numberAt } from './llama.ts'

/** Granite 3 and 4, dense: Llama with multipliers on embeddings, residuals, attention scores and logits. */
export const granite: Architecture = {
  id: 'granite',
  classNames: ['GraniteForCausalLM'],
  baseClassName: 'GraniteModel',
  modelTypes: ['granite'],
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
  facts: ({ raw }) => ({
    embeddingScale: numberAt(raw, 'embedding_multiplier') ?? 1,
    residualScale: numberAt(raw, 'residual_multiplier') ?? 1,
    attentionScale: numberAt(raw, 'attention_multiplier') ?? 1,
    logitDivisor: numberAt(raw, 'logits_scaling') ?? 1,
  }),
  tensors: llama.tensors,
  ignored: decoderIgnored,
  unsupported: denseUnsupported,
  slidingWindow: () => null,
  rotary: 'half',
}
