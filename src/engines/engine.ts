import type { Folder } from '../core/bytes.ts'
import type { Verdict } from '../core/check.ts'
import type { Checkpoint } from '../core/checkpoint.ts'
import type { DType } from '../core/dtype.ts'
import type { OptionSpec, OptionValues } from '../core/option.ts'
import type { Finding, Plan } from '../core/plan.ts'
import type { Recipe } from '../core/tensor.ts'

export type FormatId =
  | 'huggingface'
  | 'safetensors'
  | 'torchscript'
  | 'onnx'
  | 'gguf'
  | 'mlx'
  | 'gptq'
  | 'awq'
  | 'megatron'

/** One of the shapes in which models of a format come: a row in the table of what becomes what. */
export interface InputKind {
  /** Unlike that of any other kind, of whatever format: `gptq`. */
  readonly id: string
  /** For people: "GPTQ folder". */
  readonly title: string
  /** How it is to be known, and in which forms it is read. */
  readonly help: string
  /** What becomes of models whose architecture is not known; absent where they are refused. */
  readonly otherwise?: string
}

/** That a folder is of a format, and how it was known. */
export interface Match {
  readonly format: FormatId
  /** The {@link InputKind} of the format. */
  readonly kind: string
  /** 0 to 1: the most certain match is opened. */
  readonly confidence: number
  /** For people: "config.json with 2 safetensors shards". */
  readonly because: string
  /** The file that the engine should start from. */
  readonly entry: string
}

/** That every weight is to be looked at, which takes as long as reading them. */
export interface Thorough {
  readonly signal: AbortSignal
}

/** What a reader is told besides the folder. */
export interface Given {
  /** The text of a config.json in HuggingFace's form, for formats whose files do not say everything. */
  readonly hfConfig?: string
}

/** What an engine must know of the weights before it can plan. Answered once and cached. */
export type Measurement =
  /** Whether two tensors hold the same values: a tied head, or one that only claims to be. */
  | { readonly kind: 'equal'; readonly id: string; readonly a: Recipe; readonly b: Recipe }
  /** The largest magnitude among a tensor's values. */
  | { readonly kind: 'absmax'; readonly id: string; readonly of: Recipe }
  /**
   * What rounding a matrix to each type changes, relative to its values: the sum of squares of the one over that of the
   * other, from a sample of its rows. `importance` counts columns, of the shape that `cast` takes.
   */
  | {
      readonly kind: 'rounding'
      readonly id: string
      readonly of: Recipe
      readonly to: readonly DType[]
      readonly importance?: Recipe
    }

/** Answers by measurement id: a boolean for `equal`, a number for `absmax`; for `rounding` a number by id and type, `id q4_k`. */
export type Evidence = ReadonlyMap<string, boolean | number>

export type { Verdict } from '../core/check.ts'

/**
 * One format. A reader has `open`, a writer has `convert`; both detect and validate. An engine names ops in recipes and
 * bytes in segments: it reads no weights, runs no kernels, and knows no other engine.
 */
export interface Engine {
  readonly id: FormatId
  /** For people: "GGUF (llama.cpp)". */
  readonly title: string
  /** Null where the format can be read only, and why. */
  readonly options: readonly OptionSpec[]
  /** What `open` takes; none where it is null. */
  readonly inputs: readonly InputKind[]
  /**
   * Why an architecture (its id) is neither read nor written, or null if it is: `convert` refuses all models of it,
   * whatever their configuration. A phrase for people: "no class in mlx-lm".
   */
  refuses(architecture: string): string | null
  /** A few KiB, never weights. Null if the folder is not of this format. */
  detect(folder: Folder): Promise<Match | null>
  /** Null for a format that cannot be read yet. */
  readonly open: ((folder: Folder, match: Match, given?: Given) => Promise<Checkpoint>) | null
  /** Opens a configuration without its weights: a checkpoint of no tensors, for those to be made up. Absent if a format has none. */
  readonly outline?: (folder: Folder, match: Match) => Promise<Checkpoint>
  /** What `convert` wants to know of the weights; [] for most. */
  needs(checkpoint: Checkpoint, options: OptionValues): readonly Measurement[] | Promise<readonly Measurement[]>
  /** The plan: reads no weights, no clock. Null for a format that cannot be written yet. Throws `unsupported`, `bad-option`. */
  readonly convert: ((checkpoint: Checkpoint, options: OptionValues, evidence: Evidence) => Promise<Plan>) | null
  /**
   * What is wrong with a finished output, as findings; none of severity `error` means that it is properly formed.
   * Weights are sampled, or all looked at where `thorough` is given and the format has it.
   */
  validate(folder: Folder, match: Match, thorough?: Thorough): AsyncGenerator<Finding, void, void>
  /** Whether a checkpoint that was opened by this engine can be run as it lies, and by what. */
  canInfer(checkpoint: Checkpoint): Verdict
}
