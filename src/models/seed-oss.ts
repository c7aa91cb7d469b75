import type { JsonObject } from '../core/json.ts'
import type { Architecture } from './architecture.ts'
import { decoderIgnored, decoderRows, denseUnsupported, qkvBiases } from './llama.ts'

function unsupported(config: JsonObject): string | null {
  for (const key of ['attention_out_bias', 'mlp_bias']) if (config.get(key) === true) return `biases (${key})`
  return denseUnsupported(config)
}

/** Seed-OSS: Llama's block with biases on query, key and value, unless `attention_bias` says that there are none. */
export const seedOss: Architecture = {
  id: 'seed_oss',
  classNames: ['SeedOssForCausalLM'],
  baseClassName: 'SeedOssModel',
  modelTypes: ['seed_oss'],
  defaults: {
    tied: false,
    ropeTheta: 10_000,
    normEpsilon: 1e-6,
    contextLength: 524_288,
    activation: 'silu',
    headDim: 128,
    kvHeads: 8,
    bosId: 0,
    eosId: 2,
  },
  tensors: decoderRows({ attention: qkvBiases(({ raw }) => raw.get('attention_bias') !== false) }),
  ignored: decoderIgnored,
  unsupported,
  slidingWindow: () => null,
  rotary: 'half',
}
