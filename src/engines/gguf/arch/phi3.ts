import { RMS, u32, type GgufArchitecture } from './contract.ts'

/** Phi 3: fused projections stay fused; gate and up together are called up. */
export const phi3: GgufArchitecture = {
  name: 'phi3',
  interleavedRotary: false,
  ignoresWindow: true,
  epsilonKeys: RMS,
  names: { 'blocks.{i}.mlp.gate_up': 'blk.{i}.ffn_up' },
  // 0 is none; without the key older versions guess one
  keys: (config) => [
    ['{arch}.attention.sliding_window', u32(config.slidingWindow ?? 0)],
    ...(config.rope.scaling.kind === 'longrope'
      ? []
      : [['{arch}.rope.scaling.original_context_length', u32(config.contextLength)] as const]),
  ],
}
