import type { Place } from '../../core/bytes.ts'

/** A place of the browser's own storage. */
export type ScratchPlace = Place & { readonly kind: 'scratch' }

/** A finished output that waits in the browser's storage. */
export interface ShelfItem {
  readonly place: ScratchPlace
  /** For people: the file's name, or the folder's. */
  readonly name: string
  readonly size: number
  readonly files: readonly string[]
}

/** The part of the browser's own storage where outputs are written, each in a folder of its own. */
export interface Shelf {
  /** Where the output of that name goes. The same name is the same place. */
  place(name: string): ScratchPlace
  /** Every place that there is, finished or not. */
  places(): Promise<readonly ScratchPlace[]>
  list(): Promise<readonly ShelfItem[]>
  /** Hands an output to the browser's downloads: a file as it is, several as one zip. */
  download(place: ScratchPlace, files: readonly string[]): Promise<void>
  /** Copies an output into a picked folder, whole or not at all. Throws `output-exists` unless `overwrite` is set. */
  copy(place: ScratchPlace, folder: Place, options: CopyOptions): Promise<void>
  remove(place: ScratchPlace): Promise<void>
}

export interface CopyOptions {
  readonly overwrite: boolean
  /** Told the bytes done and the bytes in all. */
  readonly progress: (done: number, total: number) => void
}

/** The longest folder name that is made; file systems take 255 bytes. */
const MAX_NAME = 80

/** A name as a folder of the storage can have it: no slashes, no leading dots, not empty. */
export function folderName(name: string): string {
  const safe = name
    .normalize('NFC')
    .replaceAll(/[^\p{L}\p{N}._ -]+/gu, '-')
    .replace(/^[. ]+/, '')
    .slice(0, MAX_NAME)
    .replace(/[. ]+$/, '')
  return safe === '' ? 'output' : safe
}
