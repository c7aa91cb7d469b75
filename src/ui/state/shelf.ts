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
  /** Hands files of an output to the browser's downloads: one as it is, several as one zip. */
  download(place: ScratchPlace, files: readonly string[]): Promise<void>
  /** Copies files of an output into a picked folder, all or none. Throws `output-exists` unless `overwrite` is set. */
  copy(place: ScratchPlace, files: readonly string[], folder: Place, options: CopyOptions): Promise<void>
  /** Removes finished files of a place other than these: those of an earlier conversion. */
  tidy(place: ScratchPlace, files: readonly string[]): Promise<void>
  remove(place: ScratchPlace): Promise<void>
  /** The keys of the jobs that left something half-made beside their outputs. */
  stages(): Promise<readonly string[]>
  /** Removes what such a job left. */
  sweep(key: string): Promise<void>
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
