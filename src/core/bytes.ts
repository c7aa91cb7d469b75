import { AppError } from './errors.ts'

/**
 * Bytes outside of memory: where they come from, where they go, and how a place is named.
 *
 * The host's implementations live in `api/browser` and `companion`; all of them pass `tests/contracts/bytes.ts`.
 * Buffers may be views of a SharedArrayBuffer: an implementation whose platform refuses those copies at the edge.
 */

/** A readable file of known size. The caller owns every buffer. */
export interface Source {
  /** Path within its folder, with `/` between parts. */
  readonly name: string
  /** Bytes. */
  readonly size: number
  /** Milliseconds since the epoch when it was last changed; null where the host cannot say. */
  readonly modified: number | null
  /**
   * Fills `into` with the bytes from `offset` on. Several reads may be in flight.
   * Throws `truncated` if the file ends first, `source-lost` if it cannot be read, `cancelled` on abort.
   */
  read(offset: number, into: Uint8Array, signal?: AbortSignal): Promise<void>
  close(): Promise<void>
}

/**
 * A file being written under a temporary name. `close` makes it durable, still unnamed: only {@link OutputFolder.publish}
 * gives it its name, so that a set of files appears whole or not at all.
 */
export interface Sink {
  readonly name: string
  /** Bytes already there when it was opened: what an earlier run left and the caller asked to keep. */
  readonly kept: number
  /** Writes all of `bytes` at `position`; awaiting is back-pressure. Throws `no-space`, `output-denied`, `cancelled`. */
  write(bytes: Uint8Array, position: number, signal?: AbortSignal): Promise<void>
  /** Returns once what was written survives a crash of the process (and, where the host can, of the machine). */
  flush(): Promise<void>
  /** Flushes and lets go of the file. */
  close(): Promise<void>
  /** Lets go of the file and removes what was written. Never throws. */
  abort(): Promise<void>
}

/** One file of a folder. */
export interface FileEntry {
  /** Path within the folder, with `/` between parts and no `.` or `..` among them. */
  readonly path: string
  readonly size: number
  readonly modified: number | null
}

/** A folder that can be read: the only door to the outside that an engine gets. A single file is a folder of one. */
export interface Folder {
  /** Its own name, for people and for naming outputs. */
  readonly name: string
  /** Every file below it, sorted by path. A few thousand at most: throws `not-a-model` beyond {@link MAX_FOLDER_FILES}. */
  list(): Promise<readonly FileEntry[]>
  /** Throws `missing-file` if there is none of that path. */
  open(path: string): Promise<Source>
}

/** What {@link OutputFolder.create} is told of the file to come. */
export interface CreateOptions {
  /**
   * Keep this many bytes of what an earlier, unfinished run wrote, and drop the rest; 0 starts afresh. Where the host
   * has fewer (or can keep none at all), {@link Sink.kept} says so.
   */
  readonly keep: number
}

/** A folder that can be written to. */
export interface OutputFolder extends Folder {
  /**
   * Whether an unfinished file outlives the process, so that a job can resume inside it. If so, `open` finds one that
   * no Sink holds under its path with {@link PART_SUFFIX} behind it.
   */
  readonly resumable: boolean
  /** Bytes free; null where the host cannot say. */
  freeBytes(): Promise<number | null>
  /** Opens `path` for writing under a temporary name. Throws `output-denied`, `busy` if another job writes it. */
  create(path: string, options: CreateOptions): Promise<Sink>
  /**
   * Gives closed files their final names, in the order given (the commit mark last). Throws `output-exists` before
   * naming any if one is taken and `overwrite` is false.
   */
  publish(paths: readonly string[], overwrite: boolean): Promise<void>
  /** Whether the final name is taken. */
  exists(path: string): Promise<boolean>
  /** Removes a published or an unfinished file, and what a `replace` that was cut off left; no error if there is none. */
  remove(path: string): Promise<void>
  /** Replaces a small file in one step: after a crash it holds the old or the new bytes, never a part. For journals. */
  replace(path: string, bytes: Uint8Array): Promise<void>
}

/** No model has more files; a dropped home folder has. */
export const MAX_FOLDER_FILES = 20_000

/** The ending of unfinished files, on hosts that keep them beside the final ones. */
export const PART_SUFFIX = '.part'

/** The ending of what `replace` writes before it takes a file's place. */
export const REPLACEMENT_SUFFIX = `.new${PART_SUFFIX}`

/** How the names of journals begin, which lie beside the files that they are about. */
export const JOURNAL_PREFIX = '.modelconvert-'

/** Whether a file of an output folder is finished, and no journal. */
export function isFinished(path: string): boolean {
  return !path.endsWith(PART_SUFFIX) && !path.startsWith(JOURNAL_PREFIX)
}

/**
 * The address of a folder as data, cloneable into a worker. Which kinds can be opened is the host's to say.
 * `handle` and `files` hold browser objects, opaque here.
 */
export type Place =
  /** A path of the machine (Node): a folder or a single file. */
  | { readonly kind: 'path'; readonly path: string }
  /** A FileSystemDirectoryHandle or FileSystemFileHandle (picked or dropped). */
  | { readonly kind: 'handle'; readonly handle: unknown; readonly name: string }
  /** File objects with their paths (from an `<input>`, or a drop without handles). */
  | { readonly kind: 'files'; readonly name: string; readonly files: readonly PlacedFile[] }
  /** A folder of the host's own storage (OPFS in the browser, a state directory in Node). */
  | { readonly kind: 'scratch'; readonly path: string }
  /** The model that the project ships. */
  | { readonly kind: 'sample' }

/** A browser's File (opaque here) and its path within the folder it came from. */
export interface PlacedFile {
  readonly path: string
  readonly file: unknown
}

/** Reads a whole small file (a config, an index, a header). Throws `malformed` if it is larger than `limit` bytes. */
export async function readAll(source: Source, limit: number, signal?: AbortSignal): Promise<Uint8Array<ArrayBuffer>> {
  if (source.size > limit) {
    throw new AppError('malformed', `${source.name} has ${source.size} bytes; at most ${limit} are believed`, {
      where: { file: source.name },
      hint: 'A file of this name is never this large in a real model. Check that it is the right file.',
    })
  }
  const bytes = new Uint8Array(source.size)
  await source.read(0, bytes, signal)
  return bytes
}

/** Opens, reads whole and closes a small file of a folder. */
export async function readFile(folder: Folder, path: string, limit: number): Promise<Uint8Array<ArrayBuffer>> {
  const source = await folder.open(path)
  try {
    return await readAll(source, limit)
  } finally {
    await source.close()
  }
}
