/**
 * Q2_K: 256 values in 16 sub-blocks of 16; value = d * sc * q - dmin * m with 2-bit q and 4-bit sc and m per sub-block.
 * 16 bytes with sc in the low and m in the high half; 64 bytes of codes, each 32 of them holding 128 values: byte i the
 * values i, i + 32, i + 64 and i + 96; then d and dmin as f16. Layout: `block_q2_K` of ggml-common.h.
 */
import { clamp, f32, importanceWeights, largest, nearestInt, sumOf, sumSquares, type BlockCodec } from './codec.ts'
import { decodeF16, encodeF16 } from './float.ts'
import { fitScale, searchScaleMin, weightedTrials } from './search.ts'

const SUBS = 16
const SUB = 16
const MAX_CODE = 3
const TOP_SCALE = 15
const OFFSET = { scales: 0, codes: 16, d: 80, dmin: 82 }
/** Without an importance matrix weights are magnitudes and errors sums of magnitudes. */
const TRIALS = { top: MAX_CODE, first: -0.5, step: 0.1, steps: 15, magnitudes: true }

/** The codes for the scales as they were rounded, and their bytes. Where a scale became 0 the codes of the search stay. */
function finish(x: Float32Array, codes: Uint8Array, out: DataView): void {
  const d = decodeF16(out.getUint16(OFFSET.d, true))
  const dmin = decodeF16(out.getUint16(OFFSET.dmin, true))
  for (let j = 0; j < SUBS; j++) {
    const packed = out.getUint8(OFFSET.scales + j)
    const scale = f32(d * (packed & 15))
    if (scale === 0) continue
    const min = f32(dmin * (packed >> 4))
    for (let i = j * SUB; i < (j + 1) * SUB; i++) {
      codes[i] = clamp(nearestInt(f32(f32((x[i] ?? 0) + min) / scale)), 0, MAX_CODE)
    }
  }
  for (let i = 0; i < 64; i++) {
    const first = (i >> 5) * 128 + (i & 31)
    const at = (k: number): number => (codes[first + k * 32] ?? 0) << (2 * k)
    out.setUint8(OFFSET.codes + i, at(0) | at(1) | at(2) | at(3))
  }
}

export const q2_k: BlockCodec = {
  dtype: 'q2_k',
  scales: [OFFSET.d, OFFSET.dmin],
  quantise(x, out) {
    const codes = new Uint8Array(SUBS * SUB)
    const found = Array.from({ length: SUBS }, (_, j) => {
      const sub = x.subarray(j * SUB, (j + 1) * SUB)
      const weights = sub.map((value) => Math.abs(value))
      return searchScaleMin(sub, weights, codes.subarray(j * SUB, (j + 1) * SUB), TRIALS)
    })
    const maxScale = largest(found.map(({ scale }) => scale))
    const maxMin = largest(found.map(({ min }) => -min))
    out.setUint16(OFFSET.d, encodeF16(f32(maxScale / TOP_SCALE)), true)
    out.setUint16(OFFSET.dmin, encodeF16(f32(maxMin / TOP_SCALE)), true)
    found.forEach(({ scale, min }, j) => {
      // A negative scale wraps in its byte and spills into the minimum: so it does in ggml.
      const sc = maxScale > 0 ? nearestInt(f32(f32(TOP_SCALE / maxScale) * scale)) : 0
      const m = maxMin > 0 ? nearestInt(f32(f32(TOP_SCALE / maxMin) * -min)) : 0
      out.setUint8(OFFSET.scales + j, (sc | (m << 4)) & 0xff)
    })
    finish(x, codes, out)
  },
  quantiseWeighted(x, out, importance) {
    const codes = new Uint8Array(SUBS * SUB)
    const sigma2 = f32(sumSquares(x) / x.length)
    const [scales, mins, sums] = [new Float32Array(SUBS), new Float32Array(SUBS), new Float32Array(SUBS)]
    for (let j = 0; j < SUBS; j++) {
      const [from, to] = [j * SUB, (j + 1) * SUB]
      const sub = x.subarray(from, to)
      const weights = importanceWeights(sub, importance.values.subarray(from, to), sigma2)
      const { scale, min } = searchScaleMin(sub, weights, codes.subarray(from, to), weightedTrials(MAX_CODE))
      scales[j] = scale
      mins[j] = -min
      sums[j] = sumOf(weights)
    }
    const [scaleCodes, minCodes] = [new Uint8Array(SUBS), new Uint8Array(SUBS)]
    out.setUint16(OFFSET.d, encodeF16(fitScale(scales, sums, scaleCodes, TOP_SCALE)), true)
    out.setUint16(OFFSET.dmin, encodeF16(fitScale(mins, sums, minCodes, TOP_SCALE)), true)
    for (let j = 0; j < SUBS; j++) {
      out.setUint8(OFFSET.scales + j, ((scaleCodes[j] ?? 0) | ((minCodes[j] ?? 0) << 4)) & 0xff)
    }
    finish(x, codes, out)
  },
  dequantise(block, y) {
    const d = decodeF16(block.getUint16(OFFSET.d, true))
    const dmin = decodeF16(block.getUint16(OFFSET.dmin, true))
    for (let i = 0; i < SUBS * SUB; i++) {
      const packed = block.getUint8(OFFSET.scales + (i >> 4))
      const byte = block.getUint8(OFFSET.codes + (i >> 7) * 32 + (i & 31))
      const code = (byte >> (((i >> 5) & 3) * 2)) & 3
      y[i] = f32(f32(d * (packed & 15)) * code) - f32(dmin * (packed >> 4))
    }
  },
}
