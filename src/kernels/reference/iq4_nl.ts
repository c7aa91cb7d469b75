/** IQ4_NL: 32 values, an f16 scale and 16 bytes of codes as in Q4_0. Layout: `block_iq4_nl` of ggml-common.h. */
import { f32, importanceWeights, sumSquares, type BlockCodec } from './codec.ts'
import { decodeF16, encodeF16 } from './float.ts'
import { readValues, searchValues, squares, writeCodes } from './iq4.ts'

const CODES = 2

function write(x: Float32Array, weights: Float32Array, out: DataView): void {
  const scale = searchValues(x, weights)
  out.setUint16(0, encodeF16(scale), true)
  writeCodes(x, scale === 0 ? 0 : f32(1 / scale), out, CODES)
}

export const iq4_nl: BlockCodec = {
  dtype: 'iq4_nl',
  scales: [0],
  quantise: (x, out) => write(x, squares(x), out),
  quantiseWeighted: (x, out, importance) =>
    write(x, importanceWeights(x, importance.values, f32(sumSquares(x) * (2 / x.length))), out),
  dequantise: (block, y) => readValues(block, CODES, decodeF16(block.getUint16(0, true)), y),
}
