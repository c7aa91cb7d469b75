/**
 * What a kernel worker does, and what it and the main side say to each other. Buffers never cross: they lie in shared
 * memory, and messages name addresses.
 */
import { AppError, type ErrorData } from '../../core/errors.ts'
import { instantiateKernels, type KernelCalls, type WasmMemory, type WasmModule } from './module.ts'

/** One call of a function of the module. */
export interface Job {
  readonly call: keyof KernelCalls
  readonly args: readonly number[]
}

/** Runs a job; the module's result. */
export function runJob(kernels: KernelCalls, { call, args }: Job): number {
  return kernels[call](...args)
}

/** To the worker: once `init`, then jobs. */
export type ToWorker =
  | { readonly kind: 'init'; readonly module: WasmModule; readonly memory: WasmMemory; readonly stackTop: number }
  | ({ readonly kind: 'run'; readonly id: number } & Job)

/** From the worker: `ready` or `failed` without an id for `init`; `done` or `failed` for each job, in order. */
export type FromWorker =
  | { readonly kind: 'ready' }
  | { readonly kind: 'done'; readonly id: number; readonly bad: number }
  | { readonly kind: 'failed'; readonly id: number | null; readonly error: ErrorData }

/** The worker's end of the line, as its host wraps it. */
export interface WorkerPort {
  post(message: FromWorker): void
  onMessage(listener: (message: ToWorker) => void): void
}

/** The main side's end: a worker that the host started. */
export interface WorkerLike {
  post(message: ToWorker): void
  onMessage(listener: (message: FromWorker) => void): void
  /** Called when the worker cannot be loaded or dies. */
  onError(listener: (error: unknown) => void): void
  terminate(): void
}

/** Serves one kernel worker for as long as it lives. */
export function serveKernelWorker(port: WorkerPort): void {
  let convert: ((job: Job) => number) | null = null
  const failed = (id: number | null, error: unknown): void =>
    port.post({ kind: 'failed', id, error: AppError.from(error, 'device').toData() })

  async function init(module: WasmModule, memory: WasmMemory, stackTop: number): Promise<void> {
    const kernels = await instantiateKernels(module, memory, stackTop)
    convert = (job) => runJob(kernels, job)
    port.post({ kind: 'ready' })
  }

  port.onMessage((message) => {
    if (message.kind === 'init') {
      init(message.module, message.memory, message.stackTop).catch((error: unknown) => failed(null, error))
      return
    }
    try {
      if (convert === null) throw new AppError('device', 'The kernel worker has not been started.')
      port.post({ kind: 'done', id: message.id, bad: convert(message) })
    } catch (error) {
      failed(message.id, error)
    }
  })
}
