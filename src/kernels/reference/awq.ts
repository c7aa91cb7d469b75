/** AWQ's packed matrices of 4 bits, (code - zero) * scale in f32. Source: casper-hansen/AutoAWQ. */
import type { AwqScheme } from '../../core/matrix-scheme.ts'

/** The nibble that holds each of eight outputs: GEMM's words hold them in the order 0, 2, 4, 6, 1, 3, 5, 7. */
const NIBBLES = [0, 4, 1, 5, 2, 6, 3, 7] as const

/**
 * Dequantises `rows` outputs of `columns` inputs each. GEMM: codes [columns, rows / 8], zeros [groups, rows / 8], scales
 * [groups, rows]. GEMV: codes [rows, columns / 8], zeros and scales [rows, groups] and padding.
 */
export function dequantizeAwq(
  { layout, group }: AwqScheme,
  codes: Uint32Array,
  zeros: Uint32Array,
  scales: Float32Array,
  rows: number,
  columns: number,
  values: Float32Array,
): void {
  if (layout === 'gemv') dequantizeGemv(group, codes, zeros, scales, rows, columns, values)
  else dequantizeGemm(group, codes, zeros, scales, rows, columns, values)
}

function dequantizeGemm(
  group: number,
  codes: Uint32Array,
  zeros: Uint32Array,
  scales: Float32Array,
  rows: number,
  columns: number,
  values: Float32Array,
): void {
  const words = rows / 8
  for (let row = 0; row < rows; row++) {
    const shift = 4 * (NIBBLES[row & 7] as number)
    const word = row >>> 3
    for (let start = 0, g = 0; start < columns; start += group, g++) {
      const scale = scales[g * rows + row] as number
      const zero = ((zeros[g * words + word] as number) >>> shift) & 15
      const end = Math.min(columns, start + group)
      for (let column = start; column < end; column++) {
        const code = ((codes[column * words + word] as number) >>> shift) & 15
        values[row * columns + column] = scale * (code - zero)
      }
    }
  }
}

function dequantizeGemv(
  group: number,
  codes: Uint32Array,
  zeros: Uint32Array,
  scales: Float32Array,
  rows: number,
  columns: number,
  values: Float32Array,
): void {
  const words = columns / 8
  const zeroWords = zeros.length / rows
  for (let row = 0; row < rows; row++) {
    for (let start = 0, g = 0; start < columns; start += group, g++) {
      const scale = scales[row * zeroWords * 8 + g] as number
      const zero = ((zeros[row * zeroWords + (g >>> 3)] as number) >>> (4 * (g & 7))) & 15
      const end = Math.min(columns, start + group)
      for (let column = start; column < end; column++) {
        const code = ((codes[row * words + (column >>> 3)] as number) >>> (4 * (column & 7))) & 15
        values[row * columns + column] = scale * (code - zero)
      }
    }
  }
}
