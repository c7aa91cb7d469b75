import type { Finding } from './plan.ts'

/** Whether a model can be run, by what, and what running it means: text that goes on, or a vector for a text. */
export type Verdict =
  | { readonly can: true; readonly by: RunnerId; readonly kind: ModelKind }
  | { readonly can: false; readonly because: string }

/** The programs that run finished files. */
export type RunnerId = 'llama.cpp'

/** A decoder says what comes next; an encoder turns a text into a vector. */
export type ModelKind = 'decoder' | 'encoder'

/** What became of a check: how the files are formed, and what they did when they were run. */
export interface CheckReport {
  readonly format: string
  readonly formatTitle: string
  /** "main.gguf, GGUF version 3". */
  readonly because: string
  readonly name: string
  readonly files: readonly { readonly path: string; readonly size: number }[]
  /** Whether it was validated: not again where it has just been, after a conversion. */
  readonly validated: boolean
  /** What validation found, then what the run did. */
  readonly findings: readonly Finding[]
  readonly run: RunReport | null
  /** Why it was not run; null if it was. */
  readonly notRun: string | null
  /** Who judged, for people: "validation", "llama.cpp 0.5.0 (node-llama-cpp 3.22.1)". */
  readonly judges: readonly string[]
  /** Whether there is no finding of severity `error`. */
  readonly passed: boolean
  readonly elapsedMs: number
}

/** What a model did when it was run. */
export interface RunReport {
  /** "llama.cpp 0.5.0 (node-llama-cpp 3.22.1)". */
  readonly by: string
  readonly kind: ModelKind
  readonly threads: number
  readonly prompt: string
  /** Ids of the prompt, special ones included; null where the runner does not tell them. */
  readonly promptIds: readonly number[] | null
  /** What a decoder said next, taking the likeliest token each time. */
  readonly generated: GeneratedText | null
  /** What an encoder made of the prompt. */
  readonly embedding: { readonly width: number; readonly norm: number } | null
  /** How well a decoder foretells a text; null where the runner cannot say. */
  readonly perplexity: Perplexity | null
  readonly loadMs: number
  /** The most memory that was taken, in bytes; null where nobody tells. */
  readonly memoryBytes: number | null
}

export interface GeneratedText {
  readonly ids: readonly number[]
  readonly text: string
  /** Whether the model ended the text itself. */
  readonly ended: boolean
  /** Natural logarithms of the probabilities of `ids`; NaN where they are no numbers. */
  readonly logProbs: readonly number[]
  /** Null where too little was done to tell. */
  readonly promptTokensPerSecond: number | null
  readonly tokensPerSecond: number | null
}

export interface Perplexity {
  readonly value: number
  /** Mean negative log-likelihood, in nats a token. */
  readonly meanLoss: number
  /** Tokens that were foretold. */
  readonly tokens: number
  /** Whether the text was the one that comes along. */
  readonly builtIn: boolean
}

/** How far one model is from another, over a text. */
export interface Comparison {
  readonly by: string
  readonly threads: number
  readonly tokens: number
  readonly builtIn: boolean
  /** Mean over the tokens of KL(A || B), in nats. */
  readonly meanKl: number
  readonly largestKl: number
  /** Share of the tokens where both have the same likeliest next token, 0 to 1. */
  readonly topAgreement: number
  readonly a: ComparedModel
  readonly b: ComparedModel
  readonly elapsedMs: number
}

export interface ComparedModel {
  readonly name: string
  readonly files: readonly { readonly path: string; readonly size: number }[]
  readonly perplexity: number
}
