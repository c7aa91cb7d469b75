/** The weights of a folder: one safetensors file, or shards with an index. */
import { readFile, type Folder } from '../../core/bytes.ts'
import { AppError } from '../../core/errors.ts'
import { isObject, parseJsonObject } from '../../core/json.ts'
import type { Finding } from '../../core/plan.ts'
import { read, type Recipe } from '../../core/tensor.ts'
import { readSafetensorsHeader } from './safetensors.ts'

/** One file, or shards named by an index. */
export interface SafetensorsFiles {
  readonly kind: 'single' | 'index'
  /** Within the model's own folder. */
  readonly path: string
}

/** Where the files of a model lie. */
export interface ModelFolder {
  /** What stands before each path: `''`, or `snapshots/abc/`. */
  readonly root: string
  /** By path within the model's own folder. */
  readonly files: ReadonlyMap<string, unknown>
}

/** A tensor as a file names it. */
export type StoredTensor = Recipe & { readonly op: 'read' }

export interface StoredWeights {
  /** By the name it has in its file. */
  readonly tensors: ReadonlyMap<string, StoredTensor>
  /** The files they are in, in the order they were read. Paths within the folder that was opened. */
  readonly files: readonly string[]
  /** Files whose metadata does not say `format`, without which older transformers refuse them. */
  readonly withoutFormat: readonly string[]
  /** What the files say of themselves, the first that says something. */
  readonly metadata: ReadonlyMap<string, string>
  /** `total_size` of the index; null where there is none. */
  readonly totalSize: number | null
  /** What an index leaves out. */
  readonly findings: readonly Finding[]
  /**
   * How to get those tensors that do not lie row by row in their file, though {@link tensors} says so. Throws
   * `unsupported` where no recipe can.
   */
  readonly views: Views
}

/** The index of the largest model there is has some 10 MB. */
const MAX_INDEX_BYTES = 1 << 26
/** Names in a message before "and N more". */
export const LISTED = 4

/**
 * Reads the headers of a model's weights, and nothing else of them. Throws `missing-file` for a shard that is not
 * there, `missing-tensor` for a tensor that the index promises and its shard lacks, and what the header's checks throw.
 */
export async function readStoredWeights(
  folder: Folder,
  model: ModelFolder,
  weights: SafetensorsFiles,
  readShard: ShardReader = readSafetensorsShard,
): Promise<StoredWeights> {
  if (weights.kind === 'single') {
    const path = model.root + weights.path
    return joinShards([[path, await readShard(folder, path)]])
  }
  const index = model.root + weights.path
  const { shards, totalSize } = await readIndex(folder, model, index)
  const contents: [string, Shard][] = []
  const unlisted: string[] = []
  for (const [path, promised] of shards) {
    const shard = await readShard(folder, path)
    const missing = [...promised].filter((name) => !shard.held.has(name))
    if (missing.length > 0) {
      throw new AppError('missing-tensor', `${path} lacks ${listed(missing)}, which ${index} says it has`, {
        where: { file: path, tensor: missing[0] ?? '' },
        hint: 'Index and shards are of different versions: download both again.',
      })
    }
    for (const name of shard.held.keys()) if (!promised.has(name)) unlisted.push(name)
    contents.push([path, shard])
  }
  const findings: Finding[] = []
  if (unlisted.length > 0) {
    findings.push({
      severity: 'warning',
      code: 'index-incomplete',
      message: `${index} does not list ${listed(unlisted)}, which the shards hold`,
      where: { file: index, tensor: unlisted[0] ?? '' },
    })
  }
  return { ...joinShards(contents), totalSize, findings }
}

/** Reads the headers of files that together are the weights, with no index to say so. Throws as above. */
export async function readWeightSet(folder: Folder, paths: readonly string[]): Promise<StoredWeights> {
  const contents: [string, Shard][] = []
  for (const path of paths) contents.push([path, await readSafetensorsShard(folder, path)])
  return joinShards(contents)
}

function joinShards(shards: readonly (readonly [string, Shard])[]): StoredWeights {
  const tensors = new Map<string, StoredTensor>()
  for (const [path, { held }] of shards) {
    for (const [name, tensor] of held) {
      const other = tensors.get(name)
      if (other !== undefined) {
        throw new AppError('malformed', `${name} is in ${other.file} and in ${path}`, {
          where: { file: path, offset: tensor.offset, tensor: name },
          hint: 'Shards of different versions are mixed: download them again.',
        })
      }
      tensors.set(name, tensor)
    }
  }
  return {
    tensors,
    files: shards.map(([path]) => path),
    withoutFormat: shards.filter(([, { formatted }]) => !formatted).map(([path]) => path),
    metadata: shards.find(([, { metadata }]) => (metadata?.size ?? 0) > 0)?.[1].metadata ?? new Map(),
    totalSize: null,
    findings: [],
    views: new Map(shards.flatMap(([, { views }]) => [...(views ?? [])])),
  }
}

/** Of a few tensors, by name. */
export type Views = ReadonlyMap<string, () => Recipe>

/** What one file holds. */
export interface Shard {
  readonly held: ReadonlyMap<string, StoredTensor>
  /** Whether its metadata says `format`. */
  readonly formatted: boolean
  /** What the file says of itself; nothing if absent. */
  readonly metadata?: ReadonlyMap<string, string>
  /** As {@link StoredWeights.views}; none if absent. */
  readonly views?: Views
}

export type ShardReader = (folder: Folder, path: string) => Promise<Shard>

async function readSafetensorsShard(folder: Folder, path: string): Promise<Shard> {
  const source = await folder.open(path)
  try {
    const { entries, metadata } = await readSafetensorsHeader(source)
    const held = new Map(entries.map((entry) => [entry.name, read(entry, path, entry.offset) as StoredTensor]))
    return { held, formatted: metadata.has('format'), metadata }
  } finally {
    await source.close()
  }
}

interface ShardIndex {
  /** Each shard's tensors, by its path. */
  readonly shards: ReadonlyMap<string, ReadonlySet<string>>
  readonly totalSize: number | null
}

async function readIndex(folder: Folder, model: ModelFolder, index: string): Promise<ShardIndex> {
  const json = parseJsonObject(await readFile(folder, index, MAX_INDEX_BYTES), index)
  const map = json.get('weight_map')
  const broken = (why: string): AppError =>
    new AppError('malformed', `${index} ${why}`, { where: { file: index }, hint: 'Download the index again.' })
  if (!isObject(map) || map.size === 0) throw broken('has no weight_map')
  const shards = new Map<string, Set<string>>()
  for (const [name, shard] of map) {
    if (typeof shard !== 'string') throw broken(`names no file for ${name}`)
    const path = model.root + shard
    const names = shards.get(path)
    if (names === undefined) shards.set(path, new Set([name]))
    else names.add(name)
  }
  // only what the folder lists is opened: a path out of it is a file that is missing
  const missing = [...shards.keys()].filter((path) => !model.files.has(path.slice(model.root.length)))
  const [path] = missing
  if (path !== undefined) {
    const names = shards.get(path) ?? []
    throw new AppError('missing-file', `${path} is not there; it holds ${listed([...names])}`, {
      where: { file: path, missing },
      hint: 'Download this shard into the folder: the model is incomplete without it.',
    })
  }
  const metadata = json.get('metadata')
  const total = isObject(metadata) ? metadata.get('total_size') : undefined
  return { shards, totalSize: typeof total === 'number' ? total : null }
}

/** Some names, for a message. */
export function listed(names: readonly string[]): string {
  const rest = names.length - LISTED
  return names.slice(0, LISTED).join(', ') + (rest > 0 ? ` and ${rest} more` : '')
}
