import type { FromWorker, ToWorker, WorkerLike } from '../../kernels/wasm/worker.ts'

/** More threads than this gain nothing: reading, hashing and writing take their share of the cores. */
const MOST_THREADS = 8

/**
 * How many kernel threads to start: what was asked for, or (0) one for each core but that of the page. Two cores are
 * both used: the page has little to do while they work, and half of the speed would be too much to give up.
 */
export function threadCount(asked: number): number {
  const cores = navigator.hardwareConcurrency || 2
  return asked > 0 ? asked : Math.min(cores > 2 ? cores - 1 : cores, MOST_THREADS)
}

/** Starts a kernel worker in the page. */
export function browserSpawn(): WorkerLike {
  const worker = new Worker(new URL('./kernel-worker.ts', import.meta.url), { type: 'module', name: 'kernels' })
  return {
    post: (message: ToWorker) => worker.postMessage(message),
    onMessage(listener) {
      worker.onmessage = (event: MessageEvent<FromWorker>) => listener(event.data)
    },
    onError(listener) {
      worker.onerror = (event) => listener(new Error(event.message || 'a kernel worker could not be loaded'))
      worker.onmessageerror = () => listener(new Error('a message of a kernel worker could not be read'))
    },
    terminate: () => worker.terminate(),
  }
}
