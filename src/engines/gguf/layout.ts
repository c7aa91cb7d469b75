import { requireArchitecture, type Checkpoint, type Role } from '../../core/checkpoint.ts'
import { elementCount } from '../../core/dtype.ts'
import { AppError } from '../../core/errors.ts'
import type { OptionValues } from '../../core/option.ts'
import type { Finding, Plan } from '../../core/plan.ts'
import { cast, readsOf, tensorBytes, type Recipe } from '../../core/tensor.ts'
import type { Architecture } from '../../models/architecture.ts'
import { architectureFor } from '../../models/index.ts'
import type { GgufValue } from '../containers/gguf/types.ts'
import type { GgufArchitecture } from './arch/contract.ts'
import { ggufArchitecture } from './arch/index.ts'
import { editMetadata, metadataEdit } from './edit.ts'
import { layFiles, splitOptions, type Placed } from './lay.ts'
import { configFindings, modelMetadata, provenance } from './metadata.ts'
import { chooseType, DEFAULT_MIX, MIXES, type Choice, type Mix } from './mix.ts'
import { ropeTensors } from './rope.ts'
import { ggufTensors, packRow } from './tensors.ts'
import { tokenizerMetadata } from './tokenizer.ts'

/** The plan of one GGUF file: everything but the weights' own bytes, which are recipes. */
export async function planGguf(checkpoint: Checkpoint, options: OptionValues): Promise<Plan> {
  requireArchitecture(checkpoint, 'GGUF')
  const quant = options['quant'] ?? DEFAULT_MIX
  const mix = MIXES.find((candidate) => candidate.id === quant)
  if (mix === undefined) throw new AppError('bad-option', `--quant cannot be ${JSON.stringify(quant)}`)
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
  const tensors = placeTensors(checkpoint, architecture, target, mix, findings)
  const parameters = tensors.reduce((sum, { recipe }) => sum + elementCount(recipe.shape), 0)
  const tokenizer = tokenizerMetadata(checkpoint.tokenizer, config.vocabSize, pre)
  findings.push(...tokenizer.findings)
  const metadata = new Map<string, GgufValue>([
    ...modelMetadata(checkpoint, target, mix, parameters, architecture.rotary !== 'none'),
    ...tokenizer.metadata,
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

function placeTensors(
  checkpoint: Checkpoint,
  architecture: Architecture,
  target: GgufArchitecture,
  mix: Mix,
  findings: Finding[],
): readonly Placed[] {
  const { config } = checkpoint
  const model = {
    architecture: target.name,
    layers: config.layers,
    heads: config.heads,
    kvHeads: config.kvHeads,
    tied: config.tied,
  }
  const placed: Placed[] = [...ropeTensors(config)]
  for (const row of ggufTensors(target, architecture, config)) {
    const { name } = row
    if (row.optional && row.roles.some((role) => !checkpoint.tensors.has(role))) continue
    const recipe = packRow(
      row,
      row.roles.map((role) => tensorOf(checkpoint, role)),
    )
    const choice = chooseType(mix, model, name, recipe.shape)
    noteChoice(name, recipe.shape, choice, findings)
    placed.push({ name, recipe: cast(recipe, choice.type) })
  }
  return placed
}

function tensorOf(checkpoint: Checkpoint, role: Role): Recipe {
  const found = checkpoint.tensors.get(role)
  if (found !== undefined) return found
  throw new AppError('missing-tensor', `The checkpoint has no ${role}, which ${checkpoint.config.className} needs`, {
    where: { tensor: role },
    hint: 'The checkpoint is incomplete. Download it again.',
  })
}

/** Says where a tensor's type is not what its mixture would give it. */
export function noteChoice(name: string, shape: readonly number[], choice: Choice, findings: Finding[]): void {
  const { type, wanted, unavailable } = choice
  if (unavailable !== null) {
    findings.push({
      severity: 'info',
      code: 'type-substituted',
      message: `${name} is ${wanted.toUpperCase()}, where llama.cpp takes ${unavailable}, which cannot be written yet`,
      where: { tensor: name },
    })
  }
  if (type === wanted) return
  findings.push({
    severity: 'warning',
    code: 'row-fallback',
    message:
      `${name} is ${type.toUpperCase()} instead of ${wanted.toUpperCase()}: ` +
      `its rows of ${shape.at(-1)} are not whole blocks`,
    where: { tensor: name },
    hint: 'llama.cpp does the same. The file is a little larger for it.',
  })
}
