import { constants } from 'node:fs'
import { lstat, mkdir, open, readdir, rename, rm, rmdir, stat, statfs, type FileHandle } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import { checkOffset, comparePaths, isUnlisted, splitPath } from '../src/api/paths.ts'
import {
  MAX_FOLDER_FILES,
  PART_SUFFIX,
  REPLACEMENT_SUFFIX,
  type CreateOptions,
  type FileEntry,
  type Folder,
  type OutputFolder,
  type Sink,
  type Source,
} from '../src/core/bytes.ts'
import { AppError, throwIfAborted } from '../src/core/errors.ts'
import { errnoOf, readError, writeError } from './errors.ts'
import { IO_BYTES, openSource } from './source.ts'

/** Files being written by this process, by the absolute path of their unfinished name. */
const writing = new Set<string>()

/** Replacements under way, by absolute path: they share a temporary name, so they take turns. */
const replacing = new Map<string, Promise<void>>()

/** Opens a folder, or a single file as a folder of one, for reading. Throws `missing-file`, `source-lost`. */
export async function openPath(path: string): Promise<Folder> {
  const root = resolve(path)
  try {
    const stats = await stat(root)
    if (stats.isDirectory()) return new NodeFolder(root, folderName(root))
    if (stats.isFile()) return new SingleFile(root)
  } catch (error) {
    throw readError(error, path, 'open')
  }
  throw new AppError('missing-file', `${path} is neither a file nor a folder`, {
    where: { file: path },
    hint: 'Give the folder of the model, or its file.',
  })
}

/** Opens a folder for writing. It is made when the first file is. `prune`: empty folders are removed again. */
export function openPathOutput(path: string, options: { readonly prune?: boolean } = {}): OutputFolder {
  const root = resolve(path)
  return new NodeOutput(root, folderName(root), options.prune ?? false)
}

/** The last part of the path; in the cache of the HuggingFace hub, where that is a commit, the repository's name. */
function folderName(root: string): string {
  const parent = dirname(root)
  const repository = basename(dirname(parent))
  if (basename(parent) === 'snapshots' && repository.startsWith('models--')) {
    return repository.slice(repository.lastIndexOf('--') + 2)
  }
  return basename(root) || root
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

class NodeFolder implements Folder {
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

class NodeOutput extends NodeFolder implements OutputFolder {
  readonly resumable = true
  readonly #prune: boolean

  constructor(root: string, name: string, prune: boolean) {
    super(root, name)
    this.#prune = prune
  }

  override async list(): Promise<readonly FileEntry[]> {
    return (await lstat(this.root).catch(ignoreMissing)) === null ? [] : super.list()
  }

  async freeBytes(): Promise<number | null> {
    // The folder may not exist yet: its nearest ancestor that does is on the same disk.
    for (let path = this.root; ; path = dirname(path)) {
      try {
        const stats = await statfs(path)
        return stats.bavail * stats.bsize
      } catch (error) {
        if (errnoOf(error) !== 'ENOENT' || dirname(path) === path) return null
      }
    }
  }

  async create(path: string, options: CreateOptions): Promise<Sink> {
    checkOffset(options.keep, path)
    const part = this.path(path) + PART_SUFFIX
    if (writing.has(part)) throw busy(path)
    writing.add(part)
    let handle: FileHandle | null = null
    try {
      const made = (await mkdir(dirname(part), { recursive: true })) ?? null
      // Not through a link: what it points to is not ours to overwrite.
      const flags = constants.O_RDWR | constants.O_CREAT | (constants.O_NOFOLLOW ?? 0)
      handle = await open(part, flags, 0o666)
      const kept = Math.min(options.keep, (await handle.stat()).size)
      await handle.truncate(kept)
      return new NodeSink(handle, path, part, kept, made)
    } catch (error) {
      writing.delete(part)
      await handle?.close().catch(() => {})
      throw writeError(error, path)
    }
  }

  async publish(paths: readonly string[], overwrite: boolean): Promise<void> {
    for (const path of paths) {
      const final = this.path(path)
      if (writing.has(final + PART_SUFFIX)) throw busy(path)
      try {
        if ((await lstat(final + PART_SUFFIX).catch(ignoreMissing)) === null) {
          throw new AppError('missing-file', `${path} cannot be named: it has not been written`, {
            where: { file: path },
            hint: 'Something removed the unfinished file. Convert again.',
          })
        }
        const taken = await lstat(final).catch(ignoreMissing)
        if (taken !== null && (!overwrite || taken.isDirectory())) throw alreadyThere(path)
      } catch (error) {
        throw writeError(error, path)
      }
    }
    for (const [index, path] of paths.entries()) {
      const final = this.path(path)
      try {
        // The last is the commit mark: the names before it must be on the disk first.
        if (index === paths.length - 1) await this.#syncFolders(paths.slice(0, -1))
        await rename(final + PART_SUFFIX, final)
      } catch (error) {
        throw writeError(error, path)
      }
    }
    await this.#syncFolders(paths)
  }

  async exists(path: string): Promise<boolean> {
    try {
      return (await lstat(this.path(path)).catch(ignoreMissing)) !== null
    } catch (error) {
      throw writeError(error, path)
    }
  }

  async remove(path: string): Promise<void> {
    const final = this.path(path)
    if (writing.has(final + PART_SUFFIX)) throw busy(path)
    try {
      await rm(final, { force: true })
      await rm(final + PART_SUFFIX, { force: true })
      await rm(final + REPLACEMENT_SUFFIX, { force: true })
    } catch (error) {
      throw writeError(error, path)
    }
    if (this.#prune) await removeEmpty(dirname(final), this.root)
  }

  async replace(path: string, bytes: Uint8Array): Promise<void> {
    const final = this.path(path)
    const turn = (replacing.get(final) ?? Promise.resolve()).catch(() => {}).then(() => this.#replace(final, bytes))
    replacing.set(final, turn)
    try {
      await turn
    } catch (error) {
      throw writeError(error, path)
    } finally {
      if (replacing.get(final) === turn) replacing.delete(final)
    }
  }

  async #replace(final: string, bytes: Uint8Array): Promise<void> {
    const temporary = final + REPLACEMENT_SUFFIX
    await mkdir(dirname(final), { recursive: true })
    try {
      const handle = await open(temporary, 'w')
      try {
        await writeFully(handle, bytes, 0, undefined)
        await handle.sync()
      } finally {
        await handle.close()
      }
      await rename(temporary, final)
    } catch (error) {
      await rm(temporary, { force: true }).catch(() => {})
      throw error
    }
    await syncFolder(dirname(final))
  }

  async #syncFolders(paths: readonly string[]): Promise<void> {
    const folders = new Set<string>()
    for (const path of paths) {
      const parts = splitPath(path)
      for (let depth = parts.length - 1; depth >= 0; depth--) folders.add(join(this.root, ...parts.slice(0, depth)))
    }
    for (const folder of folders) await syncFolder(folder)
  }
}

class NodeSink implements Sink {
  readonly name: string
  readonly kept: number
  readonly #handle: FileHandle
  readonly #part: string
  /** The topmost folder that was made for this file; null if all were there. */
  readonly #made: string | null
  #open = true

  constructor(handle: FileHandle, name: string, part: string, kept: number, made: string | null) {
    this.#handle = handle
    this.name = name
    this.kept = kept
    this.#part = part
    this.#made = made
  }

  async write(bytes: Uint8Array, position: number, signal?: AbortSignal): Promise<void> {
    throwIfAborted(signal)
    checkOffset(position, this.name)
    this.#check()
    try {
      await writeFully(this.#handle, bytes, position, signal)
    } catch (error) {
      throw writeError(error, this.name)
    }
  }

  async flush(): Promise<void> {
    this.#check()
    try {
      await this.#handle.datasync()
    } catch (error) {
      throw writeError(error, this.name)
    }
  }

  async close(): Promise<void> {
    if (!this.#open) return
    await this.flush()
    await this.#release()
  }

  async abort(): Promise<void> {
    if (!this.#open) return
    await this.#release().catch(() => {})
    await rm(this.#part, { force: true }).catch(() => {})
    if (this.#made !== null) await removeEmpty(dirname(this.#part), this.#made)
  }

  #check(): void {
    if (!this.#open) throw new AppError('internal', `${this.name} is no longer open`)
  }

  async #release(): Promise<void> {
    this.#open = false
    try {
      await this.#handle.close()
    } catch (error) {
      throw writeError(error, this.name)
    } finally {
      writing.delete(this.#part)
    }
  }
}

async function writeFully(
  handle: FileHandle,
  bytes: Uint8Array,
  position: number,
  signal: AbortSignal | undefined,
): Promise<void> {
  for (let done = 0; done < bytes.length;) {
    const length = Math.min(bytes.length - done, IO_BYTES)
    const { bytesWritten } = await handle.write(bytes, done, length, position + done)
    done += bytesWritten
    throwIfAborted(signal)
  }
}

/** Removes `folder` and its parents up to and including `top` while they are empty. */
async function removeEmpty(folder: string, top: string): Promise<void> {
  for (let path = folder; path.startsWith(top); path = dirname(path)) {
    try {
      await rmdir(path)
    } catch {
      return
    }
  }
}

/** Makes the names in a folder durable. Windows has no such call, and some network disks refuse it. */
async function syncFolder(path: string): Promise<void> {
  const handle = await open(path, 'r').catch(() => null)
  await handle?.sync().catch(() => {})
  await handle?.close().catch(() => {})
}

function ignoreMissing(error: unknown): null {
  const errno = errnoOf(error)
  if (errno === 'ENOENT' || errno === 'ENOTDIR' || errno === 'ELOOP') return null
  throw error
}

function busy(path: string): AppError {
  return new AppError('busy', `${path} is being written`, {
    where: { file: path },
    hint: 'Wait for the other conversion, or choose another name.',
  })
}

function alreadyThere(path: string): AppError {
  return new AppError('output-exists', `${path} is already there`, {
    where: { file: path },
    hint: 'Choose another name or folder, or ask for overwriting.',
  })
}
