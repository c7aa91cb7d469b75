/**
 * Integers packed along their rows, (code - zero) * scale in f32; codes and zeros are both stored with 2^(bits - 1) added.
 * Source: compressed-tensors, format `pack-quantized`.
 */
import type { PackedScheme } from '../../core/matrix-scheme.ts'
import { bitField } from './bit-fields.ts'
import { groupOf } from './group-index.ts'

/**
 * Dequantises `rows` outputs of `columns` inputs each: codes [rows, words], scales [rows, groups], zeros [rows * bits /
 * 32, groups] or null for symmetric ones.
 */
export function dequantizePacked(
  { bits, group }: PackedScheme,
  codes: Uint32Array,
  scales: Float32Array,
  zeros: Uint32Array | null,
  groups: Int32Array | null,
  rows: number,
  columns: number,
  values: Float32Array,
): void {
  const words = codes.length / rows
  const count = scales.length / rows
  for (let row = 0; row < rows; row++) {
    let last = -1
    let scale = 0
    let zero = 0
    for (let column = 0; column < columns; column++) {
      const own = groupOf(groups, column, group, count)
      if (own !== last) {
        last = own
        scale = scales[row * count + own] as number
        zero = zeros === null ? 2 ** (bits - 1) : bitField(zeros, own, count, row, bits)
      }
      values[row * columns + column] = scale * (bitField(codes, row * words, 1, column, bits) - zero)
    }
  }
}
