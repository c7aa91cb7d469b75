import { constants } from 'node:fs'
import { lstat, mkdir, open, rename, rm, rmdir, statfs, type FileHandle } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { checkOffset, splitPath } from '../src/api/paths.ts'
import {
  PART_SUFFIX,
  REPLACEMENT_SUFFIX,
  type CreateOptions,
  type FileEntry,
  type OutputFolder,
  type Sink,
} from '../src/core/bytes.ts'
import { AppError, throwIfAborted } from '../src/core/errors.ts'
import { errnoOf, writeError } from './errors.ts'
import { folderName, ignoreMissing, NodeFolder } from './folder.ts'
import { IO_BYTES } from './source.ts'

export { openPath } from './folder.ts'

/** Files being written by this process, by the absolute path of their unfinished name. */
const writing = new Set<string>()

/** Replacements under way, by absolute path: they share a temporary name, so they take turns. */
const replacing = new Map<string, Promise<void>>()

/** Opens a folder for writing. It is made when the first file is. `prune`: empty folders are removed again. */
export function openPathOutput(path: string, options: { readonly prune?: boolean } = {}): OutputFolder {
  const root = resolve(path)
  return new NodeOutput(root, folderName(root), options.prune ?? false)
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
