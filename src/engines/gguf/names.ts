import { AppError } from '../../core/errors.ts'
import type { Role } from '../../core/checkpoint.ts'

/** How llama.cpp calls an architecture, and what its loader does differently from HuggingFace's class. */
export interface GgufArchitecture {
  /** The value of `general.architecture`, and the prefix of its keys. */
  readonly name: string
  /** Whether the runtime pairs rotary channels 2i and 2i + 1, so that query and key rows are interleaved. */
  readonly interleavedRotary: boolean
  /** Whether its graph sees past `sliding_window`; true of architectures that have one only in HuggingFace. */
  readonly ignoresWindow: boolean
}

const LLAMA: GgufArchitecture = { name: 'llama', interleavedRotary: true, ignoresWindow: true }

/** By id of our architecture. Mistral has no name of its own in llama.cpp. */
const ARCHITECTURES: ReadonlyMap<string, GgufArchitecture> = new Map([
  ['llama', LLAMA],
  ['mistral', LLAMA],
  ['qwen2', { name: 'qwen2', interleavedRotary: false, ignoresWindow: true }],
  ['qwen3', { name: 'qwen3', interleavedRotary: false, ignoresWindow: true }],
])

/** Throws `unsupported` for an architecture that GGUF output does not cover yet. */
export function ggufArchitecture(id: string): GgufArchitecture {
  const found = ARCHITECTURES.get(id)
  if (found !== undefined) return found
  throw new AppError('unsupported', `${id} models cannot be written as GGUF yet`, {
    hint: `These can: ${[...ARCHITECTURES.keys()].join(', ')}.`,
  })
}

/** The id of the first of our architectures with this `general.architecture`; null if none has. */
export function architectureIdOf(ggufName: string): string | null {
  for (const [id, { name }] of ARCHITECTURES) if (name === ggufName) return id
  return null
}

/** Roles to GGUF's names, without the `.weight` or `.bias` that both end in. */
const NAMES: ReadonlyMap<string, string> = new Map([
  ['embed', 'token_embd'],
  ['blocks.{i}.attn_norm', 'blk.{i}.attn_norm'],
  ['blocks.{i}.attn.q', 'blk.{i}.attn_q'],
  ['blocks.{i}.attn.k', 'blk.{i}.attn_k'],
  ['blocks.{i}.attn.v', 'blk.{i}.attn_v'],
  ['blocks.{i}.attn.o', 'blk.{i}.attn_output'],
  ['blocks.{i}.attn.q_norm', 'blk.{i}.attn_q_norm'],
  ['blocks.{i}.attn.k_norm', 'blk.{i}.attn_k_norm'],
  ['blocks.{i}.mlp_norm', 'blk.{i}.ffn_norm'],
  ['blocks.{i}.mlp.gate', 'blk.{i}.ffn_gate'],
  ['blocks.{i}.mlp.up', 'blk.{i}.ffn_up'],
  ['blocks.{i}.mlp.down', 'blk.{i}.ffn_down'],
  ['final_norm', 'output_norm'],
  ['lm_head', 'output'],
])

/** The factors by which Llama 3 stretches each rotary frequency. */
export const ROPE_FREQS = 'rope_freqs.weight'

/** The GGUF name of a tensor. Throws `unsupported` for a role that GGUF has no name for. */
export function ggufName(role: Role): string {
  const [, stem = '', kind = ''] = /^(.*)\.(weight|bias)$/.exec(role) ?? []
  const block = /^blocks\.(\d+)\./.exec(stem)?.[1]
  const name = NAMES.get(block === undefined ? stem : stem.replace(`blocks.${block}.`, 'blocks.{i}.'))
  if (name === undefined) {
    throw new AppError('unsupported', `GGUF has no name for the tensor ${role}`, {
      where: { tensor: role },
      hint: 'This is an omission of the converter, please report it with the name of the model.',
    })
  }
  return `${block === undefined ? name : name.replace('{i}', block)}.${kind}`
}
