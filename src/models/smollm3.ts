import { isArray, type JsonObject } from '../core/json.ts'
import type { Architecture } from './architecture.ts'
import { decoderIgnored, decoderRows, denseUnsupported, numberAt } from './llama.ts'

/** SmolLM3Config's own. */
const DEFAULT_PERIOD = 4

/** Every which block has no rotary positions: null for none, `other` where they follow no period. */
function unrotated(config: JsonObject): number | null | 'other' {
  const usual = numberAt(config, 'no_rope_layer_interval') ?? DEFAULT_PERIOD
  const rotated = config.get('no_rope_layers')
  if (!isArray(rotated)) return usual
  const follows = (period: number): boolean =>
    period > 0 && rotated.every((turns, index) => Boolean(turns) === ((index + 1) % period !== 0))
  if (follows(usual)) return usual
  if (rotated.every(Boolean)) return null
  const found = rotated.findIndex((turns) => !turns) + 1
  return follows(found) ? found : 'other'
}

function unsupported(config: JsonObject): string | null {
  for (const key of ['attention_bias', 'mlp_bias']) if (config.get(key) === true) return `biases (${key})`
  if (config.get('use_sliding_window') === true && numberAt(config, 'sliding_window') !== null)
    return 'a sliding window (use_sliding_window)'
  if (unrotated(config) === 'other') return 'rotary positions in blocks of no period (no_rope_layers)'
  return denseUnsupported(config)
}

/** SmolLM 3: Llama's block, of which every fourth has no rotary positions. */
export const smollm3: Architecture = {
  id: 'smollm3',
  classNames: ['SmolLM3ForCausalLM'],
  baseClassName: 'SmolLM3Model',
  modelTypes: ['smollm3'],
  defaults: {
    tied: true,
    ropeTheta: 2_000_000,
    normEpsilon: 1e-6,
    contextLength: 32_768,
    activation: 'silu',
    headDim: null,
    kvHeads: 4,
    bosId: 128_000,
    eosId: 128_001,
  },
  facts: ({ raw }) => {
    const period = unrotated(raw)
    return typeof period === 'number' ? { unrotatedPeriod: period } : {}
  },
  tensors: decoderRows({}),
  ignored: decoderIgnored,
  unsupported,
  slidingWindow: () => null,
  rotary: 'half',
}
