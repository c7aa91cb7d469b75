/** Looks at raw values without converting them: what validation samples weights with. */
import type { DType } from '../../core/dtype.ts'

/** Sign and exponent of the float types, of which all ones mean NaN or infinity: bytes of a value, and the mask. */
const EXPONENTS: ReadonlyMap<DType, { readonly bytes: 2 | 4; readonly mask: number }> = new Map([
  ['f32', { bytes: 4, mask: 0x7f80_0000 }],
  ['f16', { bytes: 2, mask: 0x7c00 }],
  ['bf16', { bytes: 2, mask: 0x7f80 }],
])

/** Byte offset of the first NaN or infinity in whole little endian values; null if there is none or no such thing. */
export function nonFiniteAt(bytes: Uint8Array, dtype: DType): number | null {
  const layout = EXPONENTS.get(dtype)
  if (layout === undefined) return null
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const { bytes: width, mask } = layout
  for (let at = 0; at + width <= bytes.length; at += width) {
    const bits = width === 2 ? view.getUint16(at, true) : view.getUint32(at, true)
    if ((bits & mask) === mask) return at
  }
  return null
}

/** Whether all bits are zero; minus zero is not. */
export function isAllZero(bytes: Uint8Array): boolean {
  return bytes.every((byte) => byte === 0)
}
