/**
 * Q4_K: 256 values in 8 sub-blocks of 32; value = d * sc * q - dmin * m with 4-bit q and 6-bit sc and m per sub-block.
 * d, dmin: f16; sc and m packed into 12 bytes; then 128 bytes of codes, the sub-blocks 2i and 2i + 1 in the low and
 * high halves of 32 bytes. Layout: `block_q4_K` of ggml-common.h.
 */
import { f32, type BlockCodec } from './codec.ts'
import { decodeF16 } from './float.ts'
import { quantiseSubBlocks, quantiseSubBlocksWeighted, SUB, SUBS, unpackScaleMin } from './k-scales.ts'

const MAX_CODE = 15
const TRIALS = { top: MAX_CODE, first: -1, step: 0.1, steps: 20 }
const CODES = 16

function writeCodes(codes: Uint8Array, out: DataView): void {
  for (let pair = 0; pair < SUBS / 2; pair++) {
    for (let i = 0; i < SUB; i++) {
      const at = pair * 2 * SUB + i
      out.setUint8(CODES + pair * SUB + i, (codes[at] ?? 0) | ((codes[at + SUB] ?? 0) << 4))
    }
  }
}

export const q4_k: BlockCodec = {
  dtype: 'q4_k',
  scales: [0, 2],
  quantise: (x, out) => writeCodes(quantiseSubBlocks(x, out, TRIALS), out),
  quantiseWeighted: (x, out, importance) =>
    writeCodes(quantiseSubBlocksWeighted(x, out, importance, MAX_CODE, false), out),
  dequantise(block, y) {
    const d = decodeF16(block.getUint16(0, true))
    const dmin = decodeF16(block.getUint16(2, true))
    for (let j = 0; j < SUBS; j++) {
      const [sc, m] = unpackScaleMin(block, j)
      const scale = f32(d * sc)
      const min = f32(dmin * m)
      for (let i = 0; i < SUB; i++) {
        const byte = block.getUint8(CODES + (j >> 1) * SUB + i)
        y[j * SUB + i] = f32(scale * (j & 1 ? byte >> 4 : byte & 15)) - min
      }
    }
  },
}
