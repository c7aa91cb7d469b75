import { bytesOf, DTYPES } from '../core/dtype.ts'
import { AppError } from '../core/errors.ts'
import type { Importance, KernelOp } from './backend.ts'

/** An op for people: "f16 -> q4_k". */
export function describeOp(op: KernelOp): string {
  return `${op.from} -> ${op.to}${op.weighted === true ? ' by importance' : ''}`
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

/** Throws AppError `internal` unless importances are given where the op takes them, and the elements are whole rows. */
export function checkImportance(op: KernelOp, elements: number, importance: Importance | undefined): void {
  if ((op.weighted === true) !== (importance !== undefined)) {
    throw new AppError('internal', `${describeOp(op)} ${importance === undefined ? 'lacks' : 'takes no'} importances.`)
  }
  if (importance === undefined) return
  const { values, columns } = importance
  const whole = Number.isSafeInteger(columns) && columns > 0 && columns % DTYPES[op.to].block === 0
  if (!whole || elements % columns !== 0 || values.byteLength < bytesOf('f32', columns)) {
    throw new AppError(
      'internal',
      `${describeOp(op)} of ${elements} elements: rows of ${columns} columns with ${values.byteLength} bytes of importances.`,
    )
  }
}

/** The most elements up to `limit` that are whole rows; one row at least. */
export function sliceOfRows(limit: number, columns: number): number {
  return Math.max(1, Math.floor(limit / columns)) * columns
}
