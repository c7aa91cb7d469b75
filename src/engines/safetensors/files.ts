import type { FileEntry, Folder } from '../../core/bytes.ts'
import { AppError } from '../../core/errors.ts'
import { missingFiles } from '../containers/missing.ts'
import type { SafetensorsFiles } from '../containers/safetensors-files.ts'

/** Files of tensors that belong together. */
export interface TensorFiles {
  /** What stands before each path: `''`, or `weights/`. */
  readonly root: string
  /** By path below the root. */
  readonly files: ReadonlyMap<string, FileEntry>
  /** One file or an index, or the shards of a set without one. */
  readonly weights: SafetensorsFiles | { readonly kind: 'set'; readonly paths: readonly string[] }
  /** For people. */
  readonly what: string
}

const CONFIG_FILE = 'config.json'
const INDEX = /\.safetensors\.index(?:\.[\w-]+)?\.json$/
const SHARD = /^(.*)-(\d{5})-of-(\d{5})\.safetensors$/
/** Changes to a model, not the model. */
const ADAPTER = /^adapter_(?:model\.safetensors|config\.json)$/

/**
 * The safetensors files of a folder, or of the one folder below it that has some; null if there are none, or if a
 * config.json makes them a model of another format.
 */
export async function findTensorFiles(folder: Folder): Promise<TensorFiles | null> {
  const entries = await folder.list()
  const roots = new Set(
    entries
      .filter(({ path }) => path.endsWith('.safetensors'))
      .map(({ path }) => path.slice(0, path.lastIndexOf('/') + 1)),
  )
  const root = roots.has('') ? '' : [...roots][0]
  if (root === undefined || (root !== '' && roots.size > 1)) return null
  const files = new Map(
    entries.filter(({ path }) => path.startsWith(root)).map((entry) => [entry.path.slice(root.length), entry]),
  )
  const top = [...files.keys()].filter((path) => !path.includes('/'))
  if (top.includes(CONFIG_FILE) || top.some((path) => ADAPTER.test(path))) return null
  const index = top.find((path) => INDEX.test(path))
  if (index !== undefined) return { root, files, weights: { kind: 'index', path: index }, what: `shards of ${index}` }
  const paths = top.filter((path) => path.endsWith('.safetensors'))
  const [only, ...others] = paths
  if (only === undefined) return null
  if (others.length === 0 && !SHARD.test(only)) {
    return { root, files, weights: { kind: 'single', path: only }, what: only }
  }
  return { root, files, weights: { kind: 'set', paths }, what: `${paths.length} safetensors files` }
}

/** Throws `not-a-model` or `missing-file` unless these files, which no index names, are all the shards of one set. */
export function requireWholeSet(paths: readonly string[], folder: string): void {
  const parts = paths.map((path) => SHARD.exec(path))
  const [first] = parts
  const same = parts.every((part) => part?.[1] === first?.[1] && part?.[3] === first?.[3])
  if (first === undefined || first === null || !same) {
    throw new AppError('not-a-model', `${folder} holds ${paths.length} safetensors files that are not of one set`, {
      where: { file: paths[0] ?? folder },
      hint: `Open one of them: ${paths.slice(0, 4).join(', ')}.`,
    })
  }
  const count = Number(first[3])
  const there = new Set(parts.map((part) => Number(part?.[2])))
  const missing = Array.from({ length: count }, (_, at) => at + 1).filter((part) => !there.has(part))
  if (missing.length === 0 && paths.length === count) return
  const name = (part: number): string => `${first[1]}-${String(part).padStart(5, '0')}-of-${first[3]}.safetensors`
  throw missingFiles((missing.length === 0 ? [count] : missing).map(name), count)
}
