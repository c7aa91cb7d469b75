import type { Place } from '../../core/bytes.ts'

/** A finished file that waits in the browser's storage. */
export interface ShelfFile {
  readonly path: string
  readonly size: number
}

/** The part of the browser's own storage where outputs are written, to be downloaded or copied from. */
export interface Shelf {
  readonly place: Place
  list(): Promise<readonly ShelfFile[]>
  /** The finished file, backed by the disk: reading it does not hold it in memory. */
  file(path: string): Promise<File>
  remove(path: string): Promise<void>
}
