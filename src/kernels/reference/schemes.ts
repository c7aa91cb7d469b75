/** Schemes whose parts are tensors of their own: what the reference backend does with each. */
import { dtypeInfo } from '../../core/dtype.ts'
import { AppError } from '../../core/errors.ts'
import { schemeGroups, type Scheme } from '../../core/tensor.ts'
import type { Parts, SchemeOp } from '../backend.ts'
import { dequantizeAffineGroups, quantizeAffineGroups } from './affine-groups.ts'
import { dequantizeAwq } from './awq.ts'
import { dequantizeFloatGroups, FLOAT_GROUPS, quantizeFloatGroups } from './float-groups.ts'
import { DECODE } from './float.ts'
import { dequantizeGptq } from './gptq.ts'
import { dequantizePacked } from './packed.ts'
import { dequantizeScaled } from './scaled.ts'

/** Values decoded at once before they are quantised: memory that nobody counts. */
const CHUNK = 1 << 14

/** Whether there is such an op. */
export function canScheme(op: SchemeOp): boolean {
  return op.kind === 'dequantize' || (dtypeInfo(op.from).kind === 'float' && DECODE[op.from] !== undefined)
}

/** Quantises `rows` groups of `columns` values of the type `from`; the index of the first that is NaN or Inf, or null. */
export function quantizeScheme(
  { from, scheme }: SchemeOp & { readonly kind: 'quantize' },
  parts: Parts,
  values: Uint8Array,
  rows: number,
  columns: number,
): number | null {
  const decode = DECODE[from]
  if (decode === undefined) throw new AppError('internal', `${from} cannot be quantised`)
  const input = new DataView(values.buffer, values.byteOffset, values.byteLength)
  const [codes, scales] = [u32(parts['codes']), parts['scales']]
  const atOnce = Math.max(1, Math.floor(CHUNK / columns))
  const wordsPerRow = (columns * schemeGroups(scheme).bits) / 32
  const chunk = new Float32Array(atOnce * columns)
  for (let row = 0; row < rows; row += atOnce) {
    const end = Math.min(rows, row + atOnce)
    const x = chunk.subarray(0, (end - row) * columns)
    for (let i = 0; i < x.length; i++) {
      x[i] = decode(input, row * columns + i)
      if (!Number.isFinite(x[i])) return row * columns + i
    }
    const own = codes.subarray(row * wordsPerRow, end * wordsPerRow)
    if (scheme.kind === 'affine') {
      const [scale, bias] = [f32(scales).subarray(row, end), f32(parts['biases']).subarray(row, end)]
      quantizeAffineGroups(x, scheme.bits, scheme.group, own, scale, bias)
    } else quantizeFloatGroups(x, FLOAT_GROUPS[scheme.kind], own, present(scales).subarray(row, end))
  }
  return null
}

/** The inverse, to f32, for rows of a matrix or groups; the index of the first value that is NaN or Inf, or null. */
export function dequantizeScheme(
  scheme: Scheme,
  parts: Parts,
  values: Uint8Array,
  rows: number,
  columns: number,
): number | null {
  const y = f32(values).subarray(0, rows * columns)
  decodeParts(scheme, parts, y, rows, columns)
  const bad = y.findIndex((value) => !Number.isFinite(value))
  return bad < 0 ? null : bad
}

function decodeParts(scheme: Scheme, parts: Parts, values: Float32Array, rows: number, columns: number): void {
  const { codes, scales, biases, zeros, groups } = parts
  switch (scheme.kind) {
    case 'affine':
      return dequantizeAffineGroups(u32(codes), f32(scales), f32(biases), scheme.bits, scheme.group, values)
    case 'mxfp4':
    case 'mxfp8':
    case 'nvfp4':
      return dequantizeFloatGroups(u32(codes), present(scales), FLOAT_GROUPS[scheme.kind], values)
    case 'gptq': {
      const order = scheme.actOrder ? i32(groups) : null
      return dequantizeGptq(scheme, u32(codes), u32(zeros), f32(scales), order, rows, columns, values)
    }
    case 'awq':
      return dequantizeAwq(scheme, u32(codes), u32(zeros), f32(scales), rows, columns, values)
    case 'packed': {
      const order = scheme.actOrder ? i32(groups) : null
      const shift = scheme.symmetric ? null : u32(zeros)
      return dequantizePacked(scheme, u32(codes), f32(scales), shift, order, rows, columns, values)
    }
    case 'scaled': {
      const shift = scheme.symmetric ? null : i8(zeros)
      return dequantizeScaled(scheme, present(codes), f32(scales), shift, rows, columns, values)
    }
  }
}

function present(bytes: Uint8Array | undefined): Uint8Array {
  if (bytes === undefined) throw new AppError('internal', 'a quantisation without one of its parts')
  return bytes
}

function u32(bytes: Uint8Array | undefined): Uint32Array {
  const { buffer, byteOffset, length } = present(bytes)
  return new Uint32Array(buffer, byteOffset, length / 4)
}

function i32(bytes: Uint8Array | undefined): Int32Array {
  const { buffer, byteOffset, length } = present(bytes)
  return new Int32Array(buffer, byteOffset, length / 4)
}

function f32(bytes: Uint8Array | undefined): Float32Array {
  const { buffer, byteOffset, length } = present(bytes)
  return new Float32Array(buffer, byteOffset, length / 4)
}

function i8(bytes: Uint8Array | undefined): Int8Array {
  const { buffer, byteOffset, length } = present(bytes)
  return new Int8Array(buffer, byteOffset, length)
}
