import type { JsonObject } from '../core/json.ts'
import type { Architecture } from './architecture.ts'
import { decoderIgnored, denseUnsupported, llama, numberAt } from './llama.ts'

/** What MiniCPMConfig takes for the scales that a config.json leaves out: not what leaves a model unscaled. */
export const MINICPM_DEFAULTS = { scale_emb: 1, scale_depth: 1, dim_model_base: 1 } as const

/** The scales of MiniCPM from its config's keys. */
export function minicpmScales(
  config: JsonObject,
  hiddenSize: number,
  layers: number,
): { readonly embeddingScale: number; readonly residualScale: number; readonly logitDivisor: number } {
  const at = (key: keyof typeof MINICPM_DEFAULTS): number => numberAt(config, key) ?? MINICPM_DEFAULTS[key]
  return {
    embeddingScale: at('scale_emb'),
    residualScale: at('scale_depth') / Math.sqrt(layers),
    logitDivisor: hiddenSize / at('dim_model_base'),
  }
}

function unsupported(config: JsonObject): string | null {
  for (const key of Object.keys(MINICPM_DEFAULTS)) {
    const value = config.get(key) ?? 1
    if (typeof value !== 'number' || !(value > 0)) return `no number above 0 as ${key}`
  }
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
  facts: ({ raw, hiddenSize, layers }) => minicpmScales(raw, hiddenSize, layers),
  tensors: llama.tensors,
  ignored: decoderIgnored,
  unsupported,
  slidingWindow: () => null,
  rotary: 'half',
}
