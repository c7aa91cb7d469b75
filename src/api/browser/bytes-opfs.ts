import {
  PART_SUFFIX,
  REPLACEMENT_SUFFIX,
  type CreateOptions,
  type FileEntry,
  type OutputFolder,
  type Sink,
  type Source,
} from '../../core/bytes.ts'
import { AppError, throwIfAborted } from '../../core/errors.ts'
import { checkOffset, splitPath } from '../paths.ts'
import { alreadyThere, busy, domName, noSpace, unwritten } from './errors.ts'
import {
  isMovable,
  listHandles,
  locate,
  openHandle,
  orNull,
  removeFile,
  taken,
  Turns,
  unlocked,
  writingTo,
} from './handles.ts'

/**
 * The origin's private file system, in a worker. Unfinished files carry {@link PART_SUFFIX} and outlive the tab;
 * publishing renames them. A file that another tab writes is `busy`: sync access handles are exclusive.
 */

/** What a worker gets from `createSyncAccessHandle`; written down here since only a worker's types have it. */
interface SyncAccessHandle {
  read(into: Uint8Array, options: { readonly at: number }): number
  write(bytes: Uint8Array, options: { readonly at: number }): number
  truncate(size: number): void
  getSize(): number
  flush(): void
  close(): void
}

/** One write call moves at most this much, so that a cancelled job does not wait for a slow disk. */
const IO_BYTES = 16 * 2 ** 20

const GIB = 2 ** 30

const replacing = new Turns()

/** Files being written by this worker, by their path in the private file system. */
const writing = new Set<string>()

/**
 * Opens a folder of the origin's private file system for reading and writing. It is made when the first file is.
 * `prune`: folders that get empty are removed again. Throws `malformed` for a hostile path.
 */
export async function openOpfs(path: string, options: { readonly prune?: boolean } = {}): Promise<OutputFolder> {
  const parts = splitPath(path)
  const base = await writingTo(path, () => navigator.storage.getDirectory())
  return new OpfsFolder(base, parts, options.prune ?? false)
}

class OpfsFolder implements OutputFolder {
  readonly name: string
  readonly resumable = true
  readonly #base: FileSystemDirectoryHandle
  readonly #prefix: readonly string[]
  readonly #prune: boolean

  constructor(base: FileSystemDirectoryHandle, prefix: readonly string[], prune: boolean) {
    this.name = prefix.at(-1) ?? ''
    this.#base = base
    this.#prefix = prefix
    this.#prune = prune
  }

  async list(): Promise<readonly FileEntry[]> {
    const root = await this.#root()
    return root === null ? [] : listHandles(root)
  }

  async open(path: string): Promise<Source> {
    splitPath(path)
    return openHandle(await this.#root(), path)
  }

  async freeBytes(): Promise<number | null> {
    const { quota, usage } = await navigator.storage.estimate()
    if (quota === undefined || usage === undefined) return null
    const free = Math.max(0, quota - usage)
    // Chromium reports usage + min(10 GiB, the disk in whole GiB), whatever is free, so that sites learn nothing.
    return free % GIB === 0 && free <= 10 * GIB && free > 0 ? null : free
  }

  async create(path: string, options: CreateOptions): Promise<Sink> {
    checkOffset(options.keep, path)
    const parts = this.#parts(path, PART_SUFFIX)
    const key = parts.join('/')
    if (writing.has(key)) throw busy(path)
    writing.add(key)
    try {
      return await writingTo(path, async () => {
        const handle = await this.#openSync(parts)
        try {
          const kept = Math.min(options.keep, handle.getSize())
          handle.truncate(kept)
          return new OpfsSink(handle, path, kept, async (remove) => {
            writing.delete(key)
            if (remove) await this.#removeParts(parts, true)
          })
        } catch (error) {
          handle.close()
          throw error
        }
      })
    } catch (error) {
      writing.delete(key)
      throw error
    }
  }

  async publish(paths: readonly string[], overwrite: boolean): Promise<void> {
    for (const path of paths) {
      const part = this.#parts(path, PART_SUFFIX)
      await writingTo(path, async () => {
        if (writing.has(part.join('/'))) throw busy(path)
        const { folder, name } = await locate(this.#base, part, false)
        if (folder === null || (await orNull(folder.getFileHandle(name))) === null) throw unwritten(path)
        const final = await locate(this.#base, this.#parts(path), false)
        if (!(await taken(final))) return
        if (!overwrite || (await orNull(folder.getFileHandle(final.name))) === null) throw alreadyThere(path)
      })
    }
    for (const path of paths) await writingTo(path, () => this.#rename(this.#parts(path, PART_SUFFIX), path))
  }

  async exists(path: string): Promise<boolean> {
    const parts = this.#parts(path)
    return writingTo(path, async () => taken(await locate(this.#base, parts, false)))
  }

  async remove(path: string): Promise<void> {
    const [final, part] = [this.#parts(path), this.#parts(path, PART_SUFFIX)]
    if (writing.has(part.join('/'))) throw busy(path)
    await writingTo(path, async () => {
      await this.#removeParts(final, false)
      await this.#removeParts(this.#parts(path, REPLACEMENT_SUFFIX), false)
      await this.#removeParts(part, this.#prune)
    })
  }

  async replace(path: string, bytes: Uint8Array): Promise<void> {
    const temporary = this.#parts(path, REPLACEMENT_SUFFIX)
    await writingTo(path, () =>
      replacing.take(temporary.join('/'), async () => {
        const handle = await this.#openSync(temporary)
        try {
          handle.truncate(0)
          writeFully(handle, bytes, 0, path)
          handle.flush()
        } finally {
          handle.close()
        }
        await this.#rename(temporary, path)
      }),
    )
  }

  #parts(path: string, suffix = ''): readonly string[] {
    return [...this.#prefix, ...splitPath(path + suffix)]
  }

  async #root(): Promise<FileSystemDirectoryHandle | null> {
    return (await locate(this.#base, [...this.#prefix, ''], false)).folder
  }

  async #openSync(parts: readonly string[]): Promise<SyncAccessHandle> {
    const { folder, name } = await locate(this.#base, parts, true)
    const handle = await folder?.getFileHandle(name, { create: true })
    if (handle === undefined || !('createSyncAccessHandle' in handle)) {
      throw new AppError(
        'output-denied',
        'The private file system can only be written by a worker of a recent browser',
        {
          hint: 'Update the browser, or write into a folder of your own.',
        },
      )
    }
    const open = handle.createSyncAccessHandle as (this: FileSystemFileHandle) => Promise<SyncAccessHandle>
    return unlocked(() => open.call(handle))
  }

  async #rename(parts: readonly string[], path: string): Promise<void> {
    const { folder, name } = await locate(this.#base, parts, false)
    const handle = folder === null ? null : await orNull(folder.getFileHandle(name))
    if (handle === null) throw unwritten(path)
    if (!isMovable(handle)) {
      throw new AppError('output-denied', 'This browser cannot rename files in its private file system', {
        where: { file: path },
        hint: 'Update the browser, or write into a folder of your own.',
      })
    }
    await unlocked(() => handle.move(splitPath(path).at(-1) ?? ''))
  }

  async #removeParts(parts: readonly string[], prune: boolean): Promise<void> {
    await removeFile(await locate(this.#base, parts, false))
    if (!prune) return
    // Folders on the way up go while they are empty: removing one that is not fails.
    for (let depth = parts.length - 1; depth > 0; depth--) {
      try {
        await removeFile(await locate(this.#base, parts.slice(0, depth), false))
      } catch {
        return
      }
    }
  }
}

class OpfsSink implements Sink {
  readonly name: string
  readonly kept: number
  readonly #handle: SyncAccessHandle
  readonly #release: (remove: boolean) => Promise<void>
  #open = true

  constructor(handle: SyncAccessHandle, name: string, kept: number, release: (remove: boolean) => Promise<void>) {
    this.#handle = handle
    this.name = name
    this.kept = kept
    this.#release = release
  }

  async write(bytes: Uint8Array, position: number, signal?: AbortSignal): Promise<void> {
    throwIfAborted(signal)
    checkOffset(position, this.name)
    this.#check()
    await writingTo(this.name, async () => {
      for (let done = 0; done < bytes.length; done += IO_BYTES) {
        throwIfAborted(signal)
        writeFully(this.#handle, bytes.subarray(done, done + IO_BYTES), position + done, this.name)
      }
    })
  }

  async flush(): Promise<void> {
    this.#check()
    await writingTo(this.name, async () => this.#handle.flush())
  }

  async close(): Promise<void> {
    if (!this.#open) return
    await this.flush()
    this.#open = false
    this.#handle.close()
    await this.#release(false)
  }

  async abort(): Promise<void> {
    if (!this.#open) return
    this.#open = false
    try {
      this.#handle.close()
      await this.#release(true)
    } catch {
      // The file stays as an unfinished one; a later run starts it afresh.
    }
  }

  #check(): void {
    if (!this.#open) throw new AppError('internal', `${this.name} is no longer open`)
  }
}

/**
 * The count decides: on a full disk Chromium 156 throws nothing. It writes what fits and returns a short count, or the
 * negative number of its error as an unsigned one (4294967288).
 */
function writeFully(handle: SyncAccessHandle, bytes: Uint8Array, position: number, file: string): void {
  for (let done = 0; done < bytes.length;) {
    const rest = bytes.subarray(done)
    let count = 0
    try {
      count = handle.write(rest, { at: position + done })
    } catch (error) {
      throw domName(error) === 'QuotaExceededError' ? noSpace(file, error) : error
    }
    if (count <= 0 || count > rest.length) throw noSpace(file, null)
    done += count
  }
}
