import type { JsonObject } from '../core/json.ts'
import type { Architecture, TensorRow } from './architecture.ts'
import { activationUnsupported, decoderIgnored, decoderRows } from './llama.ts'

/** An MLP without a gate. */
const mlp: readonly TensorRow[] = [
  {
    role: 'blocks.{i}.mlp.up.weight',
    hf: 'model.layers.{i}.mlp.up_proj.weight',
    shape: (c) => [c.intermediateSize, c.hiddenSize],
  },
  {
    role: 'blocks.{i}.mlp.down.weight',
    hf: 'model.layers.{i}.mlp.down_proj.weight',
    shape: (c) => [c.hiddenSize, c.intermediateSize],
  },
]

function unsupported(config: JsonObject): string | null {
  for (const key of ['attention_bias', 'mlp_bias']) if (config.get(key) === true) return `biases (${key})`
  return activationUnsupported(config, 'hidden_act', ['relu2'])
}

/** Arcee's AFM: Llama's block, but for an MLP without a gate and with a squared ReLU. */
export const arcee: Architecture = {
  id: 'arcee',
  classNames: ['ArceeForCausalLM'],
  baseClassName: 'ArceeModel',
  modelTypes: ['arcee'],
  defaults: {
    tied: false,
    ropeTheta: 10_000,
    normEpsilon: 1e-5,
    contextLength: 4096,
    activation: 'relu2',
    headDim: null,
    kvHeads: null,
    bosId: 128_000,
    eosId: 128_001,
  },
  tensors: decoderRows({ insteadOfMlp: mlp }),
  ignored: decoderIgnored,
  unsupported,
  slidingWindow: () => null,
  rotary: 'half',
}
