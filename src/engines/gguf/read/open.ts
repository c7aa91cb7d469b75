import type { Folder } from '../../../core/bytes.ts'
import { NO_ARCHITECTURE, NO_CONFIG, type Checkpoint, type ModelConfig, type Role } from '../../../core/checkpoint.ts'
import { dtypeInfo, elementCount } from '../../../core/dtype.ts'
import { AppError } from '../../../core/errors.ts'
import type { Finding } from '../../../core/plan.ts'
import type { Recipe } from '../../../core/tensor.ts'
import type { Architecture } from '../../../models/architecture.ts'
import { architectureFor } from '../../../models/index.ts'
import { join } from '../../../models/parts.ts'
import { ggufNumber, ggufString } from '../../containers/gguf/reader.ts'
import type { Match } from '../../engine.ts'
import { architectureIdsOf, ggufArchitecture } from '../arch/index.ts'
import { cardOf, generationOf } from '../metadata/authorship.ts'
import { describeMetadata } from '../metadata/describe.ts'
import { modelEntries, readModel, withoutCompanions, type GgufModel, type LocatedTensor } from '../files.ts'
import { ROPE_FACTORS_LONG, ROPE_FACTORS_SHORT, ROPE_FREQS } from '../names.ts'
import { rebuildConfig, type RopeFactors } from './config.ts'
import { readTokenizer } from './tokenizer.ts'
import { plainStem, storedTensor } from '../requantise.ts'
import { ggufTensors, unpackRow } from '../tensors.ts'

/** Heads have some hundred channels; the factors of half of them are read whole. */
const MAX_ROPE_FACTORS = 1 << 16

/** Of findings that name tensors: the first few say what is wrong. */
const NAMED_TENSORS = 3

/** Why the file of a tokenizer becomes nothing but another such file. */
export const VOCABULARY_ONLY = 'it holds a vocabulary and no weights'

/**
 * What lies behind a checkpoint that was read from GGUF. GGUF to GGUF goes by it: keys and tensors as they are, whatever
 * the architecture. A checkpoint that something was done to is another object and has none.
 */
const MODELS = new WeakMap<Checkpoint, GgufModel>()

/** The GGUF model that a checkpoint was read from, unless it was changed since. */
export function ggufModelOf(checkpoint: Checkpoint): GgufModel | null {
  return MODELS.get(checkpoint) ?? null
}

/** Opens a GGUF model, split or whole: headers, and the rotary factors. */
export async function openGguf(folder: Folder, { entry }: Match): Promise<Checkpoint> {
  await requireOne(folder)
  const model = await readModel(folder, entry)
  requireLanguageModel(model, entry)
  const { tokenizer, findings } = readTokenizer(model.metadata, entry)
  const described = model.tensors.length === 0 ? { because: VOCABULARY_ONLY } : await describe(folder, model)
  const parts = 'because' in described ? undescribed(model, described.because) : described
  const [card, generation] = [cardOf(model.metadata), generationOf(model.metadata)]
  const checkpoint: Checkpoint = {
    format: 'gguf',
    name: plainStem(model.stem),
    architecture: parts.architecture,
    config: parts.config,
    tokenizer,
    tensors: parts.tensors,
    extras: new Map(),
    ...(parts.undescribed === undefined ? {} : { undescribed: parts.undescribed }),
    ...(card.size === 0 ? {} : { card }),
    ...(generation.size === 0 ? {} : { generation }),
    metadata: describeMetadata(model.metadata),
    sources: model.files,
    findings: [...findings, ...parts.findings, ...quantisedFinding(model)],
  }
  MODELS.set(checkpoint, model)
  return checkpoint
}

/** A folder of several models is not one: which is meant only its owner can say. */
async function requireOne(folder: Folder): Promise<void> {
  const entries = withoutCompanions(modelEntries(await folder.list()))
  if (entries.length < 2) return
  throw new AppError('not-a-model', `${folder.name} holds ${entries.length} GGUF models: ${some(entries)}`, {
    where: { file: folder.name },
    hint: 'Open one of the files instead of the folder.',
  })
}

function requireLanguageModel({ metadata, tensors }: GgufModel, file: string): void {
  const type = ggufString(metadata, 'general.type') ?? 'model'
  const architecture = ggufString(metadata, 'general.architecture')
  if (type !== 'model') {
    throw new AppError('unsupported', `${file} is no model but a file of the type ${JSON.stringify(type)}`, {
      where: { file },
      hint:
        type === 'imatrix'
          ? 'Open the model, convert it to GGUF, and give this file as its importance matrix (--imatrix).'
          : 'Open the model that it belongs to.',
    })
  }
  if (architecture === null) {
    throw new AppError('malformed', `${file} has no general.architecture`, {
      where: { file },
      hint: 'The file is incomplete. Download or convert it again.',
    })
  }
  if (tensors.length === 0 && !metadata.has('tokenizer.ggml.tokens')) {
    throw new AppError('not-a-model', `${file} holds no tensors and no vocabulary, but a header only`, {
      where: { file },
      hint: 'Open the file that holds the weights.',
    })
  }
}

function some(names: readonly string[]): string {
  return names.slice(0, NAMED_TENSORS).join(', ') + (names.length > NAMED_TENSORS ? ', ...' : '')
}

/** The parts of a checkpoint that depend on the architecture. */
interface Described {
  readonly architecture: string
  readonly config: ModelConfig
  readonly undescribed?: string
  readonly tensors: ReadonlyMap<Role, Recipe>
  readonly findings: readonly Finding[]
}

/** Why a file is none of the models that are described here. */
interface Undescribed {
  readonly because: string
}

/**
 * The first of our architectures that the file is: all of its tensors, of the right shapes, and no others. A tensor that
 * a description lacks would be lost on the way to another format, so it makes the model unknown.
 */
async function describe(folder: Folder, model: GgufModel): Promise<Described | Undescribed> {
  const name = ggufString(model.metadata, 'general.architecture') ?? ''
  const factors = await ropeFactors(folder, model)
  let nearest: Undescribed | null = null
  for (const id of architectureIdsOf(name)) {
    const architecture = await architectureFor(id, model.stem)
    const rebuilt = rebuildConfig(model, architecture, factors)
    const found = 'because' in rebuilt ? rebuilt : assign(model, architecture, rebuilt.config)
    if (!('because' in found)) return found
    nearest ??= found
  }
  return nearest ?? { because: `${name} is an architecture that is not described here` }
}

async function ropeFactors(folder: Folder, { tensors }: GgufModel): Promise<RopeFactors> {
  const values = async (wanted: string): Promise<Float32Array | null> => {
    const tensor = tensors.find(({ name }) => name === wanted)
    if (tensor === undefined || tensor.type.dtype !== 'f32' || elementCount(tensor.shape) > MAX_ROPE_FACTORS)
      return null
    const bytes = new Uint8Array(tensor.size)
    const source = await folder.open(tensor.file)
    try {
      await source.read(tensor.offset, bytes)
    } finally {
      await source.close()
    }
    const view = new DataView(bytes.buffer)
    return Float32Array.from({ length: tensor.size / 4 }, (_, index) => view.getFloat32(4 * index, true))
  }
  return {
    freqs: await values(ROPE_FREQS),
    long: await values(ROPE_FACTORS_LONG),
    short: await values(ROPE_FACTORS_SHORT),
  }
}

/** Gives each role its tensor, undone of what GGUF does to it. */
function assign(model: GgufModel, architecture: Architecture, config: ModelConfig): Described | Undescribed {
  const target = ggufArchitecture(architecture.id)
  const left = new Map(model.tensors.map((tensor) => [tensor.name, tensor]))
  for (const name of [ROPE_FREQS, ROPE_FACTORS_LONG, ROPE_FACTORS_SHORT]) left.delete(name)
  const tensors = new Map<Role, Recipe>()
  for (const row of ggufTensors(target, architecture, config)) {
    const { name, shape } = row
    const stored = left.get(name)
    if (stored === undefined && row.optional) continue
    if (stored === undefined) return { because: `it has no tensor ${name}, which ${architecture.id} models have` }
    if (stored.shape.join() !== shape.join()) {
      const found = `[${stored.shape.join(', ')}] instead of [${shape.join(', ')}]`
      return { because: `${name} has the shape ${found}` }
    }
    left.delete(name)
    for (const [role, recipe] of unpackRow(row, storedTensor(stored))) tensors.set(role, recipe)
  }
  if (left.size === 0)
    return { architecture: architecture.id, config, tensors: join(architecture, config, tensors), findings: [] }
  const extra = [...left.keys()]
  return { because: `it has ${extra.length} tensors that ${architecture.id} models do not have: ${some(extra)}` }
}

/** A model of which only the file is known: enough for GGUF to GGUF. */
function undescribed(model: GgufModel, because: string): Described {
  const { metadata, tensors } = model
  const name = ggufString(metadata, 'general.architecture') ?? 'unknown'
  const at = (key: string): number => ggufNumber(metadata, `${name}.${key}`) ?? 0
  const heads = at('attention.head_count')
  return {
    architecture: NO_ARCHITECTURE,
    config: {
      ...NO_CONFIG,
      modelType: name,
      className: name,
      hiddenSize: at('embedding_length'),
      layers: at('block_count'),
      intermediateSize: at('feed_forward_length'),
      heads,
      kvHeads: ggufNumber(metadata, `${name}.attention.head_count_kv`) ?? heads,
      headDim: at('attention.key_length'),
      vocabSize: tensors.find((tensor) => tensor.name === 'token_embd.weight')?.shape[0] ?? 0,
      contextLength: at('context_length'),
      normEpsilon: at('attention.layer_norm_rms_epsilon'),
      rope: { theta: at('rope.freq_base'), scaling: { kind: 'none' } },
      tied: !tensors.some((tensor) => tensor.name === 'output.weight'),
      dtype: 'f16',
    },
    undescribed: because,
    tensors: new Map(tensors.map((tensor: LocatedTensor) => [tensor.name, storedTensor(tensor)])),
    findings: [
      {
        severity: 'warning',
        code: 'gguf-only',
        message: `This model can become another GGUF file, but no other format: ${because}`,
        where: { file: model.files[0]?.path ?? model.stem },
      },
    ],
  }
}

function quantisedFinding({ tensors }: GgufModel): readonly Finding[] {
  const types = tensors.flatMap(({ type }) =>
    type.dtype !== null && dtypeInfo(type.dtype).kind === 'quant' ? [type.name.toUpperCase()] : [],
  )
  if (types.length === 0) return []
  return [
    {
      severity: 'info',
      code: 'quantised-source',
      message: `The weights are quantised (${[...new Set(types)].join(', ')}): other formats get what is left of them`,
      hint: 'The original model, where you can get it, gives better results.',
    },
  ]
}
