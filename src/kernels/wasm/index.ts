/**
 * The WASM backend: the C kernels of wasm/ with SIMD, on worker threads over one shared memory where the page or Node
 * has it, else in the calling thread. Its bytes are the reference's.
 */
import { DTYPES } from '../../core/dtype.ts'
import { AppError, throwIfAborted } from '../../core/errors.ts'
import type { AnyOp, Backend, Importance, Kernel, KernelOp } from '../backend.ts'
import { checkBuffers, checkImportance, describeOp, sliceOfRows } from '../check.ts'
import { createArena, type WasmArena } from './arena.ts'
import { createDrawKernel } from './draw.ts'
import { writeGrids } from './grids.ts'
import { createLowRankKernel } from './low-rank.ts'
import {
  canShareMemory,
  compileKernels,
  createMemory,
  instantiateKernels,
  MAX_BYTES,
  PAGE,
  STACK_BYTES,
} from './module.ts'
import { madeSpeed, opCodes, opSpeed } from './ops.ts'
import { createLocalExecutor, createPool } from './pool.ts'
import { createSchemeKernel } from './scheme-kernel.ts'
import { schemeCall } from './schemes.ts'
import { createSearchTables } from './search-tables.ts'
import { earliest, SLICE, WINDOW, type Runtime } from './slices.ts'
import { runJob, type Job, type WorkerLike } from './worker.ts'

export { serveKernelWorker } from './worker.ts'
export type { FromWorker, ToWorker, WorkerLike, WorkerPort } from './worker.ts'

/** What a host gives the WASM backend. */
export interface WasmOptions {
  /** Starts a worker that serves {@link serveKernelWorker}; null where there are none. */
  readonly spawn: (() => WorkerLike) | null
  /** Worker threads; 0 runs in the calling thread. Hosts that let the user choose resolve "automatic" first. */
  readonly threads: number
  /** The most memory that buffers may take, up to 1 GiB (the default). */
  readonly maxBytes?: number
  /** False pretends that memory cannot be shared; for tests. */
  readonly shared?: boolean
}

/** Memory that is not shared is reserved whole, as growth would cut off its buffers; untouched pages take no RAM. */
const SINGLE_BYTES = 1 << 28
/** Below this address lie the first thread's stack, the grids and the addresses of the search tables, and nothing else. */
const BASE = 2 * PAGE

interface Started extends Runtime {
  readonly limitation: string | null
}

async function startPool(spawn: () => WorkerLike, threads: number, maxBytes: number): Promise<Started> {
  const module = await compileKernels(true)
  const memory = createMemory(BASE, maxBytes, true)
  writeGrids(memory)
  const arena = createArena(memory, BASE, maxBytes, true)
  const stackTops = Array.from({ length: threads }, () => arena.alloc(STACK_BYTES).byteOffset + STACK_BYTES)
  const executor = await createPool(spawn, module, memory, stackTops)
  return { memory, arena, tables: createSearchTables(memory, arena), executor, limitation: null }
}

async function startLocal(maxBytes: number, limitation: string | null): Promise<Started> {
  const module = await compileKernels(false)
  const bytes = Math.min(maxBytes, SINGLE_BYTES)
  const memory = createMemory(bytes, bytes, false)
  writeGrids(memory)
  const kernels = await instantiateKernels(module, memory)
  const base = Math.max(BASE, kernels.__heap_base.value)
  const arena = createArena(memory, base, bytes, false)
  const convert = (job: Job): number => runJob(kernels, job)
  return {
    memory,
    arena,
    tables: createSearchTables(memory, arena),
    executor: createLocalExecutor(convert),
    limitation,
  }
}

async function startRuntime(options: WasmOptions): Promise<Started> {
  const maxBytes = Math.min(options.maxBytes ?? MAX_BYTES, MAX_BYTES)
  const { spawn, threads } = options
  if (threads === 0) return startLocal(maxBytes, null)
  if (spawn === null) return startLocal(maxBytes, 'Kernels run on one thread: this host has no workers.')
  if (!(options.shared ?? canShareMemory())) {
    return startLocal(
      maxBytes,
      'Kernels run on one thread: the page is not cross-origin isolated, so memory cannot be shared.',
    )
  }
  try {
    return await startPool(spawn, threads, maxBytes)
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error)
    return startLocal(maxBytes, `Kernels run on one thread: the workers did not start (${why}).`)
  }
}

/** What a job is told of importances. */
interface Rows {
  readonly importance: number
  readonly columns: number
}

/** Brings importances into the arena unless they lie there. */
function stageImportance(
  arena: WasmArena,
  importance: Importance | undefined,
): { rows: Rows; copy?: Uint8Array } | null {
  if (importance === undefined) return null
  const { values, columns } = importance
  if (arena.owns(values)) return { rows: { importance: values.byteOffset, columns } }
  const copy = arena.alloc(columns * 4)
  copy.set(values.subarray(0, copy.byteLength))
  return { rows: { importance: copy.byteOffset, columns }, copy }
}

function createKernel(op: KernelOp, { arena, tables, executor }: Runtime): Kernel {
  const codes = opCodes(op)
  if (codes === null) throw new AppError('unsupported', `The WASM kernels have no ${describeOp(op)}.`)
  const [from, to] = codes
  const at = (type: KernelOp['from'], elements: number): number => (elements / DTYPES[type].block) * DTYPES[type].bytes

  /** Converts inside the arena, the slices on all threads. */
  async function convert(
    input: number,
    output: number,
    elements: number,
    signal: AbortSignal | undefined,
    rows: Rows | undefined,
  ): Promise<number> {
    const slices: Promise<number>[] = []
    const slice = rows === undefined ? SLICE : sliceOfRows(SLICE, rows.columns)
    for (let start = 0; start < elements; start += slice) {
      const args = [from, to, input + at(op.from, start), output + at(op.to, start), Math.min(slice, elements - start)]
      const job: Job =
        rows === undefined
          ? { call: 'convert', args }
          : { call: 'convert_weighted', args: [...args, rows.importance, rows.columns] }
      slices.push(executor.submit(job, signal).then((bad) => (bad < 0 ? bad : bad + start)))
    }
    return earliest(slices)
  }

  /** Converts buffers from elsewhere, a window at a time. */
  async function convertCopied(
    input: Uint8Array,
    output: Uint8Array,
    elements: number,
    signal: AbortSignal | undefined,
    rows: Rows | undefined,
  ): Promise<number> {
    const window = Math.min(rows === undefined ? WINDOW : sliceOfRows(WINDOW, rows.columns), elements)
    const staged: Uint8Array[] = []
    const stage = (buffer: Uint8Array, bytes: number): Uint8Array => {
      if (arena.owns(buffer)) return buffer
      staged.push(arena.alloc(bytes))
      return staged.at(-1) ?? buffer
    }
    try {
      const from = stage(input, at(op.from, window))
      const to = stage(output, at(op.to, window))
      for (let start = 0; start < elements; start += window) {
        const count = Math.min(window, elements - start)
        const [readAt, writeAt] = [at(op.from, start), at(op.to, start)]
        const [reads, writes] = [at(op.from, count), at(op.to, count)]
        if (from !== input) from.set(input.subarray(readAt, readAt + reads))
        const source = from.byteOffset + (from === input ? readAt : 0)
        const target = to.byteOffset + (to === output ? writeAt : 0)
        const bad = await convert(source, target, count, signal, rows)
        if (bad >= 0) return start + bad
        if (to !== output) output.set(to.subarray(0, writes), writeAt)
      }
      return -1
    } finally {
      for (const buffer of staged) arena.free(buffer)
    }
  }

  return {
    op,
    async run(input, output, elements, signal, importance) {
      checkBuffers(op, input, output, elements)
      checkImportance(op, elements, importance)
      throwIfAborted(signal)
      if (elements === 0) return { bad: null }
      tables.prepare(op.to)
      const staged = stageImportance(arena, importance)
      try {
        const inPlace = arena.owns(input) && arena.owns(output)
        const bad = inPlace
          ? await convert(input.byteOffset, output.byteOffset, elements, signal, staged?.rows)
          : await convertCopied(input, output, elements, signal, staged?.rows)
        return { bad: bad < 0 ? null : bad }
      } finally {
        if (staged?.copy !== undefined) arena.free(staged.copy)
      }
    },
  }
}

function speedOf(op: AnyOp): number {
  if (op.kind === 'cast') return opSpeed(op)
  return op.kind === 'draw' || op.kind === 'low-rank' ? madeSpeed(op) : (schemeCall(op)?.speed ?? 0)
}

/** Starts the WASM backend. AppError `device` where there is no WebAssembly SIMD, `memory` where there is no room for it. */
export async function createWasmBackend(options: WasmOptions): Promise<Backend> {
  const runtime = await startRuntime(options)
  const { threads } = runtime.executor
  return {
    id: 'wasm',
    label: `WASM SIMD, ${threads} ${threads === 1 ? 'thread' : 'threads'}`,
    limitation: runtime.limitation,
    threads,
    arena: runtime.arena,
    exact: (op) => speedOf(op) > 0,
    speed: speedOf,
    prepare: (op) => createKernel(op, runtime),
    prepareScheme: (op) => createSchemeKernel(op, runtime),
    prepareDraw: (op) => createDrawKernel(op, runtime),
    prepareLowRank: (op) => createLowRankKernel(op, runtime),
    close: async () => runtime.executor.close(),
  }
}
