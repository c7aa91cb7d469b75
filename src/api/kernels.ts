import type {
  AnyOp,
  Backend,
  DrawKernel,
  DrawOp,
  Kernel,
  KernelOp,
  LowRankKernel,
  LowRankOp,
  SchemeKernel,
  SchemeOp,
} from '../kernels/backend.ts'
import { chooseBackend } from '../kernels/dispatch.ts'

/** What computes: prepares the kernel of an op, or gives the one that it prepared before. */
export interface Kernels {
  kernel(op: KernelOp): Kernel
  scheme(op: SchemeOp): SchemeKernel
  draw(op: DrawOp): DrawKernel
  lowRank(op: LowRankOp): LowRankKernel
}

/** Gives each op its best backend, prepared once; notes in `used` which ones did work. */
export function kernels(backends: readonly Backend[], used?: Set<Backend>): Kernels {
  function prepareOnce<O extends AnyOp, K>(
    keyOf: (op: O) => string,
    prepare: (backend: Backend, op: O) => K,
  ): (op: O) => K {
    const prepared = new Map<string, K>()
    return (op) => {
      const key = keyOf(op)
      const known = prepared.get(key)
      if (known !== undefined) return known
      const { backend } = chooseBackend(backends, op)
      used?.add(backend)
      const kernel = prepare(backend, op)
      prepared.set(key, kernel)
      return kernel
    }
  }
  return {
    kernel: prepareOnce(
      ({ from, to, weighted }) => `${from} ${to} ${weighted === true}`,
      (backend, op) => backend.prepare(op),
    ),
    scheme: prepareOnce(
      (op) => JSON.stringify(op),
      (backend, op) => backend.prepareScheme(op),
    ),
    draw: prepareOnce(
      ({ how, to }) => `${how} ${to}`,
      (backend, op) => backend.prepareDraw(op),
    ),
    lowRank: prepareOnce(
      ({ rank }) => String(rank),
      (backend, op) => backend.prepareLowRank(op),
    ),
  }
}
