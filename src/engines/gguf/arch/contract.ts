import type { ModelConfig } from '../../../core/checkpoint.ts'
import type { GgufValue } from '../../containers/gguf/types.ts'
import type { Transform } from '../transforms.ts'

/** How llama.cpp calls an architecture, and what its loader does differently from HuggingFace's class. */
export interface GgufArchitecture {
  /** The value of `general.architecture`, and the prefix of its keys. */
  readonly name: string
  /** Whether the runtime pairs rotary channels 2i and 2i + 1, so that query and key rows are interleaved. */
  readonly interleavedRotary: boolean
  /** Whether its graph sees past `sliding_window`; true of architectures that have one only in HuggingFace. */
  readonly ignoresWindow: boolean
  /** Of architectures whose blocks have windows by a period: what its loader takes where a file does not say. */
  readonly windows?: WindowDefaults
  /** The keys that hold the epsilon of its norms. */
  readonly epsilonKeys: readonly EpsilonKey[]
  /** Its own names of roles without `.weight` or `.bias`; the others have the common ones. */
  readonly names?: Readonly<Record<string, string>>
  /** Roles that the runtime has no place for, or finds elsewhere. */
  readonly omitted?: readonly RegExp[]
  /** What tensors go through besides the order of rotary rows; the first rule whose expression fits counts. */
  readonly transforms?: readonly TransformRule[]
  /** Keys beyond those that all have, with `{arch}` for its name. */
  readonly keys?: (config: ModelConfig) => readonly (readonly [string, GgufValue])[]
  /** Whether its models' YaRN rounds its bounds, which no key says; true if absent. The runtime rounds them always. */
  readonly yarnTruncates?: boolean
  /** What of a configuration its graph computes differently, so that it is refused; null if nothing. */
  readonly refuses?: (config: ModelConfig) => string | null
}

export type EpsilonKey = 'attention.layer_norm_rms_epsilon' | 'attention.layer_norm_epsilon'

export interface WindowDefaults {
  readonly period: number
  /** The rotary base of blocks with a window; that of all, or null where only those turn. */
  readonly theta: number | 'same' | null
}

export interface TransformRule {
  readonly role: RegExp
  readonly steps: (config: ModelConfig) => readonly Transform[]
}

export function u32(value: number): GgufValue {
  return { type: 'u32', value }
}

export function f32(value: number): GgufValue {
  return { type: 'f32', value }
}

export const RMS: readonly EpsilonKey[] = ['attention.layer_norm_rms_epsilon']
export const LAYER_NORM: readonly EpsilonKey[] = ['attention.layer_norm_epsilon']
