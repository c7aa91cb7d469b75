import { requireArchitecture, type Checkpoint, type Role } from '../../core/checkpoint.ts'
import { elementCount, type DType } from '../../core/dtype.ts'
import { AppError } from '../../core/errors.ts'
import type { OptionValues } from '../../core/option.ts'
import type { Finding, Plan } from '../../core/plan.ts'
import { readsOf, tensorBytes, type Recipe } from '../../core/tensor.ts'
import type { Architecture } from '../../models/architecture.ts'
import { architectureFor } from '../../models/index.ts'
import { divide } from '../../models/parts.ts'
import type { GgufValue } from '../containers/gguf/types.ts'
import type { Evidence, Measurement } from '../engine.ts'
import type { GgufArchitecture } from './arch/contract.ts'
import { ggufArchitecture } from './arch/index.ts'
import { authorship } from './metadata/authorship.ts'
import { describeEdited, type Described } from './metadata/describe.ts'
import { editMetadata, metadataEdit } from './metadata/edit.ts'
import { isVocabularyOnly, layFiles, splitOptions, VOCABULARY, type LaidOut, type Placed } from './lay.ts'
import { configFindings, modelMetadata, provenance } from './metadata/keys.ts'
import type { MixModel } from './weights/mix.ts'
import { MIXES, type Mix } from './weights/mixes.ts'
import { sizeLabelOf } from './metadata/name-parts.ts'
import { pruneLayers, pruneMetadata } from './prune.ts'
import { ropeTensors } from './rope.ts'
import { ggufTensors, packRow } from './tensors.ts'
import { preOption, tokenizerMetadata } from './tokenizer.ts'
import type { WeightOptions } from './weights/options.ts'
import { dominantFileType, sizeMeasurements, typedToSize } from './weights/size-target.ts'
import { importanceMetadata, typeWeights } from './weights/assign.ts'

/** What of the weights must be measured before a plan can be made. */
export async function ggufNeeds(checkpoint: Checkpoint, weights: WeightOptions): Promise<readonly Measurement[]> {
  if (weights.target === null) return []
  requireArchitecture(checkpoint, 'GGUF')
  const architecture = await architectureFor(checkpoint.architecture, checkpoint.name)
  const target = ggufArchitecture(checkpoint.architecture)
  const packed = packTensors(checkpoint, architecture, target)
  const pruned = pruneLayers(packed, checkpoint.config.layers, weights)
  return sizeMeasurements(pruned.tensors, pruned.weights)
}

/** The plan of one GGUF file: everything but the weights' own bytes, which are recipes. */
export async function planGguf(
  checkpoint: Checkpoint,
  weights: WeightOptions,
  options: OptionValues,
  evidence: Evidence,
): Promise<Plan> {
  requireArchitecture(checkpoint, 'GGUF')
  const mix = weights.mix ?? ownMix(checkpoint)
  const { config } = checkpoint
  const target = ggufArchitecture(checkpoint.architecture)
  const architecture = await architectureFor(checkpoint.architecture, checkpoint.name)
  const refused = target.refuses?.(config) ?? null
  if (refused !== null) {
    throw new AppError('unsupported', `llama.cpp cannot run a ${target.name} model with ${refused}`, {
      hint: 'It would load, and answer wrongly. Convert it to another format.',
    })
  }
  const tokenizer = tokenizerMetadata(checkpoint.tokenizer, config.vocabSize, preOption(options))
  const findings: Finding[] = [
    ...configFindings(config, target),
    ...omittedFindings(checkpoint, target),
    ...tokenizer.findings,
  ]
  const split = splitOptions(options)
  if (split.keep) {
    throw new AppError('bad-option', '--keep-split is for a GGUF model that is split already', {
      hint: 'Give --split-max-size or --split-max-tensors.',
    })
  }
  const vocabularyOnly = isVocabularyOnly(options)
  const pruned = pruneLayers(packTensors(checkpoint, architecture, target), config.layers, weights)
  const packed = pruned.tensors
  findings.push(...pruned.findings)
  const model: MixModel = {
    architecture: target.name,
    layers: config.layers,
    heads: config.heads,
    // latents stand for one head
    kvHeads: config.latent === undefined ? config.kvHeads : 1,
    experts: config.experts?.count ?? 0,
  }
  const typed = (into: Finding[], chosen?: ReadonlyMap<string, DType>): readonly Placed[] => [
    ...ropeTensors(config),
    ...typeWeights(mix, pruned.weights, model, packed, keptType, into, chosen),
  ]
  const lay = (tensors: readonly Placed[]): LaidOut & Described => {
    const parameters = tensors.reduce((sum, { recipe }) => sum + elementCount(recipe.shape), 0)
    const named = weights.target === null ? mix : { ...mix, fileType: dominantFileType(tensors) }
    const shapes = tensors.map(({ name, recipe }) => ({ name, shape: recipe.shape }))
    const sizeLabel = vocabularyOnly ? null : sizeLabelOf(shapes)
    const about = authorship(checkpoint, vocabularyOnly ? 0 : parameters, sizeLabel, options)
    const ofModel = modelMetadata(checkpoint, target, named, about, architecture.rotary !== 'none')
    const metadata = new Map<string, GgufValue>([
      ...pruneMetadata(ofModel, target.name, config.layers, weights.prune),
      ...tokenizer.metadata,
      ...importanceMetadata(weights.importances),
      ['modelconvert.recipe', provenance(checkpoint, mix)],
    ])
    const edited = editMetadata(metadata, metadataEdit(options))
    const stem = `${fileStem(checkpoint.name)}-${vocabularyOnly ? VOCABULARY : mix.title}`
    const laid = layFiles(stem, edited, vocabularyOnly ? [] : tensors, split)
    return { ...laid, metadata: describeEdited(metadata, edited) }
  }
  const tensors = vocabularyOnly ? [] : typedToSize(typed, lay, packed, pruned.weights, evidence, findings)
  const laid = lay(tensors)
  return {
    target: 'gguf',
    stages: [],
    files: laid.files,
    metadata: laid.metadata,
    findings: [...findings, ...laid.findings],
    readBytes: tensors.reduce((sum, { recipe }) => sum + readBytes(recipe), 0),
    writeBytes: laid.size,
  }
}

/** That a head is lost: the file holds the model without it. */
function omittedFindings({ tensors }: Checkpoint, target: GgufArchitecture): readonly Finding[] {
  const lost = [...tensors.keys()].filter((role) => target.omitted?.some((pattern) => pattern.test(role)) === true)
  if (lost.length === 0) return []
  const message = `${lost.join(', ')} ${lost.length === 1 ? 'is' : 'are'} left out: llama.cpp has no place for ${lost.length === 1 ? 'it' : 'them'}. The file gives embeddings`
  return [{ severity: 'warning', code: 'left-out', message }]
}

function readBytes(recipe: Recipe): number {
  let sum = 0
  for (const source of readsOf(recipe)) sum += tensorBytes(source)
  return sum
}

/** A model's name as a file's: without the characters that some file system refuses. */
function fileStem(name: string): string {
  // oxlint-disable-next-line no-control-regex -- control characters are among those refused
  const safe = name.replaceAll(/[\u0000-\u001f\u007f<>:"/\\|?*]+/g, '-').replaceAll(/^[. -]+|[. -]+$/g, '')
  return safe === '' ? 'model' : safe
}

/** Another format's weights have a type too: the mixture of that name keeps it. */
function ownMix({ config }: Checkpoint): Mix {
  const [exact] = MIXES
  const own = MIXES.find(({ base }) => base === config.dtype) ?? exact
  if (own === undefined) throw new AppError('internal', 'there are no mixtures')
  return own
}

/** The tensors as they lie in the file, in the types that they have. */
function packTensors(checkpoint: Checkpoint, architecture: Architecture, target: GgufArchitecture): readonly Placed[] {
  const placed: Placed[] = []
  const tensors = divide(architecture, checkpoint.config, checkpoint.tensors)
  for (const row of ggufTensors(target, architecture, checkpoint.config)) {
    if (row.optional && row.roles.some((role) => !tensors.has(role))) continue
    const parts = row.roles.map((role) => tensorOf({ ...checkpoint, tensors }, role))
    placed.push({ name: row.name, recipe: packRow(row, parts) })
  }
  return placed
}

/** What is never quantised is F32; an output matrix that is left alone keeps the float type that it has. */
function keptType({ name, recipe }: Placed): DType {
  const { dtype } = recipe
  return name === 'output.weight' && (dtype === 'f16' || dtype === 'bf16') ? dtype : 'f32'
}

function tensorOf(checkpoint: Checkpoint, role: Role): Recipe {
  const found = checkpoint.tensors.get(role)
  if (found !== undefined) return found
  throw new AppError('missing-tensor', `The checkpoint has no ${role}, which ${checkpoint.config.className} needs`, {
    where: { tensor: role },
    hint: 'The checkpoint is incomplete. Download it again.',
  })
}
