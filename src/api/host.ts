import type { Folder, OutputFolder, Place } from '../core/bytes.ts'
import type { Backend } from '../kernels/backend.ts'
import type { Runner } from './runner.ts'

/** A running SHA-256. */
export interface Digest {
  /** Bytes in order. The buffer may be reused once the promise settles. */
  update(bytes: Uint8Array): Promise<void>
  /** The digest of all bytes so far, in lower-case hex; more may follow. */
  hex(): Promise<string>
  close(): void
}

/** A running CRC-32, as zip has it (polynomial 0xedb88320, reflected). */
export interface Crc32 {
  /** Bytes in order; the buffer may be reused at once. */
  update(bytes: Uint8Array): void
  /** That of all bytes since the last call, or since the first byte. */
  take(): number
}

/** A named lock held while a job writes, so that two tabs or commands do not run the same one. */
export interface Lock {
  release(): Promise<void>
}

/** What the machine around the core gives it. Built by an entry point, handed to `createApi`. */
export interface Host {
  /** For people: "Node 20.20", "Chromium 156". */
  readonly name: string
  /** Bytes that a run may hold in buffers. */
  readonly memoryBudget: number
  /** Starts them on first use; the reference is always among them. */
  backends(): Promise<readonly Backend[]>
  /** Opens a place for reading. Throws `source-lost` or `output-denied` where permission is gone. */
  open(place: Place): Promise<Folder>
  /** Opens a place for writing, making it if need be. */
  openOutput(place: Place): Promise<OutputFolder>
  /** A place of the host's own for stage products, removed after the job. */
  openScratch(key: string): Promise<OutputFolder>
  digest(): Promise<Digest>
  crc32(): Promise<Crc32>
  /** Takes the lock of that name, or returns null if someone else holds it. */
  lock(name: string): Promise<Lock | null>
  /** Programs that can run what was written; none of them is started before it is asked. */
  readonly runners: readonly Runner[]
  /** Milliseconds, monotonic. */
  now(): number
}
