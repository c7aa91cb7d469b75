/** What the loaders of several architectures have in common. */
import type { ModelConfig, RopeScaling } from '../../../core/checkpoint.ts'
import type { GgufValue } from '../../containers/gguf/types.ts'
import { f32, u32 } from './contract.ts'

/** The keys of blocks with a window, where every n-th has none. */
export function windowKeys(config: ModelConfig): readonly (readonly [string, GgufValue])[] {
  const { slidingWindow, windowPeriod, rope } = config
  if (slidingWindow === null) return []
  return [
    ['{arch}.attention.sliding_window', u32(slidingWindow)],
    // 0: every block has one
    ['{arch}.attention.sliding_window_pattern', u32(windowPeriod ?? 0)],
    ...(rope.windowTheta === undefined ? [] : [['{arch}.rope.freq_base_swa', f32(rope.windowTheta)] as const]),
  ]
}

/** Refuses the ways to stretch rotary positions that a graph does not follow. */
export function stretchRefused(
  { rope }: ModelConfig,
  follows: readonly RopeScaling['kind'][] = ['linear', 'yarn'],
): string | null {
  const { kind } = rope.scaling
  return kind === 'none' || follows.includes(kind) ? null : `rotary scaling of the kind ${kind}`
}

/** Refuses heads that are not as wide together as the hidden state, for loaders with square matrices in attention. */
export function widthRefused({ hiddenSize, heads, headDim }: ModelConfig): string | null {
  return heads * headDim === hiddenSize ? null : `heads that are ${heads * headDim} wide together, not ${hiddenSize}`
}
