import { readdir, stat } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import { comparePaths, isUnlisted, splitPath } from '../src/api/paths.ts'
import { MAX_FOLDER_FILES, type FileEntry, type Folder, type Source } from '../src/core/bytes.ts'
import { AppError } from '../src/core/errors.ts'
import { errnoOf, readError } from './errors.ts'
import { openSource } from './source.ts'

/** Opens a folder, or a single file as a folder of one, for reading. Throws `missing-file`, `source-lost`. */
export async function openPath(path: string): Promise<Folder> {
  const root = resolve(path)
  try {
    const stats = await stat(root)
    if (stats.isDirectory()) return new NodeFolder(root, folderName(root))
    if (stats.isFile()) return (await partsBeside(root)) ?? new SingleFile(root)
  } catch (error) {
    throw readError(error, path, 'open')
  }
  throw new AppError('missing-file', `${path} is neither a file nor a folder`, {
    where: { file: path },
    hint: 'Give the folder of the model, or its file.',
  })
}

/** The last part of the path; in the cache of the HuggingFace hub, where that is a commit, the repository's name. */
export function folderName(root: string): string {
  const parent = dirname(root)
  const repository = basename(dirname(parent))
  if (basename(parent) === 'snapshots' && repository.startsWith('models--')) {
    return repository.slice(repository.lastIndexOf('--') + 2)
  }
  return basename(root) || root
}

/** The name of a part of a set, as safetensors and GGUF files are split. */
const PART = /^(.+)-\d{5}(-of-\d{5}\.(?:gguf|safetensors))$/i

/** A file that is a part of a set stands for the set: the parts that lie beside it; null for one that is whole. */
async function partsBeside(path: string): Promise<Folder | null> {
  const [, stem, ending] = PART.exec(basename(path)) ?? []
  if (stem === undefined || ending === undefined) return null
  const beside = (await readdir(dirname(path))).filter((name) => {
    const [, otherStem, otherEnding] = PART.exec(name) ?? []
    return otherStem === stem && otherEnding === ending
  })
  return new SomeFiles(dirname(path), stem, new Set(beside))
}

class SingleFile implements Folder {
  readonly name: string
  readonly #path: string
  readonly #file: string

  constructor(path: string) {
    this.#path = path
    this.#file = basename(path)
    this.name = this.#file.replace(/(?<=.)\.[A-Za-z][A-Za-z0-9]*$/, '')
  }

  async list(): Promise<readonly FileEntry[]> {
    try {
      const stats = await stat(this.#path)
      return [{ path: this.#file, size: stats.size, modified: stats.mtimeMs }]
    } catch (error) {
      throw readError(error, this.#file, 'read')
    }
  }

  async open(path: string): Promise<Source> {
    splitPath(path)
    if (path === this.#file) return openSource(this.#path, path)
    throw new AppError('missing-file', `${path} is not there: only ${this.#file} was given`, {
      where: { file: path },
      hint: 'Give the whole folder instead of one of its files.',
    })
  }
}

/** A folder of the machine. */
export class NodeFolder implements Folder {
  readonly name: string
  protected readonly root: string

  constructor(root: string, name: string) {
    this.root = root
    this.name = name
  }

  async list(): Promise<readonly FileEntry[]> {
    const files: FileEntry[] = []
    let seen = 0
    // Links to files are followed (the hub's cache is made of them), links to folders are not: they can form a ring.
    const walk = async (prefix: string): Promise<void> => {
      const entries = await readdir(join(this.root, prefix), { withFileTypes: true })
      seen += entries.length
      if (seen > MAX_FOLDER_FILES) {
        throw new AppError('not-a-model', `${this.name} has more than ${MAX_FOLDER_FILES} files`, {
          hint: 'Choose the folder of one model.',
        })
      }
      for (const entry of entries) {
        const path = prefix + entry.name
        if (entry.isDirectory()) {
          if (!isUnlisted(`${path}/`)) await walk(`${path}/`)
        } else if ((entry.isFile() || entry.isSymbolicLink()) && !isUnlisted(path)) {
          const stats = await stat(join(this.root, path)).catch(ignoreMissing)
          if (stats?.isFile() === true) files.push({ path, size: stats.size, modified: stats.mtimeMs })
        }
      }
    }
    try {
      await walk('')
    } catch (error) {
      throw readError(error, this.name, 'read')
    }
    return files.sort(comparePaths)
  }

  async open(path: string): Promise<Source> {
    return openSource(this.path(path), path)
  }

  protected path(path: string): string {
    return join(this.root, ...splitPath(path))
  }
}

/** Some files of a folder, as a folder of their own. */
class SomeFiles extends NodeFolder {
  readonly #names: ReadonlySet<string>

  constructor(root: string, name: string, names: ReadonlySet<string>) {
    super(root, name)
    this.#names = names
  }

  override async list(): Promise<readonly FileEntry[]> {
    const files = await Promise.all(
      [...this.#names].map(async (path): Promise<FileEntry[]> => {
        const stats = await stat(join(this.root, path)).catch(ignoreMissing)
        return stats?.isFile() === true ? [{ path, size: stats.size, modified: stats.mtimeMs }] : []
      }),
    )
    return files.flat().sort(comparePaths)
  }

  override async open(path: string): Promise<Source> {
    if (this.#names.has(path)) return super.open(path)
    throw new AppError('missing-file', `${path} is not beside the part that was given`, {
      where: { file: path },
      hint: 'Put all parts into one folder.',
    })
  }
}

/** For what need not be there: null where the system says that there is no such file. */
export function ignoreMissing(error: unknown): null {
  const errno = errnoOf(error)
  if (errno === 'ENOENT' || errno === 'ENOTDIR' || errno === 'ELOOP') return null
  throw error
}
