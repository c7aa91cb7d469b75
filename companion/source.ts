import { open, stat, type FileHandle } from 'node:fs/promises'
import { checkOffset } from '../src/api/paths.ts'
import type { Source } from '../src/core/bytes.ts'
import { AppError, throwIfAborted } from '../src/core/errors.ts'
import { readError } from './errors.ts'

/** One system call moves at most this much, so that a cancelled job does not wait for a slow disk. */
export const IO_BYTES = 16 * 2 ** 20

/** Opens a file as the source `name`. Throws `missing-file`, `source-lost`. */
export async function openSource(path: string, name: string): Promise<Source> {
  let handle: FileHandle | null = null
  try {
    // Looked at before it is opened: opening a pipe would wait for its other end.
    if (!(await stat(path)).isFile()) {
      throw new AppError('missing-file', `${name} is not a file`, { where: { file: name } })
    }
    handle = await open(path, 'r')
    const stats = await handle.stat()
    return new NodeSource(handle, name, stats.size, stats.mtimeMs)
  } catch (error) {
    await handle?.close().catch(() => {})
    throw readError(error, name, 'open')
  }
}

class NodeSource implements Source {
  readonly name: string
  readonly size: number
  readonly modified: number
  readonly #handle: FileHandle

  constructor(handle: FileHandle, name: string, size: number, modified: number) {
    this.#handle = handle
    this.name = name
    this.size = size
    this.modified = modified
  }

  async read(offset: number, into: Uint8Array, signal?: AbortSignal): Promise<void> {
    throwIfAborted(signal)
    checkOffset(offset, this.name)
    let done = 0
    while (done < into.length) {
      let count = 0
      try {
        const length = Math.min(into.length - done, IO_BYTES)
        count = (await this.#handle.read(into, done, length, offset + done)).bytesRead
      } catch (error) {
        throw readError(error, this.name, 'read')
      }
      throwIfAborted(signal)
      if (count === 0) {
        const end = offset + done
        throw new AppError('truncated', `${this.name} ends at byte ${end}, ${into.length - done} bytes too early`, {
          where: { file: this.name, offset: end },
          hint: 'The file is incomplete. Copy or download it again.',
        })
      }
      done += count
    }
  }

  async close(): Promise<void> {
    await this.#handle.close().catch(() => {})
  }
}
