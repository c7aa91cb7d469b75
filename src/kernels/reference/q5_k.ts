/**
 * Q5_K: as Q4_K, with codes of five bits. After the 12 bytes of scales come 32 with the fifth bits, bit j of byte i for value
 * i of sub-block j, then 128 with the other four as in Q4_K. Layout: `block_q5_K` of ggml-common.h.
 */
import { f32, type BlockCodec } from './codec.ts'
import { decodeF16 } from './float.ts'
import { quantiseSubBlocks, quantiseSubBlocksWeighted, SUB, SUBS, unpackScaleMin } from './k-scales.ts'

const MAX_CODE = 31
const TRIALS = { top: MAX_CODE, first: -0.5, step: 0.1, steps: 15 }
const FIFTHS = 16
const CODES = 48

function writeCodes(codes: Uint8Array, out: DataView): void {
  for (let i = 0; i < SUB; i++) {
    let fifths = 0
    for (let j = 0; j < SUBS; j++) fifths |= ((codes[j * SUB + i] ?? 0) >> 4) << j
    out.setUint8(FIFTHS + i, fifths)
    for (let pair = 0; pair < SUBS / 2; pair++) {
      const at = pair * 2 * SUB + i
      out.setUint8(CODES + pair * SUB + i, ((codes[at] ?? 0) & 15) | (((codes[at + SUB] ?? 0) & 15) << 4))
    }
  }
}

export const q5_k: BlockCodec = {
  dtype: 'q5_k',
  scales: [0, 2],
  quantise: (x, out) => writeCodes(quantiseSubBlocks(x, out, TRIALS), out),
  quantiseWeighted: (x, out, importance) =>
    writeCodes(quantiseSubBlocksWeighted(x, out, importance, MAX_CODE, true), out),
  dequantise(block, y) {
    const d = decodeF16(block.getUint16(0, true))
    const dmin = decodeF16(block.getUint16(2, true))
    for (let j = 0; j < SUBS; j++) {
      const [sc, m] = unpackScaleMin(block, j)
      const scale = f32(d * sc)
      const min = f32(dmin * m)
      for (let i = 0; i < SUB; i++) {
        const byte = block.getUint8(CODES + (j >> 1) * SUB + i)
        const fifth = (block.getUint8(FIFTHS + i) >> j) & 1
        y[j * SUB + i] = f32(scale * ((j & 1 ? byte >> 4 : byte & 15) + fifth * 16)) - min
      }
    }
  },
}
