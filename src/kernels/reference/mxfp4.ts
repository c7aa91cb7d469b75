/**
 * MXFP4: 32 four-bit floats (sign, two bits of exponent, one of mantissa) times a power of two, whose exponent is the first
 * byte; codes as in Q4_0 behind it. Layout: `block_mxfp4` of ggml-common.h.
 */
import { f32, type BlockCodec } from './codec.ts'
import { readCodes4, writeCodes4 } from './codes32.ts'

/** Twice what the codes mean, so that all are integers; the scale is halved for it. */
const VALUES: readonly number[] = [0, 1, 2, 3, 4, 6, 8, 12]
const SIGN = 8

/** Half of 2^(exponent - 127); ggml gives no byte a special meaning. */
function halfScale(exponent: number): number {
  return 2 ** (exponent - 128)
}

export const mxfp4: BlockCodec = {
  dtype: 'mxfp4',
  scales: [],
  quantise(x, out) {
    let magnitude = 0
    for (const value of x) magnitude = Math.max(magnitude, Math.abs(value))
    // The logarithm is rounded to float32, so that just below a power of two it may reach it. What is negative wraps.
    const exponent = magnitude > 0 ? (Math.floor(f32(Math.log2(magnitude))) - 2 + 127) & 255 : 0
    const d = halfScale(exponent)
    const code = (value: number): number => {
      const size = Math.abs(value)
      let best = 0
      // As float32 what is out of range is Inf, and never nearest.
      const distance = (i: number): number => Math.abs(f32(f32((VALUES[i] ?? 0) * d) - size))
      for (let i = 1; i < VALUES.length; i++) if (distance(i) < distance(best)) best = i
      return value < 0 && best > 0 ? best | SIGN : best
    }
    out.setUint8(0, exponent)
    writeCodes4(Uint8Array.from(x, code), out, 1)
  },
  dequantise(block, y) {
    const d = halfScale(block.getUint8(0))
    readCodes4(block, 1).forEach((code, i) => {
      const value = (VALUES[code & 7] ?? 0) * d
      // The eighth code is 0 of either sign; ggml's table has no negative one.
      y[i] = code > SIGN ? -value : value
    })
  },
}
