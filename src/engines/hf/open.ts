import { readFile, type Folder } from '../../core/bytes.ts'
import { NO_ARCHITECTURE, NO_CONFIG, type Checkpoint, type Role } from '../../core/checkpoint.ts'
import { AppError } from '../../core/errors.ts'
import { isArray, parseJsonObject, type JsonObject } from '../../core/json.ts'
import type { Recipe } from '../../core/tensor.ts'
import { readStoredWeights, type StoredWeights } from '../containers/safetensors-files.ts'
import { readTorchWeights } from '../containers/torch-files.ts'
import { CONFIG_FILE, requireModel, type ModelFiles, type RefusedWeights } from '../transformers/files.ts'
import { besideWeights, commonType, MAX_CONFIG_BYTES, outlineOf, readConfig } from '../transformers/outline.ts'
import { dequantizerOf } from '../transformers/dequantize.ts'
import { holdsLanguageModel, languageConfig, languageWeights } from '../transformers/language-model.ts'
import { readQuantization, withoutQuantization } from '../transformers/quantization.ts'
import { assignRoles } from './weights.ts'

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
      where: { file: `${root}model.safetensors`, missing: [`${root}model.safetensors`] },
      hint: 'The folder has a config.json, but no weights: download the *.safetensors files into it. Or make weights up with --fake-weight.',
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
  const declared = await readQuantization(folder, model)
  const described = await readDescribed(folder, path, declared !== null)
  const stored =
    weights.kind === 'torch'
      ? await readTorchWeights(folder, model, weights)
      : await readStoredWeights(folder, model, weights)
  if ('because' in described) return { checkpoint: undescribed(folder, model, stored, described), model, stored }
  const { architecture, normalized } = described
  const dequantizer = declared === null ? null : await dequantizerOf(folder, stored, declared)
  const within = declared === null && holdsLanguageModel(described.given) ? languageWeights(stored) : null
  const roles = assignRoles(within?.own ?? stored, architecture, normalized.config, dequantizer)
  const config = normalized.dtypeDeclared
    ? normalized.config
    : { ...normalized.config, dtype: commonType(roles.tensors) }
  const outline = await outlineOf(folder, model, architecture, config, stored.files)
  const checkpoint: Checkpoint = {
    ...outline,
    tensors: roles.tensors,
    ...(within === null || within.finding === null ? {} : { whole: wholeOf(folder, model, stored, described.given) }),
    findings: [
      ...normalized.findings,
      ...stored.findings,
      ...roles.findings,
      ...outline.findings,
      ...(within === null || within.finding === null ? [] : [within.finding]),
    ],
  }
  return { checkpoint, model, stored }
}

/** A configuration that no description here fits, and why. */
interface Undescribed {
  readonly raw: JsonObject
  readonly because: string
}

/** What a config.json says; of quantised weights it must be understood, since their values are needed. */
async function readDescribed(
  folder: Folder,
  path: string,
  quantized: boolean,
): Promise<Awaited<ReturnType<typeof readConfig>> | Undescribed> {
  try {
    return await readConfig(folder, path, quantized ? withoutQuantization : languageConfig)
  } catch (error) {
    const { code, message } = AppError.from(error)
    if (code !== 'unsupported' || quantized) throw error
    return { raw: parseJsonObject(await readFile(folder, path, MAX_CONFIG_BYTES), path), because: message }
  }
}

/** A model of which the names and shapes of the tensors are all that is known: enough to cast and split them. */
function undescribed(
  folder: Folder,
  model: ModelFiles,
  stored: StoredWeights,
  { raw, because }: Undescribed,
): Checkpoint {
  return {
    ...wholeOf(folder, model, stored, raw),
    undescribed: because,
    findings: [
      ...stored.findings,
      {
        severity: 'warning',
        code: 'architecture-unknown',
        message: `${because}. The weights can be cast, split and saved as safetensors, but not become another format`,
        where: { file: model.root + CONFIG_FILE },
      },
    ],
  }
}

/** All tensors of a folder under their own names, and what its config.json says. */
function wholeOf(folder: Folder, model: ModelFiles, stored: StoredWeights, raw: JsonObject): Checkpoint {
  const tensors = new Map<Role, Recipe>()
  for (const [name, tensor] of stored.tensors) tensors.set(name, stored.views.get(name)?.() ?? tensor)
  const listed = raw.get('architectures')
  const name = isArray(listed) ? listed[0] : raw.get('model_type')
  return {
    ...besideWeights(folder, model, stored.files),
    architecture: NO_ARCHITECTURE,
    config: { ...NO_CONFIG, className: typeof name === 'string' ? name : 'unknown', dtype: commonType(tensors), raw },
    tokenizer: null,
    tensors,
    stored: { names: new Map([...tensors.keys()].map((role) => [role, role])), metadata: stored.metadata },
    findings: [],
  }
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
  const { architecture, normalized } = await readConfig(folder, path, languageConfig)
  const outline = await outlineOf(folder, model, architecture, normalized.config, [])
  return { ...outline, findings: [...normalized.findings, ...outline.findings] }
}

function refusedWeights(folder: Folder, root: string, weights: RefusedWeights): AppError {
  return new AppError('unsupported', `${folder.name} holds ${weights.what}, which cannot be read`, {
    where: { file: root + weights.path },
    hint: weights.hint,
  })
}
