/**
 * Affine quantisation in groups along a row, as MLX does it (mode "affine"): value = scale * code + bias. The group's
 * extreme of larger magnitude is exact and 0 has a code of its own. Source: ml-explore/mlx, quantize.
 */

const SMALLEST_SCALE = 1e-7

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
  codes.fill(0)
  for (let g = 0; g * group < values.length; g++) {
    let low = Infinity
    let high = -Infinity
    for (let i = g * group; i < (g + 1) * group; i++) {
      const value = values[i] ?? 0
      if (value < low) low = value
      if (value > high) high = value
    }
    const lowIsEdge = Math.abs(low) > Math.abs(high)
    let scale = Math.max(Math.fround(Math.fround(high - low) / most), Math.fround(SMALLEST_SCALE))
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
    for (let i = g * group; i < (g + 1) * group; i++) {
      const steps = roundHalfEven(Math.fround(Math.fround((values[i] ?? 0) - bias) / scale))
      putCode(codes, i * bits, bits, Math.min(most, Math.max(0, steps)))
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
  for (let i = 0; i < values.length; i++) {
    const g = Math.floor(i / group)
    values[i] = Math.fround(Math.fround((scales[g] ?? 0) * getCode(codes, i * bits, bits)) + (biases[g] ?? 0))
  }
}

/** Ties go to the even neighbour, as `rint` does; `Math.round` sends them up. */
export function roundHalfEven(value: number): number {
  const floor = Math.floor(value)
  const rest = value - floor
  if (rest < 0.5) return floor
  if (rest > 0.5) return floor + 1
  return floor % 2 === 0 ? floor : floor + 1
}

function putCode(words: Uint32Array, bit: number, bits: number, code: number): void {
  const word = bit >>> 5
  const shift = bit & 31
  words[word] = (words[word] ?? 0) | (code << shift)
  if (shift + bits > 32) words[word + 1] = (words[word + 1] ?? 0) | (code >>> (32 - shift))
}

function getCode(words: Uint32Array, bit: number, bits: number): number {
  const word = bit >>> 5
  const shift = bit & 31
  let code = (words[word] ?? 0) >>> shift
  if (shift + bits > 32) code |= (words[word + 1] ?? 0) << (32 - shift)
  return code & (2 ** bits - 1)
}
