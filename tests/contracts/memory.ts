import { checkOffset, comparePaths, isUnlisted, splitPath } from '../../src/api/paths.ts'
import {
  MAX_FOLDER_FILES,
  PART_SUFFIX,
  REPLACEMENT_SUFFIX,
  type CreateOptions,
  type FileEntry,
  type Folder,
  type OutputFolder,
  type Sink,
  type Source,
} from '../../src/core/bytes.ts'
import { AppError, throwIfAborted, type ErrorCode } from '../../src/core/errors.ts'

/** What can be made to fail. `rename` counts single files within `publish`. */
export type FaultPoint = 'read' | 'create' | 'write' | 'flush' | 'close' | 'publish' | 'rename' | 'replace'

/** Makes the `count`-th call (from 1) at a point fail, before it has any effect. */
export interface Fault {
  readonly at: FaultPoint
  readonly count: number
  /** The error's code, or `crash`: from then on everything fails until {@link MemoryOutput.restart}. */
  readonly error: ErrorCode | 'crash'
  /** Whether later calls fail too (a stick that was pulled). */
  readonly sticky?: boolean
  /** For `write`: the first half of the bytes is written before it fails. */
  readonly half?: boolean
}

/** What was asked of a folder so far. */
export interface MemoryStats {
  readonly calls: Record<FaultPoint, number>
  readBytes: number
  writtenBytes: number
  /** Bytes of all reads in flight at once, at most. */
  peakReadBytes: number
  /** The largest single read and write. */
  largestRead: number
  largestWrite: number
  openSources: number
  openSinks: number
}

export interface MemoryOptions {
  readonly name?: string
  readonly faults?: readonly Fault[]
  /** Milliseconds since the epoch of every file; 0 by default. */
  readonly modified?: number | null
  /** Awaited before each read is served, to shuffle their order. */
  readonly delay?: (path: string, offset: number) => Promise<void>
}

export interface MemoryOutputOptions extends MemoryOptions {
  readonly files?: Readonly<Record<string, Uint8Array>>
  /** True by default. False: unfinished files are not kept, as with a picked folder. */
  readonly resumable?: boolean
  /** Bytes that all files together may have; without it `freeBytes` is null and nothing runs out. */
  readonly capacity?: number
}

/** A write since the last flush, with what it replaced. */
interface Unflushed {
  readonly position: number
  readonly bytes: Uint8Array
  readonly before: Uint8Array
  readonly sizeBefore: number
}

/** Bytes that grow. */
class Growable {
  data: Uint8Array
  size: number

  constructor(data: Uint8Array) {
    this.data = data
    this.size = data.length
  }

  view(): Uint8Array {
    return this.data.subarray(0, this.size)
  }

  resize(size: number): void {
    if (size > this.data.length) {
      const grown = new Uint8Array(Math.max(size, this.data.length * 2, 1024))
      grown.set(this.view())
      this.data = grown
    }
    if (size < this.size) this.data.fill(0, size, this.size)
    this.size = size
  }

  put(bytes: Uint8Array, position: number): void {
    if (position + bytes.length > this.size) this.resize(position + bytes.length)
    this.data.set(bytes, position)
  }
}

interface Part {
  readonly content: Growable
  unflushed: Unflushed[]
}

/** A folder in memory that counts what is read and fails where it is told to. */
export class MemoryFolder implements Folder {
  readonly name: string
  readonly stats: MemoryStats = {
    calls: { read: 0, create: 0, write: 0, flush: 0, close: 0, publish: 0, rename: 0, replace: 0 },
    readBytes: 0,
    writtenBytes: 0,
    peakReadBytes: 0,
    largestRead: 0,
    largestWrite: 0,
    openSources: 0,
    openSinks: 0,
  }
  /** The files under their final names. May be changed by the test at any time. */
  readonly files: Map<string, Uint8Array>
  /** May be changed by the test at any time; counts run from the folder's making. */
  faults: readonly Fault[]
  protected down = false
  readonly #options: MemoryOptions
  #inFlight = 0

  constructor(files: Readonly<Record<string, Uint8Array>>, options: MemoryOptions = {}) {
    this.name = options.name ?? 'memory'
    this.files = new Map(Object.entries(files))
    this.faults = options.faults ?? []
    this.#options = options
    for (const path of this.files.keys()) splitPath(path)
  }

  async list(): Promise<readonly FileEntry[]> {
    this.alive()
    if (this.files.size > MAX_FOLDER_FILES) {
      throw new AppError('not-a-model', `${this.name} has more than ${MAX_FOLDER_FILES} files`)
    }
    const modified = this.#modified()
    return [...this.files]
      .filter(([path]) => !isUnlisted(path))
      .map(([path, bytes]) => ({ path, size: bytes.length, modified }))
      .sort(comparePaths)
  }

  async open(path: string): Promise<Source> {
    this.alive()
    splitPath(path)
    const bytes = this.files.get(path)
    if (bytes === undefined) {
      throw new AppError('missing-file', `${path} is not in ${this.name}`, { where: { file: path } })
    }
    this.stats.openSources++
    let open = true
    return {
      name: path,
      size: bytes.length,
      modified: this.#modified(),
      read: (offset, into, signal) => this.#read(path, offset, into, signal),
      close: async () => {
        if (open) this.stats.openSources--
        open = false
      },
    }
  }

  /** Counts a call and throws if a fault waits there. Returns the fault instead if it is a half write. */
  protected enter(at: FaultPoint, file: string): Fault | null {
    this.alive()
    const count = ++this.stats.calls[at]
    const fault = this.faults.find(
      (one) => one.at === at && (one.sticky === true ? count >= one.count : count === one.count),
    )
    if (fault === undefined) return null
    if (fault.half === true && at === 'write') return fault
    return this.fail(fault, file)
  }

  protected fail(fault: Fault, file: string): never {
    if (fault.error === 'crash') {
      this.down = true
      this.alive()
    }
    const code = fault.error === 'crash' ? 'internal' : fault.error
    throw new AppError(code, `${file}: made to fail at ${fault.at} ${fault.count}`, {
      where: { file },
      hint: 'This failure was asked for by a test.',
    })
  }

  protected alive(): void {
    if (this.down) throw new AppError('internal', `${this.name}: the process has crashed`)
  }

  #modified(): number | null {
    return this.#options.modified === undefined ? 0 : this.#options.modified
  }

  async #read(path: string, offset: number, into: Uint8Array, signal: AbortSignal | undefined): Promise<void> {
    throwIfAborted(signal)
    checkOffset(offset, path)
    this.enter('read', path)
    const stats = this.stats
    stats.readBytes += into.length
    stats.largestRead = Math.max(stats.largestRead, into.length)
    this.#inFlight += into.length
    stats.peakReadBytes = Math.max(stats.peakReadBytes, this.#inFlight)
    try {
      await (this.#options.delay?.(path, offset) ?? Promise.resolve())
      throwIfAborted(signal)
      const bytes = this.files.get(path)
      if (bytes === undefined) throw new AppError('source-lost', `${path} is gone`, { where: { file: path } })
      if (offset + into.length > bytes.length) {
        throw new AppError('truncated', `${path} ends at ${bytes.length}; ${offset + into.length} were asked for`, {
          where: { file: path, offset: bytes.length },
        })
      }
      into.set(bytes.subarray(offset, offset + into.length))
    } finally {
      this.#inFlight -= into.length
    }
  }
}

/** A folder for reading, made of a record of paths and bytes. */
export function memoryFolder(files: Readonly<Record<string, Uint8Array>>, options: MemoryOptions = {}): MemoryFolder {
  return new MemoryFolder(files, options)
}

/**
 * An output folder in memory. Writes since the last flush are remembered, so that {@link restart} can lose them, as a
 * machine that crashes would.
 */
export class MemoryOutput extends MemoryFolder implements OutputFolder {
  readonly resumable: boolean
  readonly #capacity: number | null
  readonly #parts = new Map<string, Part>()
  readonly #writing = new Set<string>()
  #generation = 0

  constructor(options: MemoryOutputOptions = {}) {
    super(options.files ?? {}, options)
    this.resumable = options.resumable ?? true
    this.#capacity = options.capacity ?? null
  }

  /** Unfinished files too, under their temporary names. */
  override async open(path: string): Promise<Source> {
    const part = path.endsWith(PART_SUFFIX) ? this.#parts.get(path.slice(0, -PART_SUFFIX.length)) : undefined
    if (part === undefined || !this.resumable) return super.open(path)
    return new MemoryFolder({ [path]: part.content.view() }).open(path)
  }

  async freeBytes(): Promise<number | null> {
    return this.#capacity === null ? null : Math.max(0, this.#capacity - this.#used())
  }

  async create(path: string, options: CreateOptions): Promise<Sink> {
    splitPath(path)
    this.enter('create', path)
    if (this.#writing.has(path)) {
      throw new AppError('busy', `${path} is being written by another job`, { where: { file: path } })
    }
    const part = this.#parts.get(path) ?? { content: new Growable(new Uint8Array(0)), unflushed: [] }
    const kept = this.resumable ? Math.min(options.keep, part.content.size) : 0
    part.content.resize(kept)
    part.unflushed = []
    this.#parts.set(path, part)
    this.#writing.add(path)
    this.stats.openSinks++
    return this.#sink(path, part, kept)
  }

  async publish(paths: readonly string[], overwrite: boolean): Promise<void> {
    for (const path of paths) splitPath(path)
    this.enter('publish', paths[0] ?? this.name)
    for (const path of paths) {
      if (this.#writing.has(path)) throw new AppError('busy', `${path} is still open`, { where: { file: path } })
      if (!this.#parts.has(path)) {
        throw new AppError('missing-file', `${path} has not been written`, { where: { file: path } })
      }
      if (!overwrite && this.files.has(path)) {
        throw new AppError('output-exists', `${path} is already there`, { where: { file: path } })
      }
    }
    for (const path of paths) {
      this.enter('rename', path)
      const part = this.#parts.get(path)
      if (part === undefined) continue
      this.files.set(path, part.content.view())
      this.#parts.delete(path)
    }
  }

  async exists(path: string): Promise<boolean> {
    splitPath(path)
    this.alive()
    return this.files.has(path)
  }

  async remove(path: string): Promise<void> {
    splitPath(path)
    this.alive()
    if (this.#writing.has(path)) throw new AppError('busy', `${path} is being written`, { where: { file: path } })
    this.files.delete(path)
    this.#parts.delete(path)
    this.#parts.delete(path + REPLACEMENT_SUFFIX.slice(0, -PART_SUFFIX.length))
  }

  async replace(path: string, bytes: Uint8Array): Promise<void> {
    splitPath(path)
    this.enter('replace', path)
    this.#reserve(path, bytes.length - (this.files.get(path)?.length ?? 0))
    this.files.set(path, Uint8Array.from(bytes))
  }

  /** Every name there is, unfinished files with their {@link PART_SUFFIX}, sorted. */
  names(): readonly string[] {
    return [...this.files.keys(), ...[...this.#parts.keys()].map((path) => path + PART_SUFFIX)].sort()
  }

  /** What an unfinished file holds now; null if there is none. */
  part(path: string): Uint8Array | null {
    return this.#parts.get(path)?.content.view() ?? null
  }

  /**
   * A new process on the same disk, after a crash or in place of one: open sinks are dead. Of the writes since the
   * last flush of each file `all`, `none`, or those for which the function says true are lost.
   */
  restart(lose: 'all' | 'none' | ((index: number) => boolean) = 'all'): void {
    this.down = false
    this.#generation++
    this.#writing.clear()
    this.stats.openSinks = 0
    const lost = typeof lose === 'function' ? lose : () => lose === 'all'
    for (const [path, part] of this.#parts) {
      for (const write of part.unflushed.toReversed()) {
        part.content.put(write.before, write.position)
        part.content.resize(write.sizeBefore)
      }
      for (const [index, write] of part.unflushed.entries()) {
        if (!lost(index)) part.content.put(write.bytes, write.position)
      }
      part.unflushed = []
      if (!this.resumable) this.#parts.delete(path)
    }
  }

  #used(): number {
    let used = 0
    for (const bytes of this.files.values()) used += bytes.length
    for (const part of this.#parts.values()) used += part.content.size
    return used
  }

  #reserve(path: string, more: number): void {
    if (this.#capacity === null || more <= 0 || this.#used() + more <= this.#capacity) return
    throw new AppError('no-space', `${path}: no space left in ${this.name}`, { where: { file: path } })
  }

  #sink(path: string, part: Part, kept: number): Sink {
    const generation = this.#generation
    let open = true
    const check = (): void => {
      if (!open || generation !== this.#generation) throw new AppError('internal', `${path} is no longer open`)
    }
    const release = (): void => {
      open = false
      this.#writing.delete(path)
      this.stats.openSinks--
    }
    const put = (bytes: Uint8Array, position: number): void => {
      const content = part.content
      this.#reserve(path, position + bytes.length - content.size)
      const before = content.view().slice(position, position + bytes.length)
      part.unflushed.push({ position, bytes: Uint8Array.from(bytes), before, sizeBefore: content.size })
      content.put(bytes, position)
      this.stats.writtenBytes += bytes.length
      this.stats.largestWrite = Math.max(this.stats.largestWrite, bytes.length)
    }
    return {
      name: path,
      kept,
      write: async (bytes, position, signal) => {
        throwIfAborted(signal)
        checkOffset(position, path)
        check()
        const fault = this.enter('write', path)
        put(fault === null ? bytes : bytes.subarray(0, bytes.length >>> 1), position)
        if (fault !== null) this.fail(fault, path)
      },
      flush: async () => {
        check()
        this.enter('flush', path)
        part.unflushed = []
      },
      close: async () => {
        if (!open) return
        check()
        this.enter('close', path)
        part.unflushed = []
        release()
      },
      abort: async () => {
        if (!open || generation !== this.#generation) return
        release()
        // A crashed process removes nothing.
        if (!this.down) this.#parts.delete(path)
      },
    }
  }
}
