import type { ModelConfig } from '../../../core/checkpoint.ts'
import { RMS, type GgufArchitecture } from './contract.ts'
import { stretchRefused, windowKeys } from './shared.ts'

/** Its loader has square matrices in attention. */
export function widthRefused({ hiddenSize, heads, headDim }: ModelConfig): string | null {
  return heads * headDim === hiddenSize ? null : `heads that are ${heads * headDim} wide together, not ${hiddenSize}`
}

function olmoRefused(config: ModelConfig): string | null {
  return config.tied ? 'a head that is the embedding' : (widthRefused(config) ?? stretchRefused(config))
}

/** OLMo 2. */
export const olmo2: GgufArchitecture = {
  name: 'olmo2',
  interleavedRotary: false,
  ignoresWindow: false,
  windows: { period: 4, theta: 'same' },
  epsilonKeys: RMS,
  names: {
    'blocks.{i}.post_attn_norm': 'blk.{i}.post_attention_norm',
    'blocks.{i}.post_mlp_norm': 'blk.{i}.post_ffw_norm',
  },
  refuses: (config) => (config.slidingWindow === null ? olmoRefused(config) : 'a sliding window'),
}

/** OLMo 3, which is OLMo 2 with windows there. */
export const olmo3: GgufArchitecture = {
  ...olmo2,
  keys: windowKeys,
  refuses: (config) => {
    if (config.slidingWindow === null) return 'no sliding window'
    if (config.rope.windowTheta !== config.rope.theta) return 'another rotary base in blocks with a sliding window'
    return olmoRefused(config)
  },
}
