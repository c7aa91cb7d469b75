/**
 * IQ4_XS: 256 values in 8 sub-blocks of 32; value = d * (sc - 32) * VALUES[q] with a 6-bit sc per sub-block. d as f16, two
 * bytes with the high two bits of the scales, four with the low four, then 16 bytes of codes for each sub-block. Layout:
 * `block_iq4_xs` of ggml-common.h.
 */
import { clamp, f32, importanceWeights, nearestInt, signedMax, sumSquares, type BlockCodec } from './codec.ts'
import { decodeF16, encodeF16 } from './float.ts'
import { readValues, searchValues, squares, SUB, writeCodes } from './iq4.ts'

const SUBS = 8
const SCALE_RANGE = 32
const OFFSET = { d: 0, high: 2, low: 4, codes: 8 }

function write(x: Float32Array, weigh: (sub: Float32Array, from: number) => Float32Array, out: DataView): void {
  const scales = new Float32Array(SUBS)
  const part = (j: number): Float32Array => x.subarray(j * SUB, (j + 1) * SUB)
  for (let j = 0; j < SUBS; j++) scales[j] = searchValues(part(j), weigh(part(j), j * SUB))
  const d = f32(-signedMax(scales) / SCALE_RANGE)
  const inverse = d === 0 ? 0 : f32(1 / d)
  out.setUint16(OFFSET.d, encodeF16(d), true)
  let high = 0
  scales.forEach((scale, j) => {
    const code = clamp(nearestInt(f32(inverse * scale)), -SCALE_RANGE, SCALE_RANGE - 1)
    // Of the scale before it was rounded to f16.
    const own = f32(d * code)
    writeCodes(part(j), own === 0 ? 0 : f32(1 / own), out, OFFSET.codes + j * 16)
    const stored = code + SCALE_RANGE
    high |= (stored >> 4) << (2 * j)
    const at = OFFSET.low + (j >> 1)
    out.setUint8(at, j & 1 ? out.getUint8(at) | ((stored & 15) << 4) : stored & 15)
  })
  out.setUint16(OFFSET.high, high, true)
}

export const iq4_xs: BlockCodec = {
  dtype: 'iq4_xs',
  scales: [OFFSET.d],
  quantise: (x, out) => write(x, squares, out),
  quantiseWeighted(x, out, importance) {
    const sigma2 = f32(sumSquares(x) * (2 / x.length))
    const values = (from: number): Float32Array => importance.values.subarray(from, from + SUB)
    write(x, (sub, from) => importanceWeights(sub, values(from), sigma2), out)
  },
  dequantise(block, y) {
    const d = decodeF16(block.getUint16(OFFSET.d, true))
    const high = block.getUint16(OFFSET.high, true)
    for (let j = 0; j < SUBS; j++) {
      const low = (block.getUint8(OFFSET.low + (j >> 1)) >> (4 * (j & 1))) & 15
      const scale = f32(d * ((low | (((high >> (2 * j)) & 3) << 4)) - SCALE_RANGE))
      readValues(block, OFFSET.codes + j * 16, scale, y.subarray(j * SUB, (j + 1) * SUB))
    }
  },
}
