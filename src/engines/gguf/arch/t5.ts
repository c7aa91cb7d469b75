import { u32, type GgufArchitecture } from './contract.ts'

const PART: Readonly<Record<string, string>> = {
  attn_norm: 'attn_norm',
  'attn.q': 'attn_q',
  'attn.k': 'attn_k',
  'attn.v': 'attn_v',
  'attn.o': 'attn_o',
  'attn.position_bias': 'attn_rel_b',
  cross_norm: 'cross_attn_norm',
  'cross.q': 'cross_attn_q',
  'cross.k': 'cross_attn_k',
  'cross.v': 'cross_attn_v',
  'cross.o': 'cross_attn_o',
  mlp_norm: 'ffn_norm',
  'mlp.gate': 'ffn_gate',
  'mlp.up': 'ffn_up',
  'mlp.down': 'ffn_down',
}

function stackNames(stack: string, short: string): Record<string, string> {
  const parts = Object.entries(PART).map(([role, name]) => [`${stack}.blocks.{i}.${role}`, `${short}.blk.{i}.${name}`])
  return { ...Object.fromEntries(parts), [`${stack}.final_norm`]: `${short}.output_norm` }
}

/** What the decoder's last norm is multiplied by: the class divides a tied head's input, the runtime does not. */
export const t5: GgufArchitecture = {
  name: 't5',
  interleavedRotary: false,
  ignoresWindow: true,
  epsilonKeys: ['attention.layer_norm_epsilon', 'attention.layer_norm_rms_epsilon'],
  names: { ...stackNames('encoder', 'enc'), ...stackNames('decoder', 'dec') },
  transforms: [
    {
      role: /^decoder\.final_norm\.weight$/,
      steps: (c) => (c.tied ? [{ kind: 'scale', value: 1 / Math.sqrt(c.hiddenSize) }] : []),
    },
  ],
  keys: ({ decoder, layers, relativePositions }) => [
    ['{arch}.decoder_block_count', u32(decoder?.layers ?? layers)],
    ['{arch}.decoder_start_token_id', u32(decoder?.startId ?? 0)],
    ['{arch}.attention.relative_buckets_count', u32(relativePositions?.buckets ?? 0)],
  ],
  refuses: ({ relativePositions }) =>
    relativePositions?.maxDistance === 128 ? null : 'relative positions that reach further than 128',
}
