import { MAX_FOLDER_FILES, type FileEntry, type Folder, type PlacedFile, type Source } from '../../core/bytes.ts'
import { AppError, throwIfAborted } from '../../core/errors.ts'
import { checkOffset, comparePaths, isUnlisted, splitPath } from '../paths.ts'
import { readError } from './errors.ts'

/** One slice of a Blob costs about 0.7 ms whatever its size: reads up to this size are cut from cached blocks. */
const SMALL_READ = 32 * 1024

/** Reading ahead this far makes a walk through a header one slice in a hundred reads. */
const BLOCK_BYTES = 128 * 1024

/** Blocks that a source keeps: 512 KiB, enough for a few readers at different places. */
const BLOCKS = 4

/** A larger read is made of slices of this size: each is a buffer of the browser's until it is copied. */
const SLICE_BYTES = 8 * 2 ** 20

/** A Blob or File as a source. A File that changed on the disk since it was picked is `source-lost`. */
export class BlobSource implements Source {
  readonly name: string
  readonly size: number
  readonly modified: number | null
  /** What it reads: for those who take files whole. */
  readonly blob: Blob
  /** The blocks last used, by index; the newest last. */
  readonly #blocks = new Map<number, Promise<Uint8Array>>()

  constructor(name: string, blob: Blob) {
    this.name = name
    this.size = blob.size
    this.modified = blob instanceof File ? blob.lastModified : null
    this.blob = blob
  }

  async read(offset: number, into: Uint8Array, signal?: AbortSignal): Promise<void> {
    throwIfAborted(signal)
    checkOffset(offset, this.name)
    if (into.length === 0) return
    const end = offset + into.length
    if (end > this.size) {
      throw new AppError('truncated', `${this.name} ends at byte ${this.size}, ${end - this.size} bytes too early`, {
        where: { file: this.name, offset: this.size },
        hint: 'The file is incomplete. Copy or download it again.',
      })
    }
    const small = into.length <= SMALL_READ
    for (let at = offset; at < end;) {
      const index = Math.floor(at / BLOCK_BYTES)
      const start = small ? index * BLOCK_BYTES : at
      const bytes = small ? await this.#block(index) : await this.#slice(at, Math.min(end, at + SLICE_BYTES))
      throwIfAborted(signal)
      const piece = bytes.subarray(at - start, end - start)
      into.set(piece, at - offset)
      at += piece.length
    }
  }

  async close(): Promise<void> {
    this.#blocks.clear()
  }

  #block(index: number): Promise<Uint8Array> {
    const block =
      this.#blocks.get(index) ?? this.#slice(index * BLOCK_BYTES, Math.min(this.size, (index + 1) * BLOCK_BYTES))
    this.#blocks.delete(index)
    this.#blocks.set(index, block)
    for (const oldest of this.#blocks.keys()) {
      if (this.#blocks.size <= BLOCKS) break
      this.#blocks.delete(oldest)
    }
    // A failure is not kept: the stick may be back for the next read.
    block.catch(() => this.#blocks.delete(index))
    return block
  }

  async #slice(start: number, end: number): Promise<Uint8Array> {
    let bytes: Uint8Array
    try {
      bytes = new Uint8Array(await this.blob.slice(start, end).arrayBuffer())
    } catch (error) {
      throw readError(error, this.name, 'read')
    }
    if (bytes.length === end - start) return bytes
    throw new AppError('truncated', `${this.name} ends at byte ${start + bytes.length}`, {
      where: { file: this.name, offset: start + bytes.length },
      hint: 'The file is incomplete. Copy or download it again.',
    })
  }
}

/** Files from an `<input>` or a drop as a folder. Throws `not-a-model` for more files than any model has. */
export function openFiles(name: string, files: readonly PlacedFile[]): Folder {
  if (files.length > MAX_FOLDER_FILES) {
    throw new AppError('not-a-model', `${name} has more than ${MAX_FOLDER_FILES} files`, {
      hint: 'Choose the folder of one model.',
    })
  }
  const blobs = new Map<string, Blob>()
  for (const { path, file } of files) {
    if (!(file instanceof Blob)) throw new AppError('internal', `${path} is not a File`, { where: { file: path } })
    blobs.set(path, file)
  }
  return new FilesFolder(name, blobs)
}

class FilesFolder implements Folder {
  readonly name: string
  readonly #blobs: ReadonlyMap<string, Blob>

  constructor(name: string, blobs: ReadonlyMap<string, Blob>) {
    this.name = name
    this.#blobs = blobs
  }

  async list(): Promise<readonly FileEntry[]> {
    return [...this.#blobs]
      .filter(([path]) => !isUnlisted(path))
      .map(([path, blob]) => ({ path, size: blob.size, modified: blob instanceof File ? blob.lastModified : null }))
      .sort(comparePaths)
  }

  async open(path: string): Promise<Source> {
    splitPath(path)
    const blob = this.#blobs.get(path)
    if (blob !== undefined) return new BlobSource(path, blob)
    throw new AppError('missing-file', `${path} is not in ${this.name}`, {
      where: { file: path },
      hint: 'Choose the whole folder of the model.',
    })
  }
}
