import type { JsonObject } from '../core/json.ts'
import type { Architecture, TensorRow } from './architecture.ts'
import { decoderIgnored, decoderRows } from './llama.ts'
import { qwenSlidingWindow, qwenUnsupported } from './qwen2.ts'

/** Norms on each head's query and key. */
export const headNorms: readonly TensorRow[] = [
  {
    role: 'blocks.{i}.attn.q_norm.weight',
    hf: 'model.layers.{i}.self_attn.q_norm.weight',
    shape: (c) => [c.headDim],
  },
  {
    role: 'blocks.{i}.attn.k_norm.weight',
    hf: 'model.layers.{i}.self_attn.k_norm.weight',
    shape: (c) => [c.headDim],
  },
]

function unsupported(config: JsonObject): string | null {
  if (config.get('attention_bias') === true) return 'attention biases (attention_bias)'
  return qwenUnsupported(config)
}

/** Qwen 3, dense: Llama's block with a norm on each head's query and key. */
export const qwen3: Architecture = {
  id: 'qwen3',
  classNames: ['Qwen3ForCausalLM'],
  baseClassName: 'Qwen3Model',
  modelTypes: ['qwen3'],
  defaults: {
    tied: false,
    ropeTheta: 10_000,
    normEpsilon: 1e-6,
    contextLength: 32_768,
    activation: 'silu',
    headDim: 128,
    kvHeads: 32,
    bosId: null,
    eosId: null,
  },
  tensors: decoderRows({
    attention: headNorms,
  }),
  ignored: decoderIgnored,
  unsupported,
  slidingWindow: qwenSlidingWindow,
  rotary: 'half',
}
