import { JOURNAL_PREFIX, readFile, type OutputFolder } from '../core/bytes.ts'
import { AppError } from '../core/errors.ts'
import type { SourceIdentity } from './identity.ts'

/** What is on disk of an unfinished job, beside its output. */
export interface JournalData {
  readonly version: 1
  readonly key: string
  readonly target: string
  readonly sources: readonly SourceIdentity[]
  /** Set before the first file gets its name: from then on a final name that is taken is our own. */
  readonly publishing: boolean
  readonly files: readonly JournalFile[]
}

export interface JournalFile {
  readonly path: string
  readonly size: number
  /** Bytes from the start that were written and flushed. */
  readonly watermark: number
  /** SHA-256 of those. */
  readonly sha256: string
}

/** Journals are small; one this large is not ours. */
const MAX_JOURNAL_BYTES = 16 << 20

/** Long enough to be unique in a folder. */
const KEY_DIGITS = 16

function journalPath(key: string): string {
  return `${JOURNAL_PREFIX}${key.slice(0, KEY_DIGITS)}.json`
}

/** A job's memory across crashes: replaced in one step at each checkpoint. */
export class Journal {
  readonly #folder: OutputFolder
  #data: JournalData

  private constructor(folder: OutputFolder, data: JournalData) {
    this.#folder = folder
    this.#data = data
  }

  get data(): JournalData {
    return this.#data
  }

  static begin(folder: OutputFolder, key: string, target: string, sources: readonly SourceIdentity[]): Journal {
    return new Journal(folder, { version: 1, key, target, sources, publishing: false, files: [] })
  }

  /** The journal of an interrupted job of that key; null if there is none, or none that can be read. */
  static async find(folder: OutputFolder, key: string): Promise<Journal | null> {
    const path = journalPath(key)
    if (!(await folder.exists(path))) return null
    const data = await readJournal(folder, path)
    return data?.key === key ? new Journal(folder, data) : null
  }

  /** All interrupted jobs of a folder. */
  static async list(folder: OutputFolder): Promise<readonly JournalData[]> {
    const found: JournalData[] = []
    for (const { path } of await folder.list()) {
      if (!path.startsWith(JOURNAL_PREFIX) || !path.endsWith('.json')) continue
      const data = await readJournal(folder, path)
      if (data !== null) found.push(data)
    }
    return found
  }

  file(path: string): JournalFile | null {
    return this.#data.files.find((file) => file.path === path) ?? null
  }

  async record(file: JournalFile): Promise<void> {
    await this.#save({ ...this.#data, files: [...this.#data.files.filter(({ path }) => path !== file.path), file] })
  }

  async publishing(): Promise<void> {
    await this.#save({ ...this.#data, publishing: true })
  }

  async remove(): Promise<void> {
    await this.#folder.remove(journalPath(this.#data.key))
  }

  async #save(data: JournalData): Promise<void> {
    this.#data = data
    await this.#folder.replace(journalPath(data.key), new TextEncoder().encode(`${JSON.stringify(data, null, 1)}\n`))
  }
}

async function readJournal(folder: OutputFolder, path: string): Promise<JournalData | null> {
  const bytes = await readFile(folder, path, MAX_JOURNAL_BYTES)
  try {
    const data: unknown = JSON.parse(new TextDecoder().decode(bytes))
    return isJournal(data) ? data : null
  } catch (cause) {
    if (cause instanceof AppError) throw cause
    return null
  }
}

function isJournal(value: unknown): value is JournalData {
  if (typeof value !== 'object' || value === null) return false
  const data = value as Partial<Record<keyof JournalData, unknown>>
  const isFile = (file: unknown): boolean => {
    const { path, size, watermark, sha256 } = (file ?? {}) as Partial<Record<keyof JournalFile, unknown>>
    return (
      typeof path === 'string' &&
      Number.isSafeInteger(size) &&
      Number.isSafeInteger(watermark) &&
      typeof sha256 === 'string'
    )
  }
  return (
    data.version === 1 &&
    typeof data.key === 'string' &&
    typeof data.target === 'string' &&
    typeof data.publishing === 'boolean' &&
    Array.isArray(data.sources) &&
    Array.isArray(data.files) &&
    data.files.every(isFile)
  )
}
