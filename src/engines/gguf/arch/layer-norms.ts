/** Decoders with LayerNorms. */
import type { ModelConfig } from '../../../core/checkpoint.ts'
import { LAYER_NORM, type GgufArchitecture } from './contract.ts'
import { stretchRefused } from './shared.ts'

/** Their loaders take heads as wide as the hidden size divided by their number. */
function narrow(config: ModelConfig): string | null {
  const { heads, headDim, hiddenSize } = config
  return heads * headDim === hiddenSize ? stretchRefused(config) : `heads of ${headDim} channels`
}

export const starcoder2: GgufArchitecture = {
  name: 'starcoder2',
  interleavedRotary: false,
  ignoresWindow: true,
  epsilonKeys: LAYER_NORM,
  refuses: narrow,
}

/** Phi 1, 1.5 and 2. */
export const phi: GgufArchitecture = {
  ...starcoder2,
  name: 'phi2',
  refuses: (config) => (config.tied ? 'a head that is its embedding' : narrow(config)),
}

/** GPT-NeoX and Pythia: queries of all heads, then keys, then values. */
export const gptNeox: GgufArchitecture = {
  ...starcoder2,
  name: 'gptneox',
  transforms: [{ role: /\.attn\.qkv\./, steps: (c) => [{ kind: 'regroup', outer: c.heads, inner: 3 }] }],
  keys: ({ raw }) => [
    ['{arch}.use_parallel_residual', { type: 'bool', value: raw.get('use_parallel_residual') !== false }],
  ],
  refuses: (config) => (config.tied ? 'a head that is its embedding' : narrow(config)),
}

/** StableLM: that attention and MLP are beside each other shows in the norm that is not there. */
export const stablelm: GgufArchitecture = {
  ...starcoder2,
  name: 'stablelm',
  keys: ({ raw }) => [
    ['{arch}.use_parallel_residual', { type: 'bool', value: raw.get('use_parallel_residual') === true }],
  ],
  refuses: (config) => (config.tied ? 'a head that is its embedding' : narrow(config)),
}
