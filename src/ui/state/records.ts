import { openDB, type IDBPDatabase } from 'idb'
import type { ConvertRequest } from '../../api/wire.ts'
import type { Place } from '../../core/bytes.ts'

/** What must be known to take up a conversion again after the tab was closed. */
export interface JobRecord {
  /** The plan's key, as the journal names the job. */
  readonly key: string
  /** "Q4_K_M". */
  readonly title: string
  readonly modelName: string
  /** Null where the input cannot be kept (files from an `<input>`): it has to be chosen again. */
  readonly request: ConvertRequest | null
  /** Milliseconds since the epoch. */
  readonly startedAt: number
}

/** Where the page keeps them. */
export interface Records {
  all(): Promise<readonly JobRecord[]>
  put(record: JobRecord): Promise<void>
  remove(key: string): Promise<void>
}

const DATABASE = 'modelconvert'
const STORE = 'jobs'

/** Records in IndexedDB, which can hold folder handles. Without IndexedDB (some private windows) nothing is kept. */
export function createRecords(): Records {
  let opened: Promise<IDBPDatabase | null> | null = null
  const open = (): Promise<IDBPDatabase | null> =>
    (opened ??= openDB(DATABASE, 1, { upgrade: (db) => void db.createObjectStore(STORE, { keyPath: 'key' }) }).catch(
      () => null,
    ))
  return {
    async all() {
      const db = await open()
      return db === null ? [] : ((await db.getAll(STORE)) as JobRecord[])
    },
    async put(record) {
      await (await open())?.put(STORE, record)
    },
    async remove(key) {
      await (await open())?.delete(STORE, key)
    },
  }
}

/** A request as it can be kept: null if it reads File objects, which a database would copy byte for byte. */
export function keepable(request: ConvertRequest): ConvertRequest | null {
  return readPlaces(request).some(({ kind }) => kind === 'files') ? null : request
}

/** Every place that a conversion reads. */
export function readPlaces({ input, transforms }: ConvertRequest): readonly Place[] {
  return [input, ...(transforms?.adapters?.map(({ place }) => place) ?? [])]
}
