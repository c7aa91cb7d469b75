import type { ModelConfig, Role } from '../core/checkpoint.ts'
import type { JsonObject } from '../core/json.ts'
import type { Parts } from './parts.ts'

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
  /** Where config.json spells a size otherwise than {@link CONFIG_KEYS}. */
  readonly keys?: Partial<Record<ConfigKey, string>>
  /** What only this family's configurations have: experts, caps, scales. Read from `raw`, which `unsupported` let pass. */
  readonly facts?: (config: ModelConfig) => ModelFacts
  /** Every tensor, the optional ones included, with `{i}` for the block's index. */
  readonly tensors: readonly TensorRow[]
  /** Tensors that checkpoints may hold and nobody needs (buffers): matched against the HuggingFace name. */
  readonly ignored: readonly RegExp[]
  /** Refuses configurations that the rows do not describe: returns what is unsupported, or null. */
  readonly unsupported: (config: JsonObject) => string | null
  /** Tokens that each position sees in blocks with a window; null if there are none. */
  readonly slidingWindow: (config: JsonObject) => number | null
  /**
   * How rotary positions pair the channels of a head in HuggingFace's checkpoints: channel i with i + d/2 (`half`), or
   * 2i with 2i + 1 (`interleaved`). Formats whose runtime wants the other way permute the query and key rows.
   */
  readonly rotary: 'half' | 'interleaved' | 'none'
  /** Whether blocks with a window turn in their own way: unscaled, and with the base under this key or this one. */
  readonly windowRotary?: { readonly key: string; readonly theta: number }
  /** Whether `dynamic` scaling with an `alpha` raises the base, whatever the length of a text. */
  readonly raisedBase?: true
  /** Whether the class scales scores by YaRN's mscale_all_dim; others refuse it. */
  readonly scaledYarn?: true
  /** Whether the class lets a part of each head's channels turn (partial_rotary_factor). */
  readonly partialRotary?: true
  /** Where config.json spells the rotary base and the part of each head that turns otherwise than most. */
  readonly rotaryKeys?: { readonly theta: string; readonly factor: string }
  // The forward pass (`graph`, of the ops in graph.ts) goes here.
}

/** The sizes that every config.json has, under the names that most give them. */
export const CONFIG_KEYS = {
  hiddenSize: 'hidden_size',
  layers: 'num_hidden_layers',
  intermediateSize: 'intermediate_size',
  heads: 'num_attention_heads',
  kvHeads: 'num_key_value_heads',
  headDim: 'head_dim',
  contextLength: 'max_position_embeddings',
  normEpsilon: 'rms_norm_eps',
  activation: 'hidden_act',
} as const

export type ConfigKey = keyof typeof CONFIG_KEYS

/** The optional fields of a {@link ModelConfig}. */
export type ModelFacts = Partial<
  Pick<
    ModelConfig,
    | 'experts'
    | 'latent'
    | 'attentionSoftcap'
    | 'logitSoftcap'
    | 'attentionScale'
    | 'embeddingScale'
    | 'residualScale'
    | 'logitDivisor'
    | 'tokenTypes'
    | 'labels'
    | 'decoder'
    | 'relativePositions'
    | 'windowPeriod'
    | 'unrotatedPeriod'
    | 'logitScale'
  >
>

export interface ConfigDefaults {
  readonly tied: boolean
  readonly ropeTheta: number
  /** The part of a head's channels that turns, where config.json does not say; all if absent. */
  readonly rotaryFactor?: number
  readonly normEpsilon: number
  readonly contextLength: number
  readonly activation: string
  /** Head width where config.json has none; null for hidden size / heads. */
  readonly headDim: number | null
  /** Key and value heads where config.json has none (an explicit null means `heads`); null for `heads`. */
  readonly kvHeads: number | null
  /** The MLP's width where config.json has none, as a multiple of the hidden size; without it the key is required. */
  readonly intermediateRatio?: number
  readonly bosId: number | null
  readonly eosId: number | null
}

export interface TensorRow {
  /** `{i}` is the block's index, `{e}` the expert's. */
  readonly role: Role
  /** The name in HuggingFace checkpoints. */
  readonly hf: string
  /** Other names that it has had there. */
  readonly aliases?: readonly string[]
  /** Axis sizes, slowest first: matrices are [out, in] in every role. */
  readonly shape: (config: ModelConfig) => readonly number[]
  /** When the tensor exists; always, if absent. `block` is null outside the blocks. */
  readonly when?: (config: ModelConfig, block: number | null) => boolean
  /** How many blocks `{i}` counts; `config.layers` if absent. The rows of a stack agree. */
  readonly blocks?: (config: ModelConfig) => number
  /** Whether HuggingFace stores the transpose, [in, out], of a matrix or of each in a stack: GPT-2's Conv1D. */
  readonly transposed?: true
  /** What it holds that other formats keep apart. */
  readonly parts?: (config: ModelConfig) => Parts
  /** Whether a complete checkpoint may lack it. */
  readonly optional?: true
}

/** A row for one block or for the whole model, its names filled in. */
export interface ExpectedTensor {
  readonly role: Role
  readonly hf: string
  readonly aliases: readonly string[]
  /** Of the role; HuggingFace's is the transpose where `transposed` is set: see {@link storedShape}. */
  readonly shape: readonly number[]
  /** The block's index; null outside the blocks. */
  readonly block: number | null
  readonly transposed: boolean
  readonly optional: boolean
  /** What it holds that other formats keep apart; absent for most. */
  readonly parts?: Parts
}

/** A tensor's shape as HuggingFace has it. */
export function storedShape({ shape, transposed }: Pick<ExpectedTensor, 'shape' | 'transposed'>): readonly number[] {
  return transposed ? [...shape.slice(0, -2), ...shape.slice(-2).toReversed()] : shape
}

/** What of a role comes before the block's index: rows of one stack share it. */
function stackOf(row: TensorRow): string | null {
  const at = row.role.indexOf('{i}')
  return at < 0 ? null : row.role.slice(0, at)
}

/** Neighbours for which `key` gives the same. */
function runs<T>(items: readonly T[], key: (item: T) => unknown): T[][] {
  const groups: T[][] = []
  for (const item of items) {
    const last = groups.at(-1)
    const first = last?.[0]
    if (last !== undefined && first !== undefined && key(first) === key(item)) last.push(item)
    else groups.push([item])
  }
  return groups
}

/** The tensors that a checkpoint of this configuration must have, in the model's order; optional ones are marked. */
export function expectedTensors(architecture: Architecture, config: ModelConfig): readonly ExpectedTensor[] {
  const fill = (row: TensorRow, block: number | null, expert: number | null): ExpectedTensor => {
    const name = (text: string): string => text.replace('{i}', String(block)).replace('{e}', String(expert))
    return {
      role: name(row.role),
      hf: name(row.hf),
      aliases: (row.aliases ?? []).map(name),
      shape: row.shape(config),
      block,
      transposed: row.transposed ?? false,
      optional: row.optional ?? false,
      ...(row.parts === undefined ? {} : { parts: row.parts(config) }),
    }
  }
  const fillBlock = (rows: readonly TensorRow[], block: number | null): ExpectedTensor[] =>
    runs(
      rows.filter((row) => row.when?.(config, block) ?? true),
      (row) => row.role.includes('{e}'),
    ).flatMap((group) =>
      group[0]?.role.includes('{e}') === true
        ? range(config.experts?.count ?? 0).flatMap((expert) => group.map((row) => fill(row, block, expert)))
        : group.map((row) => fill(row, block, null)),
    )
  return runs(architecture.tensors, stackOf).flatMap((rows) => {
    const [first] = rows
    if (first === undefined || stackOf(first) === null) return fillBlock(rows, null)
    return range(first.blocks?.(config) ?? config.layers).flatMap((block) => fillBlock(rows, block))
  })
}

function range(length: number): readonly number[] {
  return Array.from({ length }, (_, index) => index)
}
