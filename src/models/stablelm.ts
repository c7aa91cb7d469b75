import type { ModelConfig } from '../core/checkpoint.ts'
import type { JsonObject } from '../core/json.ts'
import type { Architecture, TensorRow } from './architecture.ts'
import { norm } from './bert.ts'
import { activationUnsupported, decoderIgnored, decoderRows, qkvBiases } from './llama.ts'

/** Whether attention and MLP are beside each other, behind one norm. */
const parallel = (config: ModelConfig): boolean => config.raw.get('use_parallel_residual') === true

function unsupported(config: JsonObject): string | null {
  if (config.get('qk_layernorm') === true) return 'norms of each head’s queries and keys (qk_layernorm)'
  return activationUnsupported(config, 'hidden_act', ['silu', 'swish'])
}

/** Llama's rows with LayerNorms in place of its norms. */
function rows(): readonly TensorRow[] {
  const own = decoderRows({ attention: qkvBiases((c) => c.raw.get('use_qkv_bias') === true) })
  return own.flatMap((row) => {
    const role = row.role.replace(/\.weight$/, '')
    const hf = row.hf.replace(/\.weight$/, '')
    if (!role.endsWith('norm')) return [row]
    return norm(role, hf, role.endsWith('mlp_norm') ? { when: (c) => !parallel(c) } : {})
  })
}

/** StableLM 3B and StableLM 2: Llama's block with LayerNorms, and rotary positions on a part of each head. */
export const stablelm: Architecture = {
  id: 'stablelm',
  classNames: ['StableLmForCausalLM', 'StableLMEpochForCausalLM'],
  baseClassName: 'StableLmModel',
  modelTypes: ['stablelm', 'stablelm_epoch'],
  defaults: {
    tied: false,
    ropeTheta: 10_000,
    rotaryFactor: 0.25,
    normEpsilon: 1e-5,
    contextLength: 4096,
    activation: 'silu',
    headDim: null,
    kvHeads: null,
    bosId: null,
    eosId: 0,
  },
  keys: { normEpsilon: 'layer_norm_eps' },
  partialRotary: true,
  tensors: rows(),
  ignored: decoderIgnored,
  unsupported,
  slidingWindow: () => null,
  rotary: 'half',
}
