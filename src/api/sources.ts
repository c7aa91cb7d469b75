import type { Folder, Source } from '../core/bytes.ts'
import type { SourceFile } from '../core/checkpoint.ts'
import { AppError } from '../core/errors.ts'
import type { Inputs } from './evaluate/node.ts'
import { productPath } from './stages.ts'

/** Open files at once: models come in hundreds of shards, descriptors do not. */
const MAX_OPEN = 32

/** Opens files of a folder as they are needed and keeps the most recently used. */
class OpenFiles {
  readonly #folder: Folder
  readonly #open = new Map<string, Promise<Source>>()
  readonly #busy = new Map<string, number>()

  constructor(folder: Folder) {
    this.#folder = folder
  }

  async use<T>(path: string, body: (source: Source) => Promise<T>): Promise<T> {
    const known = this.#open.get(path)
    const opening = known ?? this.#folder.open(path)
    // to the end of the map: the order is that of use
    this.#open.delete(path)
    this.#open.set(path, opening)
    this.#busy.set(path, (this.#busy.get(path) ?? 0) + 1)
    try {
      return await body(await opening)
    } catch (error) {
      if (known === undefined) this.#open.delete(path)
      throw error
    } finally {
      this.#busy.set(path, (this.#busy.get(path) ?? 1) - 1)
      await this.#shrink()
    }
  }

  async close(): Promise<void> {
    const all = [...this.#open.values()]
    this.#open.clear()
    for (const source of await Promise.allSettled(all)) {
      if (source.status === 'fulfilled') await source.value.close()
    }
  }

  async #shrink(): Promise<void> {
    for (const [path, source] of this.#open) {
      if (this.#open.size <= MAX_OPEN) return
      if ((this.#busy.get(path) ?? 0) > 0) continue
      this.#open.delete(path)
      await (await source).close()
    }
  }
}

/** A checkpoint's files and the products of its stages, counted. */
export class JobInputs implements Inputs {
  readonly #sources: OpenFiles
  readonly #products: OpenFiles | null
  readonly #sizes: ReadonlyMap<string, number>
  #bytes = 0

  constructor(folder: Folder, files: readonly SourceFile[], scratch: Folder | null) {
    this.#sources = new OpenFiles(folder)
    this.#products = scratch === null ? null : new OpenFiles(scratch)
    this.#sizes = new Map(files.map((file) => [file.path, file.size]))
  }

  /** Bytes read so far. */
  get bytesRead(): number {
    return this.#bytes
  }

  async read(file: string, offset: number, into: Uint8Array, signal: AbortSignal | undefined): Promise<void> {
    await this.#sources.use(file, async (source) => {
      const planned = this.#sizes.get(file)
      if (planned !== undefined && planned !== source.size) {
        throw new AppError(
          'source-changed',
          `${file} had ${planned} bytes when it was opened and has ${source.size} now`,
          {
            where: { file },
            hint: 'Wait until it is complete, then convert again.',
          },
        )
      }
      await source.read(offset, into, signal)
      this.#bytes += into.length
    })
  }

  async product(
    stage: string,
    key: string,
    offset: number,
    into: Uint8Array,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    if (this.#products === null) throw new AppError('internal', `no scratch for ${stage}/${key}`)
    await this.#products.use(productPath(stage, key), (source) => source.read(offset, into, signal))
    this.#bytes += into.length
  }

  async close(): Promise<void> {
    await this.#sources.close()
    await this.#products?.close()
  }
}
