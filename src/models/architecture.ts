import type { ModelConfig, Role } from '../core/checkpoint.ts'
import type { JsonObject } from '../core/json.ts'

/**
 * One family of models as data. From it come the name maps of every format, the tensor set that validation expects,
 * and (with the block graph, `graph`) the forward pass.
 */
export interface Architecture {
  /** `llama`, `qwen2`: the file's name. */
  readonly id: string
  /** HuggingFace class names that it describes, the usual one first. */
  readonly classNames: readonly string[]
  /** The class without a head, whose checkpoints have no `model.` before their names. */
  readonly baseClassName: string
  /** `model_type` values. */
  readonly modelTypes: readonly string[]
  /** What config.json leaves out because the class has it as a default. */
  readonly defaults: ConfigDefaults
  /** Every tensor, the optional ones included, with `{i}` for the block's index. */
  readonly tensors: readonly TensorRow[]
  /** Tensors that checkpoints may hold and nobody needs (buffers): matched against the HuggingFace name. */
  readonly ignored: readonly RegExp[]
  /** Refuses configurations that the rows do not describe: returns what is unsupported, or null. */
  readonly unsupported: (config: JsonObject) => string | null
  /** Tokens that each position sees, the same in all blocks; null if all. `unsupported` refuses what differs by block. */
  readonly slidingWindow: (config: JsonObject) => number | null
  /**
   * How rotary positions pair the channels of a head in HuggingFace's checkpoints: channel i with i + d/2 (`half`), or
   * 2i with 2i + 1 (`interleaved`). Formats whose runtime wants the other way permute the query and key rows.
   */
  readonly rotary: 'half' | 'interleaved' | 'none'
  // The forward pass (`graph`, of the ops in graph.ts) goes here.
}

export interface ConfigDefaults {
  readonly tied: boolean
  readonly ropeTheta: number
  readonly normEpsilon: number
  readonly contextLength: number
  readonly activation: string
  /** Head width where config.json has none; null for hidden size / heads. */
  readonly headDim: number | null
  /** Key and value heads where config.json has none (an explicit null means `heads`); null for `heads`. */
  readonly kvHeads: number | null
  readonly bosId: number | null
  readonly eosId: number | null
}

export interface TensorRow {
  readonly role: Role
  /** The name in HuggingFace checkpoints. */
  readonly hf: string
  /** Axis sizes, slowest first. */
  readonly shape: (config: ModelConfig) => readonly number[]
  /** When the tensor exists; always, if absent. */
  readonly when?: (config: ModelConfig) => boolean
}

/** A row for one block or for the whole model, its names filled in. */
export interface ExpectedTensor {
  readonly role: Role
  readonly hf: string
  readonly shape: readonly number[]
  /** The block's index; null outside the blocks. */
  readonly block: number | null
}

/** The tensors that a checkpoint of this configuration must have, in the model's order. */
export function expectedTensors(architecture: Architecture, config: ModelConfig): readonly ExpectedTensor[] {
  const rows = architecture.tensors.filter((row) => row.when?.(config) ?? true)
  const first = rows.findIndex((row) => row.role.includes('{i}'))
  const last = rows.findLastIndex((row) => row.role.includes('{i}'))
  const fill = (row: TensorRow, block: number | null): ExpectedTensor => ({
    role: row.role.replace('{i}', String(block)),
    hf: row.hf.replace('{i}', String(block)),
    shape: row.shape(config),
    block,
  })
  if (first < 0) return rows.map((row) => fill(row, null))
  const blocks = Array.from({ length: config.layers }, (_, block) => block)
  return [
    ...rows.slice(0, first).map((row) => fill(row, null)),
    ...blocks.flatMap((block) => rows.slice(first, last + 1).map((row) => fill(row, block))),
    ...rows.slice(last + 1).map((row) => fill(row, null)),
  ]
}
