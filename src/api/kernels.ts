import type { Backend, Kernel, KernelOp } from '../kernels/backend.ts'
import { chooseBackend } from '../kernels/dispatch.ts'

/** Gives each op its best backend, prepared once; notes in `used` which ones did work. */
export function kernels(backends: readonly Backend[], used?: Set<Backend>): (op: KernelOp) => Kernel {
  const prepared = new Map<string, Kernel>()
  return (op) => {
    const key = `${op.kind} ${op.from} ${op.to} ${op.weighted === true}`
    const known = prepared.get(key)
    if (known !== undefined) return known
    const { backend } = chooseBackend(backends, op)
    used?.add(backend)
    const kernel = backend.prepare(op)
    prepared.set(key, kernel)
    return kernel
  }
}
