/**
 * Q2_0: 64 values of -1, 0, 1 or 2 times an f16 scale, which is the greatest magnitude (so 2 is never written). Layout:
 * `block_q2_0` of ggml-common.h.
 */
import { f32, roundAway, type BlockCodec } from './codec.ts'
import { decodeF16, encodeF16 } from './float.ts'

const CODES = 2

export const q2_0: BlockCodec = {
  dtype: 'q2_0',
  scales: [0],
  quantise(x, out) {
    let d = 0
    for (const value of x) d = Math.max(d, Math.abs(value))
    const inverse = d > 0 ? f32(1 / d) : 0
    out.setUint16(0, encodeF16(d), true)
    // Where the inverse is Inf, what it makes becomes C's least integer, and with that the least code.
    const code = (value: number): number => (inverse === Infinity ? 0 : roundAway(f32(value * inverse)) + 1)
    for (let i = 0; i < x.length; i += 4) {
      const codes = x.subarray(i, i + 4).reduce((bits, value, j) => bits | (code(value) << (2 * j)), 0)
      out.setUint8(CODES + i / 4, codes)
    }
  },
  dequantise(block, y) {
    const d = decodeF16(block.getUint16(0, true))
    for (let i = 0; i < y.length; i++) y[i] = (((block.getUint8(CODES + (i >> 2)) >> (2 * (i & 3))) & 3) - 1) * d
  },
}
