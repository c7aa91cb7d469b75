/**
 * The scalar types as numbers. Sources: IEEE 754 (f16, f32, f64), Intel's bfloat16 white paper (bf16: the upper half
 * of an f32), "FP8 Formats for Deep Learning" (https://arxiv.org/abs/2209.05433; e4m3 is the variant without Inf,
 * `float8_e4m3fn`). All round half to even. Everything passes through f32: f64 -> f16 therefore rounds twice, as
 * PyTorch does.
 */
import type { DType } from '../../core/dtype.ts'

const scratch = new DataView(new ArrayBuffer(4))

/** The float32 whose bits these are. */
export function f32FromBits(bits: number): number {
  scratch.setUint32(0, bits)
  return scratch.getFloat32(0)
}

/** The bits of `value` rounded to float32. */
export function f32Bits(value: number): number {
  scratch.setFloat32(0, value)
  return scratch.getUint32(0)
}

/** The value of an IEEE half. */
export function decodeF16(half: number): number {
  const sign = half & 0x8000 ? -1 : 1
  const exponent = (half >> 10) & 0x1f
  const fraction = half & 0x3ff
  if (exponent === 0x1f) return fraction === 0 ? sign * Infinity : NaN
  return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1024 + fraction) * 2 ** (exponent - 25)
}

/** The nearest IEEE half of a float32 (half to even; 65520 and beyond is Inf). */
export function encodeF16(value: number): number {
  const bits = f32Bits(value)
  const sign = (bits >>> 16) & 0x8000
  const magnitude = bits & 0x7fffffff
  if (magnitude > 0x7f800000) return sign | 0x7e00
  if (magnitude >= 0x47800000) return sign | 0x7c00
  // A significand shifted to where one unit is one step of the result, so that only the rounding remains.
  const exponent = Math.max(magnitude >>> 23, 113)
  const significand = (magnitude & 0x7fffff) | (magnitude >>> 23 === 0 ? 0 : 0x800000)
  const shift = 13 + exponent - (magnitude >>> 23 === 0 ? 1 : magnitude >>> 23)
  if (shift > 24) return sign
  const whole = significand >>> shift
  const rest = significand & (2 ** shift - 1)
  const half = 2 ** (shift - 1)
  const up = rest > half || (rest === half && (whole & 1) === 1) ? 1 : 0
  // `whole` still has the leading 1 of a normal number, worth one exponent: hence 113, not 112.
  return sign | (((exponent - 113) << 10) + whole + up)
}

/** The value of a bfloat16. */
export function decodeBf16(bits: number): number {
  return f32FromBits((bits << 16) >>> 0)
}

/** The nearest bfloat16 of a float32. */
export function encodeBf16(value: number): number {
  const bits = f32Bits(value)
  if ((bits & 0x7fffffff) > 0x7f800000) return (bits >>> 16) | 0x40
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff
}

/** The value of an 8-bit float with 4 exponent bits (`float8_e4m3fn`: no Inf, 0x7f is NaN). */
export function decodeF8E4M3(byte: number): number {
  const sign = byte & 0x80 ? -1 : 1
  const exponent = (byte >> 3) & 0xf
  const fraction = byte & 7
  if (exponent === 0xf && fraction === 7) return NaN
  return exponent === 0 ? sign * fraction * 2 ** -9 : sign * (8 + fraction) * 2 ** (exponent - 10)
}

/** The value of an 8-bit float with 5 exponent bits: the upper half of an f16. */
export function decodeF8E5M2(byte: number): number {
  return decodeF16(byte << 8)
}

/** A 64-bit integer rounded once to float32: the bits that neither float32 nor the sum needs fold into a sticky one. */
function f32FromBigInt(value: bigint): number {
  if (value >= -(2n ** 53n) && value <= 2n ** 53n) return Math.fround(Number(value))
  const sticky = (value & 0x7ffn) === 0n ? 0n : 1n
  return Math.fround(Number((value >> 11n) | sticky)) * 2048
}

/** Reads element `index` of a little endian array as a number. */
export type Decode = (view: DataView, index: number) => number

/** Every scalar type's reader. f64 is given in full; all others are float32 values. */
export const DECODE: { readonly [D in DType]?: Decode } = {
  bool: (view, index) => (view.getUint8(index) === 0 ? 0 : 1),
  u8: (view, index) => view.getUint8(index),
  i8: (view, index) => view.getInt8(index),
  u16: (view, index) => view.getUint16(index * 2, true),
  i16: (view, index) => view.getInt16(index * 2, true),
  u32: (view, index) => Math.fround(view.getUint32(index * 4, true)),
  i32: (view, index) => Math.fround(view.getInt32(index * 4, true)),
  u64: (view, index) => f32FromBigInt(view.getBigUint64(index * 8, true)),
  i64: (view, index) => f32FromBigInt(view.getBigInt64(index * 8, true)),
  f64: (view, index) => view.getFloat64(index * 8, true),
  f32: (view, index) => view.getFloat32(index * 4, true),
  f16: (view, index) => decodeF16(view.getUint16(index * 2, true)),
  bf16: (view, index) => decodeBf16(view.getUint16(index * 2, true)),
  f8_e4m3: (view, index) => decodeF8E4M3(view.getUint8(index)),
  f8_e5m2: (view, index) => decodeF8E5M2(view.getUint8(index)),
}

/** Writes element `index` of a little endian array and returns the value that it now has. */
export type Encode = (view: DataView, index: number, value: number) => number

/** The writers: the float types of 16 bits and more. */
export const ENCODE: { readonly [D in DType]?: Encode } = {
  f64: (view, index, value) => {
    view.setFloat64(index * 8, value, true)
    return value
  },
  f32: (view, index, value) => {
    view.setFloat32(index * 4, value, true)
    return Math.fround(value)
  },
  f16: (view, index, value) => {
    const half = encodeF16(value)
    view.setUint16(index * 2, half, true)
    return decodeF16(half)
  },
  bf16: (view, index, value) => {
    const bits = encodeBf16(value)
    view.setUint16(index * 2, bits, true)
    return decodeBf16(bits)
  },
}
