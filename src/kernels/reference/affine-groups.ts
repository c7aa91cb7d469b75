/**
 * Affine quantisation in groups along a row, as MLX does it (mode "affine"): value = scale * code + bias. The group's
 * extreme of larger magnitude is exact and 0 has a code of its own. Source: ml-explore/mlx, quantize.
 */

const SMALLEST_SCALE = Math.fround(1e-7)

/**
 * Adding it to a number of magnitude at most 2^51 and taking it away again leaves the nearest integer, half to even, as
 * `rint` does: 2^52 + 2^51.
 */
const MAGIC = 6_755_399_441_055_744

/**
 * Quantises `values` (whole groups). Codes are packed little endian, first code in the lowest bits, into `codes`
 * (values.length * bits / 32 words); `scales` and `biases` get one number a group.
 */
export function quantizeAffineGroups(
  values: Float32Array,
  bits: number,
  group: number,
  codes: Uint32Array,
  scales: Float32Array,
  biases: Float32Array,
): void {
  const most = 2 ** bits - 1
  let word = 0
  let at = 0
  for (let g = 0; at < values.length; g++) {
    const end = at + group
    let low = Infinity
    let high = -Infinity
    for (let i = at; i < end; i++) {
      const value = values[i] as number
      if (value < low) low = value
      if (value > high) high = value
    }
    const lowIsEdge = Math.abs(low) > Math.abs(high)
    let scale = Math.max(Math.fround(Math.fround(high - low) / most), SMALLEST_SCALE)
    if (!lowIsEdge) scale = -scale
    const edge = lowIsEdge ? low : high
    const zero = roundHalfEven(Math.fround(edge / scale))
    let bias = 0
    if (zero !== 0) {
      scale = Math.fround(edge / zero)
      bias = edge
    }
    scales[g] = scale
    biases[g] = bias
    let packed = 0
    let filled = 0
    for (; at < end; at++) {
      const steps = Math.fround(Math.fround((values[at] as number) - bias) / scale) + MAGIC - MAGIC
      const code = steps < 0 ? 0 : steps > most ? most : steps
      packed |= code << filled
      filled += bits
      if (filled < 32) continue
      codes[word++] = packed
      filled -= 32
      packed = filled === 0 ? 0 : code >>> (bits - filled)
    }
  }
}

/** The inverse, in f32: the product is rounded, then the sum. */
export function dequantizeAffineGroups(
  codes: Uint32Array,
  scales: Float32Array,
  biases: Float32Array,
  bits: number,
  group: number,
  values: Float32Array,
): void {
  const mask = 2 ** bits - 1
  let word = 0
  let at = 0
  for (let g = 0; at < values.length; g++) {
    const scale = scales[g] as number
    const bias = biases[g] as number
    const end = at + group
    let packed = 0
    let left = 0
    for (; at < end; at++) {
      let code = packed & mask
      if (left < bits) {
        const next = codes[word++] as number
        code = (packed | (next << left)) & mask
        packed = next >>> (bits - left)
        left += 32 - bits
      } else {
        packed >>>= bits
        left -= bits
      }
      values[at] = Math.fround(scale * code) + bias
    }
  }
}

/** Ties go to the even neighbour, as `rint` does; `Math.round` sends them up. For magnitudes up to 2^51. */
export function roundHalfEven(value: number): number {
  return value + MAGIC - MAGIC
}
