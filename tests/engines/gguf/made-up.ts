import type { Folder } from '../../../src/core/bytes.ts'
import type { Checkpoint, ModelConfig, Tokenizer } from '../../../src/core/checkpoint.ts'
import { read, tensorBytes, type Recipe } from '../../../src/core/tensor.ts'
import { expectedTensors, type Architecture } from '../../../src/models/architecture.ts'
import { llama } from '../../../src/models/llama.ts'
import { memoryFolder } from '../../contracts/memory.ts'

/** Sizes of a model that nobody trained. */
export interface MadeUp {
  readonly layers: number
  readonly hidden: number
  readonly intermediate: number
  readonly heads: number
  readonly kvHeads: number
  readonly tied: boolean
  readonly vocab?: number
  readonly architecture?: Architecture
  readonly config?: Partial<ModelConfig>
  readonly tokenizer?: Tokenizer | null
}

/** A byte-level tokenizer of `size` tokens. */
export function madeUpTokenizer(size: number, more: Partial<Tokenizer> = {}): Tokenizer {
  return {
    kind: 'bpe',
    tokens: Array.from({ length: size }, (_, id) => ({ text: `t${id}`, type: 'normal', score: 0 })),
    merges: [['t', '1']],
    pre: 'llama-bpe',
    preDescription: 'made up',
    ids: { bos: 0, eos: 1, eot: null, unknown: null, pad: null },
    addBos: true,
    addEos: null,
    addSpacePrefix: null,
    chatTemplates: [],
    ...more,
  }
}

/** Rows of the embedding unless said otherwise. */
export const MADE_UP_VOCAB = 16

/** A checkpoint with all tensors that its architecture wants, in bf16, and the folder that holds them. */
export function madeUpCheckpoint(shape: MadeUp): { checkpoint: Checkpoint; folder: Folder } {
  const architecture = shape.architecture ?? llama
  const vocabSize = shape.vocab ?? MADE_UP_VOCAB
  const config: ModelConfig = {
    modelType: architecture.id,
    className: architecture.classNames[0]!,
    hiddenSize: shape.hidden,
    layers: shape.layers,
    intermediateSize: shape.intermediate,
    heads: shape.heads,
    kvHeads: shape.kvHeads,
    headDim: Math.floor(shape.hidden / shape.heads),
    vocabSize,
    contextLength: 128,
    normEpsilon: 1e-5,
    activation: 'silu',
    rope: { theta: 10_000, scaling: { kind: 'none' } },
    slidingWindow: null,
    tied: shape.tied,
    dtype: 'bf16',
    bosId: 0,
    eosIds: [1],
    padId: null,
    raw: new Map(),
    ...shape.config,
  }
  const tensors = new Map<string, Recipe>()
  let end = 0
  for (const expected of expectedTensors(architecture, config)) {
    const recipe = read({ dtype: 'bf16', shape: expected.shape }, 'weights.bin', end)
    end += tensorBytes(recipe)
    tensors.set(expected.role, recipe)
  }
  const checkpoint: Checkpoint = {
    format: 'huggingface',
    name: 'Made-Up-1B-Instruct',
    architecture: architecture.id,
    config,
    tokenizer: shape.tokenizer === undefined ? madeUpTokenizer(vocabSize) : shape.tokenizer,
    tensors,
    extras: new Map(),
    sources: [{ path: 'weights.bin', size: end, modified: null }],
    findings: [],
  }
  return { checkpoint, folder: memoryFolder({ 'weights.bin': weights(end) }) }
}

/** Bfloat16 values of both signs between 2^-7 and 1, of no pattern that a block size divides. */
function weights(bytes: number): Uint8Array {
  const values = new Uint16Array(bytes / 2)
  for (let i = 0, state = 1; i < values.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    values[i] = ((state >>> 31) << 15) | (0x3c00 + ((state >>> 22) % 0x380))
  }
  return new Uint8Array(values.buffer)
}
