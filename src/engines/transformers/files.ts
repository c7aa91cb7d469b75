import type { FileEntry, Folder } from '../../core/bytes.ts'
import { AppError } from '../../core/errors.ts'
import { isExtra } from '../containers/extras.ts'
import type { SafetensorsFiles } from '../containers/safetensors-files.ts'
import type { TorchFiles } from '../containers/torch-files.ts'

/** The weights of a model folder. Paths are within the model's own folder. */
export type WeightFiles = SafetensorsFiles | TorchFiles | RefusedWeights

/** Weights in a form that is known but not read. */
export interface RefusedWeights {
  readonly kind: 'refused'
  readonly path: string
  readonly what: string
  readonly hint: string
}

/** A folder, or the one folder below it, that holds a model. */
export interface ModelFiles {
  /** What stands before each path: `''`, or `snapshots/abc/`. */
  readonly root: string
  /** By path within the model's own folder. */
  readonly files: ReadonlyMap<string, FileEntry>
  readonly hasConfig: boolean
  readonly weights: WeightFiles | null
}

/** Enough to say that there are several; looking at each means going through all files. */
const MAX_MODELS = 100

export const CONFIG_FILE = 'config.json'
/** Where GPTQ's and AWQ's tools told how they quantised before config.json had a place for it. */
export const OLD_QUANTIZATION_FILES: readonly string[] = ['quantize_config.json', 'quant_config.json']
const SINGLE = 'model.safetensors'
const INDEX = 'model.safetensors.index.json'
const TORCH_SINGLE = 'pytorch_model.bin'
const TORCH_INDEX = 'pytorch_model.bin.index.json'

/** `model.fp16.safetensors`, but not a shard. */
const VARIANT_SINGLE = /^model\.([\w-]+)\.safetensors$/
/** `model.safetensors.index.fp16.json`, as transformers names it, and `model.fp16.safetensors.index.json`. */
const VARIANT_INDEX = /^model(?:\.safetensors\.index\.[\w-]+\.json|\.[\w-]+\.safetensors\.index\.json)$/
const TORCH_SHARD = /^pytorch_model.*-\d{5}-of-\d{5}.*\.bin$/
const SHARD = /^model.*-\d{5}-of-\d{5}.*\.safetensors$/

const REFUSED: readonly { readonly name: RegExp; readonly what: string; readonly hint: string }[] = [
  {
    name: /^(?:adapter_model\.(?:safetensors|bin)|adapter_config\.json)$/,
    what: 'a LoRA adapter, not a model',
    hint: 'Convert its base model, and give the adapter with --adapter PATH.',
  },
  {
    name: /^consolidated.*\.(?:safetensors|pth)$/,
    what: 'weights in their maker’s own layout (consolidated)',
    hint: 'Use the files named model*.safetensors of the same repository.',
  },
  {
    name: /^(?:tf_model.*\.h5|flax_model.*\.msgpack)$/,
    what: 'TensorFlow or Flax weights',
    hint: 'Load the model with transformers (from_tf or from_flax) and call save_pretrained.',
  },
]

/** The models of a folder: itself, or the folders below it that are one. */
export async function findModels(folder: Folder): Promise<readonly ModelFiles[]> {
  const entries = await folder.list()
  const top = modelAt(entries, '')
  if (top.hasConfig || top.weights !== null) return [top]
  const models = entries
    .filter((entry) => entry.path.endsWith(`/${CONFIG_FILE}`))
    .slice(0, MAX_MODELS)
    .map((entry) => modelAt(entries, entry.path.slice(0, -CONFIG_FILE.length)))
    .filter((model) => model.weights !== null)
  const readable = models.filter((model) => model.weights?.kind !== 'refused')
  return readable.length > 0 ? readable : models
}

/** The one model of a folder. Throws `not-a-model` if there is none, or several. */
export async function requireModel(folder: Folder): Promise<ModelFiles> {
  const models = await findModels(folder)
  const [only] = models
  if (only === undefined) {
    throw new AppError('not-a-model', `${folder.name} holds no ${CONFIG_FILE} with safetensors weights`, {
      hint: 'Open the folder that was downloaded or saved with save_pretrained.',
    })
  }
  if (models.length === 1) return only
  const shown = models.slice(0, 5).map((model) => model.root.slice(0, -1))
  const rest = models.length - shown.length
  throw new AppError('not-a-model', `${folder.name} holds ${models.length} models, not one`, {
    hint: `Open one of them: ${shown.join(', ')}${rest > 0 ? ` and ${rest} more` : ''}.`,
  })
}

function modelAt(entries: readonly FileEntry[], root: string): ModelFiles {
  const files = new Map<string, FileEntry>()
  for (const entry of entries) {
    if (entry.path.startsWith(root)) files.set(entry.path.slice(root.length), entry)
  }
  return { root, files, hasConfig: files.has(CONFIG_FILE), weights: weightsAmong([...files.keys()]) }
}

/**
 * In the order of transformers: the single file, the index, then variants, then PyTorch's; what is refused only if there
 * is no other.
 */
function weightsAmong(paths: readonly string[]): WeightFiles | null {
  const top = paths.filter((path) => !path.includes('/'))
  if (top.includes(SINGLE)) return { kind: 'single', path: SINGLE }
  if (top.includes(INDEX)) return { kind: 'index', path: INDEX }
  const variantIndex = top.find((path) => VARIANT_INDEX.test(path))
  if (variantIndex !== undefined) return { kind: 'index', path: variantIndex }
  const variant = top.find((path) => VARIANT_SINGLE.test(path) && !SHARD.test(path))
  if (variant !== undefined) return { kind: 'single', path: variant }
  if (top.includes(TORCH_SINGLE)) return { kind: 'torch', sharded: false, path: TORCH_SINGLE }
  if (top.includes(TORCH_INDEX)) return { kind: 'torch', sharded: true, path: TORCH_INDEX }
  for (const { name, what, hint } of REFUSED) {
    const path = top.find((candidate) => name.test(candidate))
    if (path !== undefined) return { kind: 'refused', path, what, hint }
  }
  const torch = top.filter((path) => TORCH_SHARD.test(path))
  const shards = torch.length > 0 ? torch : top.filter((path) => SHARD.test(path))
  const [shard] = shards
  if (shard !== undefined) {
    return {
      kind: 'refused',
      path: shard,
      what: `${shards.length} shards without their index (${torch.length > 0 ? TORCH_INDEX : INDEX})`,
      hint: 'Download the index too: without it nobody can tell whether a shard is missing.',
    }
  }
  const tensors = top.filter((path) => path.endsWith('.safetensors'))
  const [only] = tensors
  return tensors.length === 1 && only !== undefined ? { kind: 'single', path: only } : null
}

/** The files that a converted model may carry over as they are. Paths within the model's own folder. */
export function extraFiles(model: ModelFiles): readonly string[] {
  return [...model.files.keys()].filter(isExtra)
}
