import * as Comlink from 'comlink'
import type { WorkerSettings } from '../../api/browser/worker.ts'
import { installTransferHandlers } from '../../api/transfer.ts'
import type { CheckRequest, Wire } from '../../api/wire.ts'
import type { Verdict } from '../../core/check.ts'
import { AppError } from '../../core/errors.ts'

/** Starts the worker that holds the API and every engine, and returns the wire to it. 0 threads: as many as suit. */
export function connect(threads = 0): Wire {
  installTransferHandlers()
  const worker = new Worker(new URL('../../api/browser/worker.ts', import.meta.url), { type: 'module' })
  // A worker that died answers nothing: without this its calls would wait for ever.
  const lost = new Promise<never>((_, reject) => {
    worker.addEventListener('error', (event) => {
      reject(
        new AppError('internal', event.message === '' ? 'The worker could not be started' : event.message, {
          hint: 'Reload the page. A conversion in the browser’s storage can be resumed afterwards.',
        }),
      )
    })
  })
  lost.catch(() => undefined)
  const settings: WorkerSettings = { threads }
  worker.postMessage(settings)
  const remote = Comlink.wrap<Wire>(worker)
  const guard =
    <A extends unknown[], R>(call: (...args: A) => Promise<R>) =>
    (...args: A): Promise<R> =>
      Promise.race([call(...args), lost])
  return {
    formats: guard(() => remote.formats()),
    matrix: guard(() => remote.matrix()),
    devices: guard(() => remote.devices()),
    inspect: guard((place, transforms) => remote.inspect(place, transforms)),
    targets: guard((place, given) => remote.targets(place, given)),
    plan: guard((request) => remote.plan(request)),
    start: guard((request) => remote.start(request)),
    // one promise of two kinds, where Comlink makes two promises of it
    runnable: guard(async (request: CheckRequest): Promise<Verdict> => remote.runnable(request)),
    check: guard((request) => remote.check(request)),
    compare: guard((request) => remote.compare(request)),
    next: guard((id) => remote.next(id)),
    pause: guard((id) => remote.pause(id)),
    resume: guard((id) => remote.resume(id)),
    cancel: guard((id, options) => remote.cancel(id, options)),
    discard: guard((output, key) => remote.discard(output, key)),
    interrupted: guard((output) => remote.interrupted(output)),
  }
}
