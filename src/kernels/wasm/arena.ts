import { AppError } from '../../core/errors.ts'
import type { Arena } from '../backend.ts'
import { PAGE, type WasmMemory } from './module.ts'

/** Of every buffer's address: a cache line, and the widest vector there is. */
const ALIGN = 64
/** Memory grows in steps of at least this: a growth takes a system call, and on some engines stops the workers. */
const GROWTH = 1 << 20

interface Hole {
  at: number
  bytes: number
}

/** An {@link Arena} inside WASM memory that knows its own buffers. */
export interface WasmArena extends Arena {
  /** Whether a buffer (or a part of one) lies in this memory: then `byteOffset` is its address. */
  owns(buffer: Uint8Array): boolean
  /** Bytes now handed out, rounding included. */
  readonly used: number
}

function aligned(bytes: number): number {
  return Math.ceil(Math.max(bytes, 1) / ALIGN) * ALIGN
}

/**
 * Creates an allocator for the memory from `base` on: first fit, so that low addresses are used again and the rest of
 * the memory is never touched (its pages then take no RAM). `growable` memory must be shared, since the growth of any
 * other would cut off the buffers handed out before.
 */
export function createArena(memory: WasmMemory, base: number, maximumBytes: number, growable: boolean): WasmArena {
  let end = memory.buffer.byteLength
  let used = 0
  const taken = new Map<number, number>()
  const holes: Hole[] = [{ at: aligned(base), bytes: end - aligned(base) }]
  // The objects over which buffers were made. Growth gives shared memory a new one for the same bytes (V8 now and then
  // does so later than the growth, too); buffers over the older ones stay valid.
  const ours = new WeakSet<ArrayBufferLike>()

  const exhausted = (bytes: number): AppError =>
    new AppError(
      'memory',
      `The kernels' memory of ${Math.round(maximumBytes / 2 ** 20)} MiB has no ${bytes} bytes left.`,
    )

  /** Puts memory back, joined with the holes around it. */
  function release(at: number, bytes: number): void {
    const next = holes.findIndex((hole) => hole.at > at)
    const index = next === -1 ? holes.length : next
    holes.splice(index, 0, { at, bytes })
    for (let i = index + 1; i >= index; i--) {
      const [before, after] = [holes[i - 1], holes[i]]
      if (before === undefined || after === undefined || before.at + before.bytes !== after.at) continue
      before.bytes += after.bytes
      holes.splice(i, 1)
    }
  }

  function grow(bytes: number): void {
    const last = holes.at(-1)
    const spare = last !== undefined && last.at + last.bytes === end ? last.bytes : 0
    const wanted = Math.max(bytes - spare, GROWTH)
    const pages = Math.min(Math.ceil(wanted / PAGE), Math.floor((maximumBytes - end) / PAGE))
    if (!growable || pages * PAGE < bytes - spare) throw exhausted(bytes)
    try {
      memory.grow(pages)
    } catch (cause) {
      throw AppError.from(cause, 'memory')
    }
    release(end, pages * PAGE)
    end += pages * PAGE
  }

  return {
    get used() {
      return used
    },
    owns: (buffer) => ours.has(buffer.buffer),
    alloc(bytes) {
      if (!Number.isSafeInteger(bytes) || bytes < 0) throw new AppError('internal', `A buffer of ${bytes} bytes.`)
      const size = aligned(bytes)
      if (!holes.some((hole) => hole.bytes >= size)) grow(size)
      const hole = holes.find((candidate) => candidate.bytes >= size)
      if (hole === undefined) throw exhausted(bytes)
      const at = hole.at
      hole.at += size
      hole.bytes -= size
      if (hole.bytes === 0) holes.splice(holes.indexOf(hole), 1)
      taken.set(at, size)
      used += size
      const buffer = memory.buffer
      ours.add(buffer)
      return new Uint8Array(buffer, at, bytes)
    },
    free(buffer) {
      const size = taken.get(buffer.byteOffset)
      if (size === undefined || !ours.has(buffer.buffer)) {
        throw new AppError('internal', 'A buffer was freed that this arena did not hand out, or twice.')
      }
      taken.delete(buffer.byteOffset)
      used -= size
      release(buffer.byteOffset, size)
    },
  }
}
