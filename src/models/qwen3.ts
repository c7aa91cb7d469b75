import type { JsonObject } from '../core/json.ts'
import type { Architecture } from './architecture.ts'
import { decoderIgnored, decoderRows } from './llama.ts'
import { qwenSlidingWindow, qwenUnsupported } from './qwen2.ts'

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
    attention: [
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
    ],
  }),
  ignored: decoderIgnored,
  unsupported,
  slidingWindow: qwenSlidingWindow,
  rotary: 'half',
}
