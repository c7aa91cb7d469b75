/** Numbers of 8 bits with scales by block, (code - zero) * scale in f32: FP8 and INT8 checkpoints. */
import type { ScaledScheme } from '../../core/matrix-scheme.ts'
import { decodeF8E4M3, decodeF8E5M2 } from './float.ts'

const table = (decode: (byte: number) => number): Float32Array =>
  Float32Array.from({ length: 256 }, (_, byte) => decode(byte))

const VALUES: Readonly<Record<ScaledScheme['codes'], Float32Array>> = {
  f8_e4m3: table(decodeF8E4M3),
  f8_e5m2: table(decodeF8E5M2),
  i8: table((byte) => (byte << 24) >> 24),
}

/**
 * Dequantises `rows` outputs of `columns` inputs each, whose first row begins a block: codes [rows, columns], scales and
 * zeros (null for symmetric ones) [blocks of rows, blocks of columns].
 */
export function dequantizeScaled(
  scheme: ScaledScheme,
  codes: Uint8Array,
  scales: Float32Array,
  zeros: Int8Array | null,
  rows: number,
  columns: number,
  values: Float32Array,
): void {
  const decoded = VALUES[scheme.codes]
  const across = Math.ceil(columns / scheme.columns)
  for (let row = 0; row < rows; row++) {
    const base = Math.floor(row / scheme.rows) * across
    for (let block = 0; block < across; block++) {
      const scale = scales[base + block] as number
      const zero = zeros === null ? 0 : (zeros[base + block] as number)
      const end = Math.min(columns, (block + 1) * scheme.columns)
      for (let column = block * scheme.columns; column < end; column++) {
        const at = row * columns + column
        values[at] = scale * ((decoded[codes[at] as number] as number) - zero)
      }
    }
  }
}
