/** Entry of a kernel worker in Node. */
import { parentPort } from 'node:worker_threads'
import { serveKernelWorker } from '../src/kernels/wasm/worker.ts'

if (parentPort === null) throw new Error('kernel-worker runs as a worker thread only')
const port = parentPort
serveKernelWorker({
  post: (message) => port.postMessage(message),
  onMessage: (listener) => port.on('message', listener),
})
