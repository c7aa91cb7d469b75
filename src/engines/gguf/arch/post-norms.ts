import type { ModelConfig } from '../../../core/checkpoint.ts'
import { RMS, type GgufArchitecture } from './contract.ts'
import { stretchRefused, widthRefused, windowKeys } from './shared.ts'

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

/** llama.cpp knows EXAONE 4 32B, which alone has windows, by this. */
const LAYERS_32B = 64

/** EXAONE 4. */
export const exaone4: GgufArchitecture = {
  ...olmo2,
  name: 'exaone4',
  windows: { period: 4, theta: null },
  keys: windowKeys,
  refuses: (config) => {
    const windowed = config.slidingWindow !== null
    if (windowed !== (config.layers === LAYERS_32B))
      return windowed ? `a sliding window in ${config.layers} blocks` : `no sliding window in ${LAYERS_32B} blocks`
    return widthRefused(config) ?? stretchRefused(config, ['linear', 'yarn', 'llama3'])
  },
}
