import { bytesOf, DTYPES, type DType } from '../core/dtype.ts'
import { AppError } from '../core/errors.ts'
import { schemeFields, tensorBytes, type Scheme } from '../core/tensor.ts'
import {
  QUANTILES,
  type AnyOp,
  type Draw,
  type DrawOp,
  type Factors,
  type Importance,
  type KernelOp,
  type LowRankOp,
  type Parts,
  type SchemeOp,
} from './backend.ts'
import { groupOf } from './reference/group-index.ts'

/** An op for people: "f16 -> q4_k", "bf16 -> affine, 4 bits, group 64", "normal f16", "update of rank 16". */
export function describeOp(op: AnyOp): string {
  if (op.kind === 'draw') return `${op.how} ${op.to}`
  if (op.kind === 'low-rank') return `update of rank ${op.rank}`
  if (op.kind === 'quantize') return `${op.from} -> ${describeScheme(op.scheme)}`
  if (op.kind === 'dequantize') return `${describeScheme(op.scheme)} -> f32`
  return `${op.from} -> ${op.to}${op.weighted === true ? ' by importance' : ''}`
}

function describeScheme({ kind, ...rest }: Scheme): string {
  return [kind, ...Object.entries(rest).map(([name, value]) => `${name} ${value}`)].join(', ')
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

/** The type of the values of an op. */
export function valuesType(op: SchemeOp): DType {
  return op.kind === 'quantize' ? op.from : 'f32'
}

/** Throws AppError `internal` unless all parts of a scheme and its values are there whole; `bad-tensor` for false groups. */
export function checkParts(op: SchemeOp, parts: Parts, values: Uint8Array, rows: number, columns: number): void {
  const { scheme } = op
  for (const [name, info] of Object.entries(schemeFields(scheme, [rows, columns], 'f32'))) {
    requireBytes(op, name, parts[name], tensorBytes(info))
  }
  requireBytes(op, 'values', values, bytesOf(valuesType(op), rows * columns))
  if ((scheme.kind !== 'gptq' && scheme.kind !== 'packed') || !scheme.actOrder || parts['groups'] === undefined) return
  const groups = new Int32Array(parts['groups'].buffer, parts['groups'].byteOffset, columns)
  const count = Math.ceil(columns / scheme.group)
  for (let column = 0; column < columns; column++) groupOf(groups, column, scheme.group, count)
}

function requireBytes(op: SchemeOp, name: string, buffer: Uint8Array | undefined, bytes: number): void {
  if (buffer?.byteLength === bytes) return
  throw new AppError('internal', `${describeOp(op)}: ${name} of ${buffer?.byteLength ?? 0} bytes instead of ${bytes}.`)
}

/** Throws AppError `internal` unless the draw is of the op's kind, and the output holds it. */
export function checkDraw(op: DrawOp, { start, from }: Draw, output: Uint8Array, elements: number): void {
  const table = 'table' in from ? from.table.byteLength : null
  const fits = table === (op.how === 'normal' ? bytesOf(op.to, QUANTILES) : null)
  const counts = [elements, start].every((count) => Number.isSafeInteger(count) && count >= 0)
  if (fits && counts && output.byteLength >= bytesOf(op.to, elements)) return
  throw new AppError(
    'internal',
    `${elements} elements of ${describeOp(op)} from element ${start} in ${output.byteLength} bytes, a table of ${table ?? 0}.`,
  )
}

/** Throws AppError `internal` unless factors and values are whole rows. */
export function checkFactors(op: LowRankOp, { up, down, columns }: Factors, values: Uint8Array, rows: number): void {
  const good =
    [rows, columns, op.rank].every((count) => Number.isSafeInteger(count) && count >= 0) &&
    up.byteLength === bytesOf('f32', rows * op.rank) &&
    down.byteLength === bytesOf('f32', op.rank * columns) &&
    values.byteLength === bytesOf('f32', rows * columns)
  if (good) return
  throw new AppError(
    'internal',
    `An ${describeOp(op)} of [${rows}, ${columns}]: ${up.byteLength}, ${down.byteLength} and ${values.byteLength} bytes.`,
  )
}
