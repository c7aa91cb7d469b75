import { bytesOf, dtypeInfo } from '../../core/dtype.ts'
import type { TensorInfo } from '../../core/tensor.ts'
import type { Kernels } from '../kernels.ts'

/**
 * A recipe made ready to run. Ranges count elements in row-major order; for a block type they start and end on block
 * boundaries. The caller gives the destination, temporaries come from a stack: so the memory of a range is known
 * before it is evaluated, and {@link Evaluator.scratch} tells it exactly.
 */
export interface Evaluator {
  readonly info: TensorInfo
  readonly elements: number
  /** Ranges whose ends are multiples of this cost no work twice. */
  readonly quantum: number
  /** Bytes of stack that {@link fill} takes for this range. */
  scratch(start: number, count: number): number
  /** Bytes that {@link fill} reads from files for this range. */
  reads(start: number, count: number): number
  /** Writes elements `start` to `start + count` to `into`, whose length is exactly theirs. */
  fill(start: number, count: number, into: Uint8Array, run: Run): Promise<void>
}

/** What an evaluation is given: where bytes come from, what computes, and its own stack. */
export interface Run extends Kernels {
  readonly inputs: Inputs
  readonly stack: Stack
  readonly signal: AbortSignal | undefined
}

/** Where `read` and `product` recipes find their bytes. */
export interface Inputs {
  read(file: string, offset: number, into: Uint8Array, signal: AbortSignal | undefined): Promise<void>
  product(stage: string, key: string, offset: number, into: Uint8Array, signal: AbortSignal | undefined): Promise<void>
}

/** Temporaries are aligned for SIMD and for typed arrays. */
const ALIGNMENT = 64

/** Bytes that {@link Stack.take} uses up for a buffer. */
export function stackBytes(bytes: number): number {
  return Math.ceil(bytes / ALIGNMENT) * ALIGNMENT
}

/** Temporaries in the order of a stack, cut from one slab. */
export class Stack {
  readonly #slab: Uint8Array
  #top = 0
  /** The most that was in use. */
  highWater = 0

  constructor(slab: Uint8Array) {
    this.#slab = slab
  }

  take(bytes: number): Uint8Array {
    const buffer = this.#slab.subarray(this.#top, this.#top + bytes)
    if (buffer.length !== bytes) throw new RangeError(`the plan's scratch is ${this.#slab.length} bytes, too few`)
    this.#top += stackBytes(bytes)
    this.highWater = Math.max(this.highWater, this.#top)
    return buffer
  }

  /** Runs `body` and gives back what it took. */
  async scope<T>(body: () => Promise<T>): Promise<T> {
    const mark = this.#top
    try {
      return await body()
    } finally {
      this.#top = mark
    }
  }
}

/** Bytes read or held at once where a recipe gathers many small runs: small reads are slow, in browsers very. */
export const PANEL_BYTES = 1 << 20

/** Elements of `info` that fit a panel: whole blocks, at least one. */
export function panelElements(info: TensorInfo): number {
  const { block, bytes } = dtypeInfo(info.dtype)
  return Math.max(1, Math.floor(PANEL_BYTES / bytes)) * block
}

/** The bytes of elements `start` to `start + count` within a buffer that holds the tensor's elements from 0 on. */
export function elementRange(info: TensorInfo, buffer: Uint8Array, start: number, count: number): Uint8Array {
  const at = bytesOf(info.dtype, start)
  return buffer.subarray(at, at + bytesOf(info.dtype, count))
}

/** Stack for buffers that are taken one after the other and kept, each needing some more while it is filled. */
export function sequenceBytes(steps: readonly { readonly kept: number; readonly scratch: number }[]): number {
  let held = 0
  let most = 0
  for (const { kept, scratch } of steps) {
    held += kept
    most = Math.max(most, held + scratch)
  }
  return most
}

/** The least number that is a multiple of both. */
export function commonMultiple(a: number, b: number): number {
  let [x, y] = [a, b]
  while (y !== 0) [x, y] = [y, x % y]
  return (a / x) * b
}
