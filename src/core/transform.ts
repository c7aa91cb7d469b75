import type { Place } from './bytes.ts'

/** What can be done to a checkpoint between reading and writing, as data. */
export interface Transforms {
  /** The text of a config.json in HuggingFace's form, for sources whose files do not say everything (Megatron). */
  readonly hfConfig?: string
  /** LoRA adapters to merge into the model. */
  readonly adapters?: readonly AdapterChoice[]
  /** The model that the input, an adapter itself, is merged into. */
  readonly base?: Place
  /** Fold a muP model into a plain Llama. */
  readonly mup2llama?: boolean
  /** Keep a folded model's head tied to its embedding. */
  readonly keepTied?: boolean
  /** Fold a model that has only some of the keys of MiniCPM, too. */
  readonly forceMup?: boolean
  /** Make the weights up, from the configuration alone; those that are there are not read. */
  readonly fakeWeights?: FakeWeights
  /** The same, as a file says it: it goes before `fakeWeights`. */
  readonly fakeConfig?: TextFile
}

/** The text of a small file. */
export interface TextFile {
  /** Its own name, for messages. */
  readonly name: string
  readonly text: string
}

/** An adapter, and what its products are multiplied by besides: 1 as it was trained. */
export interface AdapterChoice {
  readonly place: Place
  readonly weight: number
}

export type FakeDistribution = 'normal' | 'uniform' | 'zeros'

export type FakeType = 'f32' | 'f16' | 'bf16'

/** What made-up weights are to be. */
export interface FakeWeights {
  /** 0 to 2^32 - 1: the same seed gives the same bytes everywhere. */
  readonly seed: number
  readonly distribution: FakeDistribution
  /** Standard deviation; null for `initializer_range` of the config, or 0.02. */
  readonly std: number | null
  /** Null for what the config says. */
  readonly dtype: FakeType | null
  /** What single tensors are to be, by HuggingFace name or role; `*` stands for anything but a dot. */
  readonly tensors: Readonly<Record<string, FakeTensor>>
}

export interface FakeTensor {
  readonly shape?: readonly number[]
  readonly distribution?: FakeDistribution
  readonly std?: number
  /** The same everywhere: goes before the distribution. */
  readonly value?: number
}
