import type { FileEntry, Folder, Source } from '../core/bytes.ts'
import { AppError } from '../core/errors.ts'

/** A folder whose files have a prefix before their paths, one that no path of another folder begins with. */
export class PrefixedFolder implements Folder {
  readonly name: string
  readonly #folder: Folder
  readonly #prefix: string

  /** `prefix` ends in `/`. */
  constructor(folder: Folder, prefix: string) {
    this.name = folder.name
    this.#folder = folder
    this.#prefix = prefix
  }

  async list(): Promise<readonly FileEntry[]> {
    return (await this.#folder.list()).map((entry) => ({ ...entry, path: this.#prefix + entry.path }))
  }

  holds(path: string): boolean {
    return path.startsWith(this.#prefix)
  }

  async open(path: string): Promise<Source> {
    if (!this.holds(path)) throw new AppError('missing-file', `${path} is not there`, { where: { file: path } })
    const source = await this.#folder.open(path.slice(this.#prefix.length))
    return {
      name: path,
      size: source.size,
      modified: source.modified,
      read: (offset, into, signal) => source.read(offset, into, signal),
      close: () => source.close(),
    }
  }
}

/** A folder with others beside it, so that recipes can read from all of them. */
export class JoinedFolder implements Folder {
  readonly name: string
  readonly #main: Folder
  readonly #others: readonly PrefixedFolder[]

  constructor(main: Folder, others: readonly PrefixedFolder[]) {
    this.name = main.name
    this.#main = main
    this.#others = others
  }

  async list(): Promise<readonly FileEntry[]> {
    return (await Promise.all([this.#main, ...this.#others].map((folder) => folder.list()))).flat()
  }

  open(path: string): Promise<Source> {
    return (this.#others.find((folder) => folder.holds(path)) ?? this.#main).open(path)
  }
}
