/**
 * GPTQ's packed matrices, (code - zero - offset) * scale in f32. The offset of the first version's zeros is added to each
 * field by itself, so that a stored 15 of 4 bits is 16, as the kernels for such files have it. Sources: AutoGPTQ,
 * ModelCloud/GPTQModel.
 */
import type { GptqScheme } from '../../core/matrix-scheme.ts'
import { bitField } from './bit-fields.ts'
import { groupOf } from './group-index.ts'

/**
 * Dequantises `rows` outputs of `columns` inputs each: codes [columns * bits / 32, rows], zeros [groups, rows * bits / 32],
 * scales [groups, rows].
 */
export function dequantizeGptq(
  { bits, group, zeroOffset }: GptqScheme,
  codes: Uint32Array,
  zeros: Uint32Array,
  scales: Float32Array,
  groups: Int32Array | null,
  rows: number,
  columns: number,
  values: Float32Array,
): void {
  const count = scales.length / rows
  const zeroWords = zeros.length / count
  for (let row = 0; row < rows; row++) {
    let last = -1
    let scale = 0
    let zero = 0
    for (let column = 0; column < columns; column++) {
      const own = groupOf(groups, column, group, count)
      if (own !== last) {
        last = own
        scale = scales[own * rows + row] as number
        zero = bitField(zeros, own * zeroWords, 1, row, bits) + zeroOffset
      }
      values[row * columns + column] = scale * (bitField(codes, row, rows, column, bits) - zero)
    }
  }
}
