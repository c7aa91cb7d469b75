import type { WeightType } from './types.ts'

/**
 * The mixtures of `llama-quantize` as data. Source: src/llama-quant.cpp of llama.cpp v0.5.0 (September 2026).
 */

/** A mixture as llama.cpp names it. */
export interface Mix {
  readonly id: string
  /** For people and file names: "Q4_K_M". */
  readonly title: string
  /** When to take it. */
  readonly help: string
  /** llama.cpp's `general.file_type`. */
  readonly fileType: number
  /** What a matrix gets if no rule says otherwise. */
  readonly base: WeightType
  /** The output matrix (or the embedding that doubles as one), where its rows are whole blocks of the base type. */
  readonly head: WeightType
  /** The embedding, where it is not the output matrix too; the base type if absent. */
  readonly embedding?: WeightType
  /** Exceptions. Of several that hold for a tensor the last one counts. */
  readonly bumps: readonly Bump[]
  /**
   * Where the rules count differently: `low` mixtures count tensors and not layers, and have no rule of their own for
   * 70B models and for eight experts; `experts` has one type for stacked experts and another for all else.
   */
  readonly scheme?: 'low' | 'experts'
  /** Whether `Q2_K` matrices too are worthless without an importance matrix. */
  readonly needsImportance?: true
}

/** A type for one category of tensors, where all of the conditions hold. */
export interface Bump {
  readonly category: Category
  readonly type: WeightType
  /** By the place of the layer; every one if absent. */
  readonly layers?: Layers
  /** Query heads for each key head, at least; any if absent. */
  readonly grouped?: number
  /** Number of experts; any if absent. */
  readonly experts?: 'eight' | 'not-eight' | 'four-or-more'
  /** Whether an importance matrix is given; either if absent. */
  readonly importance?: boolean
  /** Falcon's own rules, or those of all others; both if absent. */
  readonly falcon?: boolean
}

/**
 * Layers by their number i of n: `more` is the first and the last eighth and every third between, `middle` all but the
 * first and the last eighth.
 */
export type Layers = 'more' | 'first-two' | 'first-four' | 'first-eighth' | 'first-sixteenth' | 'middle'

/** The kinds of matrices that the rules tell apart. `attn_v` holds fused projections too: their most sensitive part. */
export type Category =
  | 'output'
  | 'token_embd'
  | 'attn_v'
  | 'attn_k'
  | 'attn_q'
  | 'attn_output'
  | 'ffn_up'
  | 'ffn_gate'
  | 'ffn_down'
  | 'other'

/** Output matrices of models with eight experts, in most mixtures of two to four bits. */
const EIGHT_EXPERTS: Bump = { category: 'attn_output', experts: 'eight', falcon: false, type: 'q5_k' }

/** What the mixtures of the smallest types share; `kinder` is what matters most gets. */
function low(kinder: WeightType, attentionOutput: WeightType | null): readonly Bump[] {
  return [
    { category: 'attn_v', type: kinder },
    { category: 'attn_v', grouped: 4, type: 'q4_k' },
    { category: 'attn_v', experts: 'four-or-more', type: 'q4_k' },
    { category: 'attn_k', experts: 'eight', type: 'q4_k' },
    { category: 'ffn_down', layers: 'first-eighth', type: kinder },
    ...(attentionOutput === null ? [] : [{ category: 'attn_output', type: attentionOutput } as const]),
    { category: 'attn_output', experts: 'eight', type: 'q5_k' },
  ]
}

/** IQ4_NL and IQ4_XS. */
const FOUR_BIT_CODEBOOK: readonly Bump[] = [
  { category: 'attn_v', grouped: 4, type: 'q5_k' },
  { category: 'ffn_down', layers: 'first-eighth', importance: false, type: 'q5_k' },
  EIGHT_EXPERTS,
]

/** Every mixture, the most precise first. */
export const MIXES: readonly Mix[] = [
  {
    id: 'f32',
    title: 'F32',
    help: 'Exact, and four bytes a weight: for comparing, or for quantising elsewhere.',
    fileType: 0,
    base: 'f32',
    head: 'f32',
    bumps: [],
  },
  {
    id: 'f16',
    title: 'F16',
    help: 'Two bytes a weight; runs fast everywhere, and keeps what bfloat16 weights hold unless they are extreme.',
    fileType: 1,
    base: 'f16',
    head: 'f16',
    bumps: [],
  },
  {
    id: 'bf16',
    title: 'BF16',
    help: 'Two bytes a weight: an exact copy of a model that was saved in bfloat16.',
    fileType: 32,
    base: 'bf16',
    head: 'bf16',
    bumps: [],
  },
  {
    id: 'q8_0',
    title: 'Q8_0',
    help: 'About 8.5 bits a weight; hardly to be told from the original.',
    fileType: 7,
    base: 'q8_0',
    head: 'q8_0',
    bumps: [],
  },
  {
    id: 'q6_k',
    title: 'Q6_K',
    help: 'About 6.6 bits a weight; very close to the original.',
    fileType: 18,
    base: 'q6_k',
    head: 'q6_k',
    bumps: [],
  },
  {
    id: 'q5_1',
    title: 'Q5_1',
    help: 'About 6 bits a weight; an old type, Q5_K_M is as good and smaller.',
    fileType: 9,
    base: 'q5_1',
    head: 'q6_k',
    bumps: [],
  },
  {
    id: 'q5_k_m',
    title: 'Q5_K_M',
    help: 'About 5.7 bits a weight; a little larger than Q4_K_M, and closer to the original.',
    fileType: 17,
    base: 'q5_k',
    head: 'q6_k',
    bumps: [
      { category: 'attn_v', layers: 'more', type: 'q6_k' },
      { category: 'ffn_down', layers: 'more', type: 'q6_k' },
    ],
  },
  {
    id: 'q5_k_s',
    title: 'Q5_K_S',
    help: 'About 5.5 bits a weight; Q5_K_M without its exceptions.',
    fileType: 16,
    base: 'q5_k',
    head: 'q6_k',
    bumps: [],
  },
  {
    id: 'q5_0',
    title: 'Q5_0',
    help: 'About 5.5 bits a weight; an old and simple type, for runtimes that know no newer one.',
    fileType: 8,
    base: 'q5_0',
    head: 'q6_k',
    bumps: [{ category: 'ffn_down', layers: 'first-eighth', importance: true, type: 'q5_1' }],
  },
  {
    id: 'q4_1',
    title: 'Q4_1',
    help: 'About 5 bits a weight; an old type, Q4_K_M is better at its size.',
    fileType: 3,
    base: 'q4_1',
    head: 'q6_k',
    bumps: [],
  },
  {
    id: 'q4_k_m',
    title: 'Q4_K_M',
    help: 'About 4.8 bits a weight; the usual choice, a quarter of the size at little loss.',
    fileType: 15,
    base: 'q4_k',
    head: 'q6_k',
    bumps: [
      { category: 'attn_v', layers: 'more', type: 'q6_k' },
      { category: 'ffn_down', layers: 'more', falcon: false, type: 'q6_k' },
      { category: 'ffn_down', layers: 'more', falcon: true, type: 'q5_k' },
      { category: 'ffn_down', layers: 'first-sixteenth', falcon: true, type: 'q6_k' },
      EIGHT_EXPERTS,
    ],
  },
  {
    id: 'q4_k_s',
    title: 'Q4_K_S',
    help: 'About 4.6 bits a weight; a little smaller than Q4_K_M.',
    fileType: 14,
    base: 'q4_k',
    head: 'q6_k',
    bumps: [
      { category: 'attn_v', layers: 'first-four', type: 'q5_k' },
      { category: 'ffn_down', layers: 'first-eighth', falcon: false, type: 'q5_k' },
      EIGHT_EXPERTS,
    ],
  },
  {
    id: 'q4_0',
    title: 'Q4_0',
    help: 'About 4.5 bits a weight; the simplest 4-bit type, fastest on phones and old processors, less exact than Q4_K_M.',
    fileType: 2,
    base: 'q4_0',
    head: 'q6_k',
    bumps: [{ category: 'ffn_down', layers: 'first-eighth', importance: true, type: 'q4_1' }],
  },
  {
    id: 'iq4_nl',
    title: 'IQ4_NL',
    help: 'About 4.5 bits a weight, from a table of 16 uneven steps; for rows that suit no larger block.',
    fileType: 25,
    base: 'iq4_nl',
    head: 'q6_k',
    bumps: FOUR_BIT_CODEBOOK,
  },
  {
    id: 'iq4_xs',
    title: 'IQ4_XS',
    help: 'About 4.3 bits a weight; the smallest 4-bit type, nearly as exact as Q4_K_S, slower on processors.',
    fileType: 30,
    base: 'iq4_xs',
    head: 'q6_k',
    bumps: FOUR_BIT_CODEBOOK,
  },
  {
    id: 'mxfp4_moe',
    title: 'MXFP4_MOE',
    help: 'Experts in 4-bit floats as the OCP standard has them, all else in Q8_0: for models trained that way.',
    fileType: 38,
    base: 'mxfp4',
    head: 'q8_0',
    bumps: [],
    scheme: 'experts',
  },
  {
    id: 'q3_k_l',
    title: 'Q3_K_L',
    help: 'About 4.2 bits a weight; 3 bits with more for what matters most.',
    fileType: 13,
    base: 'q3_k',
    head: 'q6_k',
    bumps: [
      { category: 'attn_v', type: 'q5_k' },
      { category: 'ffn_down', falcon: false, type: 'q5_k' },
      { category: 'ffn_down', falcon: true, type: 'q4_k' },
      { category: 'attn_output', experts: 'not-eight', falcon: false, type: 'q5_k' },
      { category: 'attn_output', falcon: true, type: 'q4_k' },
    ],
  },
  {
    id: 'q3_k_m',
    title: 'Q3_K_M',
    help: 'About 3.9 bits a weight; noticeably less exact than 4 bits.',
    fileType: 12,
    base: 'q3_k',
    head: 'q6_k',
    bumps: [
      { category: 'attn_v', type: 'q4_k' },
      { category: 'attn_v', layers: 'first-two', type: 'q5_k' },
      { category: 'ffn_down', falcon: false, type: 'q4_k' },
      { category: 'ffn_down', layers: 'more', falcon: true, type: 'q4_k' },
      { category: 'ffn_down', layers: 'first-sixteenth', type: 'q5_k' },
      { category: 'attn_output', experts: 'not-eight', falcon: false, type: 'q4_k' },
      EIGHT_EXPERTS,
    ],
  },
  {
    id: 'iq3_m',
    title: 'IQ3_M',
    help: 'About 3.7 bits a weight, from a codebook; better than Q3_K_M, slower on processors.',
    fileType: 27,
    base: 'iq3_s',
    head: 'q6_k',
    bumps: [
      { category: 'attn_v', type: 'q4_k' },
      { category: 'ffn_down', layers: 'first-eighth', type: 'q4_k' },
      { category: 'ffn_down', layers: 'more', experts: 'eight', type: 'q4_k' },
      { category: 'attn_output', experts: 'not-eight', falcon: false, type: 'q4_k' },
      EIGHT_EXPERTS,
    ],
  },
  {
    id: 'iq3_s',
    title: 'IQ3_S',
    help: 'About 3.5 bits a weight, from a codebook; better than Q3_K_S, slower on processors.',
    fileType: 26,
    base: 'iq3_s',
    head: 'q6_k',
    bumps: [{ category: 'attn_v', grouped: 4, type: 'q4_k' }, EIGHT_EXPERTS],
  },
  {
    id: 'q3_k_s',
    title: 'Q3_K_S',
    help: 'About 3.5 bits a weight; small, and clearly worse.',
    fileType: 11,
    base: 'q3_k',
    head: 'q6_k',
    bumps: [EIGHT_EXPERTS],
  },
  {
    id: 'iq3_xs',
    title: 'IQ3_XS',
    help: 'About 3.3 bits a weight, from a codebook; needs an importance matrix.',
    fileType: 22,
    base: 'iq3_s',
    head: 'q6_k',
    bumps: [
      { category: 'attn_v', grouped: 4, type: 'q4_k' },
      { category: 'attn_q', type: 'iq3_xxs' },
      { category: 'attn_k', type: 'iq3_xxs' },
      { category: 'ffn_gate', layers: 'middle', type: 'iq3_xxs' },
      { category: 'ffn_up', layers: 'middle', type: 'iq3_xxs' },
      EIGHT_EXPERTS,
    ],
  },
  {
    id: 'iq3_xxs',
    title: 'IQ3_XXS',
    help: 'About 3.1 bits a weight, from a codebook; needs an importance matrix.',
    fileType: 23,
    base: 'iq3_xxs',
    head: 'q5_k',
    embedding: 'iq3_s',
    bumps: [
      { category: 'attn_v', importance: false, type: 'iq3_s' },
      { category: 'attn_v', grouped: 4, type: 'q4_k' },
      { category: 'attn_q', type: 'iq2_s' },
      { category: 'attn_k', type: 'iq2_s' },
      { category: 'ffn_down', importance: false, type: 'q3_k' },
      { category: 'ffn_down', layers: 'first-eighth', importance: false, type: 'q4_k' },
      { category: 'attn_output', experts: 'not-eight', falcon: false, type: 'iq3_s' },
      EIGHT_EXPERTS,
    ],
  },
  {
    id: 'q2_k',
    title: 'Q2_K',
    help: 'About 3 bits a weight; much is lost, but large models survive it.',
    fileType: 10,
    base: 'q2_k',
    head: 'q6_k',
    bumps: [
      { category: 'attn_v', type: 'q3_k' },
      { category: 'attn_v', grouped: 4, type: 'q4_k' },
      { category: 'ffn_down', type: 'q3_k' },
      { category: 'attn_output', experts: 'not-eight', falcon: false, type: 'q3_k' },
      EIGHT_EXPERTS,
    ],
  },
  {
    id: 'q2_k_s',
    title: 'Q2_K_S',
    help: 'About 2.7 bits a weight; needs an importance matrix.',
    fileType: 21,
    base: 'q2_k',
    head: 'q6_k',
    bumps: [
      { category: 'attn_v', grouped: 4, type: 'q4_k' },
      { category: 'ffn_down', layers: 'first-eighth', type: 'q4_k' },
    ],
    needsImportance: true,
  },
  {
    id: 'iq2_m',
    title: 'IQ2_M',
    help: 'About 2.7 bits a weight, from a codebook; needs an importance matrix.',
    fileType: 29,
    base: 'iq2_s',
    head: 'q5_k',
    embedding: 'iq3_s',
    bumps: low('iq3_s', 'iq3_s'),
    scheme: 'low',
  },
  {
    id: 'iq2_s',
    title: 'IQ2_S',
    help: 'About 2.5 bits a weight, from a codebook; needs an importance matrix.',
    fileType: 28,
    base: 'iq2_xs',
    head: 'q5_k',
    embedding: 'iq3_s',
    bumps: low('iq3_s', 'iq3_s'),
    scheme: 'low',
  },
  {
    id: 'iq2_xs',
    title: 'IQ2_XS',
    help: 'About 2.3 bits a weight, from a codebook; needs an importance matrix.',
    fileType: 20,
    base: 'iq2_xs',
    head: 'q5_k',
    embedding: 'q2_k',
    bumps: low('q2_k', null),
    scheme: 'low',
  },
  {
    id: 'iq2_xxs',
    title: 'IQ2_XXS',
    help: 'About 2.1 bits a weight, from a codebook; needs an importance matrix.',
    fileType: 19,
    base: 'iq2_xxs',
    head: 'q5_k',
    embedding: 'q2_k',
    bumps: low('q2_k', null),
    scheme: 'low',
  },
  {
    id: 'iq1_m',
    title: 'IQ1_M',
    help: 'About 1.8 bits a weight; for the very largest models, and needs an importance matrix.',
    fileType: 31,
    base: 'iq1_m',
    head: 'q5_k',
    embedding: 'q2_k',
    bumps: low('q2_k', 'iq2_xxs'),
    scheme: 'low',
  },
  {
    id: 'iq1_s',
    title: 'IQ1_S',
    help: 'About 1.6 bits a weight; for the very largest models, and needs an importance matrix.',
    fileType: 24,
    base: 'iq1_s',
    head: 'q5_k',
    embedding: 'q2_k',
    bumps: low('q2_k', 'iq2_xxs'),
    scheme: 'low',
  },
  {
    id: 'tq2_0',
    title: 'TQ2_0',
    help: 'About 2.1 bits a weight: only for models that were trained with three values a weight.',
    fileType: 37,
    base: 'tq2_0',
    head: 'q6_k',
    embedding: 'q4_k',
    bumps: [],
  },
  {
    id: 'tq1_0',
    title: 'TQ1_0',
    help: 'About 1.7 bits a weight: only for models that were trained with three values a weight.',
    fileType: 36,
    base: 'tq1_0',
    head: 'q6_k',
    embedding: 'q4_k',
    bumps: [],
  },
  {
    id: 'q2_0',
    title: 'Q2_0',
    help: 'About 2.3 bits a weight, in groups of 64: for models trained with four values a weight.',
    fileType: 41,
    base: 'q2_0',
    head: 'q6_k',
    embedding: 'q4_k',
    bumps: [],
  },
  {
    id: 'q1_0',
    title: 'Q1_0',
    help: 'About 1.1 bits a weight: only for models that were trained with two values a weight.',
    fileType: 40,
    base: 'q1_0',
    head: 'q6_k',
    bumps: [],
  },
]

/** The mixture that is chosen when none is asked for. */
export const DEFAULT_MIX = 'q4_k_m'
