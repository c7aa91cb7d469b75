/** A HuggingFace folder of a checkpoint, as transformers' save_pretrained would lay it out. */
import { NO_ARCHITECTURE, requireArchitecture, type Checkpoint } from '../../core/checkpoint.ts'
import { dtypeInfo, type DType } from '../../core/dtype.ts'
import { AppError } from '../../core/errors.ts'
import { isObject, parseJson, type JsonObject } from '../../core/json.ts'
import type { OptionSpec, OptionValues } from '../../core/option.ts'
import type { Finding, Plan, PlannedFile } from '../../core/plan.ts'
import { cast, tensorBytes } from '../../core/tensor.ts'
import { expectedTensors, type Architecture } from '../../models/architecture.ts'
import { architectureFor } from '../../models/index.ts'
import type { StoredTensor } from '../containers/safetensors-files.ts'
import {
  castStored,
  DEQUANTIZED,
  dequantizedFinding,
  DTYPE_OPTION,
  dtypeOption,
  isCastable,
  isQuantized,
  planShards,
  readBytes,
  SHARD_OPTION,
  shardSizeOf,
  transposedBack,
  withKeptTypes,
  type NamedTensor,
} from '../containers/shards.ts'
import { carriedFiles, companionFiles, jsonFile } from '../transformers/companions.ts'
import { architectureOf, normalizeConfig } from '../transformers/config.ts'
import { CONFIG_FILE } from '../transformers/files.ts'
import { castConfig, configJson, isHuggingFace } from '../transformers/write-config.ts'
import { assignRoles } from './weights.ts'

/** What `convert` takes. */
export const WRITE_OPTIONS: readonly OptionSpec[] = [
  DTYPE_OPTION,
  SHARD_OPTION,
  {
    name: 'config',
    title: 'Configuration',
    help: 'The config.json of the model, for weights that come without one.',
    sources: ['safetensors'],
    kind: { kind: 'text', default: null, file: true },
  },
]

const STEM = 'model'

/** transformers before 4.47 refuses files that do not say so. */
const METADATA: ReadonlyMap<string, string> = new Map([['format', 'pt']])

/** The plan of a folder: weights first, config.json, which completes it, last. */
export async function planHuggingFace(given: Checkpoint, options: OptionValues): Promise<Plan> {
  const limit = shardSizeOf(options)
  const dtype = dtypeOption(options)
  const checkpoint = withKeptTypes(await configured(given.whole ?? given, options['config']), dtype)
  if (checkpoint.architecture === NO_ARCHITECTURE && isHuggingFace(checkpoint.config.raw))
    return planUndescribed(checkpoint, dtype, limit)
  requireArchitecture(
    checkpoint,
    'a HuggingFace model',
    'Put the config.json of the model beside its weights, or give it with --config.',
  )
  const architecture = await architectureFor(checkpoint.architecture, checkpoint.name)
  const findings: Finding[] = []
  const tensors = nameTensors(checkpoint, architecture, dtype, findings)
  const config = configJson(checkpoint, architecture, mainType(tensors, checkpoint.config.dtype))
  return planFolder(tensors, companionFiles(checkpoint, findings), config, limit, findings)
}

/** A model of an unknown architecture: tensors under their own names, and the configuration that it came with. */
function planUndescribed(checkpoint: Checkpoint, dtype: DType | null, limit: number): Plan {
  const { config, extras } = checkpoint
  const findings: Finding[] = []
  const tensors = castStored(
    [...checkpoint.tensors].map(([name, recipe]) => ({ name, recipe })),
    dtype,
    findings,
  )
  if (config.raw.has('auto_map')) {
    findings.push({
      severity: 'warning',
      code: 'custom-code',
      message: 'config.json refers to code of the model’s own (auto_map), which is not copied',
      hint: 'Copy the *.py files of the source into the new folder.',
    })
  }
  return planFolder(tensors, carriedFiles(extras), castConfig(config.raw, dtype), limit, findings)
}

/** Weights, what stands beside them, and config.json, which completes the folder, last. */
function planFolder(
  tensors: readonly NamedTensor[],
  companions: readonly PlannedFile[],
  config: JsonObject,
  limit: number,
  findings: readonly Finding[],
): Plan {
  const { weights, index } = planShards(tensors, STEM, limit, METADATA)
  const files = [...weights, ...companions, ...(index === null ? [] : [index]), jsonFile(CONFIG_FILE, config)]
  return {
    target: 'huggingface',
    stages: [],
    files,
    findings,
    readBytes: files.reduce((sum, file) => sum + readBytes(file), 0),
    writeBytes: files.reduce((sum, { size }) => sum + size, 0),
  }
}

/** Bare weights with the configuration that was given for them. */
async function configured(checkpoint: Checkpoint, text: OptionValues[string] | undefined): Promise<Checkpoint> {
  if (typeof text !== 'string' || text === '') return checkpoint
  const { stored } = checkpoint
  if (stored === undefined) {
    throw new AppError(
      'bad-option',
      `--config is for weights without a configuration; ${checkpoint.name} has its own`,
      {
        hint: 'Leave --config out, or edit the config.json of the model.',
      },
    )
  }
  const raw = parseJson(text, '--config')
  if (!isObject(raw)) {
    throw new AppError('bad-option', '--config is not a JSON object', { hint: 'Give the config.json of the model.' })
  }
  const architecture = await architectureOf(raw, '--config')
  const { config, findings } = normalizeConfig(raw, '--config', architecture)
  const tensors = new Map<string, StoredTensor>()
  for (const [role, recipe] of checkpoint.tensors) {
    const lies = recipe.op === 'permute' ? recipe.of : recipe
    if (lies.op === 'read') tensors.set(stored.names.get(role) ?? role, lies)
  }
  const files = [...new Set([...tensors.values()].map(({ file }) => file))]
  const roles = assignRoles(
    { tensors, files, withoutFormat: [], metadata: stored.metadata, totalSize: null, findings: [], views: new Map() },
    architecture,
    config,
  )
  return {
    ...checkpoint,
    architecture: architecture.id,
    config,
    tensors: roles.tensors,
    findings: [...checkpoint.findings, ...findings, ...roles.findings],
  }
}

/** The tensors under their HuggingFace names, in the model's order and the type asked for. */
function nameTensors(
  { config, tensors }: Checkpoint,
  architecture: Architecture,
  dtype: DType | null,
  findings: Finding[],
): readonly NamedTensor[] {
  const named: NamedTensor[] = []
  const dequantized: string[] = []
  for (const { role, hf, transposed, optional } of expectedTensors(architecture, config)) {
    const recipe = tensors.get(role)
    if (recipe === undefined) {
      if (optional) continue
      throw new AppError('missing-tensor', `The checkpoint has no ${role}, which ${config.className} needs`, {
        where: { tensor: role },
        hint: 'The checkpoint is incomplete. Download it again.',
      })
    }
    const oriented = transposed ? transposedBack(recipe) : recipe
    if (isQuantized(oriented)) dequantized.push(hf)
    const wanted = dtype ?? (dtypeInfo(oriented.dtype).kind === 'quant' ? DEQUANTIZED : oriented.dtype)
    if (wanted !== oriented.dtype && !isCastable(oriented.dtype)) {
      throw new AppError('unsupported', `${hf} is stored as ${oriented.dtype}, which cannot be made ${wanted} yet`, {
        where: { tensor: hf },
        hint: 'Keep the type (--dtype keep).',
      })
    }
    named.push({ name: hf, recipe: cast(oriented, wanted) })
  }
  const finding = dequantizedFinding(dequantized, dtype)
  if (finding !== null) findings.push(finding)
  return named
}

/** The type that config.json should name: what it names already if weights have it, else that of most bytes. */
function mainType(tensors: readonly NamedTensor[], declared: DType): DType {
  const bytes = new Map<DType, number>()
  for (const { recipe } of tensors) bytes.set(recipe.dtype, (bytes.get(recipe.dtype) ?? 0) + tensorBytes(recipe))
  if (bytes.has(declared)) return declared
  return [...bytes].sort((a, b) => b[1] - a[1])[0]?.[0] ?? declared
}
