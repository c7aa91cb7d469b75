import type { DType } from '../../core/dtype.ts'

/** What an importance matrix says of one block. */
export interface BlockImportance {
  /** The importance of each element's column. */
  readonly values: Float32Array
  /** The mean square of the whole row, as {@link sumSquares} adds it up. */
  readonly rowMeanSquare: number
}

/**
 * A block type in plain TypeScript. Both functions work on exactly one block and neither checks its values: the
 * reference backend does, the same way for all types.
 */
export interface BlockCodec {
  readonly dtype: DType
  /**
   * Writes the block of the values `x` into `out`. Every operation rounds to float32, as in ggml's C. Absent where blocks
   * can only be read.
   */
  quantise?(x: Float32Array, out: DataView): void
  /** The same with an importance matrix; absent where the type takes none. */
  quantiseWeighted?(x: Float32Array, out: DataView, importance: BlockImportance): void
  /** Writes the values of the block into `y`. */
  dequantise(block: DataView, y: Float32Array): void
  /** Byte offsets of the block's f16 scales: where one of them is not finite, the block holds nothing. */
  readonly scales: readonly number[]
  /** A scale that does not lie in one piece; it counts like those of `scales`. */
  scatteredScale?(block: DataView): number
}

/** Rounds to float32: every arithmetic step of a reference kernel goes through it, since C's `float` does. */
export const f32: (value: number) => number = Math.fround

/** Adding it to |v| <= 2^22 pushes the fraction out of a float32's significand: 2^23 + 2^22. */
const MAGIC = 12582912

const bits = new DataView(new ArrayBuffer(4))

/** ggml's `nearest_int`: half to even up to 2^22; beyond it, and for Inf and NaN, the same nonsense as ggml's. */
export function nearestInt(value: number): number {
  bits.setFloat32(0, f32(value + MAGIC))
  return (bits.getInt32(0) & 0x007fffff) - 0x00400000
}

/** C's `(int8_t) value` on x86: towards zero; what does not fit an int32 (and NaN) becomes 0. */
export function toInt8(value: number): number {
  return Number.isFinite(value) && Math.abs(value) < 2147483648 ? (Math.trunc(value) << 24) >> 24 : 0
}

/** C's `roundf`: half away from zero. `Math.round` would take -0.5 to 0 and 0.49999997 to 1. */
export function roundAway(value: number): number {
  const whole = Math.trunc(value)
  return Math.abs(value - whole) >= 0.5 ? whole + Math.sign(value) : whole
}

/** The element of greatest magnitude with its sign, the first of equals; 0 for a block of zeros. */
export function signedMax(x: Float32Array): number {
  let magnitude = 0
  let max = 0
  for (const value of x) {
    if (magnitude < Math.abs(value)) {
      magnitude = Math.abs(value)
      max = value
    }
  }
  return max
}

/** ggml's `MIN(high, MAX(low, value))` on integers. */
export function clamp(value: number, low: number, high: number): number {
  return Math.max(low, Math.min(high, value))
}

/** The sum of the squares, added in order. */
export function sumSquares(x: Float32Array): number {
  let sum = 0
  for (const value of x) sum = f32(sum + f32(value * value))
  return sum
}

/** The greatest of 0 and the values; what is not a number does not count. */
export function largest(values: readonly number[]): number {
  let max = 0
  for (const value of values) if (value > max) max = value
  return max
}

/** ggml's weights by importance: q * sqrt(sigma2 + x^2). */
export function importanceWeights(x: Float32Array, importance: Float32Array, sigma2: number): Float32Array {
  return x.map((value, i) => (importance[i] ?? 0) * f32(Math.sqrt(f32(sigma2 + f32(value * value)))))
}

/** Sums of a sub-block's weights, in order. */
export function sumOf(weights: Float32Array): number {
  let sum = 0
  for (const weight of weights) sum = f32(sum + weight)
  return sum
}
