import type { Place } from '../core/bytes.ts'
import type { Verdict } from '../core/check.ts'
import type { DType } from '../core/dtype.ts'
import type { JobEvent } from '../core/job.ts'
import type { OptionSpec, OptionValues } from '../core/option.ts'
import type { Finding, MetadataEntry } from '../core/plan.ts'
import type { Transforms } from '../core/transform.ts'

/**
 * The API as it crosses a Worker or a socket: data in, data out, state behind ids. Nothing here is a function or a
 * generator, so any channel that clones data carries it.
 */
export interface Wire {
  formats(): Promise<readonly FormatInfo[]>
  /** What becomes what, and what does not, with the reason. */
  matrix(): Promise<Matrix>
  /** What kernels run on here, and why not on more. */
  devices(): Promise<readonly DeviceInfo[]>
  /** What is in a place, transformed if asked. Throws `not-a-model`, `needs-base`, and what opening throws. */
  inspect(place: Place, transforms?: Transforms): Promise<Inspection>
  /**
   * Every target that the model in a place can reach, with exact sizes; those it cannot, with the reason. Of one format
   * alone if options are given for it.
   */
  targets(place: Place, given?: TargetsGiven): Promise<readonly Target[]>
  /** What a conversion would do: the dry run. */
  plan(request: ConvertRequest): Promise<PlanSummary>
  /** Starts a conversion and returns its id at once. What goes wrong arrives as a `failed` event. */
  start(request: ConvertRequest): Promise<JobId>
  /** Whether a finished model can be run here, and what by; cheap, from its header. Throws what opening throws. */
  runnable(request: CheckRequest): Promise<Verdict>
  /** Starts to validate a model and, where something here can, to run it. Ends with a `checked` event. */
  check(request: CheckRequest): Promise<JobId>
  /** Starts to measure how far a model is from another. Ends with a `compared` event. */
  compare(request: CompareRequest): Promise<JobId>
  /** Waits for what happened since the last call: at least one event. After the one that ends the job there is no more. */
  next(id: JobId): Promise<readonly JobEvent[]>
  pause(id: JobId): Promise<void>
  resume(id: JobId): Promise<void>
  /** Stops and removes what was written, unless `keep` asks for a later resume. */
  cancel(id: JobId, options?: { readonly keep: boolean }): Promise<void>
  /** Conversions into this place that were interrupted and can be resumed. */
  interrupted(output: Place): Promise<readonly Interrupted[]>
  /** Removes what an interrupted conversion left. */
  discard(output: Place, key: string): Promise<void>
}

export type JobId = string

export interface FormatInfo {
  readonly id: string
  readonly title: string
  readonly reads: boolean
  readonly writes: boolean
  readonly options: readonly OptionSpec[]
  /** Class names of the architectures that it can hold. */
  readonly architectures: readonly string[]
}

/** Every kind of input against every output. */
export interface Matrix {
  readonly inputs: readonly MatrixInput[]
  readonly outputs: readonly { readonly id: string; readonly title: string }[]
  readonly architectures: readonly MatrixArchitecture[]
  /** One for each input and output. */
  readonly cells: readonly MatrixCell[]
}

/** One of the shapes in which models come. */
export interface MatrixInput {
  readonly id: string
  /** "GPTQ folder". */
  readonly title: string
  readonly help: string
  /** The format that reads it. */
  readonly format: string
  /** What becomes of models whose architecture is not known; null where they are refused. */
  readonly otherwise: string | null
}

export interface MatrixArchitecture {
  readonly id: string
  /** "LlamaForCausalLM"; the usual one first. */
  readonly classNames: readonly string[]
  /** The formats that cannot hold it, and why: "no class in mlx-lm". */
  readonly refused: readonly { readonly format: string; readonly reason: string }[]
}

export interface MatrixCell {
  /** The id of a {@link MatrixInput}. */
  readonly input: string
  /** The id of a format. */
  readonly output: string
  /** Ids of the architectures that go this way. */
  readonly architectures: readonly string[]
  /** Why nothing goes this way; null if something does. */
  readonly reason: string | null
}

export interface DeviceInfo {
  readonly id: string
  readonly label: string
  readonly threads: number
  readonly available: boolean
  /** Why it is not there, or less than it could be; null if all is well. */
  readonly limitation: string | null
}

/** A model in a nutshell. */
export interface Inspection {
  readonly format: string
  /** The id of the {@link MatrixInput} that it is. */
  readonly kind: string
  readonly formatTitle: string
  /** "config.json with 2 safetensors shards". */
  readonly because: string
  readonly name: string
  readonly architecture: string
  readonly className: string
  /** Weights, tied ones once. */
  readonly parameters: number
  readonly weightBytes: number
  readonly tensorCount: number
  /** Bytes by stored type, largest first. */
  readonly dtypes: readonly { readonly dtype: DType; readonly bytes: number }[]
  readonly layers: number
  readonly hiddenSize: number
  readonly heads: number
  readonly kvHeads: number
  readonly vocabSize: number
  readonly contextLength: number
  readonly tied: boolean
  /** Whether its multipliers can be folded into its weights: as it is, only by force, or not, and why not. */
  readonly mup: { readonly folds: 'yes' | 'forced' | 'no'; readonly because: string | null }
  readonly tokenizer: string | null
  readonly files: readonly { readonly path: string; readonly size: number }[]
  /** The keys of its header; none where the format has no such list. */
  readonly metadata: readonly MetadataEntry[]
  readonly findings: readonly Finding[]
}

export interface ConvertRequest {
  readonly input: Place
  readonly target: string
  readonly options: OptionValues
  readonly output: Place
  /** Name of the output: a file's stem or a folder; null for one made of the model's name and options. */
  readonly name: string | null
  readonly overwrite: boolean
  /** Forget an interrupted run of the same conversion, even if the sources have changed since. */
  readonly restart?: boolean
  /** What is done to the model in between; nothing if absent. */
  readonly transforms?: Transforms
  /** Whether the finished model is run before it is reported, where something here can. */
  readonly check?: boolean
}

export interface CheckRequest {
  readonly input: Place
  /** Of the place's files these only: what a conversion wrote into a folder that holds more. */
  readonly files?: readonly string[]
  /** The format to take it for; whichever fits best if absent. */
  readonly format?: string
  /** Whether it is validated; it is if absent. */
  readonly validate?: boolean
  /** Whether it is run, where something here can; it is if absent. */
  readonly run?: boolean
  /** What a decoder is to go on from, and an encoder to read; a few words of our own if absent. */
  readonly prompt?: string
  /** What perplexity is measured on; a short text of our own if absent. */
  readonly text?: string
  /** Windows of 512 tokens to measure at the most; all if absent. */
  readonly windows?: number
}

export interface CompareRequest {
  /** The model to compare with: usually the larger, or the source of the other. */
  readonly a: Place
  readonly b: Place
  readonly text?: string
  readonly windows?: number
}

/** What is asked of all targets of a format, beside what each of them stands for. */
export interface TargetsGiven {
  /** The only format; all if absent. */
  readonly format?: string
  readonly options?: OptionValues
  readonly transforms?: Transforms
}

/** One thing a model can become (or not). */
export interface Target {
  readonly format: string
  readonly formatTitle: string
  /** "Q4_K_M". */
  readonly title: string
  /** When to take it. */
  readonly help: string
  readonly options: OptionValues
  /** Null if it cannot be reached. */
  readonly cost: {
    readonly writeBytes: number
    readonly readBytes: number
    readonly peakBytes: number
    readonly bitsPerWeight: number
  } | null
  /** Why not, or null. */
  readonly reason: string | null
  readonly findings: readonly Finding[]
}

/** A plan without its recipes. */
export interface PlanSummary {
  readonly target: string
  /** Identifies the conversion: same sources, same options, same key. */
  readonly key: string
  /** With the number of tensors in each. */
  readonly files: readonly { readonly path: string; readonly size: number; readonly tensors: number }[]
  readonly tensors: readonly PlannedTensor[]
  /** The keys of the output's header; none where the format has no such list. */
  readonly metadata: readonly MetadataEntry[]
  readonly findings: readonly Finding[]
  readonly readBytes: number
  readonly writeBytes: number
  readonly peakBytes: number
  /** Free at the output; null where the host cannot say. */
  readonly freeBytes: number | null
  /** Bytes that an interrupted run already wrote and that would be kept. */
  readonly keptBytes: number
}

export interface PlannedTensor {
  readonly name: string
  readonly shape: readonly number[]
  readonly from: DType
  readonly to: DType
  readonly bytes: number
}

/** A job that was killed, as its journal tells. */
export interface Interrupted {
  readonly key: string
  readonly target: string
  readonly files: readonly { readonly path: string; readonly size: number; readonly done: number }[]
}
