/**
 * Small floats in groups with a shared scale, value = scale * element, as MLX makes them (modes "mxfp4", "mxfp8",
 * "nvfp4"). The scale of a microscaling mode is the power of two *nearest* to absmax / largest element; the OCP text
 * rounds it down, and files of both kinds are read alike. Sources: OCP Microscaling Formats 1.0, ml-explore/mlx.
 */
import { log } from '../../core/math.ts'
import { decodeF8E4M3, f32Bits, f32FromBits } from './float.ts'

/** How a mode stores elements and scales. */
export interface FloatGroups {
  readonly bits: 4 | 8
  readonly group: number
  readonly scale: 'e8m0' | 'e4m3'
}

export const FLOAT_GROUPS: Readonly<Record<'mxfp4' | 'mxfp8' | 'nvfp4', FloatGroups>> = {
  mxfp4: { bits: 4, group: 32, scale: 'e8m0' },
  mxfp8: { bits: 8, group: 32, scale: 'e8m0' },
  nvfp4: { bits: 4, group: 16, scale: 'e4m3' },
}

/** The largest element of each width. */
const LARGEST = { 4: 6, 8: 448 } as const

/** Values of the sixteen E2M1 codes. */
const E2M1 = Float32Array.of(0, 0.5, 1, 1.5, 2, 3, 4, 6, -0, -0.5, -1, -1.5, -2, -3, -4, -6)

/**
 * Values of the E4M3 codes as MLX reads them: the two that the format calls NaN are 480, which its encoder makes of
 * what lies between 464 and 480.
 */
const E4M3 = Float32Array.from({ length: 256 }, (_, code) =>
  (code & 0x7f) === 0x7f ? (code === 0x7f ? 480 : -480) : decodeF8E4M3(code),
)

/** Values of the E8M0 codes: powers of two from 2^-127, and NaN. */
const E8M0 = Float32Array.from({ length: 256 }, (_, code) => (code === 0xff ? Number.NaN : 2 ** (code - 127)))

const ELEMENTS = { 4: E2M1, 8: E4M3 } as const
const SCALES = { e8m0: E8M0, e4m3: E4M3 } as const

/** Quantises whole groups of finite values: codes packed as in {@link ./affine-groups.ts}, one byte of scale a group. */
export function quantizeFloatGroups(
  values: Float32Array,
  { bits, group, scale: kind }: FloatGroups,
  codes: Uint32Array,
  scales: Uint8Array,
): void {
  const encodeScale = kind === 'e8m0' ? nearestPower : encodeE4M3
  const encode = bits === 4 ? encodeE2M1 : encodeE4M3
  const perWord = 32 / bits
  let word = 0
  for (let g = 0; g * group < values.length; g++) {
    const start = g * group
    let largest = 0
    for (let i = start; i < start + group; i++) largest = Math.max(largest, Math.abs(values[i] as number))
    const code = encodeScale(Math.fround(largest / LARGEST[bits]))
    const scale = SCALES[kind][code] as number
    scales[g] = code
    for (let i = start; i < start + group; i += perWord) {
      let packed = 0
      for (let j = 0; j < perWord; j++) {
        const value = scale === 0 ? 0 : Math.fround((values[i + j] as number) / scale)
        packed |= encode(value) << (j * bits)
      }
      codes[word++] = packed
    }
  }
}

/** The inverse, exact in f32. */
export function dequantizeFloatGroups(
  codes: Uint32Array,
  scales: Uint8Array,
  { bits, group, scale: kind }: FloatGroups,
  values: Float32Array,
): void {
  const elements = ELEMENTS[bits]
  const table = SCALES[kind]
  const perWord = 32 / bits
  const mask = 2 ** bits - 1
  const words = group / perWord
  let at = 0
  for (let g = 0; at < values.length; g++) {
    const scale = table[scales[g] as number] as number
    for (let word = g * words; word < (g + 1) * words; word++) {
      const packed = codes[word] as number
      for (let shift = 0; shift < 32; shift += bits) {
        values[at++] = scale * (elements[(packed >>> shift) & mask] as number)
      }
    }
  }
}

/** Ties go to the even significand; beyond 6 is 6. */
function encodeE2M1(value: number): number {
  const x = Math.abs(value)
  const sign = value < 0 || Object.is(value, -0) ? 8 : 0
  if (x > 2.5) return sign | (x > 5 ? 7 : x >= 3.5 ? 6 : 5)
  if (x >= 0.75) return sign | (x >= 1.75 ? 4 : x > 1.25 ? 3 : 2)
  return sign | (x > 0.25 ? 1 : 0)
}

/** What the steps of a significand of three bits are pushed to by adding it: units of 2^-9, the smallest element. */
const E4M3_MAGIC = 1.5 * 2 ** (23 - 9)
const SMALLEST_NORMAL = 2 ** -6

/** The nearest E4M3 of a float32, half to even; beyond 448 is 448, never NaN. */
function encodeE4M3(value: number): number {
  const x = Math.abs(value)
  const sign = value < 0 || Object.is(value, -0) ? 0x80 : 0
  if (x >= 448) return sign | 0x7e
  if (x < SMALLEST_NORMAL) return sign | ((Math.fround(x + E4M3_MAGIC) - E4M3_MAGIC) * 2 ** 9)
  const bits = f32Bits(x)
  const rounded = bits + 0x7ffff + ((bits >>> 20) & 1)
  return sign | Math.min(0x7e, (rounded >>> 20) - (120 << 3))
}

/** The significand below and above which a logarithm rounds the same way whatever the exponent. */
const SURE = 1e-4

/**
 * The E8M0 code of 2^n, n the binary logarithm rounded twice: to float32, as MLX computes it, then half away from zero.
 * 0 for what is smaller than all codes, 0 itself among it.
 */
export function nearestPower(x: number): number {
  if (x < 2 ** -126) return x > 2 ** -126.5 ? 1 : 0
  const bits = f32Bits(x)
  const exponent = (bits >>> 23) - 127
  const significand = f32FromBits((bits & 0x7f_ffff) | 0x3f80_0000)
  const past = significand - Math.SQRT2
  const up = Math.abs(past) > SURE ? past > 0 : roundsUp(exponent, significand)
  return Math.min(254, exponent + 127 + (up ? 1 : 0))
}

function roundsUp(exponent: number, significand: number): boolean {
  const logarithm = Math.fround(exponent + log(significand) / Math.LN2)
  return exponent < 0 ? logarithm > exponent + 0.5 : logarithm >= exponent + 0.5
}
