/**
 * Q4_0: 32 values, an f16 scale and 16 bytes; value = d * (q - 8). Byte j holds value j in its low and value j + 16
 * in its high half. The scale has the sign that maps the value of greatest magnitude to -8. Layout: `block_q4_0` of
 * ggml-common.h.
 */
import { f32, importanceWeights, signedMax, toInt8, type BlockCodec } from './codec.ts'
import { writeCodes4 } from './codes32.ts'
import { decodeF16, encodeF16 } from './float.ts'
import { searchScale } from './search.ts'

export const q4_0: BlockCodec = {
  dtype: 'q4_0',
  scales: [0],
  quantise(x, out) {
    // A block of zeros has d = 0 / -8 = -0, stored as 0x8000.
    const d = f32(signedMax(x) / -8)
    const inverse = d === 0 ? 0 : f32(1 / d)
    const code = (value: number): number => Math.min(15, toInt8(f32(f32(value * inverse) + 8.5))) & 0xff
    out.setUint16(0, encodeF16(d), true)
    for (let j = 0; j < 16; j++) out.setUint8(2 + j, code(x[j] ?? 0) | (code(x[j + 16] ?? 0) << 4))
  },
  quantiseWeighted(x, out, importance) {
    const codes = new Uint8Array(x.length)
    const weights = importanceWeights(x, importance.values, importance.rowMeanSquare)
    out.setUint16(0, encodeF16(searchScale(x, weights, codes, 8)), true)
    writeCodes4(codes, out, 2)
  },
  dequantise(block, y) {
    const d = decodeF16(block.getUint16(0, true))
    for (let j = 0; j < 16; j++) {
      const byte = block.getUint8(2 + j)
      y[j] = ((byte & 15) - 8) * d
      y[j + 16] = ((byte >> 4) - 8) * d
    }
  },
}
