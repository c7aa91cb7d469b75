import type { JsonObject } from '../core/json.ts'
import type { Architecture } from './architecture.ts'
import { decoderIgnored, decoderRows, denseUnsupported, layerTypes, numberAt, qkvBiases } from './llama.ts'

/** Qwen2Config and Qwen3Config: from this block on windows slide, if `use_sliding_window` is set. */
const DEFAULT_WINDOW_START = 28
const DEFAULT_WINDOW = 4096

/** How many of a Qwen's blocks have a sliding window. */
function slidingBlocks(config: JsonObject): number {
  if (config.get('use_sliding_window') !== true) return 0
  const types = layerTypes(config)
  if (types !== null) return types.filter((type) => type === 'sliding_attention').length
  const blocks = numberAt(config, 'num_hidden_layers') ?? 0
  return Math.max(0, blocks - (numberAt(config, 'max_window_layers') ?? DEFAULT_WINDOW_START))
}

/** Qwen 2 and 3 have a window in all blocks or in none here: one in the last blocks only is refused. */
export function qwenUnsupported(config: JsonObject): string | null {
  return qwenWindowUnsupported(config) ?? denseUnsupported(config)
}

/** A window in some blocks only, or attention in chunks; null if there is neither. */
export function qwenWindowUnsupported(config: JsonObject): string | null {
  const sliding = slidingBlocks(config)
  if (sliding > 0 && sliding !== numberAt(config, 'num_hidden_layers')) {
    return `a sliding window in ${sliding} of the blocks only (use_sliding_window, max_window_layers)`
  }
  return (config.get('dual_chunk_attention_config') ?? null) === null ? null : 'dual chunk attention'
}

/** The window of a Qwen 2 or 3, where its blocks have one. */
export function qwenSlidingWindow(config: JsonObject): number | null {
  if (slidingBlocks(config) === 0) return null
  return config.has('sliding_window') ? numberAt(config, 'sliding_window') : DEFAULT_WINDOW
}

/**
 * Qwen 1.5, 2 and 2.5: Llama's block with biases on query, key and value. `attention_bias` is not read: the class has
 * them always.
 */
export const qwen2: Architecture = {
  id: 'qwen2',
  classNames: ['Qwen2ForCausalLM'],
  baseClassName: 'Qwen2Model',
  modelTypes: ['qwen2'],
  defaults: {
    tied: false,
    ropeTheta: 10_000,
    normEpsilon: 1e-6,
    contextLength: 32_768,
    activation: 'silu',
    headDim: null,
    kvHeads: 32,
    bosId: null,
    eosId: null,
  },
  tensors: decoderRows({ attention: qkvBiases() }),
  ignored: decoderIgnored,
  unsupported: qwenUnsupported,
  slidingWindow: qwenSlidingWindow,
  rotary: 'half',
}
