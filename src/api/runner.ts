import type { Place } from '../core/bytes.ts'
import type { ModelKind, RunnerId } from '../core/check.ts'

/** A program of somebody else's that runs finished files, and so judges them. The host has those that it can start. */
export interface Runner {
  readonly id: RunnerId
  /** Why it cannot run this model here, and what can be done, as sentences; null if it can be tried. */
  limitation(model: RunnableModel): Promise<string | null>
  /**
   * Throws `unsupported` where the program is not there, `malformed` (with its own words) where it refuses the model,
   * `device` where it breaks down, `cancelled`.
   */
  load(model: RunnableModel, options: LoadOptions): Promise<RunningModel>
}

/** Finished files that make up one model. */
export interface RunnableModel {
  readonly place: Place
  /** Those of a split model in order. */
  readonly files: readonly { readonly path: string; readonly size: number }[]
  readonly kind: ModelKind
}

export interface LoadOptions {
  /** Tokens that it should see at once. */
  readonly context: number
  readonly signal: AbortSignal
}

/** A model in the memory of its runner. Calls come one after the other; once one has thrown, only `close` is left. */
export interface RunningModel {
  /** "llama.cpp 0.5.0 (node-llama-cpp 3.22.1)". */
  readonly by: string
  readonly threads: number
  /** Tokens that it sees at once. */
  readonly context: number
  readonly loadMs: number
  /** What a decoder says after `prompt`, at most `count` tokens, the likeliest each time. */
  generate(prompt: string, count: number): Promise<Generation>
  /** What an encoder makes of a text. */
  embed(text: string): Promise<ArrayLike<number>>
  /** Null where the runner tells no probabilities of a given text. */
  readonly measures: TextMeasures | null
  /** The most that was taken so far, in bytes; null where nobody tells. */
  memoryBytes(): Promise<number | null>
  close(): Promise<void>
}

/** What a runner that shows its logits can measure of a decoder. */
export interface TextMeasures {
  /** What must come before every text; null for most models, which manage without. */
  readonly first: number | null
  /** Without special tokens. */
  tokenize(text: string): Promise<readonly number[]>
  /** The negative log-likelihood of each token but the first, in nats. */
  losses(ids: readonly number[]): Promise<Float64Array>
  /** Raw logits behind each token, [tokens, vocabulary]. `fresh` starts anew, else `ids` follow those of the last call. */
  logits(ids: readonly number[], fresh: boolean): Promise<Float32Array>
}

export interface Generation {
  /** Ids of the prompt, special ones included; null where the runner does not tell them. */
  readonly promptIds: readonly number[] | null
  readonly promptTokens: number
  readonly ids: readonly number[]
  readonly text: string
  /** Whether the model ended the text itself. */
  readonly ended: boolean
  /** Natural logarithms of the probabilities of `ids`; NaN where they are no numbers. */
  readonly logProbs: readonly number[]
  readonly promptMs: number
  /** For all tokens but the first, which the prompt gives. */
  readonly ms: number
}
