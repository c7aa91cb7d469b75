/**
 * Q4_1: 32 values; value = d * q + m with d and m as f16 and 16 bytes of codes as in Q4_0. Layout: `block_q4_1` of
 * ggml-common.h. {@link scaleMinCodec} makes Q5_1 too.
 */
import type { DType } from '../../core/dtype.ts'
import { f32, importanceWeights, toInt8, type BlockCodec } from './codec.ts'
import { readCodes4, writeCodes4 } from './codes32.ts'
import { decodeF16, encodeF16 } from './float.ts'
import { searchScaleMin, weightedTrials } from './search.ts'

const CODES = 4

/** The codec of a type with a scale, a minimum and codes of 0 to `top` behind them. */
export function scaleMinCodec(
  dtype: DType,
  top: number,
  write: (codes: Uint8Array, out: DataView, at: number) => void,
  read: (block: DataView, at: number) => Uint8Array,
): BlockCodec {
  return {
    dtype,
    scales: [0, 2],
    quantise(x, out) {
      let [min, max] = [Infinity, -Infinity]
      for (const value of x) {
        if (value < min) min = value
        if (value > max) max = value
      }
      const d = f32(f32(max - min) / top)
      const inverse = d === 0 ? 0 : f32(1 / d)
      out.setUint16(0, encodeF16(d), true)
      out.setUint16(2, encodeF16(min), true)
      const code = (value: number): number => Math.min(top, toInt8(f32(f32(f32(value - min) * inverse) + 0.5)))
      write(Uint8Array.from(x, code), out, CODES)
    },
    quantiseWeighted(x, out, importance) {
      const codes = new Uint8Array(x.length)
      const weights = importanceWeights(x, importance.values, importance.rowMeanSquare)
      const { scale, min } = searchScaleMin(x, weights, codes, weightedTrials(top))
      out.setUint16(0, encodeF16(scale), true)
      out.setUint16(2, encodeF16(min), true)
      write(codes, out, CODES)
    },
    dequantise(block, y) {
      const d = decodeF16(block.getUint16(0, true))
      const m = decodeF16(block.getUint16(2, true))
      read(block, CODES).forEach((code, i) => {
        y[i] = f32(code * d) + m
      })
    },
  }
}

export const q4_1: BlockCodec = scaleMinCodec('q4_1', 15, writeCodes4, readCodes4)
