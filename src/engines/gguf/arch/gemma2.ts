import type { ModelConfig } from '../../../core/checkpoint.ts'
import { f32, RMS, u32, type GgufArchitecture } from './contract.ts'

/** llama.cpp knows the 27B model, whose scores alone are scaled by the width of a head of the hidden size, by this. */
const LAYERS_27B = 46

/** Relative: what a config's square roots differ by in rounding. */
const SAME = 1e-6

function refuses(config: ModelConfig): string | null {
  if (!config.tied) return 'a head of its own'
  if (config.attentionSoftcap === undefined || config.logitSoftcap === undefined) return 'scores that are not capped'
  if (config.slidingWindow === null) return 'no sliding window'
  const width = config.layers === LAYERS_27B ? config.hiddenSize / config.heads : config.headDim
  const scale = config.attentionScale ?? 1 / Math.sqrt(config.headDim)
  if (Math.abs(scale * Math.sqrt(width) - 1) > SAME) return `a query_pre_attn_scalar other than ${width}`
  return null
}

/** Gemma 2: its norms lie in the file as what the hidden state is multiplied by, weight and 1. */
export const gemma2: GgufArchitecture = {
  name: 'gemma2',
  interleavedRotary: false,
  ignoresWindow: false,
  epsilonKeys: RMS,
  names: {
    'blocks.{i}.post_attn_norm': 'blk.{i}.post_attention_norm',
    'blocks.{i}.post_mlp_norm': 'blk.{i}.post_ffw_norm',
  },
  transforms: [{ role: /norm\.weight$/, steps: () => [{ kind: 'add', value: 1 }] }],
  keys: (config) => [
    ['{arch}.attn_logit_softcapping', f32(config.attentionSoftcap ?? 0)],
    ['{arch}.final_logit_softcapping', f32(config.logitSoftcap ?? 0)],
    ['{arch}.attention.sliding_window', u32(config.slidingWindow ?? 0)],
  ],
  refuses,
}
