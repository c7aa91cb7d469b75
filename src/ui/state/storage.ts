import { isFinished } from '../../core/bytes.ts'
import { AppError } from '../../core/errors.ts'
import { folderName, type ScratchPlace, type Shelf, type ShelfItem } from './shelf.ts'

/** The folder of the origin private file system that outputs are written below. */
const OUTPUTS = 'outputs'

/** A download has taken hold of its blob long before this. */
const REVOKE_MS = 60_000

/** Copying and zipping are needed only once something is finished. */
const save = (): Promise<typeof import('../../api/browser/save.ts')> => import('../../api/browser/save.ts')

/** The shelf in the origin private file system, where a `scratch` place lies under its path. */
export function createShelf(): Shelf {
  return {
    place,
    async places() {
      return (await folders()).map(({ name }) => place(name))
    },
    async list() {
      const items: ShelfItem[] = []
      for (const folder of await folders()) {
        const files = await finished(folder, '')
        const size = files.reduce((sum, file) => sum + file.size, 0)
        const paths = files.map(({ path }) => path)
        const name = paths.length === 1 ? (paths[0] ?? folder.name) : (topFolder(paths) ?? folder.name)
        if (paths.length > 0) items.push({ place: place(folder.name), name, size, files: paths })
      }
      return items.sort((a, b) => a.name.localeCompare(b.name))
    },
    async download({ path }, files) {
      const { savedFile, savedZip } = await save()
      const [only, ...others] = files
      if (only === undefined) return
      if (others.length > 0)
        handOver(await savedZip(path, files), `${topFolder(files) ?? path.split('/').at(-1) ?? OUTPUTS}.zip`)
      else handOver(await savedFile(path, only), only)
    },
    async copy({ path }, files, folder, options) {
      if (folder.kind !== 'handle' || !(folder.handle instanceof FileSystemDirectoryHandle)) {
        throw new AppError('output-denied', 'That is not a folder')
      }
      await (await save()).copySaved(path, files, folder.handle, options)
    },
    async tidy({ path }, files) {
      await (await save()).tidySaved(path, files)
    },
    async remove({ path }) {
      await (await save()).removeSaved(path)
    },
    stages: async () => (await save()).stagedJobs(),
    sweep: async (key) => (await save()).removeStages(key),
  }
}

function place(name: string): ScratchPlace {
  return { kind: 'scratch', path: `${OUTPUTS}/${folderName(name)}` }
}

async function folders(): Promise<readonly FileSystemDirectoryHandle[]> {
  const root = await navigator.storage.getDirectory()
  const outputs = await root.getDirectoryHandle(OUTPUTS, { create: true })
  const found: FileSystemDirectoryHandle[] = []
  for await (const handle of outputs.values()) {
    if (handle instanceof FileSystemDirectoryHandle) found.push(handle)
  }
  return found
}

/** Files that have their final names; journals and unfinished ones do not count. */
async function finished(folder: FileSystemDirectoryHandle, prefix: string): Promise<{ path: string; size: number }[]> {
  const files: { path: string; size: number }[] = []
  for await (const [name, handle] of folder.entries()) {
    if (handle instanceof FileSystemDirectoryHandle) {
      files.push(...(await finished(handle, `${prefix}${name}/`)))
    } else if (handle instanceof FileSystemFileHandle && isFinished(prefix + name)) {
      files.push({ path: prefix + name, size: (await handle.getFile()).size })
    }
  }
  return files
}

/** The folder that all of the files lie in; null if there is none. */
function topFolder(paths: readonly string[]): string | null {
  const [first = ''] = paths
  const top = first.slice(0, first.indexOf('/') + 1)
  return top !== '' && paths.every((path) => path.startsWith(top)) ? top.slice(0, -1) : null
}

/** Hands a blob to the browser's downloads, which copy a stored file from disk to disk. */
function handOver(blob: Blob, name: string): void {
  const url = URL.createObjectURL(blob)
  const link = document.createElement('a')
  link.href = url
  link.download = name
  link.click()
  setTimeout(() => URL.revokeObjectURL(url), REVOKE_MS)
}
