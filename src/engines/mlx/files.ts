import { readFile, type Folder } from '../../core/bytes.ts'
import { AppError } from '../../core/errors.ts'
import { isObject, parseJsonObject, type JsonObject } from '../../core/json.ts'
import { CONFIG_FILE, findModels, type ModelFiles } from '../transformers/files.ts'
import { MAX_CONFIG_BYTES } from '../transformers/outline.ts'

/** mlx-lm reads all of these, and nothing else; an index it does not need. */
const WEIGHTS = /^model[^/]*\.safetensors$/
const SHARD = /^(model.*)-(\d{5})-of-(\d{5})\.safetensors$/
export const INDEX = 'model.safetensors.index.json'

/** Bytes in which the metadata of a file that MLX wrote stands: it comes first. */
const HEAD_BYTES = 4096
const MLX_FORMAT = /^\{\s*"__metadata__"\s*:\s*\{[^}]*"format"\s*:\s*"mlx"/

/** A folder that MLX wrote. */
export interface MlxFolder {
  readonly model: ModelFiles
  /** Paths within the folder that was opened, in order. */
  readonly weights: readonly string[]
  readonly config: JsonObject
  readonly because: string
}

/** Null if the folder holds no model, several, or none of MLX. */
export async function findMlx(folder: Folder): Promise<MlxFolder | null> {
  const models = await findModels(folder)
  const [model] = models
  if (model === undefined || models.length > 1 || !model.hasConfig) return null
  const weights = [...model.files.keys()]
    .filter((path) => WEIGHTS.test(path))
    .sort()
    .map((path) => model.root + path)
  const [first] = weights
  if (first === undefined) return null
  const path = model.root + CONFIG_FILE
  const config = parseJsonObject(await readFile(folder, path, MAX_CONFIG_BYTES), path)
  const quantization = config.get('quantization')
  if (isObject(quantization) && quantization.has('group_size') && quantization.has('bits')) {
    const mode = quantization.get('mode') ?? 'affine'
    const what = `${String(quantization.get('bits'))} bits in groups of ${String(quantization.get('group_size'))}`
    return { model, weights, config, because: `${path} says ${what} (${String(mode)})` }
  }
  if (!(await isMlxFile(folder, first))) return null
  return { model, weights, config, because: `${path} with weights that say they are MLX's` }
}

async function isMlxFile(folder: Folder, path: string): Promise<boolean> {
  const source = await folder.open(path)
  try {
    const head = new Uint8Array(Math.min(source.size, HEAD_BYTES))
    await source.read(0, head)
    // the length of the header comes before it
    return MLX_FORMAT.test(new TextDecoder().decode(Uint8Array.from(head.subarray(8))))
  } finally {
    await source.close()
  }
}

/** Throws `missing-file` where files count more shards than there are. */
export function requireShards(weights: readonly string[]): void {
  const have = new Set(weights)
  for (const path of weights) {
    const base = path.slice(0, path.lastIndexOf('/') + 1)
    const [, stem = '', , count = '0'] = SHARD.exec(path.slice(base.length)) ?? []
    for (let at = 1; at <= Math.min(Number(count), have.size + 1); at++) {
      const shard = `${base}${stem}-${String(at).padStart(5, '0')}-of-${count}.safetensors`
      if (have.has(shard)) continue
      throw new AppError('missing-file', `${shard} is not there, one of ${Number(count)} shards`, {
        where: { file: shard },
        hint: 'Download this shard into the folder: the model is incomplete without it.',
      })
    }
  }
}
