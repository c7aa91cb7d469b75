/**
 * IQ1_S and IQ1_M: 256 values in groups of eight, each an entry of one grid of 2048 whose elements are -1, 0 or 1; value =
 * d * (1 + 2s) * (element +- 1/8), with a 3-bit s and the sign of the shift for each 32 values; in IQ1_M s is for each 16,
 * the shift for each 8, and d lies in the high bits of the scales. Layouts: `block_iq1_s` and `block_iq1_m` of
 * ggml-common.h. They can be read, not yet written.
 */
import type { BlockCodec } from './codec.ts'
import { decodeF16 } from './float.ts'
import { IQ1_S } from './grid-tables.ts'
import { unpackGrid } from './grids.ts'

const WIDTH = 8
const GROUPS = 32
const SHIFT = 0.125
/** The values of the one grid. */
export const IQ1_GRID = unpackGrid(IQ1_S, WIDTH, [-1, 0, 1])
const S_OFFSET = { d: 0, codes: 2, high: 34 }
const M_OFFSET = { codes: 0, high: 32, scales: 48 }

function write(entry: number, scale: number, shift: number, y: Float32Array, at: number): void {
  for (let j = 0; j < WIDTH; j++) y[at + j] = scale * ((IQ1_GRID[entry * WIDTH + j] ?? 0) + shift)
}

export const iq1_s: BlockCodec = {
  dtype: 'iq1_s',
  scales: [S_OFFSET.d],
  dequantise(block, y) {
    const d = decodeF16(block.getUint16(S_OFFSET.d, true))
    for (let group = 0; group < GROUPS; group++) {
      // For each 32 values: the indices' high bits (3 each), the scale, the shift's sign.
      const high = block.getUint16(S_OFFSET.high + (group >> 2) * 2, true)
      const entry = block.getUint8(S_OFFSET.codes + group) | (((high >> (3 * (group & 3))) & 7) << 8)
      write(entry, d * (1 + 2 * ((high >> 12) & 7)), high & 0x8000 ? -SHIFT : SHIFT, y, group * WIDTH)
    }
  },
}

/** The block's f16 scale: the high four bits of each of the four words of scales, lowest first. */
function scaleOf(block: DataView): number {
  let half = 0
  for (let i = 0; i < 4; i++) half |= (block.getUint16(M_OFFSET.scales + i * 2, true) >> 12) << (4 * i)
  return decodeF16(half)
}

export const iq1_m: BlockCodec = {
  dtype: 'iq1_m',
  scales: [],
  scatteredScale: scaleOf,
  dequantise(block, y) {
    const d = scaleOf(block)
    for (let group = 0; group < GROUPS; group++) {
      // Three bits of the index and the shift's sign.
      const high = block.getUint8(M_OFFSET.high + (group >> 1)) >> (4 * (group & 1))
      const entry = block.getUint8(M_OFFSET.codes + group) | ((high & 7) << 8)
      // Four scales of 3 bits in a word, one for every two groups.
      const scales = block.getUint16(M_OFFSET.scales + (group >> 3) * 2, true)
      const code = (scales >> (3 * ((group >> 1) & 3))) & 7
      write(entry, d * (1 + 2 * code), high & 8 ? -SHIFT : SHIFT, y, group * WIDTH)
    }
  },
}
