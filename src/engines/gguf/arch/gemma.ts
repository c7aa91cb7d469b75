import type { ModelConfig } from '../../../core/checkpoint.ts'
import { f32, RMS, u32, type GgufArchitecture } from './contract.ts'
import { stretchRefused, windowKeys } from './shared.ts'

/**
 * llama.cpp knows the 27B models, whose scores alone are scaled by a head's share of the hidden size, by their number of
 * blocks.
 */
const LAYERS_27B = { gemma2: 46, gemma3: 62 } as const

/** Relative: what a config's square roots differ by in rounding. */
const SAME = 1e-6

/** The width by whose root llama.cpp divides the scores of Gemma 2 and 3. */
export function queryScalar(id: keyof typeof LAYERS_27B, config: ModelConfig): number {
  return config.layers === LAYERS_27B[id] ? Math.trunc(config.hiddenSize / config.heads) : config.headDim
}

function scaleRefused(id: keyof typeof LAYERS_27B, config: ModelConfig): string | null {
  const width = queryScalar(id, config)
  const scale = config.attentionScale ?? 1 / Math.sqrt(config.headDim)
  return Math.abs(scale * Math.sqrt(width) - 1) > SAME ? `a query_pre_attn_scalar other than ${width}` : null
}

/** Gemma 1: its norms lie in the file as what the hidden state is multiplied by, weight and 1. */
export const gemma: GgufArchitecture = {
  name: 'gemma',
  interleavedRotary: false,
  ignoresWindow: true,
  epsilonKeys: RMS,
  transforms: [{ role: /norm\.weight$/, steps: () => [{ kind: 'add', value: 1 }] }],
  refuses: (config) => (config.tied ? stretchRefused(config) : 'a head of its own'),
}

/** Gemma 2. */
export const gemma2: GgufArchitecture = {
  ...gemma,
  name: 'gemma2',
  ignoresWindow: false,
  names: {
    'blocks.{i}.post_attn_norm': 'blk.{i}.post_attention_norm',
    'blocks.{i}.post_mlp_norm': 'blk.{i}.post_ffw_norm',
  },
  keys: (config) => [
    ['{arch}.attn_logit_softcapping', f32(config.attentionSoftcap ?? 0)],
    ['{arch}.final_logit_softcapping', f32(config.logitSoftcap ?? 0)],
    ['{arch}.attention.sliding_window', u32(config.slidingWindow ?? 0)],
  ],
  refuses: (config) => {
    if (!config.tied) return 'a head of its own'
    if (config.attentionSoftcap === undefined || config.logitSoftcap === undefined) return 'scores that are not capped'
    return config.slidingWindow === null ? 'no sliding window' : scaleRefused('gemma2', config)
  },
}

/** Gemma 3. */
export const gemma3: GgufArchitecture = {
  ...gemma2,
  name: 'gemma3',
  windows: { period: 6, theta: 10_000 },
  keys: (config) => [
    ...windowKeys(config),
    ...(config.logitSoftcap === undefined
      ? []
      : [['{arch}.final_logit_softcapping', f32(config.logitSoftcap)] as const]),
  ],
  refuses: (config) => {
    if (config.attentionSoftcap !== undefined) return 'capped scores'
    return stretchRefused(config, ['linear']) ?? scaleRefused('gemma3', config)
  },
}
