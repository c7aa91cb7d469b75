import type { Architecture } from './architecture.ts'
import { activationUnsupported, decoderIgnored, decoderRows, numberAt } from './llama.ts'

/** MixtralConfig's own. */
const DEFAULT_EXPERTS = 8
const DEFAULT_USED = 2

/** Mixtral: Mistral's block with a router and experts in place of its MLP. */
export const mixtral: Architecture = {
  id: 'mixtral',
  classNames: ['MixtralForCausalLM'],
  baseClassName: 'MixtralModel',
  modelTypes: ['mixtral'],
  defaults: {
    tied: false,
    ropeTheta: 1_000_000,
    normEpsilon: 1e-5,
    contextLength: 131_072,
    activation: 'silu',
    headDim: null,
    kvHeads: 8,
    bosId: 1,
    eosId: 2,
  },
  facts: ({ raw, intermediateSize }) => ({
    experts: {
      count: numberAt(raw, 'num_local_experts') ?? DEFAULT_EXPERTS,
      used: numberAt(raw, 'num_experts_per_tok') ?? DEFAULT_USED,
      intermediateSize,
    },
  }),
  tensors: decoderRows({
    insteadOfMlp: [
      {
        role: 'blocks.{i}.mlp.router.weight',
        hf: 'model.layers.{i}.block_sparse_moe.gate.weight',
        shape: (c) => [c.experts?.count ?? 0, c.hiddenSize],
      },
      {
        role: 'blocks.{i}.mlp.experts.{e}.gate.weight',
        hf: 'model.layers.{i}.block_sparse_moe.experts.{e}.w1.weight',
        shape: (c) => [c.intermediateSize, c.hiddenSize],
      },
      {
        role: 'blocks.{i}.mlp.experts.{e}.down.weight',
        hf: 'model.layers.{i}.block_sparse_moe.experts.{e}.w2.weight',
        shape: (c) => [c.hiddenSize, c.intermediateSize],
      },
      {
        role: 'blocks.{i}.mlp.experts.{e}.up.weight',
        hf: 'model.layers.{i}.block_sparse_moe.experts.{e}.w3.weight',
        shape: (c) => [c.intermediateSize, c.hiddenSize],
      },
    ],
  }),
  ignored: decoderIgnored,
  unsupported: (config) => activationUnsupported(config, 'hidden_act', ['silu', 'swish']),
  slidingWindow: (config) => numberAt(config, 'sliding_window'),
  rotary: 'half',
}
