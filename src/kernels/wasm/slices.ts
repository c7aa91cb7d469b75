/** What the kernels of all ops share: slices on all threads, and buffers that lie outside the memory. */
import { AppError } from '../../core/errors.ts'
import type { WasmArena } from './arena.ts'
import type { WasmMemory } from './module.ts'
import type { Executor } from './pool.ts'
import type { SearchTables } from './search-tables.ts'

/** Where kernels run. */
export interface Runtime {
  readonly memory: WasmMemory
  readonly arena: WasmArena
  readonly tables: SearchTables
  readonly executor: Executor
}

/** Elements of a job: a run of more is spread over the threads, and can be aborted in between. */
export const SLICE = 1 << 19
/** Elements of the window through which buffers from elsewhere are copied. */
export const WINDOW = 1 << 18

/** The smallest bad index of jobs that run in any order, or -1: once all have let go of their buffers. */
export async function earliest(jobs: readonly Promise<number>[]): Promise<number> {
  const settled = await Promise.allSettled(jobs)
  const failure = settled.find((job) => job.status === 'rejected')
  if (failure !== undefined) throw AppError.from(failure.reason, 'device')
  let least = -1
  for (const job of settled) {
    if (job.status === 'fulfilled' && job.value >= 0 && (least < 0 || job.value < least)) least = job.value
  }
  return least
}

/** Gives `body` buffers of the arena in the place of those from elsewhere, and frees them afterwards. */
export async function staged<T>(
  arena: WasmArena,
  body: (stage: (buffer: Uint8Array, bytes?: number) => Uint8Array) => Promise<T>,
): Promise<T> {
  const copies: Uint8Array[] = []
  const stage = (buffer: Uint8Array, bytes = buffer.byteLength): Uint8Array => {
    if (arena.owns(buffer)) return buffer
    const copy = arena.alloc(bytes)
    copies.push(copy)
    return copy
  }
  try {
    return await body(stage)
  } finally {
    for (const copy of copies) arena.free(copy)
  }
}

/** A buffer in the arena with the bytes of one that may lie elsewhere. */
export function stagedInput(stage: (buffer: Uint8Array) => Uint8Array, buffer: Uint8Array): Uint8Array {
  const here = stage(buffer)
  if (here !== buffer) here.set(buffer)
  return here
}
