/** What the command and its llama.cpp process say to each other: a request has an id, and its answer the same. */

export interface LoadRequest {
  readonly path: string
  /** Tokens that the model sees at once. */
  readonly context: number
  /** 0 for as many as llama.cpp itself would take. */
  readonly threads: number
  readonly embeddings: boolean
}

export interface Loaded {
  /** "0.5.0". */
  readonly llama: string
  /** Tokens that it sees at once: those asked for, or fewer where the model was made for fewer. */
  readonly context: number
  readonly loadMs: number
  readonly threads: number
  /** What must come before every text to be measured; null for most, which manage without. */
  readonly first: number | null
}

/** What can be asked, and what is answered. */
export interface Operations {
  /** Loads the library; why it cannot, or null. */
  start: { readonly ask: object; readonly answer: string | null }
  load: { readonly ask: LoadRequest; readonly answer: Loaded }
  tokenize: { readonly ask: { readonly text: string }; readonly answer: readonly number[] }
  generate: { readonly ask: { readonly prompt: string; readonly count: number }; readonly answer: Generated }
  /** The loss of each token but the first, in nats. */
  losses: { readonly ask: { readonly ids: readonly number[] }; readonly answer: Float64Array }
  /** Raw logits behind each of the tokens, [tokens, vocabulary]. `fresh` forgets what came before. */
  logits: { readonly ask: { readonly ids: readonly number[]; readonly fresh: boolean }; readonly answer: Float32Array }
  embed: { readonly ask: { readonly text: string }; readonly answer: readonly number[] }
  /** The most memory that the process has had so far, in bytes. */
  memory: { readonly ask: object; readonly answer: number }
}

export type Operation = keyof Operations

export interface Generated {
  readonly promptIds: readonly number[]
  readonly ids: readonly number[]
  readonly text: string
  readonly ended: boolean
  readonly logProbs: readonly number[]
  readonly promptMs: number
  readonly ms: number
}

export interface Request {
  readonly id: number
  readonly op: Operation
  readonly ask: unknown
}

export type Reply =
  | { readonly id: number; readonly answer: unknown }
  /** `refused`: llama.cpp does not take the model, as against something that went wrong. */
  | { readonly id: number; readonly error: string; readonly refused: boolean }
