/** Weights of an architecture's own shapes made from nothing: for trying out a conversion, or a runtime, without a model. */
import type { Checkpoint, ModelConfig, Role, Token, Tokenizer } from '../core/checkpoint.ts'
import type { DType } from '../core/dtype.ts'
import { AppError } from '../core/errors.ts'
import type { Finding } from '../core/plan.ts'
import { concat, generate, slice, transpose, type Generation, type Recipe } from '../core/tensor.ts'
import type { FakeTensor, FakeType, FakeWeights } from '../core/transform.ts'
import { expectedTensors, storedShape, type ExpectedTensor } from './architecture.ts'
import { architectureFor } from './index.ts'
import { numberAt } from './llama.ts'

export const FAKE_TYPES: readonly FakeType[] = ['f32', 'f16', 'bf16']

/** What `--fake-weight` alone asks for. */
export const DEFAULT_FAKE: FakeWeights = { seed: 0, distribution: 'normal', std: null, dtype: null, tensors: {} }

/** Where config.json has no `initializer_range`: transformers' default. */
const DEFAULT_STD = 0.02
const MAX_SEED = 2 ** 32

const EMBEDDING: Role = 'embed.weight'
const NORM = /norm\.weight$/
const BIAS = /bias$/
/** What adds to the residual stream: smaller the more blocks there are, as GPT-2 begins. */
const RESIDUAL = /\.(?:attn\.o|mlp\.down|experts\.(?:\d+\.)?down)\.weight$/
/** Families whose norms multiply by 1 + weight. */
const UNIT_OFFSET = /^gemma/

/**
 * The checkpoint with every tensor of its architecture as `generate` recipes, and a tokenizer of bytes if it has none.
 * Throws `bad-option` for tensors that there are none of.
 */
export async function fakeWeights(outline: Checkpoint, fake: FakeWeights): Promise<Checkpoint> {
  if (!Number.isSafeInteger(fake.seed) || fake.seed < 0 || fake.seed >= MAX_SEED) {
    throw new AppError('bad-option', `The seed ${fake.seed} is not from 0 to ${MAX_SEED - 1}`)
  }
  const architecture = await architectureFor(outline.architecture, 'config.json')
  const config = { ...outline.config, dtype: fakeType(fake, outline.config) }
  const custom = new Overrides(fake)
  const tensors = new Map<Role, Recipe>()
  const reshaped: string[] = []
  for (const row of expectedTensors(architecture, config)) {
    const override = custom.of(row)
    if (row.optional && override === null) continue
    if (override?.shape !== undefined && override.shape.join() !== storedShape(row).join()) reshaped.push(row.hf)
    tensors.set(row.role, fakeTensor(row, override, fake, config, UNIT_OFFSET.test(architecture.id)))
  }
  custom.requireUsed()
  const findings: Finding[] = [
    {
      severity: 'warning',
      code: 'fake-weights',
      message: `The weights are made up (${described(fake)}, seed ${fake.seed}): the model says nothing sensible`,
    },
  ]
  if (reshaped.length > 0) {
    findings.push({
      severity: 'warning',
      code: 'fake-shapes',
      message: `${reshaped.slice(0, 4).join(', ')} have other shapes than config.json makes them: no runtime will load the model`,
    })
  }
  const raw = new Map(config.raw).set('fake_weights', new Map([['seed', fake.seed]]))
  return {
    ...outline,
    name: `${outline.name}-fake`,
    config: { ...config, raw },
    tokenizer: outline.tokenizer ?? byteTokenizer(config),
    tensors,
    findings: [...outline.findings, ...findings],
  }
}

function described({ distribution }: FakeWeights): string {
  return distribution === 'zeros' ? 'zeros' : `${distribution} random numbers`
}

function fakeType({ dtype }: FakeWeights, config: ModelConfig): FakeType {
  return dtype ?? FAKE_TYPES.find((type) => type === config.dtype) ?? 'f32'
}

function fakeTensor(
  row: ExpectedTensor,
  override: FakeTensor | null,
  fake: FakeWeights,
  config: ModelConfig,
  unitOffset: boolean,
): Recipe {
  const shape = override?.shape ?? storedShape(row)
  const dtype: DType = fakeType(fake, config)
  const made = generate({ dtype, shape }, howOf(row, override, fake, config, unitOffset))
  const whole = row.role === EMBEDDING && override === null ? withZeroRow(made, config.padId) : made
  return row.transposed && shape.length >= 2 ? transpose(whole) : whole
}

function howOf(
  { role, hf }: ExpectedTensor,
  override: FakeTensor | null,
  fake: FakeWeights,
  config: ModelConfig,
  unitOffset: boolean,
): Generation {
  if (override?.value !== undefined) return { kind: 'constant', value: override.value }
  const distribution = override?.distribution ?? fake.distribution
  const chosen = override?.distribution !== undefined || override?.std !== undefined
  if (distribution === 'zeros') return { kind: 'constant', value: 0 }
  if (!chosen && BIAS.test(role)) return { kind: 'constant', value: 0 }
  if (!chosen && NORM.test(role)) return { kind: 'constant', value: unitOffset ? 0 : 1 }
  const std = fake.std ?? numberAt(config.raw, 'initializer_range') ?? DEFAULT_STD
  const depth = RESIDUAL.test(role) ? Math.sqrt(2 * config.layers) : 1
  const width = override?.std ?? std / depth
  const seed = tensorSeed(fake.seed, hf)
  // a uniform distribution over an interval of 2 sqrt(3) has the standard deviation 1
  const reach = width * Math.sqrt(3)
  return distribution === 'normal'
    ? { kind: 'normal', seed, std: width }
    : { kind: 'uniform', seed, low: -reach, high: reach }
}

/** PyTorch keeps the padding token's embedding at zero. */
function withZeroRow(made: Recipe, row: number | null): Recipe {
  const [rows = 0, columns = 0] = made.shape
  if (row === null || row >= rows || (made.op === 'generate' && made.how.kind === 'constant')) return made
  const zero = generate({ dtype: made.dtype, shape: [1, columns] }, { kind: 'constant', value: 0 })
  const parts = [slice(made, 0, 0, row), zero, slice(made, 0, row + 1, rows - row - 1)]
  return concat(
    parts.filter(({ shape }) => shape[0] !== 0),
    0,
  )
}

/** Each tensor's own seed: FNV-1a of its name, begun with the seed of all. */
function tensorSeed(seed: number, name: string): number {
  let hash = (0x811c9dc5 ^ seed) | 0
  for (const byte of new TextEncoder().encode(name)) hash = Math.imul(hash ^ byte, 0x01000193)
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b)
  return (hash ^ (hash >>> 13)) >>> 0
}

/** The wishes for single tensors, which must all be met. */
class Overrides {
  readonly #rules: readonly { readonly name: string; readonly pattern: RegExp; readonly fake: FakeTensor }[]
  readonly #used = new Set<string>()

  constructor({ tensors }: FakeWeights) {
    this.#rules = Object.entries(tensors).map(([name, fake]) => ({ name, pattern: patternOf(name), fake }))
  }

  /** What is asked for a tensor, the later rules before the earlier; null if nothing is. */
  of({ role, hf }: ExpectedTensor): FakeTensor | null {
    const rules = this.#rules.filter(({ pattern }) => pattern.test(hf) || pattern.test(role))
    if (rules.length === 0) return null
    for (const { name } of rules) this.#used.add(name)
    return Object.assign({}, ...rules.map(({ fake }) => fake)) as FakeTensor
  }

  requireUsed(): void {
    const unused = this.#rules.find(({ name }) => !this.#used.has(name))
    if (unused === undefined) return
    throw new AppError('bad-option', `The model has no tensor ${unused.name}`, {
      where: { tensor: unused.name },
      hint: 'Names are those of HuggingFace: model.layers.0.mlp.down_proj.weight. "*" stands for a part of one.',
    })
  }
}

function patternOf(name: string): RegExp {
  const parts = name.split('*').map((part) => part.replaceAll(/[.+?^${}()|[\]\\]/g, '\\$&'))
  return new RegExp(`^${parts.join('[^.]*')}$`)
}

/** Bytes as GPT-2 spells them, printable ones as themselves; special tokens before, and the rest of the vocabulary unused. */
function byteTokenizer(config: ModelConfig): Tokenizer | null {
  const specials = ['<unk>', '<s>', '</s>']
  if (config.vocabSize < specials.length + 256) return null
  const tokens: Token[] = specials.map((text) => ({ text, type: 'control', score: 0 }))
  let shifted = 0
  for (let byte = 0; byte < 256; byte++) {
    const printable = (byte > 32 && byte < 127) || (byte > 160 && byte !== 173)
    tokens.push({ text: String.fromCharCode(printable ? byte : 256 + shifted++), type: 'normal', score: 0 })
  }
  for (let id = tokens.length; id < config.vocabSize; id++) {
    tokens.push({ text: `<unused${id}>`, type: 'unused', score: 0 })
  }
  return {
    kind: 'bpe',
    tokens,
    merges: [],
    pre: 'gpt-2',
    preDescription: 'bytes',
    ids: { bos: 1, eos: 2, eot: null, unknown: 0, pad: null },
    addBos: false,
    addEos: false,
    addSpacePrefix: null,
    chatTemplates: [],
  }
}
