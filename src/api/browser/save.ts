import { isFinished, type Folder, type OutputFolder, type Sink } from '../../core/bytes.ts'
import { throwIfAborted } from '../../core/errors.ts'
import { splitPath } from '../paths.ts'
import { openPickedOutput } from './bytes-handle.ts'
import { openOpfs } from './bytes-opfs.ts'
import { readError, writeError } from './errors.ts'
import { locate, orNull } from './handles.ts'
import { STAGE_PREFIX, STAGES } from './stages.ts'
import { zipBlob } from './zip.ts'

/**
 * How finished outputs leave the private file system: as a file or a zip to download, or into a picked folder. And how
 * what nobody needs any more leaves it.
 */

export interface SaveOptions {
  /** Told the bytes done and the bytes in all. */
  readonly progress?: (done: number, total: number) => void
  readonly signal?: AbortSignal
}

/** Bytes copied at once. */
const COPY_BYTES = 8 * 2 ** 20

/** Files that tell a reader that the folder is whole: they are named last. */
const COMMIT_MARK = /(^|\/)(config\.json|[^/]*\.index\.json)$/

/** A finished file of a `scratch` place, on the disk and not in memory. Throws `missing-file`, `source-lost`. */
export async function savedFile(place: string, path: string): Promise<File> {
  const parts = [...splitPath(place), ...splitPath(path)]
  try {
    const { folder, name } = await locate(await navigator.storage.getDirectory(), parts, false)
    if (folder === null) throw new DOMException(path, 'NotFoundError')
    return await (await folder.getFileHandle(name)).getFile()
  } catch (error) {
    throw readError(error, path, 'open')
  }
}

/** Finished files of a `scratch` place as one zip, to download. It is made of the files where they lie. */
export async function savedZip(place: string, paths: readonly string[], options: SaveOptions = {}): Promise<Blob> {
  const files = []
  for (const path of paths.toSorted()) files.push({ path, blob: await savedFile(place, path) })
  const total = files.reduce((sum, { blob }) => sum + blob.size, 0)
  return zipBlob(files, (done) => options.progress?.(done, total), options.signal)
}

/**
 * Copies finished files of a `scratch` place into a picked folder. They get their names there once all are whole.
 * Throws `output-exists`, `output-denied`, `no-space`, `cancelled`; then nothing stays behind.
 */
export async function copySaved(
  place: string,
  paths: readonly string[],
  target: FileSystemDirectoryHandle,
  options: SaveOptions & { readonly overwrite?: boolean } = {},
): Promise<void> {
  const folder = await openOpfs(place)
  const wanted = new Set(paths)
  const some: Folder = {
    name: folder.name,
    list: async () => (await folder.list()).filter(({ path }) => wanted.has(path)),
    open: (path) => folder.open(path),
  }
  await copyFolder(some, openPickedOutput(target), options)
}

/** Removes all finished files of a `scratch` place but these. */
export async function tidySaved(place: string, paths: readonly string[]): Promise<void> {
  const folder = await openOpfs(place, { prune: true })
  const wanted = new Set(paths)
  for (const { path } of await folder.list()) if (isFinished(path) && !wanted.has(path)) await folder.remove(path)
}

/** Copies every file of one folder to another, whole or not at all. */
export async function copyFolder(
  from: Folder,
  to: OutputFolder,
  options: SaveOptions & { readonly overwrite?: boolean } = {},
): Promise<void> {
  const entries = await from.list()
  const ordered = entries.toSorted((a, b) => Number(COMMIT_MARK.test(a.path)) - Number(COMMIT_MARK.test(b.path)))
  const paths = ordered.map((entry) => entry.path)
  const total = entries.reduce((sum, entry) => sum + entry.size, 0)
  const buffer = new Uint8Array(COPY_BYTES)
  const written: string[] = []
  let done = 0
  let sink: Sink | null = null
  try {
    for (const path of paths) {
      const source = await from.open(path)
      try {
        sink = await to.create(path, { keep: 0 })
        for (let at = 0; at < source.size; at += COPY_BYTES) {
          throwIfAborted(options.signal)
          const piece = buffer.subarray(0, Math.min(COPY_BYTES, source.size - at))
          await source.read(at, piece, options.signal)
          await sink.write(piece, at, options.signal)
          done += piece.length
          options.progress?.(done, total)
        }
        await sink.close()
        sink = null
        written.push(path)
      } finally {
        await source.close()
      }
    }
    await to.publish(paths, options.overwrite ?? false)
  } catch (error) {
    await sink?.abort()
    // Created afresh and aborted, a closed file leaves nothing; `remove` would take an older one of its name too.
    for (const path of written) {
      const left = await to.create(path, { keep: 0 }).catch(() => null)
      await left?.abort()
    }
    throw error
  }
}

/** Removes a `scratch` place with all that is in it; no error if there is none. Throws `busy` if a job writes there. */
export async function removeSaved(place: string): Promise<void> {
  const parts = splitPath(place)
  try {
    const { folder, name } = await locate(await navigator.storage.getDirectory(), parts, false)
    if (folder === null) return
    await orNull(folder.removeEntry(name, { recursive: true }))
  } catch (error) {
    throw writeError(error, place)
  }
}

/** The keys of the jobs that have products of stages in the private file system. */
export async function stagedJobs(): Promise<readonly string[]> {
  const root = await navigator.storage.getDirectory()
  const stages = await orNull(root.getDirectoryHandle(STAGES))
  const keys: string[] = []
  for await (const name of stages?.keys() ?? [])
    if (name.startsWith(STAGE_PREFIX)) keys.push(name.slice(STAGE_PREFIX.length))
  return keys
}

/** Removes a job's products of stages; no error if there are none. Throws `busy` if it runs. */
export async function removeStages(key: string): Promise<void> {
  await removeSaved(`${STAGES}/${STAGE_PREFIX}${key}`)
}
