import { requireArchitecture, type Checkpoint, type Role } from '../../core/checkpoint.ts'
import { elementCount, type DType } from '../../core/dtype.ts'
import { AppError } from '../../core/errors.ts'
import type { OptionValues } from '../../core/option.ts'
import type { Finding, Plan } from '../../core/plan.ts'
import { readsOf, tensorBytes, type Recipe } from '../../core/tensor.ts'
import type { Architecture } from '../../models/architecture.ts'
import { architectureFor } from '../../models/index.ts'
import type { GgufValue } from '../containers/gguf/types.ts'
import type { GgufArchitecture } from './arch/contract.ts'
import { ggufArchitecture } from './arch/index.ts'
import { editMetadata, metadataEdit } from './edit.ts'
import { layFiles, splitOptions, type Placed } from './lay.ts'
import { configFindings, modelMetadata, provenance } from './metadata.ts'
import { MIXES, type Mix } from './mixes.ts'
import { ropeTensors } from './rope.ts'
import { ggufTensors, packRow } from './tensors.ts'
import { tokenizerMetadata } from './tokenizer.ts'
import type { WeightOptions } from './weight-options.ts'
import { importanceMetadata, typeWeights } from './weights.ts'

/** The plan of one GGUF file: everything but the weights' own bytes, which are recipes. */
export async function planGguf(checkpoint: Checkpoint, weights: WeightOptions, options: OptionValues): Promise<Plan> {
  requireArchitecture(checkpoint, 'GGUF')
  const mix = weights.mix ?? ownMix(checkpoint)
  const pre = typeof options['pre'] === 'string' && options['pre'] !== '' ? options['pre'] : null
  const { config } = checkpoint
  const target = ggufArchitecture(checkpoint.architecture)
  const architecture = await architectureFor(checkpoint.architecture, checkpoint.name)
  const refused = target.refuses?.(config) ?? null
  if (refused !== null) {
    throw new AppError('unsupported', `llama.cpp cannot run a ${target.name} model with ${refused}`, {
      hint: 'It would load, and answer wrongly. Convert it to another format.',
    })
  }
  const findings: Finding[] = [...configFindings(config, target)]
  const tensors = placeTensors(checkpoint, architecture, target, mix, weights, findings)
  const parameters = tensors.reduce((sum, { recipe }) => sum + elementCount(recipe.shape), 0)
  const tokenizer = tokenizerMetadata(checkpoint.tokenizer, config.vocabSize, pre)
  findings.push(...tokenizer.findings)
  const metadata = new Map<string, GgufValue>([
    ...modelMetadata(checkpoint, target, mix, parameters, architecture.rotary !== 'none'),
    ...tokenizer.metadata,
    ...importanceMetadata(weights.importances),
    ['modelconvert.recipe', provenance(checkpoint, mix)],
  ])
  const edited = editMetadata(metadata, metadataEdit(options))
  const laid = layFiles(`${fileStem(checkpoint.name)}-${mix.title}`, edited, tensors, splitOptions(options))
  return {
    target: 'gguf',
    stages: [],
    files: laid.files,
    findings: [...findings, ...laid.findings],
    readBytes: tensors.reduce((sum, { recipe }) => sum + readBytes(recipe), 0),
    writeBytes: laid.size,
  }
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

function placeTensors(
  checkpoint: Checkpoint,
  architecture: Architecture,
  target: GgufArchitecture,
  mix: Mix,
  weights: WeightOptions,
  findings: Finding[],
): readonly Placed[] {
  const { config } = checkpoint
  const model = {
    architecture: target.name,
    layers: config.layers,
    heads: config.heads,
    kvHeads: config.kvHeads,
    experts: config.experts?.count ?? 0,
  }
  const tensors: Placed[] = []
  for (const row of ggufTensors(target, architecture, config)) {
    const { name } = row
    if (row.optional && row.roles.some((role) => !checkpoint.tensors.has(role))) continue
    const parts = row.roles.map((role) => tensorOf(checkpoint, role))
    tensors.push({ name, recipe: packRow(row, parts) })
  }
  return [...ropeTensors(config), ...typeWeights(mix, weights, model, tensors, keptType, findings)]
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
