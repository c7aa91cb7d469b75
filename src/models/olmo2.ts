import type { JsonObject } from '../core/json.ts'
import type { Architecture, TensorRow } from './architecture.ts'
import { decoderIgnored, denseUnsupported } from './llama.ts'
import { postNormRows } from './post-norms.ts'
import { windowFacts, windowOf, windowUnsupported, type WindowRule } from './windows.ts'

/** Norms on the queries of all heads together, and on the keys. */
export const wholeNorms: readonly TensorRow[] = [
  {
    role: 'blocks.{i}.attn.q_norm.weight',
    hf: 'model.layers.{i}.self_attn.q_norm.weight',
    shape: (c) => [c.heads * c.headDim],
  },
  {
    role: 'blocks.{i}.attn.k_norm.weight',
    hf: 'model.layers.{i}.self_attn.k_norm.weight',
    shape: (c) => [c.kvHeads * c.headDim],
  },
]

function unsupported(config: JsonObject): string | null {
  if (config.get('attention_bias') === true) return 'attention biases (attention_bias)'
  return denseUnsupported(config)
}

/** OLMo 2: norms behind attention and MLP only, and on all queries and keys. */
export const olmo2: Architecture = {
  id: 'olmo2',
  classNames: ['Olmo2ForCausalLM'],
  baseClassName: 'Olmo2Model',
  modelTypes: ['olmo2'],
  defaults: {
    tied: false,
    ropeTheta: 10_000,
    normEpsilon: 1e-5,
    contextLength: 2048,
    activation: 'silu',
    headDim: null,
    kvHeads: null,
    bosId: null,
    eosId: 50_279,
  },
  tensors: postNormRows(wholeNorms),
  ignored: decoderIgnored,
  unsupported,
  slidingWindow: () => null,
  rotary: 'half',
}

/** Olmo3Config's own. */
const WINDOWS: WindowRule = { keys: [], period: 4, window: 4096 }

/** OLMo 3: OLMo 2 with a sliding window in three of four blocks, whose rotary positions are not stretched. */
export const olmo3: Architecture = {
  ...olmo2,
  id: 'olmo3',
  classNames: ['Olmo3ForCausalLM'],
  baseClassName: 'Olmo3Model',
  modelTypes: ['olmo3'],
  defaults: { ...olmo2.defaults, ropeTheta: 500_000 },
  facts: ({ raw, slidingWindow }) => windowFacts(raw, WINDOWS, slidingWindow),
  unsupported: (config) => windowUnsupported(config, WINDOWS) ?? unsupported(config),
  slidingWindow: (config) => windowOf(config, WINDOWS),
  windowRotary: { key: 'rope_theta', theta: 500_000 },
}
