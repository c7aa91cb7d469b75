/**
 * Q8_0: 32 values, an f16 scale and 32 signed bytes; value = d * q. Layout: `block_q8_0` of ggml-common.h
 * (https://github.com/ggml-org/llama.cpp/blob/master/ggml/src/ggml-common.h).
 */
import { f32, roundAway, toInt8, type BlockCodec } from './codec.ts'
import { decodeF16, encodeF16 } from './float.ts'

export const q8_0: BlockCodec = {
  dtype: 'q8_0',
  scales: [0],
  quantise(x, out) {
    let magnitude = 0
    for (const value of x) magnitude = Math.max(magnitude, Math.abs(value))
    const d = f32(magnitude / 127)
    // Of a subnormal d the inverse is Inf, and every code becomes 0.
    const inverse = d === 0 ? 0 : f32(1 / d)
    out.setUint16(0, encodeF16(d), true)
    x.forEach((value, i) => out.setInt8(2 + i, toInt8(roundAway(f32(value * inverse)))))
  },
  dequantise(block, y) {
    const d = decodeF16(block.getUint16(0, true))
    for (let i = 0; i < 32; i++) y[i] = block.getInt8(2 + i) * d
  },
}
