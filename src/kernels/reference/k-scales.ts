/** What Q4_K and Q5_K share: eight sub-blocks of 32 with a 6-bit scale and minimum each, packed into 12 bytes. */
import { clamp, f32, importanceWeights, largest, nearestInt, sumOf, sumSquares, type BlockImportance } from './codec.ts'
import { decodeF16, encodeF16 } from './float.ts'
import { fitScale, searchScaleMin, weightedTrials, type Trials } from './search.ts'

/** Sub-blocks of a block, and values of a sub-block. */
export const SUBS = 8
export const SUB = 32
/** The greatest scale and minimum. */
const TOP_SCALE = 63

/** The 6-bit scale and minimum of sub-block `j` in the 12 packed bytes at offset 4. */
export function unpackScaleMin(block: DataView, j: number): [number, number] {
  const at = (i: number): number => block.getUint8(4 + i)
  if (j < 4) return [at(j) & 63, at(j + 4) & 63]
  return [(at(j + 4) & 15) | ((at(j - 4) >> 6) << 4), (at(j + 4) >> 4) | ((at(j) >> 6) << 4)]
}

function packScaleMin(out: DataView, j: number, scale: number, min: number): void {
  const put = (i: number, value: number): void => out.setUint8(4 + i, value)
  if (j < 4) {
    put(j, scale)
    put(j + 4, min)
  } else {
    put(j + 4, (scale & 15) | ((min & 15) << 4))
    put(j - 4, out.getUint8(j) | ((scale >> 4) << 6))
    put(j, out.getUint8(4 + j) | ((min >> 4) << 6))
  }
}

/** The weights of a sub-block without an importance matrix: its root mean square plus |x|. */
function defaultWeights(x: Float32Array): Float32Array {
  const rms = f32(Math.sqrt(f32(sumSquares(x) / x.length)))
  return x.map((value) => rms + Math.abs(value))
}

/** Writes d, dmin and the packed scales of a block; returns the codes, one a byte. */
export function quantiseSubBlocks(x: Float32Array, out: DataView, trials: Trials): Uint8Array {
  const codes = new Uint8Array(x.length)
  const found = Array.from({ length: SUBS }, (_, j) => {
    const sub = x.subarray(j * SUB, (j + 1) * SUB)
    return searchScaleMin(sub, defaultWeights(sub), codes.subarray(j * SUB, (j + 1) * SUB), trials)
  })
  const maxScale = largest(found.map(({ scale }) => scale))
  const maxMin = largest(found.map(({ min }) => -min))
  const inverseScale = maxScale > 0 ? f32(TOP_SCALE / maxScale) : 0
  const inverseMin = maxMin > 0 ? f32(TOP_SCALE / maxMin) : 0
  out.setUint16(0, encodeF16(f32(maxScale / TOP_SCALE)), true)
  out.setUint16(2, encodeF16(f32(maxMin / TOP_SCALE)), true)
  found.forEach(({ scale, min }, j) => {
    // Through a byte, as in ggml: a negative scale (a fit may have one) wraps and is then capped.
    const byte = (value: number): number => Math.min(TOP_SCALE, nearestInt(f32(value)) & 0xff)
    packScaleMin(out, j, byte(inverseScale * scale), byte(inverseMin * -min))
  })
  requantise(x, out, codes, trials.top)
  return codes
}

/** The same with an importance matrix. `capped`: whether scales that wrapped are capped, as ggml does for Q5_K only. */
export function quantiseSubBlocksWeighted(
  x: Float32Array,
  out: DataView,
  importance: BlockImportance,
  top: number,
  capped: boolean,
): Uint8Array {
  const codes = new Uint8Array(x.length)
  const sigma2 = f32(f32(2 * sumSquares(x)) / x.length)
  const [scales, mins, sums] = [new Float32Array(SUBS), new Float32Array(SUBS), new Float32Array(SUBS)]
  for (let j = 0; j < SUBS; j++) {
    const [from, to] = [j * SUB, (j + 1) * SUB]
    const sub = x.subarray(from, to)
    const weights = importanceWeights(sub, importance.values.subarray(from, to), sigma2)
    const { scale, min } = searchScaleMin(sub, weights, codes.subarray(from, to), weightedTrials(top))
    scales[j] = scale
    mins[j] = -min
    sums[j] = sumOf(weights)
  }
  const [scaleCodes, minCodes] = [new Uint8Array(SUBS), new Uint8Array(SUBS)]
  out.setUint16(0, encodeF16(fitScale(scales, sums, scaleCodes, TOP_SCALE)), true)
  out.setUint16(2, encodeF16(fitScale(mins, sums, minCodes, TOP_SCALE)), true)
  const byte = (value = 0): number => (capped ? Math.min(TOP_SCALE, value) : value)
  for (let j = 0; j < SUBS; j++) packScaleMin(out, j, byte(scaleCodes[j]), byte(minCodes[j]))
  requantise(x, out, codes, top)
  return codes
}

/** The codes for the scales as they were rounded. Where one became 0 the codes of the search stay. */
function requantise(x: Float32Array, out: DataView, codes: Uint8Array, top: number): void {
  const d = decodeF16(out.getUint16(0, true))
  const dmin = decodeF16(out.getUint16(2, true))
  for (let j = 0; j < SUBS; j++) {
    const [sc, m] = unpackScaleMin(out, j)
    const scale = f32(d * sc)
    if (scale === 0) continue
    const min = f32(dmin * m)
    for (let i = j * SUB; i < (j + 1) * SUB; i++) {
      codes[i] = clamp(nearestInt(f32(f32((x[i] ?? 0) + min) / scale)), 0, top)
    }
  }
}
