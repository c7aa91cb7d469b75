import type { ModelConfig } from '../../../core/checkpoint.ts'
import { f32, LAYER_NORM, type GgufArchitecture } from './contract.ts'
import { stretchRefused, widthRefused, windowKeys } from './shared.ts'

/** From so many blocks on llama.cpp takes a Command R for Command R+, which has norms of queries and keys. */
const LAYERS_PLUS = 64

function refused(config: ModelConfig): string | null {
  return config.tied ? (widthRefused(config) ?? stretchRefused(config)) : 'a head of its own'
}

/** Command R. */
export const cohere: GgufArchitecture = {
  name: 'command-r',
  interleavedRotary: true,
  ignoresWindow: true,
  epsilonKeys: LAYER_NORM,
  keys: (config) => [['{arch}.logit_scale', f32(config.logitScale ?? 1)]],
  refuses: (config) =>
    config.layers < LAYERS_PLUS ? refused(config) : `${config.layers} blocks without norms of queries and keys`,
}

/** Command R7B and A. */
export const cohere2: GgufArchitecture = {
  ...cohere,
  name: 'cohere2',
  ignoresWindow: false,
  windows: { period: 4, theta: null },
  keys: (config) => [['{arch}.logit_scale', f32(config.logitScale ?? 1)], ...windowKeys(config)],
  refuses: (config) => (config.slidingWindow === null ? 'no sliding window' : refused(config)),
}
