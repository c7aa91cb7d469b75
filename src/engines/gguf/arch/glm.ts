import { RMS, type GgufArchitecture } from './contract.ts'
import { stretchRefused, widthRefused } from './shared.ts'

/** GLM 4 of 2024: gate and up together are called up. */
export const glm: GgufArchitecture = {
  name: 'chatglm',
  interleavedRotary: true,
  ignoresWindow: true,
  epsilonKeys: RMS,
  names: { 'blocks.{i}.mlp.gate_up': 'blk.{i}.ffn_up' },
  refuses: (config) => widthRefused(config) ?? stretchRefused(config),
}

/** GLM 4 and Z1 of 2025. */
export const glm4: GgufArchitecture = {
  ...glm,
  name: 'glm4',
  names: {
    ...glm.names,
    'blocks.{i}.post_attn_norm': 'blk.{i}.post_attention_norm',
    'blocks.{i}.post_mlp_norm': 'blk.{i}.post_ffw_norm',
  },
  refuses: stretchRefused,
}
