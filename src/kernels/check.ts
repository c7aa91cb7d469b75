import { bytesOf, DTYPES } from '../core/dtype.ts'
import { AppError } from '../core/errors.ts'
import type { KernelOp } from './backend.ts'

/** An op for people: "f16 -> q4_k". */
export function describeOp(op: KernelOp): string {
  return `${op.from} -> ${op.to}`
}

/** Throws AppError `internal` unless the elements are whole blocks of both types and the buffers hold them. */
export function checkBuffers(op: KernelOp, input: Uint8Array, output: Uint8Array, elements: number): void {
  const whole = Number.isSafeInteger(elements) && elements >= 0
  if (!whole || elements % DTYPES[op.from].block !== 0 || elements % DTYPES[op.to].block !== 0) {
    throw new AppError('internal', `${elements} elements are not whole blocks for ${describeOp(op)}.`)
  }
  const [reads, writes] = [bytesOf(op.from, elements), bytesOf(op.to, elements)]
  if (input.byteLength < reads || output.byteLength < writes) {
    throw new AppError(
      'internal',
      `${describeOp(op)} of ${elements} elements reads ${reads} and writes ${writes} bytes; ` +
        `the buffers have ${input.byteLength} and ${output.byteLength}.`,
    )
  }
}
