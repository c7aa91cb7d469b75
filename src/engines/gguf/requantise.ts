import { elementCount, dtypeInfo, type DType } from '../../core/dtype.ts'
import { AppError } from '../../core/errors.ts'
import type { OptionValues } from '../../core/option.ts'
import type { Finding, Plan } from '../../core/plan.ts'
import { read, readsOf, tensorBytes, type Recipe } from '../../core/tensor.ts'
import { ggufString } from '../containers/gguf/reader.ts'
import type { GgufValue } from '../containers/gguf/types.ts'
import type { Evidence, Measurement } from '../engine.ts'
import { withGivenAuthorship } from './metadata/authorship.ts'
import { describeEdited, type Described } from './metadata/describe.ts'
import { editMetadata, metadataEdit } from './metadata/edit.ts'
import type { GgufModel, LocatedTensor } from './files.ts'
import { isVocabularyOnly, layFiles, splitOptions, VOCABULARY, type LaidOut, type Placed } from './lay.ts'
import { numeric, text } from './metadata/keys.ts'
import type { MixModel } from './weights/mix.ts'
import { MIXES, type Mix } from './weights/mixes.ts'
import { pruneLayers, pruneMetadata } from './prune.ts'
import { headerFaults } from './validate.ts'
import { preOption } from './tokenizer.ts'
import { COPY, type WeightOptions } from './weights/options.ts'
import { dominantFileType, sizeMeasurements, typedToSize } from './weights/size-target.ts'
import { importanceMetadata, typeWeights } from './weights/assign.ts'

/** ggml's version of its quantised formats. */
const QUANTIZATION_VERSION = 2

/** The writer wants at least this; smaller ones, which nobody writes, become the default. */
const MIN_ALIGNMENT = 8

/** A tensor as it lies in its file. Throws `unsupported` for an element type that no kernel here reads, by its name. */
export function storedTensor({ name, type, shape, file, offset }: LocatedTensor): Recipe {
  if (type.dtype !== null) return read({ dtype: type.dtype, shape }, file, offset)
  throw new AppError('unsupported', `${name} has the type ${type.name.toUpperCase()}, which cannot be read here`, {
    where: { file, tensor: name, offset },
    hint: 'Take the model in another type.',
  })
}

/**
 * The plan from GGUF to GGUF: the same keys and tensor names, blocks copied untouched where the type stays, the others
 * quantised anew from their dequantised values. `mix` null copies everything. Nothing here depends on what architecture
 * it is: models that are not described here pass too.
 */
export async function planFromGguf(
  model: GgufModel,
  given: WeightOptions,
  options: OptionValues,
  evidence: Evidence,
): Promise<Plan> {
  const findings: Finding[] = []
  const split = splitOptions(options, model.files.length)
  const vocabularyOnly = isVocabularyOnly(options) || model.tensors.length === 0
  const weights = model.tensors.length === 0 ? { ...given, mix: null, target: null } : given
  const { mix } = weights
  const pruned = pruneLayers(storedTensors(model), mixModel(model).layers, weights)
  const stored = pruned.tensors
  findings.push(...pruned.findings)
  const lay = (tensors: readonly Placed[]): LaidOut & Described => {
    const named = weights.target === null || mix === null ? mix : { ...mix, fileType: dominantFileType(tensors) }
    const metadata = editedMetadata(model, { ...weights, mix: named }, options)
    const stem = `${plainStem(model.stem)}-${vocabularyOnly ? VOCABULARY : mix === null ? COPY : mix.title}`
    return {
      ...layFiles(stem, metadata, vocabularyOnly ? [] : tensors, split),
      metadata: describeEdited(model.metadata, metadata),
    }
  }
  const typed = (into: Finding[], chosen?: ReadonlyMap<string, DType>): readonly Placed[] =>
    mix === null ? stored : retype(mix, pruned.weights, model, stored, into, chosen)
  const tensors = vocabularyOnly ? [] : typedToSize(typed, lay, stored, pruned.weights, evidence, findings)
  const lossy = lossFinding(tensors)
  if (lossy !== null) findings.push(lossy)
  await refuseFaults(model, editedMetadata(model, { ...weights, prune: [] }, options))
  const laid = lay(tensors)
  return {
    target: 'gguf',
    stages: [],
    files: laid.files,
    metadata: laid.metadata,
    findings: [...findings, ...laid.findings],
    readBytes: tensors.reduce((sum, { recipe }) => sum + bytesRead(recipe), 0),
    writeBytes: laid.size,
  }
}

function storedTensors({ files, tensors }: GgufModel): readonly Placed[] {
  const parts = new Map(files.map(({ path }, part) => [path, part]))
  return tensors.map((tensor) => {
    return { name: tensor.name, recipe: storedTensor(tensor), part: parts.get(tensor.file) ?? 0 }
  })
}

function bytesRead(recipe: Recipe): number {
  return [...readsOf(recipe)].reduce((sum, source) => sum + tensorBytes(source), 0)
}

/** What of the weights must be measured before a plan can be made. */
export function requantiseNeeds(model: GgufModel, weights: WeightOptions): readonly Measurement[] {
  if (weights.target === null) return []
  const pruned = pruneLayers(storedTensors(model), mixModel(model).layers, weights)
  return sizeMeasurements(pruned.tensors, pruned.weights)
}

/** A file's name without the type that it already bears: model-Q4_K_M becomes model. */
export function plainStem(stem: string): string {
  const titles = [...MIXES.map(({ title }) => title), COPY, VOCABULARY].join('|')
  return stem.replace(new RegExp(`[-._](?:${titles})$`, 'i'), '') || stem
}

/** The mixture's choices; what it would not quantise keeps the type that it has, as in llama.cpp. */
function retype(
  mix: Mix,
  weights: WeightOptions,
  model: GgufModel,
  stored: readonly Placed[],
  findings: Finding[],
  chosen?: ReadonlyMap<string, DType>,
): readonly Placed[] {
  const numbers = stored.filter(({ recipe }) => dtypeInfo(recipe.dtype).kind !== 'int')
  const keep = ({ recipe }: Placed): DType => (mix.base === 'f32' ? 'f32' : recipe.dtype)
  const typed = typeWeights(mix, weights, mixModel(model), numbers, keep, findings, chosen)
  const recipes = new Map(typed.map(({ name, recipe }) => [name, recipe]))
  return stored.map((tensor) => ({ ...tensor, recipe: recipes.get(tensor.name) ?? tensor.recipe }))
}

function mixModel({ metadata }: GgufModel): MixModel {
  const architecture = ggufString(metadata, 'general.architecture') ?? ''
  const at = (key: string): number | null => firstNumber(metadata.get(`${architecture}.${key}`))
  const heads = at('attention.head_count') ?? 1
  return {
    architecture,
    layers: at('block_count') ?? 0,
    heads,
    kvHeads: at('attention.head_count_kv') ?? heads,
    experts: at('expert_count') ?? 0,
  }
}

/** A number, or the first of those that a key has for each layer. */
function firstNumber(value: GgufValue | undefined): number | null {
  const one = value?.type === 'array' ? value.value[0] : value?.value
  return typeof one === 'number' ? one : null
}

function lossFinding(tensors: readonly Placed[]): Finding | null {
  const from = new Map<DType, number>()
  for (const { recipe } of tensors) {
    let source = recipe
    while (source.op === 'cast') source = source.of
    const again = dtypeInfo(source.dtype).kind === 'quant' && recipe.dtype !== source.dtype && recipe.dtype !== 'f32'
    if (again) from.set(source.dtype, (from.get(source.dtype) ?? 0) + elementCount(recipe.shape))
  }
  if (from.size === 0) return null
  const types = [...from.keys()].map((type) => type.toUpperCase()).join(', ')
  return {
    severity: 'warning',
    code: 'quantised-twice',
    message: `Weights that are ${types} already are quantised once more, from what is left of them: both errors remain`,
    hint: 'Convert the original model where you can get it: the result is better at the same size.',
  }
}

function editedMetadata(
  model: GgufModel,
  { mix, importances, prune }: WeightOptions,
  options: OptionValues,
): Map<string, GgufValue> {
  const { architecture, layers } = mixModel(model)
  const metadata = pruneMetadata(model.metadata, architecture, layers, prune)
  if (model.alignment < MIN_ALIGNMENT) metadata.delete('general.alignment')
  if (mix !== null) {
    const version = 'general.quantization_version'
    metadata.set('general.file_type', numeric('u32', mix.fileType, 'general.file_type'))
    metadata.set(version, numeric('u32', QUANTIZATION_VERSION, version))
    metadata.set('modelconvert.recipe', provenance(model, mix))
    for (const [key, value] of importanceMetadata(importances)) metadata.set(key, value)
  }
  const pre = preOption(options)
  if (pre !== null) metadata.set('tokenizer.ggml.pre', text(pre))
  return editMetadata(withGivenAuthorship(metadata, options), metadataEdit(options))
}

/** What the weights went through is kept: an earlier recipe stands within the new one. */
function provenance({ metadata }: GgufModel, mix: Mix): GgufValue {
  const before = ggufString(metadata, 'modelconvert.recipe')
  const from = before === null ? {} : { before }
  const architecture = ggufString(metadata, 'general.architecture')
  return text(JSON.stringify({ version: 1, from: 'gguf', class: architecture, to: 'gguf', quant: mix.id, ...from }))
}

/** A file that llama.cpp would refuse is not written: the fault lies in the source, or in the edit. */
async function refuseFaults(model: GgufModel, metadata: ReadonlyMap<string, GgufValue>): Promise<void> {
  const [fault] = await headerFaults({ metadata, tensors: model.tensors })
  if (fault === undefined) return
  const own = (await headerFaults(model)).some(({ message }) => message === fault.message)
  if (own) {
    throw new AppError('malformed', `llama.cpp refuses this model: ${fault.message}`, {
      where: { file: model.files[0]?.path ?? model.stem, ...fault.where },
      hint: 'The file is incomplete or was made by hand. Convert the original model again.',
    })
  }
  throw new AppError('bad-option', `After this edit llama.cpp would refuse the file: ${fault.message}`, {
    hint: 'Correct --set-metadata or --remove-metadata.',
  })
}
