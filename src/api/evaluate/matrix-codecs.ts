import type { DType } from '../../core/dtype.ts'
import { AppError } from '../../core/errors.ts'
import type { MatrixScheme } from '../../core/matrix-scheme.ts'
import { dequantizeAwq } from '../../kernels/reference/awq.ts'
import { dequantizeGptq } from '../../kernels/reference/gptq.ts'
import { dequantizePacked } from '../../kernels/reference/packed.ts'
import { dequantizeScaled } from '../../kernels/reference/scaled.ts'

/** A part of a scheme as its codec reads it; where it is stored in another type, it is cast. */
export interface MatrixField {
  readonly name: string
  readonly dtype: DType
  /** The axis along which outputs lie; null for a part that goes for all of them. */
  readonly axis: 0 | 1 | null
  /** Indices of that axis for one step of outputs. */
  readonly perStep: number
}

/** A scheme whose outputs (rows) can be decoded some at a time. */
export interface MatrixCodec {
  /** Outputs that only go together. */
  readonly step: number
  readonly fields: readonly MatrixField[]
  /** Decodes `rows` outputs, the first of which begins a step; a buffer for each field, in their order. */
  dequantize(parts: readonly Uint8Array[], rows: number, columns: number, values: Float32Array): void
}

/** Outputs whose fields of `bits` bits are whole words. */
function wholeWords(bits: number): number {
  return 32 % bits === 0 ? 32 / bits : 32
}

const GROUPS: MatrixField = { name: 'groups', dtype: 'i32', axis: null, perStep: 0 }

/** One entry for each kind of scheme; `rows` are all outputs of the matrix. */
const CODECS: {
  readonly [K in MatrixScheme['kind']]: (scheme: MatrixScheme & { readonly kind: K }, rows: number) => MatrixCodec
} = {
  gptq(scheme) {
    const step = wholeWords(scheme.bits)
    return {
      step,
      fields: [
        { name: 'codes', dtype: 'u32', axis: 1, perStep: step },
        { name: 'zeros', dtype: 'u32', axis: 1, perStep: (step * scheme.bits) / 32 },
        { name: 'scales', dtype: 'f32', axis: 1, perStep: step },
        ...(scheme.actOrder ? [GROUPS] : []),
      ],
      dequantize([codes, zeros, scales, groups], rows, columns, values) {
        const order = scheme.actOrder ? i32(groups) : null
        dequantizeGptq(scheme, u32(codes), u32(zeros), f32(scales), order, rows, columns, values)
      },
    }
  },
  awq(scheme) {
    const gemm = scheme.layout === 'gemm'
    const axis = gemm ? 1 : 0
    return {
      step: gemm ? 8 : 1,
      fields: [
        { name: 'codes', dtype: 'u32', axis, perStep: 1 },
        { name: 'zeros', dtype: 'u32', axis, perStep: 1 },
        { name: 'scales', dtype: 'f32', axis, perStep: gemm ? 8 : 1 },
      ],
      dequantize: ([codes, zeros, scales], rows, columns, values) =>
        dequantizeAwq(scheme, u32(codes), u32(zeros), f32(scales), rows, columns, values),
    }
  },
  packed(scheme) {
    const step = scheme.symmetric ? 1 : wholeWords(scheme.bits)
    return {
      step,
      fields: [
        { name: 'codes', dtype: 'u32', axis: 0, perStep: step },
        { name: 'scales', dtype: 'f32', axis: 0, perStep: step },
        ...(scheme.symmetric ? [] : [{ name: 'zeros', dtype: 'u32', axis: 0, perStep: 1 } as const]),
        ...(scheme.actOrder ? [GROUPS] : []),
      ],
      dequantize([codes, scales, third, fourth], rows, columns, values) {
        const zeros = scheme.symmetric ? null : u32(third)
        const order = scheme.actOrder ? i32(scheme.symmetric ? third : fourth) : null
        dequantizePacked(scheme, u32(codes), f32(scales), zeros, order, rows, columns, values)
      },
    }
  },
  scaled(scheme, all) {
    // blocks of all rows leave each row on its own
    const axis = scheme.rows >= all ? null : 0
    const step = axis === null ? 1 : scheme.rows
    return {
      step,
      fields: [
        { name: 'codes', dtype: scheme.codes, axis: 0, perStep: step },
        { name: 'scales', dtype: 'f32', axis, perStep: 1 },
        ...(scheme.symmetric ? [] : [{ name: 'zeros', dtype: 'i8', axis, perStep: 1 } as const]),
      ],
      dequantize([codes, scales, zeros], rows, columns, values) {
        const shift = scheme.symmetric || zeros === undefined ? null : i8(zeros)
        dequantizeScaled(scheme, codes ?? missing(), f32(scales), shift, rows, columns, values)
      },
    }
  },
}

/** The codec of a scheme for a matrix of so many rows. */
export function matrixCodecOf(scheme: MatrixScheme, rows: number): MatrixCodec {
  const make = CODECS[scheme.kind] as (scheme: MatrixScheme, rows: number) => MatrixCodec
  return make(scheme, rows)
}

function missing(): never {
  throw new AppError('internal', 'a quantisation without one of its parts')
}

function u32(bytes: Uint8Array = missing()): Uint32Array {
  return new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4)
}

function i32(bytes: Uint8Array = missing()): Int32Array {
  return new Int32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4)
}

function f32(bytes: Uint8Array = missing()): Float32Array {
  return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4)
}

function i8(bytes: Uint8Array): Int8Array {
  return new Int8Array(bytes.buffer, bytes.byteOffset, bytes.length)
}
