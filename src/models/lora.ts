/**
 * LoRA adapters merged into their base: W + scale B A for each adapted matrix, E + scale (B A)ᵀ for an embedding, with DoRA
 * each row brought to its own length; tensors that were trained whole take the place of the base's. Names are PEFT's:
 * `base_model.model.` + the module + `.lora_A.weight`, with or without the adapter's name in between.
 */
import { requireArchitecture, type Checkpoint, type ModelConfig, type Role } from '../core/checkpoint.ts'
import { dtypeInfo, elementCount, type DType } from '../core/dtype.ts'
import { AppError } from '../core/errors.ts'
import type { Finding } from '../core/plan.ts'
import { affine, lowRank, reduce, reshape, transpose, type Recipe } from '../core/tensor.ts'
import { expectedTensors, storedShape, type Architecture, type ExpectedTensor } from './architecture.ts'
import { architectureFor } from './index.ts'
import { isTargeted, patterned, scaleOf, type LoraConfig } from './lora-config.ts'
import { readAdapterNames, type AdapterModule } from './lora-names.ts'

/** An adapter as it was read. */
export interface Adapter {
  readonly name: string
  readonly config: LoraConfig
  /** Where its configuration is, for messages. */
  readonly file: string
  /** By the names in its file. */
  readonly tensors: ReadonlyMap<string, Recipe>
  /** What its products are multiplied by besides; 1 as it was trained. */
  readonly weight: number
}

const EMBEDDING: Role = 'embed.weight'
const HEAD: Role = 'lm_head.weight'
const WEIGHT_TYPES: ReadonlySet<DType> = new Set(['f32', 'f16', 'bf16'])
/** Names in a message. */
const LISTED = 3

/**
 * The base with all adapters in it. Merged tensors are in f32, rounded once when they are stored. Throws `unsupported` for
 * what cannot be merged exactly, `bad-tensor` and `missing-tensor` where adapter and base do not fit, `bad-option` for
 * adapters that contradict one another.
 */
export async function mergeAdapters(base: Checkpoint, adapters: readonly Adapter[]): Promise<Checkpoint> {
  requireArchitecture(base, 'the base of an adapter')
  const architecture = await architectureFor(base.architecture, base.name)
  const merge = new Merge(base, architecture, adapters)
  for (const adapter of adapters) merge.replace(adapter)
  for (const adapter of adapters) merge.add(adapter)
  return merge.result()
}

class Merge {
  readonly #base: Checkpoint
  readonly #adapters: readonly Adapter[]
  readonly #rows: ReadonlyMap<string, ExpectedTensor>
  readonly #tensors: Map<Role, Recipe>
  readonly #names = new Map<Adapter, ReturnType<typeof readAdapterNames>>()
  /** Tensors that an adapter replaced, and by which. */
  readonly #replaced = new Map<Role, Adapter>()
  readonly #merged = new Map<Role, DType>()
  readonly #findings: Finding[] = []
  #quantized = 0
  #config: ModelConfig

  constructor(base: Checkpoint, architecture: Architecture, adapters: readonly Adapter[]) {
    this.#base = base
    this.#adapters = adapters
    this.#config = base.config
    this.#tensors = new Map(base.tensors)
    // an adapter may part what the base ties
    this.#rows = rowsByName(expectedTensors(architecture, { ...base.config, tied: false }))
    for (const adapter of adapters) this.#names.set(adapter, readAdapterNames(adapter.tensors, adapter.file))
    this.#untie()
  }

  /** Puts tensors that were trained whole in the place of the base's. */
  replace(adapter: Adapter): void {
    for (const [name, recipe] of this.#namesOf(adapter).replacements) {
      const row = this.#rowOf(name, adapter)
      if (row.role === HEAD && this.#config.tied) continue
      if (adapter.weight !== 1) throw unweighted(adapter, `${name} was trained whole`)
      const other = this.#replaced.get(row.role)
      if (other !== undefined) {
        throw new AppError('bad-option', `Both ${other.name} and ${adapter.name} replace ${row.hf}`, {
          where: { tensor: name },
          hint: 'Merge only one of them.',
        })
      }
      requireWeights(recipe, name)
      this.#fitVocabulary(row, name, recipe)
      this.#keepType(row.role)
      this.#tensors.set(row.role, row.transposed ? transpose(recipe) : recipe)
      this.#replaced.set(row.role, adapter)
    }
  }

  /** Adds an adapter's products. */
  add(adapter: Adapter): void {
    const { modules, replacements } = this.#namesOf(adapter)
    const { config, file, weight, name } = adapter
    const scales = new Set<number>()
    const ranks = new Set<number>()
    for (const [module, parts] of modules) {
      const row = this.#rowOf(`${module}.weight`, adapter)
      if (row.role === HEAD && this.#config.tied) continue
      const { up, down, rank } = factorsOf(module, parts, this.#shapeOf(row), adapter)
      const scale = weight * scaleOf(config, module, rank, file)
      scales.add(scale)
      ranks.add(rank)
      const of = this.#tensors.get(row.role)
      if (of === undefined) throw missing(row.hf, `the base has no ${row.hf}, which ${name} changes`)
      if (isQuantized(of)) this.#quantized++
      this.#keepType(row.role)
      const merged = lowRank(of, up, down, scale)
      this.#tensors.set(row.role, this.#withMagnitude(merged, module, parts, adapter))
      if (parts.upBias !== undefined) this.#addBias(module, parts.upBias, scale, adapter)
    }
    if (modules.size + replacements.size === 0) throw missing('', `${name} has no weights`)
    this.#tell(adapter, modules, ranks, scales)
  }

  result(): Checkpoint {
    const name = [this.#base.name, ...this.#adapters.map((adapter) => adapter.name)].join('-')
    if (this.#quantized > 0) {
      this.#findings.push({
        severity: 'warning',
        code: 'lora-dequantized',
        message: `${this.#quantized} of the matrices that adapters are merged into are quantised in the base: they are dequantised first, and what quantisation lost stays lost`,
        hint: 'Merge into the model that the base was quantised from, if you have it.',
      })
    }
    return {
      ...this.#base,
      name,
      config: this.#config,
      tensors: this.#tensors,
      kept: new Map([...(this.#base.kept ?? []), ...this.#merged]),
      findings: [...this.#base.findings, ...this.#findings],
    }
  }

  /** Where the base ties embedding and head, but only one of them is changed, or each on its own. */
  #untie(): void {
    const touched = [...this.#names].flatMap(([adapter, { modules, replacements }]) => {
      if (adapter.config.keepsTie) return []
      const names = [...[...modules.keys()].map((module) => `${module}.weight`), ...replacements.keys()]
      return names.map((name) => this.#rowOf(name, adapter))
    })
    const isTouched = (role: Role): boolean => touched.some((row) => row.role === role)
    if (!this.#config.tied || !(isTouched(EMBEDDING) || isTouched(HEAD))) return
    const embedding = this.#tensors.get(EMBEDDING)
    // rows were added, and only the embedding has them: then the head is still the same tensor
    if (!isTouched(HEAD) && this.#resized() !== null) return
    const head = [...this.#rows.values()].find(({ role }) => role === HEAD)
    if (embedding === undefined || head === undefined) {
      throw new AppError(
        'unsupported',
        `${this.#config.className} ties its head to the embedding, which only one adapter changes`,
        {
          hint: 'The head of this model cannot be a tensor of its own.',
        },
      )
    }
    this.#tensors.set(HEAD, embedding)
    const raw = new Map(this.#config.raw).set('tie_word_embeddings', false)
    this.#config = { ...this.#config, tied: false, raw }
    this.#findings.push({
      severity: 'info',
      code: 'lora-untied',
      message:
        'The base ties its head to the embedding, and an adapter changes them apart: the head becomes a tensor of its own',
    })
  }

  /** Rows of a replacement of the embedding, if they are not the base's; else null. */
  #resized(): number | null {
    for (const [adapter, { replacements }] of this.#names) {
      for (const [name, { shape }] of replacements) {
        if (this.#rowOf(name, adapter).role !== EMBEDDING || shape[0] === this.#config.vocabSize) continue
        return shape[0] ?? null
      }
    }
    return null
  }

  /** Embedding and head may have come to other sizes: tokens were added. */
  #fitVocabulary(row: ExpectedTensor, name: string, { shape }: Recipe): void {
    const wanted = storedShape(row)
    if (shape.join() === wanted.join()) return
    const isVocabulary = row.role === EMBEDDING || row.role === HEAD
    const rows = shape[0] ?? 0
    if (!isVocabulary || shape.length !== 2 || shape[1] !== wanted[1]) throw misfit(name, shape, wanted)
    const raw = new Map(this.#config.raw).set('vocab_size', rows)
    this.#config = { ...this.#config, vocabSize: rows, raw }
    if (row.role !== EMBEDDING) return
    this.#findings.push({
      severity: 'info',
      code: 'lora-vocabulary',
      message: `The adapter brings an embedding of ${rows} rows in the place of the base's ${wanted[0]}: tokens were added`,
    })
  }

  /** The shape of a role now, [out, in]. */
  #shapeOf(row: ExpectedTensor): readonly number[] {
    return this.#tensors.get(row.role)?.shape ?? row.shape
  }

  #withMagnitude(merged: Recipe, module: string, parts: AdapterModule, adapter: Adapter): Recipe {
    const { magnitude } = parts
    if (!adapter.config.dora && magnitude === undefined) return merged
    const name = `${module}.lora_magnitude_vector`
    if (magnitude === undefined) throw missing(name, `${adapter.name} is of DoRA, but has no lengths for ${module}`)
    if (!adapter.config.dora) {
      throw new AppError(
        'malformed',
        `${adapter.name} has lengths for ${module}, but its configuration says nothing of DoRA`,
        {
          where: { file: adapter.file, tensor: name },
          hint: 'Configuration and weights are of different adapters: download both again.',
        },
      )
    }
    if (parts.embedding) {
      throw new AppError('unsupported', `${adapter.name} uses DoRA on the embedding, which cannot be merged`, {
        where: { file: adapter.file, tensor: name },
        hint: 'Merge it with PEFT (merge_and_unload) and convert the result.',
      })
    }
    if (this.#adapters.length > 1) throw unweighted(adapter, 'it is of DoRA, whose lengths go for it alone')
    if (adapter.weight !== 1) throw unweighted(adapter, 'it is of DoRA')
    requireWeights(magnitude, name)
    const rows = merged.shape[0] ?? 0
    if (elementCount(magnitude.shape) !== rows) throw misfit(name, magnitude.shape, [rows])
    const lengths = affine(reshape(magnitude, [rows, 1]), reduce(merged, 1, 'inverse-norm'))
    return affine(merged, lengths)
  }

  #addBias(module: string, bias: Recipe, scale: number, adapter: Adapter): void {
    const name = `${module}.bias`
    const { role } = this.#rowOf(name, adapter)
    const of = this.#tensors.get(role)
    if (of === undefined) throw missing(name, `the base has no ${name}, which ${adapter.name} changes`)
    if (bias.shape.join() !== of.shape.join()) throw misfit(`${module}.lora_B.bias`, bias.shape, of.shape)
    this.#keepType(role)
    this.#tensors.set(role, affine(of, 1, affine(bias, scale)))
  }

  /** A tensor that was stored as a float type is stored as such again where types are kept. */
  #keepType(role: Role): void {
    const dtype = this.#tensors.get(role)?.dtype
    if (dtype !== undefined && !this.#merged.has(role) && WEIGHT_TYPES.has(dtype)) this.#merged.set(role, dtype)
  }

  #namesOf(adapter: Adapter): ReturnType<typeof readAdapterNames> {
    return this.#names.get(adapter) ?? readAdapterNames(adapter.tensors, adapter.file)
  }

  #rowOf(name: string, { name: adapter, file }: Adapter): ExpectedTensor {
    const row = this.#rows.get(name)
    if (row !== undefined) return row
    throw new AppError('unsupported', `${adapter} changes ${name}, which ${this.#config.className} does not have`, {
      where: { file, tensor: name },
      hint: 'Give the base model that the adapter was trained on, with the same head.',
    })
  }

  #tell(
    adapter: Adapter,
    modules: ReadonlyMap<string, AdapterModule>,
    ranks: ReadonlySet<number>,
    scales: ReadonlySet<number>,
  ): void {
    const { name, config, file } = adapter
    const whole = [...this.#replaced.values()].filter((by) => by === adapter).length
    const shown = (numbers: ReadonlySet<number>): string =>
      [...numbers].map((number) => Number(number.toPrecision(6))).join(', ')
    const added =
      modules.size === 0
        ? []
        : [
            `${modules.size} ${modules.size === 1 ? 'matrix' : 'matrices'} (rank ${shown(ranks)}, scale ${shown(scales)})`,
          ]
    const placed =
      whole === 0 ? [] : [`${whole} ${whole === 1 ? 'tensor that was' : 'tensors that were'} trained whole`]
    this.#findings.push({
      severity: 'info',
      code: 'lora-merged',
      message: `${name}, a ${config.dora ? 'DoRA' : 'LoRA'} adapter, is merged: ${[...added, ...placed].join(', ')}`,
    })
    const there = new Set([...modules.keys()].map((module) => this.#rowOf(`${module}.weight`, adapter).role))
    const absent = [...this.#rows.values()].filter(({ role, hf, shape, block, optional }) => {
      if (shape.length !== 2 || optional || there.has(role) || !hf.endsWith('.weight')) return false
      return this.#tensors.has(role) && isTargeted(config, hf.slice(0, -'.weight'.length), block, file)
    })
    const names = [...new Set(absent.map(({ hf }) => hf))]
    if (names.length === 0 || modules.size === 0) return
    this.#findings.push({
      severity: 'warning',
      code: 'lora-incomplete',
      message: `${file} targets ${names.length} matrices that the adapter has no weights for, such as ${names.slice(0, LISTED).join(', ')}: they stay as they are`,
    })
  }
}

/** Rows by their HuggingFace names and aliases, and by those of the class without a head. */
function rowsByName(rows: readonly ExpectedTensor[]): ReadonlyMap<string, ExpectedTensor> {
  const embedding = rows.find(({ role }) => role === EMBEDDING)?.hf ?? ''
  const prefix = embedding.slice(0, embedding.indexOf('.') + 1)
  const found = new Map<string, ExpectedTensor>()
  for (const row of rows) {
    for (const name of [row.hf, ...row.aliases]) {
      found.set(name, row)
      if (prefix !== '' && name.startsWith(prefix) && !found.has(name.slice(prefix.length)))
        found.set(name.slice(prefix.length), row)
    }
  }
  return found
}

interface Factors {
  /** [out, rank] and [rank, in] of the role's matrix. */
  readonly up: Recipe
  readonly down: Recipe
  readonly rank: number
}

function factorsOf(
  module: string,
  { a, b, embedding }: AdapterModule,
  shape: readonly number[],
  { config, file, name }: Adapter,
): Factors {
  const [aName, bName] = embedding
    ? [`${module}.lora_embedding_A`, `${module}.lora_embedding_B`]
    : [`${module}.lora_A.weight`, `${module}.lora_B.weight`]
  if (a === undefined) throw missing(aName, `${name} has no ${aName}, only the other half`)
  if (b === undefined) throw missing(bName, `${name} has no ${bName}, only the other half`)
  requireWeights(a, aName)
  requireWeights(b, bName)
  const [out = 0, into = 0] = shape
  if (shape.length !== 2) throw misfit(aName, a.shape, shape)
  const rank = a.shape[0] ?? 0
  // of an embedding, A has a column for each token
  const [aColumns, bRows] = embedding ? [out, into] : [into, out]
  if (a.shape.length !== 2 || a.shape[1] !== aColumns) throw misfit(aName, a.shape, [rank, aColumns])
  if (b.shape.join() !== [bRows, rank].join()) throw misfit(bName, b.shape, [bRows, rank])
  const told = patterned(config.rankPattern, module, config.rank, file)
  if (told !== rank) {
    throw new AppError('bad-tensor', `${aName} is of rank ${rank}; ${file} says ${told}`, {
      where: { file, tensor: aName },
      hint: 'Configuration and weights are of different adapters: download both again.',
    })
  }
  return embedding ? { up: transpose(a), down: transpose(b), rank } : { up: b, down: a, rank }
}

function isQuantized(recipe: Recipe): boolean {
  return dtypeInfo(recipe.dtype).kind === 'quant' || recipe.op === 'dequantize'
}

function requireWeights({ dtype }: Recipe, name: string): void {
  if (WEIGHT_TYPES.has(dtype)) return
  throw new AppError('bad-tensor', `${name} is stored as ${dtype}; an adapter's weights are F32, F16 or BF16`, {
    where: { tensor: name },
    hint: 'Save the adapter in one of these types.',
  })
}

function misfit(name: string, shape: readonly number[], wanted: readonly number[]): AppError {
  return new AppError(
    'bad-tensor',
    `${name} has the shape [${shape.join(', ')}]; the base makes it [${wanted.join(', ')}]`,
    {
      where: { tensor: name },
      hint: 'Give the base model that the adapter was trained on.',
    },
  )
}

function missing(tensor: string, why: string): AppError {
  return new AppError('missing-tensor', why, {
    where: { tensor },
    hint: 'The adapter is incomplete: download it again.',
  })
}

function unweighted(adapter: Adapter, why: string): AppError {
  return new AppError('bad-option', `${adapter.name} can only be merged alone and whole: ${why}`, {
    where: { file: adapter.file },
    hint: 'Give it without a weight and without other adapters.',
  })
}
