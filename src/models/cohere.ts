import type { JsonObject } from '../core/json.ts'
import type { Architecture, ModelFacts } from './architecture.ts'
import { decoderIgnored, decoderRows, denseUnsupported, numberAt } from './llama.ts'
import { windowFacts, windowOf, windowUnsupported, type WindowRule } from './windows.ts'

const DEFAULT_LOGIT_SCALE = 0.0625

/** CohereConfig's own: a null leaves logits as they are. */
function logitScale(raw: JsonObject): ModelFacts {
  return { logitScale: (raw.has('logit_scale') ? numberAt(raw, 'logit_scale') : DEFAULT_LOGIT_SCALE) ?? 1 }
}

function unsupported(config: JsonObject): string | null {
  for (const key of ['attention_bias', 'layer_norm_bias']) if (config.get(key) === true) return `biases (${key})`
  if (config.get('use_qk_norm') === true) return 'norms of queries and keys (use_qk_norm)'
  return denseUnsupported(config)
}

/**
 * Command R, Aya 23: attention and MLP beside each other behind one norm (LayerNorm without a bias), heads that turn
 * neighbouring channels, and logits that are multiplied.
 */
export const cohere: Architecture = {
  id: 'cohere',
  classNames: ['CohereForCausalLM'],
  baseClassName: 'CohereModel',
  modelTypes: ['cohere'],
  defaults: {
    tied: true,
    ropeTheta: 500_000,
    normEpsilon: 1e-5,
    contextLength: 8192,
    activation: 'silu',
    headDim: null,
    kvHeads: null,
    bosId: 5,
    eosId: 255_001,
  },
  keys: { normEpsilon: 'layer_norm_eps' },
  facts: ({ raw }) => logitScale(raw),
  tensors: decoderRows({}).filter(({ role }) => role !== 'blocks.{i}.mlp_norm.weight'),
  ignored: decoderIgnored,
  unsupported,
  slidingWindow: () => null,
  rotary: 'interleaved',
}

/** Cohere2Config's own. */
const WINDOWS: WindowRule = { keys: ['sliding_window_pattern'], period: 4, window: 4096 }

/** Command R7B and A: Cohere with a sliding window in three of four blocks, and rotary positions in these alone. */
export const cohere2: Architecture = {
  ...cohere,
  id: 'cohere2',
  classNames: ['Cohere2ForCausalLM'],
  baseClassName: 'Cohere2Model',
  modelTypes: ['cohere2'],
  defaults: { ...cohere.defaults, ropeTheta: 10_000 },
  facts: ({ raw, slidingWindow }) => ({ ...logitScale(raw), ...windowFacts(raw, WINDOWS, slidingWindow) }),
  unsupported: (config) => windowUnsupported(config, WINDOWS) ?? unsupported(config),
  slidingWindow: (config) => windowOf(config, WINDOWS),
}
