/**
 * Q5_0: 32 values, an f16 scale, 32 fifth bits and 16 bytes; value = d * (q - 16). The low four bits lie as in Q4_0;
 * bit i of the little endian word at offset 2 is the fifth of value i. Layout: `block_q5_0` of ggml-common.h.
 */
import { f32, importanceWeights, signedMax, toInt8, type BlockCodec } from './codec.ts'
import { writeCodes5 } from './codes32.ts'
import { decodeF16, encodeF16 } from './float.ts'
import { searchScale } from './search.ts'

export const q5_0: BlockCodec = {
  dtype: 'q5_0',
  scales: [0],
  quantise(x, out) {
    const d = f32(signedMax(x) / -16)
    const inverse = d === 0 ? 0 : f32(1 / d)
    const code = (value: number): number => Math.min(31, toInt8(f32(f32(value * inverse) + 16.5))) & 0xff
    let fifth = 0
    out.setUint16(0, encodeF16(d), true)
    for (let j = 0; j < 16; j++) {
      const low = code(x[j] ?? 0)
      const high = code(x[j + 16] ?? 0)
      out.setUint8(6 + j, (low & 15) | ((high & 15) << 4))
      fifth |= ((low >> 4) & 1) << j
      fifth |= ((high >> 4) & 1) << (j + 16)
    }
    out.setUint32(2, fifth >>> 0, true)
  },
  quantiseWeighted(x, out, importance) {
    const codes = new Uint8Array(x.length)
    const weights = importanceWeights(x, importance.values, importance.rowMeanSquare)
    out.setUint16(0, encodeF16(searchScale(x, weights, codes, 16)), true)
    writeCodes5(codes, out, 2)
  },
  dequantise(block, y) {
    const d = decodeF16(block.getUint16(0, true))
    const fifth = block.getUint32(2, true)
    for (let j = 0; j < 16; j++) {
      const byte = block.getUint8(6 + j)
      y[j] = (((byte & 15) | (((fifth >>> j) & 1) << 4)) - 16) * d
      y[j + 16] = (((byte >> 4) | (((fifth >>> (j + 16)) & 1) << 4)) - 16) * d
    }
  },
}
