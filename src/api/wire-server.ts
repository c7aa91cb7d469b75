import { AppError } from '../core/errors.ts'
import type { Api } from './api.ts'
import type { Control } from './control.ts'
import type { JobId, Wire } from './wire.ts'

/** Finished jobs whose last events nobody fetched; more than a few means that their watcher is gone. */
const MAX_JOBS = 64

/** The flat API over the one in process: jobs become ids. */
export function createWire(api: Api): Wire {
  const jobs = new Map<JobId, Control>()
  let count = 0
  const job = (id: JobId): Control => {
    const found = jobs.get(id)
    if (found === undefined) throw new AppError('internal', `There is no job ${id}`)
    return found
  }
  const started = (control: Control): JobId => {
    const id = `job-${++count}`
    jobs.set(id, control)
    const [oldest] = jobs.keys()
    if (jobs.size > MAX_JOBS && oldest !== undefined) jobs.delete(oldest)
    return id
  }
  return {
    formats: () => api.formats(),
    matrix: () => api.matrix(),
    devices: () => api.devices(),
    inspect: (place, transforms) => api.inspect(place, transforms),
    targets: (place, given) => api.targets(place, given),
    plan: (request) => api.plan(request),
    start: async (request) => started(api.start(request)),
    check: async (request) => started(api.check(request)),
    compare: async (request) => started(api.compare(request)),
    runnable: (request) => api.runnable(request),
    async next(id) {
      const events = await job(id).next()
      if (events.length === 0 || events.some(({ type }) => type !== 'progress' && type !== 'log')) jobs.delete(id)
      return events
    },
    pause: async (id) => job(id).pause(),
    resume: async (id) => job(id).resume(),
    cancel: async (id, options) => job(id).cancel(options?.keep ?? false),
    interrupted: (output) => api.interrupted(output),
    discard: (output, key) => api.discard(output, key),
  }
}
