import type { ModelConfig } from '../../../core/checkpoint.ts'
import { RMS, type GgufArchitecture } from './contract.ts'
import { stretchRefused } from './shared.ts'

/** Every which block llama.cpp leaves without rotary positions, whatever the file says. */
export const UNROTATED_PERIOD = 4

function periodRefused({ layers, unrotatedPeriod }: ModelConfig): string | null {
  const isUnrotated = (layer: number, period: number | undefined): boolean =>
    period !== undefined && (layer + 1) % period === 0
  for (let layer = 0; layer < layers; layer++) {
    if (isUnrotated(layer, unrotatedPeriod) !== isUnrotated(layer, UNROTATED_PERIOD))
      return `rotary positions in other blocks than three of ${UNROTATED_PERIOD}`
  }
  return null
}

/** SmolLM 3. */
export const smollm3: GgufArchitecture = {
  name: 'smollm3',
  interleavedRotary: true,
  ignoresWindow: true,
  epsilonKeys: RMS,
  refuses: (config) => periodRefused(config) ?? stretchRefused(config),
}
