import { AppError } from '../../core/errors.ts'
import type { Role } from '../../core/checkpoint.ts'
import type { GgufArchitecture } from './arch/contract.ts'

/** Roles to GGUF's names, without the `.weight` or `.bias` that both end in, as most architectures have them. */
const NAMES: Readonly<Record<string, string>> = {
  embed: 'token_embd',
  embed_norm: 'token_embd_norm',
  position: 'position_embd',
  token_type: 'token_types',
  'blocks.{i}.attn_norm': 'blk.{i}.attn_norm',
  'blocks.{i}.attn.q': 'blk.{i}.attn_q',
  'blocks.{i}.attn.k': 'blk.{i}.attn_k',
  'blocks.{i}.attn.v': 'blk.{i}.attn_v',
  'blocks.{i}.attn.qkv': 'blk.{i}.attn_qkv',
  'blocks.{i}.attn.o': 'blk.{i}.attn_output',
  'blocks.{i}.attn.q_norm': 'blk.{i}.attn_q_norm',
  'blocks.{i}.attn.k_norm': 'blk.{i}.attn_k_norm',
  'blocks.{i}.attn.sinks': 'blk.{i}.attn_sinks',
  'blocks.{i}.mlp_norm': 'blk.{i}.ffn_norm',
  'blocks.{i}.mlp.gate': 'blk.{i}.ffn_gate',
  'blocks.{i}.mlp.up': 'blk.{i}.ffn_up',
  'blocks.{i}.mlp.down': 'blk.{i}.ffn_down',
  'blocks.{i}.mlp.router': 'blk.{i}.ffn_gate_inp',
  // all experts of a block in one tensor
  'blocks.{i}.mlp.experts.{e}.gate': 'blk.{i}.ffn_gate_exps',
  'blocks.{i}.mlp.experts.{e}.up': 'blk.{i}.ffn_up_exps',
  'blocks.{i}.mlp.experts.{e}.down': 'blk.{i}.ffn_down_exps',
  // of a model that has them in one, too
  'blocks.{i}.mlp.experts.gate': 'blk.{i}.ffn_gate_exps',
  'blocks.{i}.mlp.experts.up': 'blk.{i}.ffn_up_exps',
  'blocks.{i}.mlp.experts.down': 'blk.{i}.ffn_down_exps',
  'blocks.{i}.mlp.shared_gate': 'blk.{i}.ffn_gate_inp_shexp',
  'blocks.{i}.mlp.shared.gate': 'blk.{i}.ffn_gate_shexp',
  'blocks.{i}.mlp.shared.up': 'blk.{i}.ffn_up_shexp',
  'blocks.{i}.mlp.shared.down': 'blk.{i}.ffn_down_shexp',
  final_norm: 'output_norm',
  lm_head: 'output',
}

/** The factors by which Llama 3 stretches each rotary frequency. */
export const ROPE_FREQS = 'rope_freqs.weight'
/** LongRoPE's, within the original context and beyond. */
export const ROPE_FACTORS_SHORT = 'rope_factors_short.weight'
export const ROPE_FACTORS_LONG = 'rope_factors_long.weight'

/** The GGUF name of a tensor; experts share one. Throws `unsupported` for a role that GGUF has no name for. */
export function ggufName(role: Role, target: GgufArchitecture): string {
  const [, stem = '', kind = ''] = /^(.*)\.(weight|bias)$/.exec(role) ?? []
  const block = /(?:^|\.)blocks\.(\d+)\./.exec(stem)?.[1]
  const pattern = stem.replace(/((?:^|\.)blocks)\.\d+\./, '$1.{i}.').replace(/\.experts\.\d+\./, '.experts.{e}.')
  const name = target.names?.[pattern] ?? NAMES[pattern]
  if (name === undefined) {
    throw new AppError('unsupported', `GGUF has no name for the tensor ${role}`, {
      where: { tensor: role },
      hint: 'This is an omission of the converter, please report it with the name of the model.',
    })
  }
  return `${block === undefined ? name : name.replace('{i}', block)}.${kind}`
}
