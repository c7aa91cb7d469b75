import { availableParallelism } from 'node:os'
import { Worker } from 'node:worker_threads'
import type { FromWorker, ToWorker, WorkerLike } from '../src/kernels/wasm/worker.ts'

/** More threads than this gain nothing: reading, hashing and writing keep one core busy each, and memory the rest. */
const MOST_THREADS = 16

/** How many kernel threads to start: what was asked for, or (0) one for each core that the process may use. */
export function threadCount(asked: number): number {
  return asked > 0 ? asked : Math.min(availableParallelism(), MOST_THREADS)
}

/** Starts kernel workers from the built `kernel-worker` file at `url`. They do not keep the process alive. */
export function nodeSpawn(url: URL): () => WorkerLike {
  return () => {
    const worker = new Worker(url)
    let messages: (message: FromWorker) => void = () => {}
    let errors: (error: unknown) => void = () => {}
    worker.on('message', (message: FromWorker) => {
      expect(-1)
      messages(message)
    })
    worker.on('messageerror', (error) => errors(error))
    worker.on('error', (error) => errors(error))
    worker.on('exit', (code) => errors(new Error(`a kernel worker ended with code ${code}`)))
    // A worker keeps the process alive while an answer is due, and not after: each message has exactly one.
    let due = 0
    const expect = (change: 1 | -1): void => {
      due += change
      if (due > 0) worker.ref()
      else worker.unref()
    }
    return {
      post(message: ToWorker) {
        expect(1)
        worker.postMessage(message)
      },
      onMessage(listener) {
        messages = listener
      },
      onError(listener) {
        errors = listener
      },
      terminate() {
        errors = () => {}
        void worker.terminate()
      },
    }
  }
}
