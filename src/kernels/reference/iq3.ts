/**
 * IQ3_XXS and IQ3_S: 256 values in groups of four, each an entry of a grid of 256 or 512, with signs. A 4-bit s for each 32
 * values: value = d * (0.5 + s) / 2 * entry in IQ3_XXS, d * (1 + 2s) * entry in IQ3_S. Layouts: `block_iq3_xxs` and
 * `block_iq3_s` of ggml-common.h. They can be read, not yet written.
 */
import type { BlockCodec } from './codec.ts'
import { decodeF16 } from './float.ts'
import { IQ3_S, IQ3_XXS } from './grid-tables.ts'
import { evenSigns, unpackGrid, writeEntry } from './grids.ts'

const WIDTH = 4
const GROUPS = 64
const XXS = unpackGrid(IQ3_XXS, WIDTH, [4, 12, 20, 28, 36, 44, 52, 62])
const S = unpackGrid(IQ3_S, WIDTH, [1, 3, 5, 7, 9, 11, 13, 15])
/** The values of the grids, from small to large. */
export const IQ3_GRIDS: readonly Float32Array[] = [XXS, S]
const XXS_OFFSET = { d: 0, codes: 2, rest: 66 }
const S_OFFSET = { d: 0, codes: 2, high: 66, signs: 74, scales: 106 }

export const iq3_xxs: BlockCodec = {
  dtype: 'iq3_xxs',
  scales: [XXS_OFFSET.d],
  dequantise(block, y) {
    const d = decodeF16(block.getUint16(XXS_OFFSET.d, true))
    for (let group = 0; group < GROUPS; group++) {
      // For each 32 values the signs of eight at a time (7 bits each) and the scale.
      const rest = block.getUint32(XXS_OFFSET.rest + (group >> 3) * 4, true)
      const signs = evenSigns((rest >>> (7 * ((group >> 1) & 3))) & 127) >> (4 * (group & 1))
      const scale = d * (0.5 + (rest >>> 28)) * 0.5
      writeEntry(XXS, block.getUint8(XXS_OFFSET.codes + group), WIDTH, scale, signs, y, group * WIDTH)
    }
  },
}

export const iq3_s: BlockCodec = {
  dtype: 'iq3_s',
  scales: [S_OFFSET.d],
  dequantise(block, y) {
    const d = decodeF16(block.getUint16(S_OFFSET.d, true))
    for (let group = 0; group < GROUPS; group++) {
      const sub = group >> 3
      const high = (block.getUint8(S_OFFSET.high + sub) >> (group & 7)) & 1
      const signs = block.getUint8(S_OFFSET.signs + (group >> 1)) >> (4 * (group & 1))
      const scale = d * (1 + 2 * ((block.getUint8(S_OFFSET.scales + (sub >> 1)) >> (4 * (sub & 1))) & 15))
      const entry = block.getUint8(S_OFFSET.codes + group) | (high << 8)
      writeEntry(S, entry, WIDTH, scale, signs, y, group * WIDTH)
    }
  },
}
