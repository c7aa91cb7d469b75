import { AppError } from '../../core/errors.ts'
import type { Digest } from '../host.ts'

/** What goes to the worker that hashes. Buffers are transferred, and come back to be filled again. */
export type ToDigest =
  | { readonly kind: 'update'; readonly buffer: ArrayBuffer; readonly length: number }
  | { readonly kind: 'hex' }

/** What comes back: a hashed buffer, or the digest so far. Answers keep the order of the questions. */
export type FromDigest =
  | { readonly kind: 'hashed'; readonly buffer: ArrayBuffer }
  | { readonly kind: 'hex'; readonly hex: string }
  | { readonly kind: 'failed'; readonly message: string }

/** Bytes of a buffer: large enough that messages cost nothing beside hashing. */
const BUFFER_BYTES = 2 ** 20

/** Buffers, hence bytes that hashing may lag behind: 8 MiB. */
const BUFFERS = 8

/**
 * SHA-256 in a worker of its own: at some 300 MB/s in a page it would hold up whoever waits for it. `update` copies
 * (views of shared memory cannot be sent) and returns as soon as it has, unless the worker lags by all its buffers.
 */
export class WorkerDigest implements Digest {
  readonly #worker = new Worker(new URL('./digest-worker.ts', import.meta.url), { type: 'module', name: 'digest' })
  readonly #free: ArrayBuffer[] = []
  /** Those who wait for a buffer, and those who wait for a digest. */
  readonly #wantBuffer: { resolve(buffer: ArrayBuffer): void; reject(error: unknown): void }[] = []
  readonly #wantHex: { resolve(hex: string): void; reject(error: unknown): void }[] = []
  #made = 0
  #current: Uint8Array<ArrayBuffer> | null = null
  #filled = 0
  #turn: Promise<unknown> = Promise.resolve()
  #failure: AppError | null = null

  constructor() {
    this.#worker.onmessage = (event: MessageEvent<FromDigest>) => this.#answer(event.data)
    this.#worker.onerror = (event) => this.#fail(event.message || 'its worker could not be loaded')
    this.#worker.onmessageerror = () => this.#fail('a message of its worker could not be read')
  }

  update(bytes: Uint8Array): Promise<void> {
    return this.#next(async () => {
      for (let done = 0; done < bytes.length;) {
        this.#current ??= new Uint8Array(await this.#buffer())
        const piece = bytes.subarray(done, done + BUFFER_BYTES - this.#filled)
        this.#current.set(piece, this.#filled)
        this.#filled += piece.length
        done += piece.length
        if (this.#filled === BUFFER_BYTES) this.#send()
      }
    })
  }

  hex(): Promise<string> {
    return this.#next(async () => {
      this.#send()
      if (this.#failure !== null) throw this.#failure
      return new Promise<string>((resolve, reject) => {
        this.#wantHex.push({ resolve, reject })
        this.#post({ kind: 'hex' })
      })
    })
  }

  close(): void {
    this.#worker.terminate()
    this.#fail('it was closed')
  }

  #next<T>(task: () => Promise<T>): Promise<T> {
    const turn = this.#turn.then(task)
    this.#turn = turn.catch(() => {})
    return turn
  }

  async #buffer(): Promise<ArrayBuffer> {
    if (this.#failure !== null) throw this.#failure
    const free = this.#free.pop()
    if (free !== undefined) return free
    if (this.#made < BUFFERS) {
      this.#made++
      return new ArrayBuffer(BUFFER_BYTES)
    }
    return new Promise((resolve, reject) => this.#wantBuffer.push({ resolve, reject }))
  }

  #send(): void {
    const current = this.#current
    if (current === null) return
    this.#post({ kind: 'update', buffer: current.buffer, length: this.#filled }, [current.buffer])
    this.#current = null
    this.#filled = 0
  }

  #post(message: ToDigest, transfer: Transferable[] = []): void {
    this.#worker.postMessage(message, transfer)
  }

  #answer(message: FromDigest): void {
    if (message.kind === 'failed') this.#fail(message.message)
    else if (message.kind === 'hex') this.#wantHex.shift()?.resolve(message.hex)
    else {
      const waiting = this.#wantBuffer.shift()
      if (waiting === undefined) this.#free.push(message.buffer)
      else waiting.resolve(message.buffer)
    }
  }

  #fail(why: string): void {
    this.#failure ??= new AppError('device', `SHA-256 cannot be computed: ${why}`, {
      hint: 'Reload the page. A conversion in the browser’s storage can be resumed afterwards.',
    })
    for (const waiting of [...this.#wantBuffer.splice(0), ...this.#wantHex.splice(0)]) waiting.reject(this.#failure)
  }
}
