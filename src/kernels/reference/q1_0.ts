/**
 * Q1_0: 128 values, a sign each, times an f16 scale, which is their mean magnitude. Layout: `block_q1_0` of ggml-common.h.
 */
import { f32, type BlockCodec } from './codec.ts'
import { decodeF16, encodeF16 } from './float.ts'

const CODES = 2

export const q1_0: BlockCodec = {
  dtype: 'q1_0',
  scales: [0],
  quantise(x, out) {
    let sum = 0
    for (const value of x) sum = f32(sum + Math.abs(value))
    out.setUint16(0, encodeF16(f32(sum / x.length)), true)
    for (let i = 0; i < x.length; i += 8) {
      const signs = x.subarray(i, i + 8).reduce((bits, value, j) => (value >= 0 ? bits | (1 << j) : bits), 0)
      out.setUint8(CODES + i / 8, signs)
    }
  },
  dequantise(block, y) {
    const d = decodeF16(block.getUint16(0, true))
    for (let i = 0; i < y.length; i++) y[i] = (block.getUint8(CODES + (i >> 3)) >> (i & 7)) & 1 ? d : -d
  },
}
