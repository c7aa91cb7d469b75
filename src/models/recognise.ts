/** Finds out what model bare tensors are of, by their names and shapes, and says what these do not tell. */
import type { ModelConfig, Role } from '../core/checkpoint.ts'
import { elementCount, type DType } from '../core/dtype.ts'
import type { Json } from '../core/json.ts'
import type { TensorInfo } from '../core/tensor.ts'
import { expectedTensors, storedShape, type Architecture, type TensorRow } from './architecture.ts'
import { architectureFor, supportedClassNames } from './index.ts'

/** A model made out from its tensors. */
export interface RecognisedModel {
  readonly architecture: Architecture
  /** What was read off the shapes, and the family's defaults for the rest. */
  readonly config: ModelConfig
  /** The name of each role's tensor. */
  readonly names: ReadonlyMap<Role, string>
  /** Other families whose models have tensors of the same names and shapes. */
  readonly alike: readonly string[]
  /** What is only assumed, for people: each a clause. */
  readonly assumed: readonly string[]
}

type Tensors = ReadonlyMap<string, TensorInfo>

/** Deeper than any model. */
const MAX_LAYERS = 10_000

/** Widths of a head, the likeliest first: large models, then small ones. */
const HEAD_WIDTHS = [128, 64, 96, 80, 112, 256, 32, 16, 8]
/** Below this hidden size most models have heads of 64 channels. */
const SMALL_HIDDEN_SIZE = 2560

/** Configuration flags that add tensors, and so are proven by them. */
const FLAGS: readonly (readonly string[])[] = [
  [],
  ['attention_bias'],
  ['mlp_bias'],
  ['attention_bias', 'mlp_bias'],
  ['use_qkv_bias'],
]

/**
 * The model that all of these tensors, and no others, make up; null if they are of none that is described here. Of
 * several families with the same tensors the commonest is taken.
 */
export async function recogniseModel(tensors: Tensors): Promise<RecognisedModel | null> {
  const found: RecognisedModel[] = []
  const seen = new Set<string>()
  for (const className of supportedClassNames()) {
    const architecture = await architectureFor(className, className)
    if (seen.has(architecture.id)) continue
    seen.add(architecture.id)
    const fit = fitArchitecture(architecture, tensors)
    if (fit !== null) found.push(fit)
  }
  const [best, ...others] = found
  return best === undefined ? null : { ...best, alike: others.map(({ architecture }) => architecture.id) }
}

function fitArchitecture(architecture: Architecture, tensors: Tensors): RecognisedModel | null {
  const sizes = readSizes(new Lookup(architecture, tensors))
  if (sizes === null) return null
  for (const flags of FLAGS) {
    const raw = new Map<string, Json>(flags.map((flag) => [flag, true]))
    if (architecture.unsupported(raw) !== null) continue
    const config = configOf(architecture, sizes, raw)
    const names = config === null ? null : namesOf(architecture, config, tensors)
    if (config !== null && names !== null) {
      return { architecture, config, names, alike: [], assumed: assumptions(architecture, sizes, config) }
    }
  }
  return null
}

/** Finds the tensor of a row by any of its names, those of headless checkpoints included. */
class Lookup {
  readonly architecture: Architecture
  readonly tensors: Tensors
  readonly #prefix: string

  constructor(architecture: Architecture, tensors: Tensors) {
    this.architecture = architecture
    this.tensors = tensors
    const embedding = architecture.tensors.find(({ role }) => role === 'embed.weight')?.hf ?? ''
    this.#prefix = embedding.slice(0, embedding.indexOf('.') + 1)
  }

  /** The name that is there among those a tensor may have; null if none is. */
  name(names: readonly string[]): string | null {
    const bare = names.flatMap((name) =>
      this.#prefix !== '' && name.startsWith(this.#prefix) ? [name.slice(this.#prefix.length)] : [],
    )
    return [...names, ...bare].find((name) => this.tensors.has(name)) ?? null
  }

  /** The shape of a role's tensor in some block, as roles have it: [out, in]. */
  shape(role: Role, block = 0): readonly number[] | null {
    const row = this.architecture.tensors.find((candidate) => candidate.role === role)
    const name = row === undefined ? null : this.name(namesIn(row, block))
    const shape = name === null ? undefined : this.tensors.get(name)?.shape
    if (shape === undefined) return null
    return storedShape({ shape, transposed: row?.transposed === true })
  }
}

function namesIn({ hf, aliases }: TensorRow, block: number): readonly string[] {
  return [hf, ...(aliases ?? [])].map((name) => name.replace('{i}', String(block)))
}

interface Sizes {
  readonly vocabSize: number
  readonly hiddenSize: number
  readonly layers: number
  readonly intermediateSize: number
  /** Heads times their width, for queries and for keys. */
  readonly queryWidth: number
  readonly keyWidth: number
  readonly headDim: number
  /** Whether a tensor proves it. */
  readonly headDimProven: boolean
  /** Rows of a position table; null where there is none. */
  readonly positions: number | null
  readonly tied: boolean
  readonly dtype: DType
}

function readSizes(look: Lookup): Sizes | null {
  const [vocabSize, hiddenSize] = look.shape('embed.weight') ?? []
  const [, queryWidth] = look.shape('blocks.{i}.attn.o.weight') ?? []
  if (vocabSize === undefined || hiddenSize === undefined || queryWidth === undefined) return null
  let layers = 1
  while (layers < MAX_LAYERS && look.shape('blocks.{i}.attn.o.weight', layers) !== null) layers++
  const [fused] = look.shape('blocks.{i}.attn.qkv.weight') ?? []
  const keyWidth = look.shape('blocks.{i}.attn.k.weight')?.[0] ?? ((fused ?? 0) - queryWidth) / 2
  const [gateUp] = look.shape('blocks.{i}.mlp.gate_up.weight') ?? []
  const intermediateSize = look.shape('blocks.{i}.mlp.up.weight')?.[0] ?? (gateUp ?? 0) / 2
  const proven = provenHeadDim(look, queryWidth)
  const headDim = proven ?? likelyHeadDim(look.architecture, hiddenSize, queryWidth, keyWidth)
  const whole = [keyWidth, intermediateSize, queryWidth / (headDim ?? 0), keyWidth / (headDim ?? 0)]
  if (headDim === null || !whole.every((size) => Number.isSafeInteger(size) && size > 0)) return null
  return {
    vocabSize,
    hiddenSize,
    layers,
    intermediateSize,
    queryWidth,
    keyWidth,
    headDim,
    headDimProven: proven !== null,
    positions: look.shape('position.weight')?.[0] ?? null,
    tied: look.shape('lm_head.weight') === null,
    dtype: commonType(look.tensors),
  }
}

/**
 * A norm on each head's query is as wide as the head (one on all of them together says nothing); the rotary frequencies
 * that older files hold are half of it.
 */
function provenHeadDim(look: Lookup, queryWidth: number): number | null {
  const [norm] = look.shape('blocks.{i}.attn.q_norm.weight') ?? []
  if (norm !== undefined && norm !== queryWidth) return norm
  for (const [name, { shape }] of look.tensors) {
    if (!name.endsWith('.rotary_emb.inv_freq') || shape.length !== 1) continue
    return (2 * (shape[0] ?? 0)) / (look.architecture.defaults.rotaryFactor ?? 1)
  }
  return null
}

function fittingWidths(queryWidth: number, keyWidth: number): readonly number[] {
  return HEAD_WIDTHS.filter((width) => queryWidth % width === 0 && keyWidth % width === 0)
}

function likelyHeadDim({ defaults }: Architecture, hidden: number, query: number, key: number): number | null {
  const widths = fittingWidths(query, key)
  if (defaults.headDim !== null && widths.includes(defaults.headDim)) return defaults.headDim
  // few heads are rarer than narrow ones: at least four of them
  const several = widths.filter((width) => query / width >= 4)
  const small = several.includes(64) ? 64 : undefined
  return (hidden < SMALL_HIDDEN_SIZE ? small : undefined) ?? several[0] ?? widths.at(-1) ?? null
}

function commonType(tensors: Tensors): DType {
  const elements = new Map<DType, number>()
  for (const { dtype, shape } of tensors.values()) {
    elements.set(dtype, (elements.get(dtype) ?? 0) + elementCount(shape))
  }
  return [...elements].sort((a, b) => b[1] - a[1])[0]?.[0] ?? 'f32'
}

/** The configuration of these sizes; null for a family that needs more than sizes. */
function configOf(architecture: Architecture, sizes: Sizes, raw: ReadonlyMap<string, Json>): ModelConfig | null {
  const { defaults } = architecture
  const id = (value: number | null): number | null => (value !== null && value < sizes.vocabSize ? value : null)
  const eos = id(defaults.eosId)
  const turning = Math.trunc(sizes.headDim * (defaults.rotaryFactor ?? 1))
  const base: ModelConfig = {
    modelType: architecture.modelTypes[0] ?? architecture.id,
    className: architecture.classNames[0] ?? architecture.id,
    hiddenSize: sizes.hiddenSize,
    layers: sizes.layers,
    intermediateSize: sizes.intermediateSize,
    heads: sizes.queryWidth / sizes.headDim,
    kvHeads: sizes.keyWidth / sizes.headDim,
    headDim: sizes.headDim,
    vocabSize: sizes.vocabSize,
    contextLength: sizes.positions ?? defaults.contextLength,
    normEpsilon: defaults.normEpsilon,
    activation: defaults.activation,
    rope: {
      theta: defaults.ropeTheta,
      ...(turning === sizes.headDim ? {} : { dim: turning }),
      scaling: { kind: 'none' },
    },
    slidingWindow: architecture.slidingWindow(raw),
    tied: sizes.tied,
    dtype: sizes.dtype,
    bosId: id(defaults.bosId),
    eosIds: eos === null ? [] : [eos],
    padId: null,
    raw,
  }
  try {
    return { ...base, ...architecture.facts?.(base) }
  } catch {
    return null
  }
}

/** The name of each role's tensor, if the tensors are exactly those that the configuration asks for. */
function namesOf(architecture: Architecture, config: ModelConfig, tensors: Tensors): ReadonlyMap<Role, string> | null {
  const look = new Lookup(architecture, tensors)
  const names = new Map<Role, string>()
  const used = new Set<string>()
  for (const { role, hf, aliases, shape, transposed, optional } of expectedTensors(architecture, config)) {
    const name = look.name([hf, ...aliases])
    if (name === null && optional) continue
    const info = name === null ? undefined : tensors.get(name)
    const expected = storedShape({ shape, transposed })
    if (name === null || info?.shape.join() !== expected.join()) return null
    names.set(role, name)
    used.add(name)
  }
  const rest = [...tensors.keys()].filter((name) => !used.has(name))
  return rest.every((name) => architecture.ignored.some((pattern) => pattern.test(name))) ? names : null
}

function assumptions(architecture: Architecture, sizes: Sizes, config: ModelConfig): readonly string[] {
  const assumed: string[] = []
  if (!sizes.headDimProven) {
    const others = fittingWidths(sizes.queryWidth, sizes.keyWidth).filter((width) => width !== sizes.headDim)
    const or = others.length > 0 ? ` (${others.join(', ')} would fit as well)` : ''
    assumed.push(`heads are ${sizes.headDim} channels wide, so there are ${config.heads} of them${or}`)
  }
  if (architecture.rotary !== 'none') assumed.push(`rotary positions have the base ${config.rope.theta}, unscaled`)
  if (config.rope.dim !== undefined) assumed.push(`the first ${config.rope.dim} channels of each head turn`)
  if (sizes.positions === null) assumed.push(`the context has ${config.contextLength} tokens`)
  assumed.push(`norms add ${config.normEpsilon}`)
  if (sizes.tied) assumed.push('the head is the embedding, since there is none')
  if (config.bosId !== null || config.eosIds.length > 0) {
    assumed.push(
      `a text begins with the token ${config.bosId ?? '(none)'} and ends with ${config.eosIds[0] ?? '(none)'}`,
    )
  }
  return assumed
}
