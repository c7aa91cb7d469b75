import type { JsonObject } from '../core/json.ts'
import type { Architecture } from './architecture.ts'
import { gemma2 } from './gemma2.ts'
import { activationUnsupported, decoderIgnored, numberAt } from './llama.ts'
import { headNorms } from './qwen3.ts'
import { windowFacts, windowOf, windowUnsupported, type WindowRule } from './windows.ts'

/** Gemma3TextConfig's own. */
const WINDOWS: WindowRule = {
  keys: ['sliding_window_pattern', '_sliding_window_pattern'],
  period: 6,
  window: 4096,
}
const DEFAULT_QUERY_SCALAR = 256

function unsupported(config: JsonObject): string | null {
  if (config.get('attention_bias') === true) return 'attention biases (attention_bias)'
  if (config.get('use_bidirectional_attention') === true) return 'attention to both sides'
  return windowUnsupported(config, WINDOWS) ?? activationUnsupported(config, 'hidden_activation', ['gelu_pytorch_tanh'])
}

/**
 * Gemma 3, its language model: Gemma 2's block without caps, a norm on each head's query and key, and a sliding window
 * in five of six blocks, which turn faster than the others and are not stretched.
 */
export const gemma3: Architecture = {
  id: 'gemma3',
  classNames: ['Gemma3ForCausalLM'],
  baseClassName: 'Gemma3TextModel',
  modelTypes: ['gemma3_text'],
  defaults: {
    tied: true,
    ropeTheta: 1_000_000,
    normEpsilon: 1e-6,
    contextLength: 131_072,
    activation: 'gelu_pytorch_tanh',
    headDim: 256,
    kvHeads: 4,
    bosId: 2,
    eosId: 1,
  },
  keys: { activation: 'hidden_activation' },
  facts: ({ raw, slidingWindow }) => {
    const attention = numberAt(raw, 'attn_logit_softcapping')
    const logits = numberAt(raw, 'final_logit_softcapping')
    return {
      ...(attention === null ? {} : { attentionSoftcap: attention }),
      ...(logits === null ? {} : { logitSoftcap: logits }),
      attentionScale: 1 / Math.sqrt(numberAt(raw, 'query_pre_attn_scalar') ?? DEFAULT_QUERY_SCALAR),
      ...windowFacts(raw, WINDOWS, slidingWindow),
    }
  },
  tensors: gemma2.tensors.flatMap((row) => (row.role === 'blocks.{i}.attn.o.weight' ? [row, ...headNorms] : [row])),
  ignored: decoderIgnored,
  unsupported,
  slidingWindow: (config) => windowOf(config, WINDOWS),
  windowRotary: { key: 'rope_local_base_freq', theta: 10_000 },
  rotary: 'half',
}
