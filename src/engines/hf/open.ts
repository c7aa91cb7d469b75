import { readFile, type Folder } from '../../core/bytes.ts'
import type { Checkpoint, ModelConfig } from '../../core/checkpoint.ts'
import { AppError } from '../../core/errors.ts'
import { isArray, parseJsonObject } from '../../core/json.ts'
import { read, type Recipe } from '../../core/tensor.ts'
import { readStoredWeights, type StoredWeights } from '../containers/safetensors-files.ts'
import { readTorchWeights } from '../containers/torch-files.ts'
import type { Architecture } from '../../models/architecture.ts'
import { architectureOf, normalizeConfig, type NormalizedConfig } from './config.ts'
import { CONFIG_FILE, extraFiles, requireModel, type ModelFiles, type RefusedWeights } from './files.ts'
import { readTokenizer } from './tokenizer.ts'
import { assignRoles } from './weights.ts'

/** Vision models list thousands of labels in theirs; none has more than a few MB. */
export const MAX_CONFIG_BYTES = 1 << 24
export const GENERATION_CONFIG = 'generation_config.json'

/** A checkpoint, and the files it was made from. */
export interface LoadedModel {
  readonly checkpoint: Checkpoint
  readonly model: ModelFiles
  readonly stored: StoredWeights
}

/** Opens a folder: reads configurations, the tokenizer and headers, but no weights. */
export async function loadModel(folder: Folder): Promise<LoadedModel> {
  const model = await requireModel(folder)
  const { root, weights } = model
  if (weights === null) {
    throw new AppError('missing-file', `${root}model.safetensors is not there, nor its shards`, {
      where: { file: `${root}model.safetensors` },
      hint: 'The folder has a config.json, but no weights: download the *.safetensors files into it.',
    })
  }
  const path = root + CONFIG_FILE
  if (weights.kind === 'refused') throw refusedWeights(folder, root, weights)
  if (!model.hasConfig) {
    throw new AppError('missing-file', `${path} is not there: weights alone do not say what model they are`, {
      where: { file: path },
      hint: 'Open the whole folder of the model, with config.json and the tokenizer beside the weights.',
    })
  }
  const { architecture, normalized } = await readConfig(folder, path)
  const stored =
    weights.kind === 'torch'
      ? await readTorchWeights(folder, model, weights)
      : await readStoredWeights(folder, model, weights)
  const roles = assignRoles(stored, architecture, normalized.config)
  const config = normalized.dtypeDeclared
    ? normalized.config
    : { ...normalized.config, dtype: commonType(roles.tensors) }
  const outline = await outlineOf(folder, model, architecture, config, stored.files)
  const checkpoint: Checkpoint = {
    ...outline,
    tensors: roles.tensors,
    findings: [...normalized.findings, ...stored.findings, ...roles.findings, ...outline.findings],
  }
  return { checkpoint, model, stored }
}

/** A model's configuration and tokenizer without its weights: a checkpoint of no tensors. */
export async function openOutline(folder: Folder): Promise<Checkpoint> {
  const model = await requireModel(folder)
  const path = model.root + CONFIG_FILE
  if (!model.hasConfig) {
    throw new AppError('missing-file', `${path} is not there: without it nobody knows what weights to make`, {
      where: { file: path },
      hint: 'Give a folder with the config.json of the model.',
    })
  }
  const { architecture, normalized } = await readConfig(folder, path)
  const outline = await outlineOf(folder, model, architecture, normalized.config, [])
  return { ...outline, findings: [...normalized.findings, ...outline.findings] }
}

async function readConfig(
  folder: Folder,
  path: string,
): Promise<{ readonly architecture: Architecture; readonly normalized: NormalizedConfig }> {
  const raw = parseJsonObject(await readFile(folder, path, MAX_CONFIG_BYTES), path)
  const architecture = await architectureOf(raw, path)
  return { architecture, normalized: normalizeConfig(raw, path, architecture) }
}

/** All of a checkpoint but its tensors. `weights` are the files that those will be read from. */
export async function outlineOf(
  folder: Folder,
  model: ModelFiles,
  architecture: Architecture,
  given: ModelConfig,
  weights: readonly string[],
): Promise<Checkpoint> {
  const { root } = model
  const config = await withGeneration(given, folder, model)
  const { tokenizer, findings } = await readTokenizer(folder, model, config)
  const extras = extraFiles(model)
  const read8 = (name: string): [string, Recipe] => {
    const size = model.files.get(name)?.size ?? 0
    return [name, read({ dtype: 'u8', shape: [size] }, root + name, 0)]
  }
  const sources = [...weights, ...extras.map((name) => root + name)].flatMap((file) => {
    const entry = model.files.get(file.slice(root.length))
    return entry === undefined ? [] : [{ path: file, size: entry.size, modified: entry.modified }]
  })
  return {
    format: 'huggingface',
    name: root === '' ? folder.name : (root.split('/').at(-2) ?? folder.name),
    architecture: architecture.id,
    config,
    tokenizer,
    tensors: new Map(),
    extras: new Map(extras.map(read8)),
    sources,
    findings,
  }
}

function refusedWeights(folder: Folder, root: string, weights: RefusedWeights): AppError {
  return new AppError('unsupported', `${folder.name} holds ${weights.what}, which cannot be read`, {
    where: { file: root + weights.path },
    hint: weights.hint,
  })
}

/** The type that most bytes are of. */
export function commonType(tensors: ReadonlyMap<string, Recipe>): ModelConfig['dtype'] {
  const elements = new Map<ModelConfig['dtype'], number>()
  for (const { dtype, shape } of tensors.values()) {
    elements.set(dtype, (elements.get(dtype) ?? 0) + shape.reduce((product, size) => product * size, 1))
  }
  return [...elements].sort((a, b) => b[1] - a[1])[0]?.[0] ?? 'f32'
}

/** Generation stops at the ids of generation_config.json too: Llama 3's has more than its config.json. */
async function withGeneration(config: ModelConfig, folder: Folder, model: ModelFiles): Promise<ModelConfig> {
  if (!model.files.has(GENERATION_CONFIG)) return config
  const path = model.root + GENERATION_CONFIG
  const json = parseJsonObject(await readFile(folder, path, MAX_CONFIG_BYTES), path)
  const eos = json.get('eos_token_id') ?? null
  const more = (isArray(eos) ? eos : [eos]).filter(
    (id): id is number => typeof id === 'number' && Number.isSafeInteger(id) && id >= 0 && id < config.vocabSize,
  )
  return { ...config, eosIds: [...new Set([...config.eosIds, ...more])] }
}
