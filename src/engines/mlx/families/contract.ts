/** How mlx-lm's classes are described, and the parts that many of them share. */
import type { ModelConfig } from '../../../core/checkpoint.ts'
import type { Json } from '../../../core/json.ts'
import type { ConfigKey } from '../../../models/architecture.ts'

/** How mlx-lm builds one family. */
export interface MlxFamily {
  /** What stands for what in HuggingFace's names. */
  readonly renames?: readonly (readonly [from: string, to: string])[]
  /** Its own names of roles without `.weight` or `.bias`, where HuggingFace has them in one or otherwise. */
  readonly names?: Readonly<Record<string, string>>
  /** HuggingFace's name for a part of an expert: mlx-lm's, below `switch_mlp`. */
  readonly experts?: ReadonlyMap<string, string>
  /** The modules of a block in their order; `layers.0.` before and what follows a dot after are left out. */
  readonly order: readonly string[]
  /**
   * Whether there is an `lm_head`: unless the config ties it; always; or never, so that an untied head cannot be said.
   */
  readonly head: 'untied' | 'always' | 'never'
  /** Sizes that the class cannot do without, or has another default for than HuggingFace's. */
  readonly sizes?: readonly ConfigKey[]
  /** Other keys of that kind. */
  readonly keys?: (config: ModelConfig) => readonly (readonly [string, Json])[]
  /** Keys that the class reads otherwise than HuggingFace's, which they replace. */
  readonly replacing?: (config: ModelConfig) => readonly (readonly [string, Json])[]
  /** What the class does otherwise than the model, or null. */
  readonly unsupported?: (config: ModelConfig) => string | null
  /** Modules that are parameters of a class and no Linear, so that they are not quantised. */
  readonly parameters?: readonly string[]
  /** Whether its class has the model's sliding window; others let every position see all before it. */
  readonly windowed?: true
  /** Bits that the class wants for a module whatever the rest has, in groups of 64. */
  readonly sensitive?: { readonly suffix: string; readonly bits: number }
}

export const ATTENTION = ['self_attn.q_proj', 'self_attn.k_proj', 'self_attn.v_proj', 'self_attn.o_proj']
export const HEAD_NORMS = ['self_attn.q_norm', 'self_attn.k_norm']
export const MLP = ['mlp.gate_proj', 'mlp.down_proj', 'mlp.up_proj']
export const NORMS = ['input_layernorm', 'post_attention_layernorm']
export const EXPERT_PARTS = ['gate_proj', 'up_proj', 'down_proj']
export const EXPERTS = (mlp: string): readonly string[] =>
  ['gate', ...EXPERT_PARTS.map((name) => `switch_mlp.${name}`)].map((name) => `${mlp}.${name}`)
export const SHARED = ['gate_proj', 'down_proj', 'up_proj'].map((name) => `mlp.shared_expert.${name}`)

export const QWEN_EXPERTS = new Map(['gate_proj', 'up_proj', 'down_proj'].map((name) => [name, name]))
export const MIXTRAL_EXPERTS = new Map([
  ['w1', 'gate_proj'],
  ['w2', 'down_proj'],
  ['w3', 'up_proj'],
])

export const SIZES: readonly ConfigKey[] = ['kvHeads', 'normEpsilon']

export const decoder: MlxFamily = { order: [...ATTENTION, ...MLP, ...NORMS], head: 'untied', sizes: SIZES }

export const expertKeys = ({ experts }: ModelConfig): readonly (readonly [string, Json])[] => [
  ['num_experts', experts?.count ?? 0],
  ['num_experts_per_tok', experts?.used ?? 0],
  ['moe_intermediate_size', experts?.intermediateSize ?? 0],
]

/** Refuses stretched rotary positions, for classes that have none. */
export function plainRotary({ rope }: ModelConfig): string | null {
  return rope.scaling.kind === 'none' ? null : `rotary scaling of the kind ${rope.scaling.kind}`
}
