/**
 * IQ2_XXS, IQ2_XS and IQ2_S: 256 values in groups of eight, each an entry of a grid of 256, 512 or 1024 with signs; value =
 * d * (0.5 + s) / 4 * entry, with a 4-bit s for each 32 values, in the last two for each 16. Layouts: `block_iq2_xxs`,
 * `block_iq2_xs` and `block_iq2_s` of ggml-common.h. They can be read, not yet written.
 */
import type { BlockCodec } from './codec.ts'
import { decodeF16 } from './float.ts'
import { IQ2_S, IQ2_XS, IQ2_XXS } from './grid-tables.ts'
import { evenSigns, unpackGrid, writeEntry } from './grids.ts'

const WIDTH = 8
const GROUPS = 32
const LEVELS = [8, 25, 43]
const XXS = unpackGrid(IQ2_XXS, WIDTH, LEVELS)
const XS = unpackGrid(IQ2_XS, WIDTH, LEVELS)
const S = unpackGrid(IQ2_S, WIDTH, LEVELS)
/** The values of the grids, from small to large. */
export const IQ2_GRIDS: readonly Float32Array[] = [XXS, XS, S]
const XXS_OFFSET = { d: 0, codes: 2 }
const XS_OFFSET = { d: 0, codes: 2, scales: 66 }
const S_OFFSET = { d: 0, codes: 2, signs: 34, high: 66, scales: 74 }

function scaleOf(d: number, code: number): number {
  return d * (0.5 + code) * 0.25
}

/** The 4-bit scale of a group: one for every two of them. */
function scaleCode(block: DataView, at: number, group: number): number {
  return (block.getUint8(at + (group >> 2)) >> (group & 2 ? 4 : 0)) & 15
}

export const iq2_xxs: BlockCodec = {
  dtype: 'iq2_xxs',
  scales: [XXS_OFFSET.d],
  dequantise(block, y) {
    const d = decodeF16(block.getUint16(XXS_OFFSET.d, true))
    for (let group = 0; group < GROUPS; group++) {
      const [sub, part] = [group >> 2, group & 3]
      // Four indices, then their signs (7 bits each) and the scale.
      const at = XXS_OFFSET.codes + sub * 8
      const rest = block.getUint32(at + 4, true)
      const signs = evenSigns((rest >>> (7 * part)) & 127)
      writeEntry(XXS, block.getUint8(at + part), WIDTH, scaleOf(d, rest >>> 28), signs, y, group * WIDTH)
    }
  },
}

export const iq2_xs: BlockCodec = {
  dtype: 'iq2_xs',
  scales: [XS_OFFSET.d],
  dequantise(block, y) {
    const d = decodeF16(block.getUint16(XS_OFFSET.d, true))
    for (let group = 0; group < GROUPS; group++) {
      // Nine bits of index and seven of signs.
      const code = block.getUint16(XS_OFFSET.codes + group * 2, true)
      const scale = scaleOf(d, scaleCode(block, XS_OFFSET.scales, group))
      writeEntry(XS, code & 511, WIDTH, scale, evenSigns(code >> 9), y, group * WIDTH)
    }
  },
}

export const iq2_s: BlockCodec = {
  dtype: 'iq2_s',
  scales: [S_OFFSET.d],
  dequantise(block, y) {
    const d = decodeF16(block.getUint16(S_OFFSET.d, true))
    for (let group = 0; group < GROUPS; group++) {
      const high = (block.getUint8(S_OFFSET.high + (group >> 2)) >> (2 * (group & 3))) & 3
      const entry = block.getUint8(S_OFFSET.codes + group) | (high << 8)
      const scale = scaleOf(d, scaleCode(block, S_OFFSET.scales, group))
      writeEntry(S, entry, WIDTH, scale, block.getUint8(S_OFFSET.signs + group), y, group * WIDTH)
    }
  },
}
