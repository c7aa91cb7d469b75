/** The classes of mlx-lm that models are written for. */
import type { MlxFamily } from './contract.ts'
import { DECODER_FAMILIES } from './decoders.ts'
import { EXPERT_FAMILIES } from './experts.ts'
import { LAYER_NORM_FAMILIES } from './layer-norms.ts'

/** By id of our architecture. */
export const FAMILIES: ReadonlyMap<string, MlxFamily> = new Map<string, MlxFamily>([
  ...DECODER_FAMILIES,
  ...EXPERT_FAMILIES,
  ...LAYER_NORM_FAMILIES,
])
