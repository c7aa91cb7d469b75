import type { ModelConfig } from '../core/checkpoint.ts'
import type { Architecture, TensorRow } from './architecture.ts'
import { granite } from './granite.ts'
import { activationUnsupported, decoderIgnored, decoderRows, numberAt } from './llama.ts'
import { gateAndUp } from './parts.ts'

/** GraniteMoeConfig's own. */
const DEFAULT_EXPERTS = 8
const DEFAULT_USED = 2

const experts = (config: ModelConfig): number => config.experts?.count ?? 0

/** All experts of a block in one tensor each, gate above up. */
const routed: readonly TensorRow[] = [
  {
    role: 'blocks.{i}.mlp.router.weight',
    hf: 'model.layers.{i}.block_sparse_moe.router.layer.weight',
    shape: (c) => [experts(c), c.hiddenSize],
  },
  {
    role: 'blocks.{i}.mlp.experts.gate_up.weight',
    hf: 'model.layers.{i}.block_sparse_moe.input_linear.weight',
    shape: (c) => [experts(c), 2 * c.intermediateSize, c.hiddenSize],
    parts: (c) => gateAndUp('weight', 'halves', experts(c), c.intermediateSize, c.hiddenSize),
  },
  {
    role: 'blocks.{i}.mlp.experts.down.weight',
    hf: 'model.layers.{i}.block_sparse_moe.output_linear.weight',
    shape: (c) => [experts(c), c.hiddenSize, c.intermediateSize],
  },
]

/** Granite 3 with experts: Granite's multipliers on a block with a router. */
export const granitemoe: Architecture = {
  ...granite,
  id: 'granitemoe',
  classNames: ['GraniteMoeForCausalLM'],
  baseClassName: 'GraniteMoeModel',
  modelTypes: ['granitemoe'],
  facts: (config) => ({
    ...granite.facts?.(config),
    experts: {
      count: numberAt(config.raw, 'num_local_experts') ?? DEFAULT_EXPERTS,
      used: numberAt(config.raw, 'num_experts_per_tok') ?? DEFAULT_USED,
      intermediateSize: config.intermediateSize,
    },
  }),
  tensors: decoderRows({ insteadOfMlp: routed }),
  ignored: decoderIgnored,
  unsupported: (config) =>
    config.get('attention_bias') === true
      ? 'attention biases (attention_bias)'
      : activationUnsupported(config, 'hidden_act', ['silu', 'swish']),
}
