import type { DType } from './dtype.ts'
import { AppError } from './errors.ts'
import type { JsonObject } from './json.ts'
import type { Finding, MetadataEntry } from './plan.ts'
import type { Recipe } from './tensor.ts'

/**
 * A tensor's part in the model, the same in every format: `embed.weight`, `blocks.3.attn.q.weight`, `lm_head.weight`.
 * The architecture's rows say which there are.
 */
export type Role = string

/** A model of no format: what every reader makes and every writer takes. Headers only; weights stay where they are. */
export interface Checkpoint {
  /** The format it was read from. */
  readonly format: string
  /** For naming outputs: the folder's or file's own name. */
  readonly name: string
  /**
   * Id of the {@link ../models/architecture.ts Architecture}; {@link NO_ARCHITECTURE} for tensors that are of no model
   * known here: each role is then the tensor's own name, and `config` says nothing.
   */
  readonly architecture: string
  readonly config: ModelConfig
  readonly tokenizer: Tokenizer | null
  readonly tensors: ReadonlyMap<Role, Recipe>
  /** What tensors that are computed in f32 were stored as, by role: their type where types are kept. */
  readonly kept?: ReadonlyMap<Role, DType>
  /** Files that other formats may carry over untouched (generation_config.json, LICENSE ...): path to `u8` recipe. */
  readonly extras: ReadonlyMap<string, Recipe>
  /** The head of the model's card, its keys as HuggingFace has them (license, tags, base_model ...); absent where there is none. */
  readonly card?: JsonObject
  /** How it is to be sampled, under the keys of generation_config.json; absent where nothing says so. */
  readonly generation?: JsonObject
  /** Why the model is of no architecture that is described here; absent where it is, and where nothing says what it is. */
  readonly undescribed?: string
  /**
   * The same model with what is no part of its language model (vision), of {@link NO_ARCHITECTURE} and under its own names:
   * what formats write that hold any tensors. Absent where that is nothing more, and once anything was changed.
   */
  readonly whole?: Checkpoint
  /** What a file of bare tensors called them, for a writer that keeps names; absent where roles alone are known. */
  readonly stored?: StoredNames
  /** What the file says of itself, key by key; absent where its format has no such list. */
  readonly metadata?: readonly MetadataEntry[]
  /** The files that recipes read, and those that say what is in them, with the sizes they had when opened. */
  readonly sources: readonly SourceFile[]
  /** What the reader noticed: a tie that contradicts the config, ignored tensors. */
  readonly findings: readonly Finding[]
}

/** The spelling of a file of tensors. */
export interface StoredNames {
  /** By role; one that is not here keeps the name that its architecture gives it. */
  readonly names: ReadonlyMap<Role, string>
  /** What the file says of itself: `format`, and whatever its writer put there. */
  readonly metadata: ReadonlyMap<string, string>
}

/** The `architecture` of tensors that are of no model known here. */
export const NO_ARCHITECTURE = 'none'

/**
 * Throws `unsupported` for tensors of no known model, where a format can hold nothing else. `format` for people: "an MLX
 * model"; `hint` where the format has a remedy of its own.
 */
export function requireArchitecture(
  checkpoint: Checkpoint,
  format: string,
  hint = 'Put the config.json of the model beside its weights, and open the folder.',
): void {
  if (checkpoint.architecture !== NO_ARCHITECTURE) return
  if (checkpoint.undescribed !== undefined)
    throw new AppError('unsupported', `${checkpoint.name} cannot become ${format}: ${checkpoint.undescribed}`, {
      hint: `It can become ${checkpoint.format === 'gguf' ? 'another GGUF file' : 'a HuggingFace folder or safetensors files'}.`,
    })
  throw new AppError('unsupported', `${checkpoint.name} is not known to be a model, so it cannot become ${format}`, {
    hint,
  })
}

export interface SourceFile {
  readonly path: string
  readonly size: number
  readonly modified: number | null
}

/** A model's hyperparameters under one set of names, whatever the file called them. */
export interface ModelConfig {
  /** `model_type` of config.json: `llama`, `qwen2` ... */
  readonly modelType: string
  /** The class name: `LlamaForCausalLM`. */
  readonly className: string
  readonly hiddenSize: number
  readonly layers: number
  readonly intermediateSize: number
  readonly heads: number
  readonly kvHeads: number
  readonly headDim: number
  /** Rows of the embedding. */
  readonly vocabSize: number
  readonly contextLength: number
  readonly normEpsilon: number
  readonly activation: string
  readonly rope: RopeConfig
  /** Tokens each position sees; null if all. */
  readonly slidingWindow: number | null
  /** Every n-th block sees all tokens, and the others the window; absent where all have the window, or none has. */
  readonly windowPeriod?: number
  /** Every n-th block has no rotary positions; absent where all have them, or the window decides. */
  readonly unrotatedPeriod?: number
  /** Whether the head is the embedding. */
  readonly tied: boolean
  /** The dtype the weights are said to have. */
  readonly dtype: DType
  /** Token ids as the model's own config gives them; the tokenizer's come first where both speak. */
  readonly bosId: number | null
  /** The first is the one formats with room for one take. */
  readonly eosIds: readonly number[]
  readonly padId: number | null
  /** Latent attention; absent where keys and values are projected from the hidden state. */
  readonly latent?: LatentConfig
  /** Sparse experts; absent for a dense model. */
  readonly experts?: ExpertsConfig
  /** Attention scores `s` become `cap * tanh(s / cap)`; absent where they are not capped. */
  readonly attentionSoftcap?: number
  /** The same for logits. */
  readonly logitSoftcap?: number
  /** What attention scores are multiplied by, where it is not `1 / sqrt(headDim)`. */
  readonly attentionScale?: number
  /** What embeddings are multiplied by before the first block (muP models); 1 if absent. */
  readonly embeddingScale?: number
  /** What each block's two outputs are multiplied by before they are added (muP models); 1 if absent. */
  readonly residualScale?: number
  /** What logits are divided by (muP models); 1 if absent. */
  readonly logitDivisor?: number
  /** What logits are multiplied by (Cohere); 1 if absent. */
  readonly logitScale?: number
  /** Segments that an encoder tells apart (BERT); absent where there are none. */
  readonly tokenTypes?: number
  /** Names of a classifier's classes, in order; absent where there is no such head. */
  readonly labels?: readonly string[]
  /** How an encoder makes one vector of a text, where the model says so; absent where it does not. */
  readonly pooling?: 'mean' | 'cls' | 'last'
  /** The second stack of an encoder-decoder; `layers` then counts the encoder's blocks. */
  readonly decoder?: DecoderConfig
  /** Relative positions by bucket (T5), and the distance from which on all share the last one. */
  readonly relativePositions?: { readonly buckets: number; readonly maxDistance: number }
  /** The config as it was read, with every key that has no place above. */
  readonly raw: JsonObject
}

/** The configuration of tensors of which only names and shapes are known: it says nothing. */
export const NO_CONFIG: ModelConfig = {
  modelType: NO_ARCHITECTURE,
  className: 'tensors',
  hiddenSize: 0,
  layers: 0,
  intermediateSize: 0,
  heads: 0,
  kvHeads: 0,
  headDim: 0,
  vocabSize: 0,
  contextLength: 0,
  normEpsilon: 0,
  activation: '',
  rope: { theta: 0, scaling: { kind: 'none' } },
  slidingWindow: null,
  tied: false,
  dtype: 'f32',
  bosId: null,
  eosIds: [],
  padId: null,
  raw: new Map(),
}

/** A block's MLP as many small ones, of which a router picks a few for each token. */
export interface ExpertsConfig {
  readonly count: number
  /** Chosen for each token. */
  readonly used: number
  /** Width of each. */
  readonly intermediateSize: number
  /** Width of the one that every token passes through besides; absent if there is none. */
  readonly sharedIntermediateSize?: number
  /** Blocks before the first with experts, which have a dense MLP; 0 if absent. */
  readonly denseBlocks?: number
  /** What scores are made with, where a model says; and whether those of the chosen are divided by their sum. */
  readonly scores?: 'softmax' | 'sigmoid'
  readonly normalised?: boolean
  /** What the weights of the chosen are multiplied by; 1 if absent. */
  readonly weightScale?: number
  /** Groups of experts, of which the best are looked into for each token; absent where there is one. */
  readonly groups?: number
  readonly groupsUsed?: number
}

/** Attention whose keys and values are made of a latent that all heads share; `headDim` then counts what turns. */
export interface LatentConfig {
  /** Width of the queries' own latent; null where they are made straight. */
  readonly queryRank: number | null
  readonly rank: number
  /** Channels of a head that do not turn, and of its values. */
  readonly plainDim: number
  readonly valueDim: number
}

export interface DecoderConfig {
  readonly layers: number
  /** The token that a decoder starts from. */
  readonly startId: number
}

export interface RopeConfig {
  readonly theta: number
  /** Channels of each head that turn, the first of them; all if absent. */
  readonly dim?: number
  /** The base in blocks with a window, whose positions are not scaled; absent where all blocks turn alike. */
  readonly windowTheta?: number
  readonly scaling: RopeScaling
}

export type RopeScaling =
  | { readonly kind: 'none' }
  | { readonly kind: 'linear'; readonly factor: number }
  /** The base is multiplied by `alpha ** (dim / (dim - 2))` (Hunyuan). */
  | { readonly kind: 'alpha'; readonly alpha: number }
  | {
      readonly kind: 'llama3'
      readonly factor: number
      readonly lowFreqFactor: number
      readonly highFreqFactor: number
      readonly originalContext: number
    }
  | {
      readonly kind: 'yarn'
      readonly factor: number
      readonly originalContext: number
      readonly betaFast: number | null
      readonly betaSlow: number | null
      readonly attentionFactor: number | null
      /** False where the bounds between stretched and unstretched channels are not rounded to whole ones. */
      readonly truncate?: false
      /** What its logarithm is multiplied by for rotary positions, and for scores (DeepSeek); absent elsewhere. */
      readonly mscale?: number
      readonly mscaleAllDim?: number
    }
  | {
      readonly kind: 'longrope'
      /** Divisors of each frequency, [dim / 2], for texts within the original context, and for longer ones. */
      readonly shortFactors: readonly number[]
      readonly longFactors: readonly number[]
      readonly originalContext: number
      /** What queries and keys are multiplied by. */
      readonly attentionFactor: number
    }

export type TokenType = 'normal' | 'unknown' | 'control' | 'user' | 'unused' | 'byte'

export interface Token {
  /** As the vocabulary spells it: byte-level for BPE (`Ġthe`), `▁the` and `<0x0A>` for SPM, `##ing` for WordPiece. */
  readonly text: string
  readonly type: TokenType
  /** SPM and Unigram: higher wins. 0 where the kind has none. */
  readonly score: number
}

/** A tokenizer of no format. */
export interface Tokenizer {
  /**
   * How text becomes pieces: byte-level BPE by merge rank, SentencePiece BPE by score, WordPiece by longest match, or
   * SentencePiece Unigram by the likeliest whole.
   */
  readonly kind: 'bpe' | 'spm' | 'wordpiece' | 'unigram'
  /** By id; every id has a token (gaps are `unused`). */
  readonly tokens: readonly Token[]
  /** BPE: pairs in order of rank, spelled as the tokens are. */
  readonly merges: readonly (readonly [string, string])[]
  /** BPE: the pre-tokenizer family as llama.cpp names it (`llama-bpe`, `qwen2`); null if not recognised. SPM: `default`. */
  readonly pre: string | null
  /** BPE: the split expressions and flags behind `pre`, for a message that names what was not recognised. */
  readonly preDescription: string
  /** BPE whose `pre` is null: families that are like it, the likest first. */
  readonly preCandidates?: readonly string[]
  readonly ids: SpecialIds
  /** Whether a text gets what stands before and after one: bos and eos, or cls and sep where there are none; null where no file says. */
  readonly addBos: boolean | null
  readonly addEos: boolean | null
  /** Whether a separator stands between two texts, after what ends the first; absent where no file says. */
  readonly addSep?: boolean
  /** SPM and Unigram: whether a space is put before the text. */
  readonly addSpacePrefix: boolean | null
  /** What is done to text first, where a kind leaves it open; absent for BPE. */
  readonly normalizer?: TextNormalizer
  readonly chatTemplates: readonly ChatTemplate[]
}

export interface SpecialIds {
  readonly bos: number | null
  readonly eos: number | null
  /** End of a turn, where it is not `eos`. */
  readonly eot: number | null
  readonly unknown: number | null
  readonly pad: number | null
  /** End of a message that another of the same turn follows. */
  readonly eom?: number
  /** Between two texts, before a text, and in the place of a word to guess (BERT). */
  readonly sep?: number
  readonly cls?: number
  readonly mask?: number
  /** Around a gap to be filled (fill in the middle), and what goes with it. */
  readonly fimPrefix?: number
  readonly fimSuffix?: number
  readonly fimMiddle?: number
  readonly fimPad?: number
  readonly fimRepo?: number
  readonly fimSeparator?: number
}

/** What WordPiece and Unigram tokenizers do to a text before they look for pieces. */
export interface TextNormalizer {
  /** WordPiece. */
  readonly lowercase?: boolean
  readonly stripAccents?: boolean
  /** WordPiece: whether each ideograph is a word. */
  readonly splitIdeographs?: boolean
  /** Unigram: SentencePiece's compiled table of replacements. */
  readonly charsmap?: Uint8Array
  /** Unigram: whether spaces at the ends go, and runs of them become one. */
  readonly removeExtraSpaces?: boolean
}

export interface ChatTemplate {
  /** `default`, or the name the config gives it. */
  readonly name: string
  /** Jinja. Carried, never run. */
  readonly template: string
}
