/** The weights of a folder in files of `torch.save`: one, or shards with an index. */
import type { Folder } from '../../core/bytes.ts'
import { read, type Recipe } from '../../core/tensor.ts'
import {
  readStoredWeights,
  type ModelFolder,
  type Shard,
  type StoredTensor,
  type StoredWeights,
} from './safetensors-files.ts'
import { readTorchFile, torchRecipe } from './torch.ts'

/** One file, or shards named by an index. */
export interface TorchFiles {
  readonly kind: 'torch'
  readonly sharded: boolean
  /** Of the file or the index, within the model's own folder. */
  readonly path: string
}

/** Reads pickles and headers, and no weights. Throws what reading an index and {@link readTorchFile} throw. */
export function readTorchWeights(folder: Folder, model: ModelFolder, weights: TorchFiles): Promise<StoredWeights> {
  const { path, sharded } = weights
  return readStoredWeights(folder, model, { kind: sharded ? 'index' : 'single', path }, readTorchShard)
}

async function readTorchShard(folder: Folder, path: string): Promise<Shard> {
  const source = await folder.open(path)
  try {
    const { tensors } = await readTorchFile(source)
    const held = new Map<string, StoredTensor>()
    const views = new Map<string, () => Recipe>()
    for (const tensor of tensors) {
      held.set(tensor.name, read(tensor, path, tensor.offset) as StoredTensor)
      if (!tensor.contiguous) views.set(tensor.name, () => torchRecipe({ ...tensor, file: path }))
    }
    const bare = wrapped(held) ? bareNames : <T>(map: ReadonlyMap<string, T>) => map
    return { held: bare(held), formatted: true, views: bare(views) }
  } finally {
    await source.close()
  }
}

/** What DistributedDataParallel puts before every name. */
const WRAPPER = 'module.'

function wrapped(tensors: ReadonlyMap<string, unknown>): boolean {
  return [...tensors.keys()].every((name) => name.startsWith(WRAPPER))
}

function bareNames<T>(tensors: ReadonlyMap<string, T>): ReadonlyMap<string, T> {
  return new Map([...tensors].map(([name, tensor]) => [name.slice(WRAPPER.length), tensor]))
}
