import { AppError } from '../../../core/errors.ts'
import { MIXES, type Bump, type Category, type Layers, type Mix } from './mixes.ts'
import { blockOf, fitsRow, isFloat, WRITABLE, type WeightType } from './types.ts'

/**
 * Which type each tensor gets: the rules of `llama-quantize` for the mixtures in mixes.ts.
 * Source: src/llama-quant.cpp of llama.cpp v0.5.0 (September 2026).
 */

/** What a type whose blocks a row does not fill gives way to; then F16, if that does not fit either. */
const FALLBACKS: ReadonlyMap<WeightType, WeightType> = new Map([
  ['iq1_s', 'iq4_nl'],
  ['iq1_m', 'iq4_nl'],
  ['iq2_xxs', 'iq4_nl'],
  ['iq2_xs', 'iq4_nl'],
  ['iq2_s', 'iq4_nl'],
  ['iq3_xxs', 'iq4_nl'],
  ['iq3_s', 'iq4_nl'],
  ['iq4_xs', 'iq4_nl'],
  ['q2_0', 'q4_0'],
  ['q2_k', 'q4_0'],
  ['q3_k', 'q4_0'],
  ['tq1_0', 'q4_0'],
  ['tq2_0', 'q4_0'],
  ['q4_k', 'q5_0'],
  ['q5_k', 'q5_1'],
  ['q6_k', 'q8_0'],
])

/** Types that are worthless without an importance matrix. */
const NEEDS_IMPORTANCE: ReadonlySet<WeightType> = new Set<WeightType>([
  'iq3_xxs',
  'iq2_xxs',
  'iq2_xs',
  'iq2_s',
  'iq1_m',
  'iq1_s',
])

/** What the rules need to know of a model. */
export interface MixModel {
  /** `general.architecture`. */
  readonly architecture: string
  readonly layers: number
  /** Of the first layer. */
  readonly heads: number
  readonly kvHeads: number
  /** 0 where there are none. */
  readonly experts: number
}

/** What the user decides against the mixture. */
export interface MixSettings {
  /** Whether an importance matrix is given. */
  readonly importance: boolean
  /** No rules: every matrix gets the base type. */
  readonly pure: boolean
  /** `output.weight` keeps the type that it has. */
  readonly leaveOutput: boolean
  readonly output: WeightType | null
  readonly embedding: WeightType | null
  /** The first whose pattern is found in a name counts. */
  readonly overrides: readonly { readonly pattern: RegExp; readonly type: WeightType }[]
  /** Tensors count in the order of the file, as they do for llama.cpp where it keeps a model's parts. */
  readonly fileOrder: boolean
}

/** Nothing is decided against the mixture. */
export const PLAIN: MixSettings = {
  importance: false,
  pure: false,
  leaveOutput: false,
  output: null,
  embedding: null,
  overrides: [],
  fileOrder: false,
}

/** A tensor as the rules see it: its GGUF name and its shape, slowest axis first. */
export interface MixTensor {
  readonly name: string
  readonly shape: readonly number[]
}

/** The type of one tensor. */
export interface Choice {
  /** Null: never quantised, it keeps the type that it has. */
  readonly type: WeightType | null
  /** What it would be if its rows were whole blocks. */
  readonly wanted: WeightType | null
  /** Whether it is worthless without an importance matrix. */
  readonly needsImportance: boolean
}

/** Whether every type that a mixture may give can be written here. */
export function isOffered(mix: Mix): boolean {
  const types = [mix.base, mix.head, mix.embedding ?? mix.base, ...mix.bumps.map(({ type }) => type)]
  return types.every((type) => WRITABLE.has(type) && WRITABLE.has(FALLBACKS.get(type) ?? type))
}

/** Parts of names of matrices that are never quantised, being small or not multiplied by. */
const KEPT = [
  '_norm.weight',
  'ffn_gate_inp.weight',
  'ffn_gate_tid2eid.weight',
  'altup',
  'laurel',
  'per_layer_model_proj',
  'ssm_conv1d',
  'shortconv.conv.weight',
  'indexer.k_proj.weight',
  'indexer.q_proj.weight',
  'time_mix_first.weight',
  'time_mix_w0.weight',
  'time_mix_w1.weight',
  'time_mix_w2.weight',
  'time_mix_v0.weight',
  'time_mix_v1.weight',
  'time_mix_v2.weight',
  'time_mix_a0.weight',
  'time_mix_a1.weight',
  'time_mix_a2.weight',
  'time_mix_g1.weight',
  'time_mix_g2.weight',
  'time_mix_decay_w1.weight',
  'time_mix_decay_w2.weight',
  'time_mix_lerp_fused.weight',
  'attn_rel_b.weight',
  '.position_embd',
  'sam.pos_embd',
  'sam.neck.',
  'sam.net_',
  '.rel_pos',
  '.patch_embd',
  '.patch_merger',
  'a.rvq.codebook',
  'mm.a.code_embd',
]
const KEPT_NAMES: ReadonlySet<string> = new Set(['position_embd.weight', 'token_types.weight'])

/** Axes as ggml counts them: leading ones do not. */
function axes(shape: readonly number[]): number {
  const first = shape.findIndex((size) => size > 1)
  return first < 0 ? 1 : shape.length - first
}

/** Whether a tensor may be quantised at all. */
export function isQuantizable({ name, shape }: MixTensor): boolean {
  return (
    axes(shape) >= 2 && name.endsWith('weight') && !KEPT_NAMES.has(name) && !KEPT.some((part) => name.includes(part))
  )
}

const CATEGORIES: readonly (readonly [string, Category])[] = [
  ['attn_qkv.weight', 'attn_v'],
  ['attn_kv_b.weight', 'attn_v'],
  ['attn_v.weight', 'attn_v'],
  ['attn_k.weight', 'attn_k'],
  ['attn_q.weight', 'attn_q'],
  ['attn_output.weight', 'attn_output'],
  ['ffn_up', 'ffn_up'],
  ['ffn_gate', 'ffn_gate'],
  ['ffn_down', 'ffn_down'],
]

/** The category of a tensor, by its GGUF name. */
export function categoryOf(name: string): Category {
  if (name === 'output.weight') return 'output'
  if (name === 'token_embd.weight' || name === PER_LAYER_EMBEDDING) return 'token_embd'
  return CATEGORIES.find(([part]) => name.includes(part))?.[1] ?? 'other'
}

const PER_LAYER_EMBEDDING = 'per_layer_token_embd.weight'

function layerOf(name: string): number {
  return Number(/^blk\.(\d+)\./.exec(name)?.[1] ?? -1)
}

/** llama.cpp goes through tensors by layer, those of none first, and by name within. */
function inOrder(tensors: readonly MixTensor[]): readonly MixTensor[] {
  return tensors.toSorted((a, b) => layerOf(a.name) - layerOf(b.name) || (a.name < b.name ? -1 : 1))
}

/**
 * Whether layer `i` of `n` is among those that get more bits: the first and the last eighth, and every third between.
 */
export function more(i: number, n: number): boolean {
  const eighth = Math.trunc(n / 8)
  return i < eighth || i >= Math.trunc((7 * n) / 8) || (i - eighth) % 3 === 2
}

const LAYERS: Readonly<Record<Layers, (i: number, n: number) => boolean>> = {
  more,
  'first-two': (i) => i < 2,
  'first-four': (i) => i < 4,
  'first-eighth': (i, n) => i < Math.trunc(n / 8),
  'first-sixteenth': (i, n) => i < Math.trunc(n / 16),
  middle: (i, n) => i >= Math.trunc(n / 8) && i < Math.trunc((7 * n) / 8),
}

/** Whether llama.cpp takes a model for a "70B": one whose value matrices are an eighth of the query's. */
function isSeventyB({ architecture, layers, heads, kvHeads, experts }: MixModel): boolean {
  switch (architecture) {
    case 'llama':
    case 'llama-embed':
      return layers === 80 && heads !== kvHeads && experts !== 8
    case 'qwen2':
    case 'deci':
    case 'olmo':
      return layers === 80
    case 'jais2':
      return layers === 68
    default:
      return false
  }
}

/**
 * The type of every tensor of a model, by name. `tensors` are all that the file will have: the rules count them.
 * Throws `unsupported` where llama.cpp has no type for rows of such a length.
 */
export function chooseTypes(
  mix: Mix,
  model: MixModel,
  tensors: readonly MixTensor[],
  settings: MixSettings = PLAIN,
): ReadonlyMap<string, Choice> {
  const names = tensors.map(({ name }) => name)
  const run: Run = {
    mix,
    model,
    settings,
    tied: !names.includes('output.weight'),
    valueMatrices: names.filter((name) => categoryOf(name) === 'attn_v').length,
    counts: new Map(),
  }
  const choices = new Map<string, Choice>()
  for (const tensor of settings.fileOrder ? tensors : inOrder(tensors)) choices.set(tensor.name, choose(tensor, run))
  return choices
}

interface Run {
  readonly mix: Mix
  readonly model: MixModel
  readonly settings: MixSettings
  readonly tied: boolean
  readonly valueMatrices: number
  /** How many tensors of a category the rules have seen. */
  readonly counts: Map<Category, number>
}

function choose(tensor: MixTensor, run: Run): Choice {
  const { mix, settings } = run
  const { name } = tensor
  if (!isQuantizable(tensor) || (settings.leaveOutput && name === 'output.weight'))
    return { type: null, wanted: null, needsImportance: false }
  const category = categoryOf(name)
  const override = settings.overrides.find(({ pattern }) => pattern.test(name))
  // these two are taken as they are, even in a mixture of floats
  const direct =
    category === 'token_embd' && !(name === PER_LAYER_EMBEDDING && override !== undefined)
      ? settings.embedding
      : category === 'output'
        ? settings.output
        : null
  const wanted = direct ?? (isFloat(mix.base) ? mix.base : (override?.type ?? ruled(tensor, category, run)))
  const type = fit(wanted, tensor)
  // an output matrix goes straight to Q8_0 where its rows do not suit the base type
  const ideal = direct === null && override === undefined && isHead(category, run) ? headType(run) : wanted
  return { type, wanted: type === wanted ? ideal : wanted, needsImportance: needsImportance(type, category, mix) }
}

/** Whether it is the matrix that makes the logits. */
function isHead(category: Category, run: Run): boolean {
  return category === 'output' || (category === 'token_embd' && run.tied)
}

function headType({ mix, settings }: Run): WeightType {
  if (isFloat(mix.base) || settings.pure) return mix.base
  return settings.output ?? mix.head
}

function needsImportance(type: WeightType, category: Category, mix: Mix): boolean {
  if (category === 'token_embd' || category === 'output') return false
  return NEEDS_IMPORTANCE.has(type) || (type === 'q2_k' && mix.needsImportance === true)
}

function ruled(tensor: MixTensor, category: Category, run: Run): WeightType {
  const { mix, model, settings } = run
  const columns = tensor.shape.at(-1) ?? 1
  if (settings.pure) return mix.base
  if (isHead(category, run)) {
    if (settings.output !== null) return settings.output
    return model.architecture === 'falcon' || !fitsRow(mix.base, columns) ? 'q8_0' : mix.head
  }
  if (mix.scheme === 'experts') return isExperts(tensor, category, model) ? mix.base : 'q8_0'
  if (category === 'token_embd') return mix.embedding ?? mix.base
  const count = run.counts.get(category) ?? 0
  run.counts.set(category, count + 1)
  const [layer, layers] = placeOf(tensor.name, category, count, run)
  let type = mix.base
  for (const bump of mix.bumps) if (bump.category === category && holds(bump, layer, layers, run)) type = bump.type
  if (mix.scheme === 'low') return type
  if (category === 'attn_v' && isSeventyB(model) && (type === 'q3_k' || type === 'q4_k')) type = 'q5_k'
  // so few of them that it costs next to nothing
  return model.experts === 8 && (category === 'attn_v' || category === 'attn_k') ? 'q8_0' : type
}

/** Latent projections of attention are stacked too: of that architecture only the MLP's matrices are experts. */
function isExperts({ shape }: MixTensor, category: Category, { architecture }: MixModel): boolean {
  const stacked = shape.length === 3 && (shape[0] ?? 1) > 1
  return stacked && (architecture !== 'bailingmoe3' || category.startsWith('ffn_'))
}

/** Which of how many: value matrices are counted, those of the MLP too unless there are experts beside each other. */
function placeOf(name: string, category: Category, count: number, run: Run): readonly [number, number] {
  if (category === 'attn_v') return [count, run.valueMatrices]
  const { layers, experts } = run.model
  if (experts <= 1 || run.mix.scheme === 'low' || !category.startsWith('ffn_')) return [count, layers]
  return [Math.max(0, layerOf(name)), layers]
}

function holds(bump: Bump, layer: number, layers: number, { model, settings }: Run): boolean {
  const { architecture, heads, kvHeads, experts } = model
  const grouped = kvHeads === 0 ? 0 : Math.trunc(heads / kvHeads)
  if (bump.layers !== undefined && !LAYERS[bump.layers](layer, layers)) return false
  if (bump.grouped !== undefined && grouped < bump.grouped) return false
  if (bump.importance !== undefined && bump.importance !== settings.importance) return false
  if (bump.falcon !== undefined && bump.falcon !== (architecture === 'falcon')) return false
  return bump.experts === undefined || EXPERTS[bump.experts](experts)
}

const EXPERTS: Readonly<Record<NonNullable<Bump['experts']>, (count: number) => boolean>> = {
  eight: (count) => count === 8,
  'not-eight': (count) => count !== 8,
  'four-or-more': (count) => count >= 4,
}

function fit(type: WeightType, { name, shape }: MixTensor): WeightType {
  const columns = shape.at(-1) ?? 1
  if (fitsRow(type, columns)) return type
  const fallback = FALLBACKS.get(type)
  const { block } = blockOf(type)
  if (fallback === undefined && block > 32) {
    throw new AppError(
      'unsupported',
      `${name} cannot be ${type.toUpperCase()}: its rows of ${columns} are not whole blocks of ${block}`,
      {
        where: { tensor: name },
        hint: 'Take another type: this one has none that it could give way to.',
      },
    )
  }
  return fallback !== undefined && fitsRow(fallback, columns) ? fallback : 'f16'
}

/** The mixture of that id, offered or not. */
export function mixOf(id: string): Mix | null {
  return MIXES.find((mix) => mix.id === id) ?? null
}
