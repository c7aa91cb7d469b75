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
import { alreadyThere, busy, unwritten } from './errors.ts'
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
 * A folder of the user's, picked or dropped. `createWritable` writes to a swap file of the browser's and commits when
 * it is closed, so nothing can be kept of a file whose tab died: not resumable. Files are written as `name.part` and
 * renamed when published; where the browser cannot rename outside of its private file system, they are copied.
 */

/** Bytes copied at once where renaming is not to be had. */
const COPY_BYTES = 8 * 2 ** 20

/** Opens a picked or dropped folder for writing. Every call after permission is withdrawn throws `output-denied`. */
export function openPickedOutput(root: FileSystemDirectoryHandle): OutputFolder {
  return new HandleFolder(root)
}

class HandleFolder implements OutputFolder {
  readonly name: string
  readonly resumable = false
  readonly #root: FileSystemDirectoryHandle
  readonly #writing = new Set<string>()
  readonly #replacing = new Turns()

  constructor(root: FileSystemDirectoryHandle) {
    this.#root = root
    this.name = root.name
  }

  list(): Promise<readonly FileEntry[]> {
    return listHandles(this.#root)
  }

  async open(path: string): Promise<Source> {
    return openHandle(this.#root, path)
  }

  async freeBytes(): Promise<number | null> {
    return null
  }

  async create(path: string, options: CreateOptions): Promise<Sink> {
    checkOffset(options.keep, path)
    const parts = splitPath(path + PART_SUFFIX)
    splitPath(path)
    if (this.#writing.has(path)) throw busy(path)
    this.#writing.add(path)
    try {
      return await writingTo(path, async () => {
        // Folders that were made for this file go again with it.
        const made = await this.#missingFolders(parts)
        const { folder, name } = await locate(this.#root, parts, true)
        const handle = await folder?.getFileHandle(name, { create: true })
        if (handle === undefined) throw unwritten(path)
        const stream = await openWritable(handle)
        return new HandleSink(stream, path, async (remove) => {
          this.#writing.delete(path)
          if (!remove) return
          await removeFile({ folder: folder ?? null, name })
          for (let depth = parts.length - 1; depth > parts.length - 1 - made; depth--) {
            await removeFile(await locate(this.#root, parts.slice(0, depth), false))
          }
        })
      })
    } catch (error) {
      this.#writing.delete(path)
      throw error
    }
  }

  async publish(paths: readonly string[], overwrite: boolean): Promise<void> {
    for (const path of paths) {
      const parts = splitPath(path)
      await writingTo(path, async () => {
        if (this.#writing.has(path)) throw busy(path)
        const final = await locate(this.#root, parts, false)
        const part = final.folder === null ? null : await orNull(final.folder.getFileHandle(final.name + PART_SUFFIX))
        if (final.folder === null || part === null) throw unwritten(path)
        if (!(await taken(final))) return
        if (!overwrite || (await orNull(final.folder.getFileHandle(final.name))) === null) throw alreadyThere(path)
      })
    }
    for (const path of paths) {
      const { folder, name } = await locate(this.#root, splitPath(path), false)
      if (folder === null) throw unwritten(path)
      await writingTo(path, () => rename(folder, name + PART_SUFFIX, name))
    }
  }

  async exists(path: string): Promise<boolean> {
    const parts = splitPath(path)
    return writingTo(path, async () => taken(await locate(this.#root, parts, false)))
  }

  async remove(path: string): Promise<void> {
    const parts = splitPath(path)
    if (this.#writing.has(path)) throw busy(path)
    await writingTo(path, async () => {
      const { folder, name } = await locate(this.#root, parts, false)
      await removeFile({ folder, name })
      await removeFile({ folder, name: name + PART_SUFFIX })
      await removeFile({ folder, name: name + REPLACEMENT_SUFFIX })
    })
  }

  async replace(path: string, bytes: Uint8Array): Promise<void> {
    const parts = splitPath(path)
    await writingTo(path, () =>
      this.#replacing.take(path, async () => {
        const { folder, name } = await locate(this.#root, parts, true)
        if (folder === null) throw unwritten(path)
        const temporary = name + REPLACEMENT_SUFFIX
        const stream = await openWritable(await folder.getFileHandle(temporary, { create: true }))
        try {
          await stream.write(unshared(bytes))
          await stream.close()
        } catch (error) {
          await stream.abort().catch(() => {})
          await removeFile({ folder, name: temporary }).catch(() => {})
          throw error
        }
        await rename(folder, temporary, name)
      }),
    )
  }

  /** How many folders of a path are not there yet. */
  async #missingFolders(parts: readonly string[]): Promise<number> {
    for (let depth = parts.length - 1; depth > 0; depth--) {
      if ((await locate(this.#root, [...parts.slice(0, depth), ''], false)).folder !== null)
        return parts.length - 1 - depth
    }
    return parts.length - 1
  }
}

class HandleSink implements Sink {
  readonly name: string
  readonly kept = 0
  readonly #stream: FileSystemWritableFileStream
  readonly #release: (remove: boolean) => Promise<void>
  #open = true
  #size = 0

  constructor(stream: FileSystemWritableFileStream, name: string, release: (remove: boolean) => Promise<void>) {
    this.#stream = stream
    this.name = name
    this.#release = release
  }

  async write(bytes: Uint8Array, position: number, signal?: AbortSignal): Promise<void> {
    throwIfAborted(signal)
    checkOffset(position, this.name)
    this.#check()
    if (bytes.length === 0) return
    await writingTo(this.name, async () => {
      const end = position + bytes.length
      // Not every browser fills a gap before the position by itself.
      if (position > this.#size) void this.#stream.truncate(position).catch(() => {})
      this.#size = Math.max(this.#size, end)
      await this.#stream.write({ type: 'write', position, data: unshared(bytes) })
    })
  }

  /** The browser commits nothing before the file is closed: this only waits for what was written to be taken. */
  async flush(): Promise<void> {
    this.#check()
  }

  async close(): Promise<void> {
    if (!this.#open) return
    await writingTo(this.name, () => this.#stream.close())
    this.#open = false
    await this.#release(false)
  }

  async abort(): Promise<void> {
    if (!this.#open) return
    this.#open = false
    await this.#stream.abort().catch(() => {})
    await this.#release(true).catch(() => {})
  }

  #check(): void {
    if (!this.#open) throw new AppError('internal', `${this.name} is no longer open`)
  }
}

/** An exclusive stream where the browser has them: a second one on the same file then fails as `busy`. */
function openWritable(handle: FileSystemFileHandle): Promise<FileSystemWritableFileStream> {
  const options: FileSystemCreateWritableOptions & { readonly mode: string } = {
    keepExistingData: false,
    mode: 'exclusive',
  }
  return unlocked(() => handle.createWritable(options))
}

/** Streams refuse views of shared memory. */
function unshared(bytes: Uint8Array): Uint8Array<ArrayBuffer> {
  const { buffer } = bytes
  return buffer instanceof ArrayBuffer
    ? new Uint8Array(buffer, bytes.byteOffset, bytes.byteLength)
    : Uint8Array.from(bytes)
}

async function rename(folder: FileSystemDirectoryHandle, from: string, to: string): Promise<void> {
  const part = await folder.getFileHandle(from)
  if (isMovable(part)) {
    try {
      await unlocked(() => part.move(to))
      return
    } catch (error) {
      // Outside of the private file system renaming may be refused by itself; then a copy shows what is wrong.
      if (error instanceof DOMException && error.name === 'NoModificationAllowedError') throw error
    }
  }
  const isNew = !(await taken({ folder, name: to }))
  const stream = await openWritable(await folder.getFileHandle(to, { create: true }))
  try {
    const file = await part.getFile()
    for (let at = 0; at < file.size; at += COPY_BYTES) await stream.write(file.slice(at, at + COPY_BYTES))
    // Until here the final name holds the old file, or an empty one.
    await stream.close()
  } catch (error) {
    await stream.abort().catch(() => {})
    if (isNew) await removeFile({ folder, name: to }).catch(() => {})
    throw error
  }
  await removeFile({ folder, name: from })
}
