import type { JsonObject } from '../core/json.ts'
import type { Architecture } from './architecture.ts'
import { activationUnsupported, decoderIgnored, decoderRows, numberAt } from './llama.ts'
import { wholeNorms } from './olmo2.ts'
import { routedExperts } from './qwen-moe.ts'

/** OlmoeConfig's own. */
const DEFAULT_EXPERTS = 64
const DEFAULT_USED = 8

function unsupported(config: JsonObject): string | null {
  if (config.get('norm_topk_prob') === true) return 'normalised routing weights (norm_topk_prob)'
  if ((config.get('clip_qkv') ?? null) !== null) return 'bounds on queries, keys and values (clip_qkv)'
  if (config.get('attention_bias') === true) return 'attention biases (attention_bias)'
  return activationUnsupported(config, 'hidden_act', ['silu', 'swish'])
}

/** OLMoE: experts in every block, and norms on the queries of all heads together and on the keys. */
export const olmoe: Architecture = {
  id: 'olmoe',
  classNames: ['OlmoeForCausalLM'],
  baseClassName: 'OlmoeModel',
  modelTypes: ['olmoe'],
  defaults: {
    tied: false,
    ropeTheta: 10_000,
    normEpsilon: 1e-5,
    contextLength: 4096,
    activation: 'silu',
    headDim: null,
    kvHeads: null,
    bosId: null,
    eosId: 50_279,
  },
  facts: ({ raw, intermediateSize }) => ({
    experts: {
      count: numberAt(raw, 'num_experts') ?? DEFAULT_EXPERTS,
      used: numberAt(raw, 'num_experts_per_tok') ?? DEFAULT_USED,
      intermediateSize,
    },
  }),
  tensors: decoderRows({ attention: wholeNorms, insteadOfMlp: routedExperts }),
  ignored: decoderIgnored,
  unsupported,
  slidingWindow: () => null,
  rotary: 'half',
}
