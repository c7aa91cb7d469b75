import { LAYER_NORM, type GgufArchitecture } from './contract.ts'

/** GPT-2. */
export const gpt2: GgufArchitecture = {
  name: 'gpt2',
  interleavedRotary: false,
  ignoresWindow: true,
  epsilonKeys: LAYER_NORM,
}
