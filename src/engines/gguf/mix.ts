import { dtypeInfo, type DType } from '../../core/dtype.ts'

/**
 * Which type each tensor gets: the rules of `llama-quantize`, as data.
 * Source: src/llama-quant.cpp of llama.cpp v0.5.0 (September 2026).
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
  readonly base: DType
  /** The output matrix (or the embedding that doubles as one); the base type if absent. */
  readonly head?: DType
  /** Exceptions. Of several that hold for a tensor the last one counts. */
  readonly bumps: readonly Bump[]
}

export interface Bump {
  readonly category: Category
  readonly when: 'always' | 'more' | 'first-eighth' | 'first-four' | 'first-two'
  readonly type: DType
}

/** The kinds of matrices that the rules tell apart. */
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

/** Every mixture that can be written, the most precise first. */
export const MIXES: readonly Mix[] = [
  {
    id: 'f32',
    title: 'F32',
    help: 'Exact, and four bytes a weight: for comparing, or for quantising elsewhere.',
    fileType: 0,
    base: 'f32',
    bumps: [],
  },
  {
    id: 'f16',
    title: 'F16',
    help: 'Two bytes a weight; runs fast everywhere, and keeps what bfloat16 weights hold unless they are extreme.',
    fileType: 1,
    base: 'f16',
    bumps: [],
  },
  {
    id: 'bf16',
    title: 'BF16',
    help: 'Two bytes a weight: an exact copy of a model that was saved in bfloat16.',
    fileType: 32,
    base: 'bf16',
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
    id: 'q4_0',
    title: 'Q4_0',
    help: 'About 4.5 bits a weight; the simplest 4-bit type, fastest on phones and old processors, less exact than Q4_K_M.',
    fileType: 2,
    base: 'q4_0',
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
      { category: 'attn_v', when: 'more', type: 'q6_k' },
      { category: 'ffn_down', when: 'more', type: 'q6_k' },
    ],
  },
]

/** The mixture that is chosen when none is asked for. */
export const DEFAULT_MIX = 'q4_k_m'

/** What a type whose blocks a row does not fill gives way to; then F16, if that does not fit either. */
const FALLBACKS: ReadonlyMap<DType, DType> = new Map([
  ['q4_k', 'q5_0'],
  ['q6_k', 'q8_0'],
])

/**
 * Whether layer `i` of `n` is among those that get more bits: the first and the last eighth, and every third between.
 */
export function more(i: number, n: number): boolean {
  const eighth = Math.trunc(n / 8)
  return i < eighth || i >= Math.trunc((7 * n) / 8) || (i - eighth) % 3 === 2
}

const PREDICATES: Readonly<Record<Bump['when'], (i: number, n: number) => boolean>> = {
  always: () => true,
  more,
  'first-eighth': (i, n) => i < Math.trunc(n / 8),
  'first-four': (i) => i < 4,
  'first-two': (i) => i < 2,
}

/** Matrices that are never quantised, being small or not multiplied by. */
const KEPT = /(?:_norm|ffn_gate_inp|ffn_gate_inp_shexp|attn_rel_b)\.weight$|^(?:position_embd|token_types)\.weight$/

/** The category of a tensor, by its GGUF name. */
export function categoryOf(name: string): Category {
  if (name === 'output.weight') return 'output'
  if (name === 'token_embd.weight') return 'token_embd'
  const part = /^blk\.\d+\.(\w+?)(?:_exps|_shexp)?\.weight$/.exec(name)?.[1]
  switch (part) {
    case 'attn_v':
    case 'attn_k':
    case 'attn_q':
    case 'attn_output':
    case 'ffn_up':
    case 'ffn_gate':
    case 'ffn_down':
      return part
    // llama.cpp counts a fused projection as its most sensitive part
    case 'attn_qkv':
      return 'attn_v'
    default:
      return 'other'
  }
}

/** What the rules need to know of a model. */
export interface MixModel {
  /** `general.architecture`. */
  readonly architecture: string
  readonly layers: number
  readonly heads: number
  readonly kvHeads: number
  /** Whether the embedding doubles as the output matrix. */
  readonly tied: boolean
}

/** The type of one tensor. */
export interface Choice {
  readonly type: DType
  /** What it would be if its rows were whole blocks. */
  readonly wanted: DType
  /** The name of the type that llama.cpp would take and that cannot be written here; null if there is none. */
  readonly unavailable: string | null
}

/**
 * Whether llama.cpp takes a model for a "70B": its value matrices are an eighth of the query's, so it spends Q5_K on
 * those that would get Q4_K. Q5_K cannot be written here yet; Q6_K is the next that loses nothing by it.
 */
function isSeventyB({ architecture, layers, heads, kvHeads }: MixModel): boolean {
  return layers === 80 && (architecture === 'qwen2' || (architecture === 'llama' && heads !== kvHeads))
}

/** The type of a tensor by its GGUF name and shape (slowest axis first). */
export function chooseType(mix: Mix, model: MixModel, name: string, shape: readonly number[]): Choice {
  const columns = shape.at(-1) ?? 1
  if (shape.length < 2 || !name.endsWith('.weight') || KEPT.test(name))
    return { type: 'f32', wanted: 'f32', unavailable: null }
  const category = categoryOf(name)
  if (category === 'output' || (category === 'token_embd' && model.tied)) {
    // a row that does not suit the base type gets Q8_0 at once, whatever the head's own type could take
    const suits = columns % dtypeInfo(mix.base).block === 0
    const wanted = mix.head ?? mix.base
    return { type: fit(suits || mix.head === undefined ? wanted : 'q8_0', columns), wanted, unavailable: null }
  }
  const layer = Number(/^blk\.(\d+)\./.exec(name)?.[1] ?? 0)
  let wanted = mix.base
  for (const bump of mix.bumps)
    if (bump.category === category && PREDICATES[bump.when](layer, model.layers)) wanted = bump.type
  const substituted = category === 'attn_v' && wanted === 'q4_k' && isSeventyB(model)
  if (substituted) wanted = 'q6_k'
  return { type: fit(wanted, columns), wanted, unavailable: substituted ? 'Q5_K' : null }
}

function fits(type: DType, columns: number): boolean {
  return columns % dtypeInfo(type).block === 0
}

function fit(type: DType, columns: number): DType {
  if (fits(type, columns)) return type
  const fallback = FALLBACKS.get(type)
  return fallback !== undefined && fits(fallback, columns) ? fallback : 'f16'
}
