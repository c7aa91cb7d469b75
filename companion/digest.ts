import { createHash, type Hash } from 'node:crypto'
import { Worker } from 'node:worker_threads'
import { crc32 } from 'node:zlib'
import type { Crc32, Digest } from '../src/api/host.ts'
import { AppError } from '../src/core/errors.ts'

/** Up to so many bytes are hashed where they are: starting a thread takes as long as hashing tens of MiB. */
const INLINE_BYTES = 2 ** 20

/**
 * What a thread runs: it hashes what it is sent and tells the digest so far, or begins anew; it answers each message but
 * the last kind. As text, since Node 20 starts no TypeScript.
 */
const THREAD = `
const { parentPort } = require('node:worker_threads')
const { createHash } = require('node:crypto')
let hash = createHash('sha256')
parentPort.on('message', (message) => {
  if (message === 'anew') return void (hash = createHash('sha256'))
  if (message === 'hex') return parentPort.postMessage(hash.copy().digest('hex'))
  hash.update(message)
  parentPort.postMessage(null)
})
`

interface Waiting {
  resolve(answer: string | null): void
  reject(error: unknown): void
}

/** A thread that hashes for one digest at a time. It keeps the process alive only while an answer is due. */
class HashThread {
  readonly #worker = new Worker(THREAD, { eval: true })
  #waiting: Waiting[] = []
  #failure: AppError | null = null

  constructor() {
    this.#worker.on('message', (answer: string | null) => {
      this.#waiting.shift()?.resolve(answer)
      if (this.#waiting.length === 0) this.#worker.unref()
    })
    this.#worker.on('error', (error) => this.fail(error))
    this.#worker.on('exit', (code) => this.fail(new Error(`its thread ended with code ${code}`)))
    this.#worker.unref()
  }

  /** Whether it can serve another digest. */
  get isIdle(): boolean {
    return this.#failure === null && this.#waiting.length === 0
  }

  ask(question: Uint8Array | 'hex'): Promise<string | null> {
    return new Promise((resolve, reject) => {
      if (this.#failure !== null) throw this.#failure
      this.#worker.ref()
      this.#waiting.push({ resolve, reject })
      this.#worker.postMessage(question)
    })
  }

  beginAnew(): void {
    this.#worker.postMessage('anew')
  }

  /** What is due, and all that is asked from now on, fails. */
  fail(error: Error): void {
    this.#failure ??= new AppError('device', `SHA-256 cannot be computed: ${error.message}`, { cause: error })
    for (const waiting of this.#waiting.splice(0)) waiting.reject(this.#failure)
    void this.#worker.terminate()
  }
}

/** A thread that the next digest takes: starting one takes as long as hashing tens of MiB. */
let idle: HashThread | null = null

/** Starts a thread for the first digest of much data, which need then not wait for it. */
export function prepareDigest(): void {
  idle ??= new HashThread()
}

function takeThread(): HashThread {
  const taken = idle?.isIdle === true ? idle : new HashThread()
  idle = null
  return taken
}

function giveBack(thread: HashThread): void {
  if (idle === null && thread.isIdle) {
    thread.beginAnew()
    idle = thread
  } else thread.fail(new Error('it was closed'))
}

/**
 * SHA-256, of much data in a thread of its own: at 1 to 2 GB/s it would keep the main thread, which feeds the kernels,
 * busy for most of a fast conversion. Shared buffers are hashed in place, others are copied.
 */
export class NodeDigest implements Digest {
  /** Bytes so far, until there are enough of them for a thread. */
  #few: Uint8Array[] | null = []
  #fewBytes = 0
  #thread: HashThread | null = null
  #closed = false

  async update(bytes: Uint8Array): Promise<void> {
    if (this.#few !== null && this.#fewBytes + bytes.length <= INLINE_BYTES) {
      this.#few.push(Uint8Array.from(bytes))
      this.#fewBytes += bytes.length
      return
    }
    await this.#ask(bytes)
  }

  async hex(): Promise<string> {
    if (this.#few === null) return (await this.#ask('hex')) ?? ''
    const hash: Hash = createHash('sha256')
    for (const bytes of this.#few) hash.update(bytes)
    return hash.digest('hex')
  }

  close(): void {
    if (this.#thread !== null) giveBack(this.#thread)
    this.#thread = null
    this.#closed = true
  }

  #ask(question: Uint8Array | 'hex'): Promise<string | null> {
    if (this.#closed) return Promise.reject(new AppError('device', 'SHA-256 cannot be computed: it was closed'))
    if (this.#thread === null) {
      this.#thread = takeThread()
      // what fails here fails what is asked after it, too
      for (const bytes of this.#few ?? []) this.#thread.ask(bytes).catch(() => undefined)
      this.#few = null
    }
    return this.#thread.ask(question)
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
