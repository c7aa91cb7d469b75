import { createHash, type Hash } from 'node:crypto'
import { Worker } from 'node:worker_threads'
import { crc32 } from 'node:zlib'
import type { Crc32, Digest } from '../src/api/host.ts'
import { AppError } from '../src/core/errors.ts'

/** Up to so many bytes are hashed where they are: starting a thread takes as long as hashing tens of MiB. */
const INLINE_BYTES = 2 ** 20

/** The thread: hashes what it is sent, answers each message. As text, since Node 20 starts no TypeScript. */
const THREAD = `
const { parentPort } = require('node:worker_threads')
const hash = require('node:crypto').createHash('sha256')
parentPort.on('message', (bytes) => {
  if (bytes === null) return parentPort.postMessage(hash.copy().digest('hex'))
  hash.update(bytes)
  parentPort.postMessage(null)
})
`

interface Waiting {
  resolve(answer: string | null): void
  reject(error: unknown): void
}

/**
 * SHA-256, of much data in a thread of its own: at 1 to 2 GB/s it would keep the main thread, which feeds the kernels,
 * busy for most of a fast conversion. Shared buffers are hashed in place, others are copied.
 */
export class NodeDigest implements Digest {
  /** Bytes so far, until there are enough of them for a thread. */
  #few: Uint8Array[] | null = []
  #fewBytes = 0
  #worker: Worker | null = null
  #waiting: Waiting[] = []
  #failure: AppError | null = null

  async update(bytes: Uint8Array): Promise<void> {
    if (this.#few !== null && this.#fewBytes + bytes.length <= INLINE_BYTES) {
      this.#few.push(Uint8Array.from(bytes))
      this.#fewBytes += bytes.length
      return
    }
    await this.#ask(bytes)
  }

  async hex(): Promise<string> {
    if (this.#few === null) return (await this.#ask(null)) ?? ''
    const hash: Hash = createHash('sha256')
    for (const bytes of this.#few) hash.update(bytes)
    return hash.digest('hex')
  }

  close(): void {
    void this.#worker?.terminate()
    this.#fail(new Error('it was closed'))
  }

  #ask(question: Uint8Array | null): Promise<string | null> {
    return new Promise((resolve, reject) => {
      if (this.#failure !== null) throw this.#failure
      const worker = this.#start()
      worker.ref()
      this.#waiting.push({ resolve, reject })
      worker.postMessage(question)
    })
  }

  /** The thread, started with what came before it. */
  #start(): Worker {
    if (this.#worker !== null) return this.#worker
    const worker = new Worker(THREAD, { eval: true })
    worker.on('message', (answer: string | null) => {
      this.#waiting.shift()?.resolve(answer)
      // it keeps the process alive only while an answer is due
      if (this.#waiting.length === 0) worker.unref()
    })
    worker.on('error', (error) => this.#fail(error))
    worker.on('exit', (code) => this.#fail(new Error(`its thread ended with code ${code}`)))
    this.#worker = worker
    for (const bytes of this.#few ?? []) {
      this.#waiting.push({ resolve: () => {}, reject: () => {} })
      worker.postMessage(bytes)
    }
    this.#few = null
    return worker
  }

  #fail(error: Error): void {
    this.#failure ??= new AppError('device', `SHA-256 cannot be computed: ${error.message}`, { cause: error })
    for (const waiting of this.#waiting.splice(0)) waiting.reject(this.#failure)
  }
}

/** zlib's, at 4 GB/s: where the bytes are. */
export class NodeCrc32 implements Crc32 {
  #value = 0

  update(bytes: Uint8Array): void {
    this.#value = crc32(bytes, this.#value)
  }

  take(): number {
    const value = this.#value
    this.#value = 0
    return value
  }
}
