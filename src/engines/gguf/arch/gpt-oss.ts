import { RMS, u32, type GgufArchitecture } from './contract.ts'
import { expertWidthKeys } from './llama.ts'

/** GPT-OSS: its bounds and the order of its windows are built into the graph. */
export const gptOss: GgufArchitecture = {
  name: 'gpt-oss',
  interleavedRotary: false,
  ignoresWindow: false,
  epsilonKeys: RMS,
  names: { 'blocks.{i}.mlp_norm': 'blk.{i}.post_attention_norm' },
  keys: (config) => [...expertWidthKeys(config), ['{arch}.attention.sliding_window', u32(config.slidingWindow ?? 0)]],
  refuses: ({ slidingWindow, tied }) =>
    slidingWindow === null ? 'no sliding window' : tied ? 'a head that is its embedding' : null,
  yarnTruncates: false,
}
