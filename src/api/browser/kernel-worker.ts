/** Entry of a kernel worker in the page. */
import { serveKernelWorker, type FromWorker, type ToWorker } from '../../kernels/wasm/worker.ts'

// A worker's global scope, which the DOM types do not describe.
const scope = globalThis as unknown as {
  postMessage(message: FromWorker): void
  addEventListener(type: 'message', listener: (event: { readonly data: ToWorker }) => void): void
}
serveKernelWorker({
  post: (message) => scope.postMessage(message),
  onMessage: (listener) => scope.addEventListener('message', (event) => listener(event.data)),
})
