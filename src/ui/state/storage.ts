import type { Place } from '../../core/bytes.ts'
import { PART_SUFFIX } from '../../core/bytes.ts'
import { AppError } from '../../core/errors.ts'
import type { Shelf, ShelfFile } from './shelf.ts'

/** The folder of the origin private file system that outputs are written to. */
const OUTPUTS = 'outputs'

/** The shelf in the origin private file system, where a `scratch` place lies under its path. */
export function createShelf(): Shelf {
  const place: Place = { kind: 'scratch', path: OUTPUTS }
  const folder = async (): Promise<FileSystemDirectoryHandle> => {
    const root = await navigator.storage.getDirectory()
    return await root.getDirectoryHandle(OUTPUTS, { create: true })
  }
  const remove = async (path: string): Promise<void> => {
    await (await folder()).removeEntry(path).catch((error: unknown) => {
      if (!(error instanceof DOMException && error.name === 'NotFoundError')) throw error
    })
  }
  return {
    place,
    async list() {
      const files: ShelfFile[] = []
      for await (const [path, handle] of (await folder()).entries()) {
        if (!(handle instanceof FileSystemFileHandle) || path.endsWith(PART_SUFFIX) || path.startsWith('.')) continue
        files.push({ path, size: (await handle.getFile()).size })
      }
      return files.sort((a, b) => a.path.localeCompare(b.path))
    },
    async file(path) {
      return await (await (await folder()).getFileHandle(path)).getFile()
    },
    remove,
  }
}

/** Hands a file to the browser's downloads. A file of OPFS is copied by the browser, disk to disk. */
export function saveBlob(file: Blob, name: string): void {
  const url = URL.createObjectURL(file)
  const link = document.createElement('a')
  link.href = url
  link.download = name
  link.click()
  // The download holds the blob once it has started; a minute is ample for that.
  setTimeout(() => URL.revokeObjectURL(url), 60_000)
}

/** Copies a file into a picked folder, streaming. The file appears there once it is whole. Throws `output-denied`. */
export async function copyInto(folder: Place & { readonly kind: 'handle' }, name: string, file: Blob): Promise<void> {
  if (!(folder.handle instanceof FileSystemDirectoryHandle)) throw new AppError('output-denied', 'That is no folder')
  try {
    const handle = await folder.handle.getFileHandle(name, { create: true })
    await file.stream().pipeTo(await handle.createWritable())
  } catch (error) {
    throw AppError.from(error, 'output-denied', {
      where: { file: name },
      hint: 'Choose another folder, or download the file instead.',
    })
  }
}
