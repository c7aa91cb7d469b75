/**
 * TQ1_0 and TQ2_0: 256 values of -1, 0 or 1 times an f16 scale, which is the greatest magnitude. Layouts: `block_tq1_0` and
 * `block_tq2_0` of ggml-common.h.
 */
import { f32, roundAway, type BlockCodec } from './codec.ts'
import { decodeF16, encodeF16 } from './float.ts'

/** 0, 1 and 2 for -1, 0 and 1, with the scale. */
function encode(x: Float32Array): { readonly d: number; readonly codes: Uint8Array } {
  let d = 0
  for (const value of x) d = Math.max(d, Math.abs(value))
  const inverse = f32(1 / d)
  // Of 0, or so small that its inverse is Inf: all codes are then those of 0.
  const by = Number.isFinite(inverse) ? inverse : 0
  return { d, codes: Uint8Array.from(x, (value) => roundAway(f32(value * by)) + 1) }
}

/** Runs of bytes that hold `digits` base-3 digits each: digit k of byte i is the value `value + i + k * bytes`. */
const RUNS = [
  { byte: 0, bytes: 32, value: 0, digits: 5 },
  { byte: 32, bytes: 16, value: 160, digits: 5 },
  { byte: 48, bytes: 4, value: 240, digits: 4 },
] as const
const SCALE_TQ1 = 52
const SCALE_TQ2 = 64

/** Five digits a byte, the first highest, as a fraction of 3^5 in 256ths, rounded up: multiplying with 3 gives them back. */
export const tq1_0: BlockCodec = {
  dtype: 'tq1_0',
  scales: [SCALE_TQ1],
  quantise(x, out) {
    const { d, codes } = encode(x)
    for (const { byte, bytes, value, digits } of RUNS) {
      for (let i = 0; i < bytes; i++) {
        let q = 0
        for (let k = 0; k < 5; k++) q = q * 3 + (k < digits ? (codes[value + i + k * bytes] ?? 0) : 0)
        out.setUint8(byte + i, Math.ceil((q * 256) / 243))
      }
    }
    out.setUint16(SCALE_TQ1, encodeF16(d), true)
  },
  dequantise(block, y) {
    const d = decodeF16(block.getUint16(SCALE_TQ1, true))
    for (const { byte, bytes, value, digits } of RUNS) {
      for (let i = 0; i < bytes; i++) {
        let rest = block.getUint8(byte + i)
        for (let k = 0; k < digits; k++) {
          y[value + i + k * bytes] = (((rest * 3) >> 8) - 1) * d
          rest = (rest * 3) & 255
        }
      }
    }
  },
}

/** Two bits each: byte i of each 32 holds the values i, i + 32, i + 64 and i + 96 of 128. */
export const tq2_0: BlockCodec = {
  dtype: 'tq2_0',
  scales: [SCALE_TQ2],
  quantise(x, out) {
    const { d, codes } = encode(x)
    for (let i = 0; i < 64; i++) {
      const first = (i >> 5) * 128 + (i & 31)
      const at = (k: number): number => (codes[first + k * 32] ?? 0) << (2 * k)
      out.setUint8(i, at(0) | at(1) | at(2) | at(3))
    }
    out.setUint16(SCALE_TQ2, encodeF16(d), true)
  },
  dequantise(block, y) {
    const d = decodeF16(block.getUint16(SCALE_TQ2, true))
    for (let i = 0; i < y.length; i++) {
      const byte = block.getUint8((i >> 7) * 32 + (i & 31))
      y[i] = (((byte >> (((i >> 5) & 3) * 2)) & 3) - 1) * d
    }
  },
}
