import type { Arena } from '../kernels/backend.ts'

/** Buffers of a run, counted: what the plan promised as `peakBytes` is {@link highWater} here. */
export class Pool {
  readonly #arena: Arena
  #inUse = 0
  #highWater = 0

  constructor(arena: Arena) {
    this.#arena = arena
  }

  get inUse(): number {
    return this.#inUse
  }

  /** The most bytes that were held at once. */
  get highWater(): number {
    return this.#highWater
  }

  take(bytes: number): Uint8Array {
    const buffer = bytes === 0 ? EMPTY : this.#arena.alloc(bytes)
    this.#inUse += bytes
    this.#highWater = Math.max(this.#highWater, this.#inUse)
    return buffer
  }

  give(buffer: Uint8Array): void {
    this.#inUse -= buffer.length
    if (buffer.length > 0) this.#arena.free(buffer)
  }
}

const EMPTY = new Uint8Array(0)
