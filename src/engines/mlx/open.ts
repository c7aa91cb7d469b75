import type { Folder } from '../../core/bytes.ts'
import type { Checkpoint } from '../../core/checkpoint.ts'
import { AppError } from '../../core/errors.ts'
import { editJson, isObject, type JsonObject } from '../../core/json.ts'
import type { Finding } from '../../core/plan.ts'
import type { Recipe } from '../../core/tensor.ts'
import type { Architecture } from '../../models/architecture.ts'
import { join } from '../../models/parts.ts'
import { listed, readWeightSet, type StoredWeights } from '../containers/safetensors-files.ts'
import { architectureOf, normalizeConfig } from '../transformers/config.ts'
import { CONFIG_FILE } from '../transformers/files.ts'
import { commonType, outlineOf } from '../transformers/outline.ts'
import { assignTensors, type Assigned } from './assign.ts'
import { QUANTIZATION_KEYS } from './config.ts'
import { findMlx, requireShards, type MlxFolder } from './files.ts'
import { mlxModel, type MlxModel } from './names.ts'
import { parseQuantization, type Quantization } from './quantization.ts'

/** What a folder holds, faults and all: opening throws the first, validation tells them all. */
export interface LoadedMlx {
  readonly checkpoint: Checkpoint
  readonly architecture: Architecture
  readonly folder: MlxFolder
  readonly stored: StoredWeights
  readonly model: MlxModel
  readonly quantization: Quantization | null
  readonly assigned: Assigned
}

const FLOATS: ReadonlySet<string> = new Set(['f32', 'f16', 'bf16'])

/** Reads headers, configuration and tokenizer. Throws what makes the rest meaningless. */
export async function loadMlx(folder: Folder): Promise<LoadedMlx> {
  const found = await findMlx(folder)
  if (found === null) {
    throw new AppError('not-a-model', `${folder.name} is no MLX model`, {
      hint: 'Open a folder with a config.json and model*.safetensors that mlx-lm wrote.',
    })
  }
  const file = found.model.root + CONFIG_FILE
  requireShards(found.weights)
  const quantization = quantizationOf(found.config, file)
  // what follows describes the model, and how it is stored is known by now
  const raw = editJson(found.config, new Map(QUANTIZATION_KEYS.map((key) => [key, undefined])))
  const architecture = await architectureOf(raw, file)
  const normalized = normalizeConfig(raw, file, architecture)
  const model = mlxModel(architecture, normalized.config)
  const stored = await readWeightSet(folder, found.weights)
  const assigned = assignTensors(model, stored.tensors, quantization, file)
  const floats = new Map<string, Recipe>([...stored.tensors].filter(([, { dtype }]) => FLOATS.has(dtype)))
  const config = normalized.dtypeDeclared ? normalized.config : { ...normalized.config, dtype: commonType(floats) }
  const outline = await outlineOf(folder, found.model, architecture, config, stored.files)
  const checkpoint: Checkpoint = {
    ...outline,
    format: 'mlx',
    tensors: join(architecture, config, assigned.tensors),
    findings: [...normalized.findings, ...stored.findings, ...outline.findings],
  }
  return { checkpoint, architecture, folder: found, stored, model, quantization, assigned }
}

function quantizationOf(config: JsonObject, file: string): Quantization | null {
  const [key = '', fallback = ''] = QUANTIZATION_KEYS
  const own = config.get(key)
  const other = config.get(fallback)
  // with a method it is another format's
  const json = isObject(own) ? own : isObject(other) && !other.has('quant_method') ? other : null
  if (json === null) return null
  return parseQuantization(json, (why) => {
    return new AppError('malformed', `${file}: ${why}`, {
      where: { file },
      hint: 'Get the config.json that the weights were published with.',
    })
  })
}

/** Opens an MLX folder. Throws for the first thing that is not as config.json says. */
export async function openMlx(folder: Folder): Promise<Checkpoint> {
  const { checkpoint, stored, assigned, architecture } = await loadMlx(folder)
  const [fault] = assigned.faults
  if (fault !== undefined) {
    const names = assigned.faults.filter(({ code }) => code === fault.code).map(({ where }) => where.tensor ?? '')
    const message = fault.code === 'missing-tensor' ? `The weights lack ${listed(names)}` : fault.message
    throw new AppError(fault.code, message, { where: fault.where, hint: fault.hint })
  }
  return { ...checkpoint, findings: [...checkpoint.findings, ...extraFindings(assigned, stored, architecture)] }
}

function extraFindings({ extra }: Assigned, stored: StoredWeights, { ignored }: Architecture): readonly Finding[] {
  const names = extra.filter((name) => !ignored.some((pattern) => pattern.test(name)))
  const [first] = names
  if (first === undefined) return []
  const tied = first.startsWith('lm_head.')
  return [
    {
      severity: 'warning',
      code: tied ? 'tie-ignored' : 'tensor-ignored',
      message: tied
        ? `config.json ties the head to the embedding, so ${listed(names)} is not used, whatever it holds`
        : `The architecture has no place for ${listed(names)}: left out`,
      where: { file: stored.tensors.get(first)?.file ?? '', tensor: first },
    },
  ]
}
