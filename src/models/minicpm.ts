import type { JsonObject } from '../core/json.ts'
import type { Architecture } from './architecture.ts'
import { decoderIgnored, decoderRows, denseUnsupported, numberAt } from './llama.ts'

function unsupported(config: JsonObject): string | null {
  for (const key of ['scale_emb', 'scale_depth', 'dim_model_base']) {
    const value = config.get(key)
    if (typeof value !== 'number' || !(value > 0)) return `no number above 0 as ${key}`
  }
  if (config.get('attention_bias') === true) return 'attention biases (attention_bias)'
  return denseUnsupported(config)
}

/**
 * MiniCPM 1, 2 and 4: Llama's block in muP: embeddings, residuals and logits are scaled. Their class is code of their
 * own beside the weights; the scales are those of its config.
 */
export const minicpm: Architecture = {
  id: 'minicpm',
  classNames: ['MiniCPMForCausalLM'],
  baseClassName: 'MiniCPMModel',
  modelTypes: ['minicpm'],
  defaults: {
    tied: true,
    ropeTheta: 10_000,
    normEpsilon: 1e-6,
    contextLength: 2048,
    activation: 'silu',
    headDim: null,
    kvHeads: null,
    bosId: 1,
    eosId: 2,
  },
  facts: ({ raw, hiddenSize, layers }) => ({
    embeddingScale: numberAt(raw, 'scale_emb') ?? 1,
    residualScale: (numberAt(raw, 'scale_depth') ?? 1) / Math.sqrt(layers),
    logitDivisor: hiddenSize / (numberAt(raw, 'dim_model_base') ?? hiddenSize),
  }),
  tensors: decoderRows({}),
  ignored: decoderIgnored,
  unsupported,
  slidingWindow: () => null,
  rotary: 'half',
}
