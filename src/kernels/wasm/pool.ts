/** Who runs jobs: a pool of workers, or the calling thread. */
import { AppError, throwIfAborted } from '../../core/errors.ts'
import type { WasmMemory, WasmModule } from './module.ts'
import type { Job, WorkerLike } from './worker.ts'

/** Runs one job at a time or several. */
export interface Executor {
  readonly threads: number
  /** The module's result. Rejects `cancelled` when aborted, though never before the job has let go of its buffers. */
  submit(job: Job, signal: AbortSignal | undefined): Promise<number>
  close(): void
}

/** Jobs that a worker holds: one to run, and one so that it need not wait for the next. */
const DEPTH = 2
/** A worker that is not up after this will not come. */
const START_TIMEOUT_MS = 20_000

interface Pending {
  readonly job: Job
  readonly signal: AbortSignal | undefined
  resolve(bad: number): void
  reject(error: unknown): void
}

interface Member {
  readonly worker: WorkerLike
  readonly running: Map<number, Pending>
}

/** Lets other tasks run, and with them an abort arrive. */
function breathe(): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, 0)
  })
}

/** Runs jobs in the calling thread: one at once, those that come meanwhile one a task. */
export function createLocalExecutor(convert: (job: Job) => number): Executor {
  let queued = 0
  let last: Promise<unknown> = Promise.resolve()
  return {
    threads: 1,
    submit(job, signal) {
      const turn = queued++ === 0 ? Promise.resolve() : last.then(breathe)
      const run = turn.then(() => {
        try {
          throwIfAborted(signal)
          return convert(job)
        } finally {
          queued--
        }
      })
      last = run.catch(() => {})
      return run
    },
    close() {},
  }
}

function start(worker: WorkerLike, module: WasmModule, memory: WasmMemory, stackTop: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(
      () => reject(new AppError('device', 'A kernel worker did not start within 20 s.')),
      START_TIMEOUT_MS,
    )
    const settle = (act: () => void) => (): void => {
      clearTimeout(timer)
      act()
    }
    worker.onMessage((message) => {
      if (message.kind === 'ready') settle(resolve)()
      if (message.kind === 'failed') settle(() => reject(AppError.fromData(message.error)))()
    })
    worker.onError((error) => settle(() => reject(AppError.from(error, 'device')))())
    worker.post({ kind: 'init', module, memory, stackTop })
  })
}

/**
 * Starts workers over a shared memory, each with the stack that ends at its element of `stackTops`. Rejects with
 * AppError `device` if one of them does not come up.
 */
export async function createPool(
  spawn: () => WorkerLike,
  module: WasmModule,
  memory: WasmMemory,
  stackTops: readonly number[],
): Promise<Executor> {
  let members: Member[] = []
  let queue: Pending[] = []
  let nextId = 0
  let fault: AppError | null = null

  function pump(): void {
    while (queue.length > 0) {
      const free = members.reduce<Member | null>(
        (best, member) => (member.running.size < (best?.running.size ?? DEPTH) ? member : best),
        null,
      )
      if (free === null) return
      const pending = queue.shift()
      if (pending === undefined) return
      const id = nextId++
      free.running.set(id, pending)
      free.worker.post({ kind: 'run', id, ...pending.job })
    }
  }

  /** A dead worker's jobs fail; with the last worker, so does all that waits. */
  function lose(member: Member, error: unknown): void {
    const lost = AppError.from(error, 'device')
    members = members.filter((other) => other !== member)
    member.worker.terminate()
    for (const pending of member.running.values()) pending.reject(lost)
    member.running.clear()
    if (members.length > 0) return pump()
    fault ??= lost
    const waiting = queue
    queue = []
    for (const pending of waiting) pending.reject(lost)
  }

  function listen(member: Member): void {
    member.worker.onMessage((message) => {
      if (message.kind === 'ready' || message.id === null) return
      const pending = member.running.get(message.id)
      member.running.delete(message.id)
      pump()
      if (message.kind === 'failed') pending?.reject(AppError.fromData(message.error))
      else pending?.resolve(message.bad)
    })
    member.worker.onError((error) => lose(member, error))
  }

  const workers: WorkerLike[] = []
  try {
    for (let i = 0; i < stackTops.length; i++) workers.push(spawn())
    await Promise.all(workers.map((worker, i) => start(worker, module, memory, stackTops[i] ?? 0)))
  } catch (error) {
    for (const worker of workers) worker.terminate()
    throw AppError.from(error, 'device')
  }
  members = workers.map((worker) => ({ worker, running: new Map() }))
  for (const member of members) listen(member)

  /**
   * What aborts the jobs of a signal that wait in the queue: one listener, as a run has very many jobs. Those that a
   * worker has are waited for: until then it writes into their buffers.
   */
  const watched = new Map<AbortSignal, { jobs: number; stop(): void }>()

  function watch(signal: AbortSignal): void {
    const known = watched.get(signal)
    if (known !== undefined) {
      known.jobs++
      return
    }
    const stop = (): void => {
      const dropped = queue.filter((pending) => pending.signal === signal)
      queue = queue.filter((pending) => pending.signal !== signal)
      for (const pending of dropped) pending.reject(new AppError('cancelled', 'The job was cancelled.'))
    }
    signal.addEventListener('abort', stop, { once: true })
    watched.set(signal, { jobs: 1, stop })
  }

  function unwatch(signal: AbortSignal): void {
    const known = watched.get(signal)
    if (known === undefined || --known.jobs > 0) return
    signal.removeEventListener('abort', known.stop)
    watched.delete(signal)
  }

  return {
    threads: workers.length,
    submit(job, signal) {
      return new Promise<number>((resolve, reject) => {
        if (fault !== null) throw fault
        throwIfAborted(signal)
        if (signal !== undefined) watch(signal)
        queue.push({
          job,
          signal,
          resolve(bad) {
            if (signal !== undefined) unwatch(signal)
            try {
              throwIfAborted(signal)
              resolve(bad)
            } catch (error) {
              reject(error)
            }
          },
          reject(error) {
            if (signal !== undefined) unwatch(signal)
            reject(error)
          },
        })
        pump()
      })
    },
    close() {
      fault ??= new AppError('cancelled', 'The kernels were shut down.')
      for (const member of members) lose(member, fault)
    },
  }
}
