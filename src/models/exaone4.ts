import type { JsonObject } from '../core/json.ts'
import type { Architecture } from './architecture.ts'
import { decoderIgnored, denseUnsupported } from './llama.ts'
import { postNormRows } from './post-norms.ts'
import { headNorms } from './qwen3.ts'
import { windowFacts, windowOf, windowUnsupported, type WindowRule } from './windows.ts'

const PATTERN = 'sliding_window_pattern'

/** Exaone4Config's own; it spells a period "LLLG" too. */
function rule(config: JsonObject): WindowRule {
  const pattern = config.get(PATTERN)
  const period = typeof pattern === 'string' && /^L*G$/.test(pattern) ? pattern.length : 4
  return { keys: [PATTERN], period, window: 4096 }
}

function unsupported(config: JsonObject): string | null {
  const pattern = config.get(PATTERN)
  if (typeof pattern === 'string' && !/^L*G$/.test(pattern)) return `blocks of the order ${pattern} (${PATTERN})`
  // blocks that see all tokens have no positions where others have a window
  if (windowOf(config, rule(config)) === null && config.get('sliding_window') !== null)
    return 'a sliding window that no block has'
  return windowUnsupported(config, rule(config)) ?? denseUnsupported(config)
}

/**
 * EXAONE 4: norms behind attention and MLP, and on each head's query and key. The large ones have a sliding window in
 * three of four blocks, and rotary positions in these alone.
 */
export const exaone4: Architecture = {
  id: 'exaone4',
  classNames: ['Exaone4ForCausalLM'],
  baseClassName: 'Exaone4Model',
  modelTypes: ['exaone4'],
  defaults: {
    tied: false,
    ropeTheta: 10_000,
    normEpsilon: 1e-5,
    contextLength: 2048,
    activation: 'silu',
    headDim: null,
    kvHeads: 32,
    bosId: 0,
    eosId: 2,
  },
  facts: ({ raw, slidingWindow }) => windowFacts(raw, rule(raw), slidingWindow),
  tensors: postNormRows(headNorms),
  ignored: decoderIgnored,
  unsupported,
  slidingWindow: (config) => windowOf(config, rule(config)),
  rotary: 'half',
}
