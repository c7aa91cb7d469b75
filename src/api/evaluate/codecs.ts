import type { DType } from '../../core/dtype.ts'
import { schemeGroups, type GroupScheme } from '../../core/tensor.ts'
import { dequantizeAffineGroups, quantizeAffineGroups } from '../../kernels/reference/affine-groups.ts'
import { dequantizeFloatGroups, FLOAT_GROUPS, quantizeFloatGroups } from '../../kernels/reference/float-groups.ts'

/** A part of a scheme as its codec reads and writes it; where it is stored in another type, it is cast. */
export interface CodecField {
  readonly name: string
  readonly dtype: DType
  /** Elements in a group. */
  readonly perGroup: number
}

/** A scheme whose groups of consecutive values can each be coded alone. */
export interface GroupCodec {
  /** Values in a group. */
  readonly group: number
  readonly fields: readonly CodecField[]
  /** Codes whole groups; a buffer for each field, in their order. */
  quantize(values: Float32Array, parts: readonly Uint8Array[]): void
  dequantize(parts: readonly Uint8Array[], values: Float32Array): void
}

/** One entry for each kind of scheme. */
const CODECS: { readonly [K in GroupScheme['kind']]: (scheme: GroupScheme & { readonly kind: K }) => GroupCodec } = {
  affine: ({ bits, group }) => ({
    group,
    fields: [
      { name: 'codes', dtype: 'u32', perGroup: (group * bits) / 32 },
      { name: 'scales', dtype: 'f32', perGroup: 1 },
      { name: 'biases', dtype: 'f32', perGroup: 1 },
    ],
    quantize: (values, [codes, scales, biases]) =>
      quantizeAffineGroups(values, bits, group, u32(codes), f32(scales), f32(biases)),
    dequantize: ([codes, scales, biases], values) =>
      dequantizeAffineGroups(u32(codes), f32(scales), f32(biases), bits, group, values),
  }),
  mxfp4: floatCodec,
  mxfp8: floatCodec,
  nvfp4: floatCodec,
}

function floatCodec(scheme: GroupScheme & { readonly kind: keyof typeof FLOAT_GROUPS }): GroupCodec {
  const { bits, group } = schemeGroups(scheme)
  const how = FLOAT_GROUPS[scheme.kind]
  return {
    group,
    fields: [
      { name: 'codes', dtype: 'u32', perGroup: (group * bits) / 32 },
      { name: 'scales', dtype: 'u8', perGroup: 1 },
    ],
    quantize: (values, [codes, scales]) => quantizeFloatGroups(values, how, u32(codes), scales ?? NOTHING),
    dequantize: ([codes, scales], values) => dequantizeFloatGroups(u32(codes), scales ?? NOTHING, how, values),
  }
}

/** The codec of a scheme. */
export function codecOf(scheme: GroupScheme): GroupCodec {
  const make = CODECS[scheme.kind] as (scheme: GroupScheme) => GroupCodec
  return make(scheme)
}

const NOTHING = new Uint8Array(0)

function u32(bytes: Uint8Array = NOTHING): Uint32Array {
  return new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4)
}

function f32(bytes: Uint8Array = NOTHING): Float32Array {
  return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4)
}
