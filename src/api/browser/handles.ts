import { MAX_FOLDER_FILES, type FileEntry, type Folder, type Source } from '../../core/bytes.ts'
import { AppError } from '../../core/errors.ts'
import { comparePaths, isUnlisted, splitPath } from '../paths.ts'
import { BlobSource } from './bytes-file.ts'
import { domName, readError, writeError } from './errors.ts'

/** What folders of handles share, in OPFS and in folders of the user's. */

/** Renaming: in every browser's OPFS, in Chromium also outside of it; not in the types that TypeScript ships. */
export interface MovableHandle {
  move(name: string): Promise<void>
}

export function isMovable(handle: FileSystemFileHandle): handle is FileSystemFileHandle & MovableHandle {
  return 'move' in handle && typeof handle.move === 'function'
}

/** A path's folder (null if it is not there), and the file's own name. */
export interface Located {
  readonly folder: FileSystemDirectoryHandle | null
  readonly name: string
}

/** Finds the folder of a path, making folders on the way if `create`. Throws the browser's own errors. */
export async function locate(
  root: FileSystemDirectoryHandle | null,
  parts: readonly string[],
  create: boolean,
): Promise<Located> {
  let folder = root
  for (const part of parts.slice(0, -1)) {
    if (folder === null) break
    folder = create ? await folder.getDirectoryHandle(part, { create }) : await orNull(folder.getDirectoryHandle(part))
  }
  return { folder, name: parts.at(-1) ?? '' }
}

/** Null where the browser says that there is no such file (or a folder instead of it). */
export async function orNull<T>(handle: Promise<T>): Promise<T | null> {
  try {
    return await handle
  } catch (error) {
    if (domName(error) === 'NotFoundError' || domName(error) === 'TypeMismatchError') return null
    throw error
  }
}

/** Whether a name is taken, by a file or a folder. */
export async function taken({ folder, name }: Located): Promise<boolean> {
  if (folder === null) return false
  try {
    await folder.getFileHandle(name)
    return true
  } catch (error) {
    if (domName(error) === 'NotFoundError') return false
    if (domName(error) === 'TypeMismatchError') return true
    throw error
  }
}

/** How often, and after how many milliseconds, a file that is locked is tried again. */
const UNLOCK_TRIES = 15
const UNLOCK_MS = 20

/**
 * Runs a task, again while the file is locked: browsers let go of a file a moment after it was closed, aborted, or its
 * worker died. A lock that lasts (another tab's) is thrown after a third of a second.
 */
export async function unlocked<T>(task: () => Promise<T>): Promise<T> {
  for (let tries = 1; ; tries++) {
    try {
      return await task()
    } catch (error) {
      if (domName(error) !== 'NoModificationAllowedError' || tries === UNLOCK_TRIES) throw error
    }
    await new Promise<void>((resolve) => {
      setTimeout(resolve, UNLOCK_MS)
    })
  }
}

/** Removes a file; no error if there is none. */
export async function removeFile({ folder, name }: Located): Promise<void> {
  try {
    await unlocked(async () => folder?.removeEntry(name))
  } catch (error) {
    if (domName(error) !== 'NotFoundError') throw error
  }
}

/** Every listed file below a folder, sorted. */
export async function listHandles(root: FileSystemDirectoryHandle): Promise<readonly FileEntry[]> {
  const files: FileEntry[] = []
  let seen = 0
  const walk = async (folder: FileSystemDirectoryHandle, prefix: string): Promise<void> => {
    for await (const [name, handle] of folder.entries()) {
      const path = prefix + name
      if (++seen > MAX_FOLDER_FILES) {
        throw new AppError('not-a-model', `${root.name} has more than ${MAX_FOLDER_FILES} files`, {
          hint: 'Choose the folder of one model.',
        })
      }
      if (handle.kind === 'directory') {
        if (!isUnlisted(`${path}/`)) await walk(handle, `${path}/`)
      } else if (!isUnlisted(path)) {
        const file = await orNull(handle.getFile())
        if (file !== null) files.push({ path, size: file.size, modified: file.lastModified })
      }
    }
  }
  try {
    await walk(root, '')
  } catch (error) {
    throw readError(error, root.name, 'read')
  }
  return files.sort(comparePaths)
}

/** Opens a file below a folder (null: the folder is not there yet). Throws `missing-file`, `source-lost`. */
export async function openHandle(root: FileSystemDirectoryHandle | null, path: string): Promise<Source> {
  const parts = splitPath(path)
  try {
    const { folder, name } = await locate(root, parts, false)
    const handle = folder === null ? null : await orNull(folder.getFileHandle(name))
    if (handle !== null) return new BlobSource(path, await handle.getFile())
  } catch (error) {
    throw readError(error, path, 'open')
  }
  throw new AppError('missing-file', `${path} is not there`, {
    where: { file: path },
    hint: 'Choose the whole folder of the model.',
  })
}

/** A picked or dropped folder for reading, or a single file as a folder of one. */
export function openPicked(handle: FileSystemDirectoryHandle | FileSystemFileHandle): Folder {
  if (handle.kind === 'directory') {
    return { name: handle.name, list: () => listHandles(handle), open: (path) => openHandle(handle, path) }
  }
  const file = async (step: 'open' | 'read'): Promise<File> => {
    try {
      return await handle.getFile()
    } catch (error) {
      throw readError(error, handle.name, step)
    }
  }
  return {
    name: handle.name.replace(/(?<=.)\.[A-Za-z][A-Za-z0-9]*$/, ''),
    async list() {
      const { size, lastModified } = await file('read')
      return [{ path: handle.name, size, modified: lastModified }]
    },
    async open(path) {
      splitPath(path)
      if (path === handle.name) return new BlobSource(path, await file('open'))
      throw new AppError('missing-file', `${path} is not there: only ${handle.name} was given`, {
        where: { file: path },
        hint: 'Choose the whole folder instead of one of its files.',
      })
    },
  }
}

/** Runs a task on `path`, its errors as those of writing. */
export async function writingTo<T>(path: string, task: () => Promise<T>): Promise<T> {
  try {
    return await task()
  } catch (error) {
    throw writeError(error, path)
  }
}

/** Runs tasks of the same key one after the other. */
export class Turns {
  readonly #last = new Map<string, Promise<void>>()

  async take(key: string, task: () => Promise<void>): Promise<void> {
    const turn = (this.#last.get(key) ?? Promise.resolve()).catch(() => {}).then(task)
    this.#last.set(key, turn)
    try {
      await turn
    } finally {
      if (this.#last.get(key) === turn) this.#last.delete(key)
    }
  }
}
