import { describe, expect, test } from 'vitest'
import { dequantizeAffineGroups, quantizeAffineGroups } from '../../src/kernels/reference/affine-groups.ts'
import { dequantizeFloatGroups, FLOAT_GROUPS, quantizeFloatGroups } from '../../src/kernels/reference/float-groups.ts'

const f = Math.fround

/** Numbers of very different sizes, zeros and equal ones among them; the same each time. */
function sample(count: number, seed: number): Float32Array {
  let state = seed
  const next = (): number => (state = (state * 48271) % 0x7fffffff) / 0x7fffffff
  return Float32Array.from({ length: count }, (_, i) => {
    const size = 10 ** (Math.floor(i / 256) % 9) * 1e-5
    const x = (next() * 2 - 1) * size
    return i % 11 === 0 ? 0 : i % 512 > 480 ? size : x
  })
}

/** Half to even, by its definition. */
function rint(x: number): number {
  const below = Math.floor(x)
  if (x - below !== 0.5) return x - below < 0.5 ? below : below + 1
  return below % 2 === 0 ? below : below + 1
}

/** One group in the words of MLX's documentation. */
function plainGroup(values: Float32Array, bits: number): { codes: number[]; scale: number; bias: number } {
  const n = 2 ** bits - 1
  const lo = Math.min(...values)
  const hi = Math.max(...values)
  const side = Math.abs(lo) > Math.abs(hi)
  let scale = Math.max(f(f(hi - lo) / n), f(1e-7))
  if (!side) scale = -scale
  const edge = side ? lo : hi
  const zero = rint(f(edge / scale))
  let bias = 0
  if (zero !== 0) {
    scale = f(edge / zero)
    bias = edge
  }
  const codes = [...values].map((value) => Math.min(n, Math.max(0, rint(f(f(value - bias) / scale)))))
  return { codes, scale, bias }
}

describe('affine groups', () => {
  for (const bits of [2, 3, 4, 5, 6, 8]) {
    for (const group of [32, 64, 128]) {
      test(`${bits} bits in groups of ${group}: codes, scales and biases by definition, bits in order`, () => {
        const values = sample(4096, bits * 131 + group)
        const count = values.length / group
        const codes = new Uint32Array((values.length * bits) / 32)
        const [scales, biases] = [new Float32Array(count), new Float32Array(count)]
        quantizeAffineGroups(values, bits, group, codes, scales, biases)
        const stream = new Uint8Array(codes.buffer)
        const found = Array.from(values, (_, i) => {
          let code = 0
          for (let bit = 0; bit < bits; bit++) {
            const at = i * bits + bit
            code |= ((stream[at >> 3]! >> (at & 7)) & 1) << bit
          }
          return code
        })
        const expected = new Float32Array(values.length)
        for (let g = 0; g < count; g++) {
          const plain = plainGroup(values.subarray(g * group, (g + 1) * group), bits)
          expect([scales[g], biases[g]]).toEqual([plain.scale, plain.bias])
          expect(found.slice(g * group, (g + 1) * group)).toEqual(plain.codes)
          plain.codes.forEach((code, i) => (expected[g * group + i] = f(plain.scale * code) + plain.bias))
        }
        const back = new Float32Array(values.length)
        dequantizeAffineGroups(codes, scales, biases, bits, group, back)
        expect(back).toEqual(expected)
      })
    }
  }
})

const E2M1 = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
const E4M3 = Array.from({ length: 127 }, (_, code) =>
  code < 8 ? code * 2 ** -9 : (1 + (code % 8) / 8) * 2 ** (Math.floor(code / 8) - 7),
)

/** Distance from the nearest of some magnitudes. */
const nearest = (table: readonly number[], x: number): number =>
  Math.min(...table.map((value) => Math.abs(value - Math.abs(x))))

describe('groups of small floats', () => {
  for (const mode of ['mxfp4', 'mxfp8', 'nvfp4'] as const) {
    test(`${mode}: the scale by definition, each element the nearest there is`, () => {
      const { bits, group, scale: kind } = FLOAT_GROUPS[mode]
      const values = sample(8192, 77)
      const count = values.length / group
      const codes = new Uint32Array((values.length * bits) / 32)
      const scales = new Uint8Array(count)
      quantizeFloatGroups(values, FLOAT_GROUPS[mode], codes, scales)
      const back = new Float32Array(values.length)
      dequantizeFloatGroups(codes, scales, FLOAT_GROUPS[mode], back)
      const table = bits === 4 ? E2M1 : E4M3
      const largest = table.at(-1)!
      for (let g = 0; g < count; g++) {
        const own = values.subarray(g * group, (g + 1) * group)
        const top = f(Math.max(...own.map(Math.abs)) / largest)
        let scale: number
        if (kind === 'e8m0') {
          const power = top === 0 ? -127 : Math.max(-127, Math.round(Math.log2(top)))
          expect(scales[g]).toBe(power + 127)
          scale = 2 ** power
        } else {
          scale = E4M3[scales[g]!]!
          expect(Math.abs(scale - top)).toBe(nearest(E4M3, top))
        }
        own.forEach((value, i) => {
          const found = back[g * group + i]!
          if (scale === 0) expect(found).toBe(0)
          else {
            const x = f(value / scale)
            expect(Math.abs(Math.abs(found / scale) - Math.abs(x))).toBeCloseTo(nearest(table, x), 5)
            if (found !== 0) expect(Math.sign(found)).toBe(Math.sign(value))
          }
        })
      }
    })
  }

  const encode = (mode: keyof typeof FLOAT_GROUPS, values: readonly number[]): { codes: number[]; scale: number } => {
    const { bits, group } = FLOAT_GROUPS[mode]
    const all = Float32Array.from({ length: group }, (_, i) => values[i] ?? 0)
    const words = new Uint32Array((group * bits) / 32)
    const scales = new Uint8Array(1)
    quantizeFloatGroups(all, FLOAT_GROUPS[mode], words, scales)
    const bytes = [...new Uint8Array(words.buffer)]
    return { scale: scales[0]!, codes: bits === 8 ? bytes : bytes.flatMap((byte) => [byte & 15, byte >> 4]) }
  }

  test('ties of E2M1 go to the even significand', () => {
    const { codes, scale } = encode('mxfp4', [6, 5, 3.5, 2.5, 1.75, 1.25, 0.75, 0.25, -5, -0.25, -6])
    expect(scale).toBe(127)
    expect(codes.slice(0, 11)).toEqual([7, 6, 6, 4, 4, 2, 2, 0, 14, 8, 15])
  })

  test('E4M3: ties to even, subnormals, and 448 for all beyond, never what others take for NaN', () => {
    // 448 * 1.25: the power of two below is nearer, so the largest does not fit
    const { codes, scale } = encode('mxfp8', [560, 470, 448, 17, 19, 2 ** -9, 2 ** -10, 3 * 2 ** -10, -470])
    expect(scale).toBe(127)
    expect(codes.slice(0, 9)).toEqual([0x7e, 0x7e, 0x7e, 0x58, 0x5a, 1, 0, 2, 0xfe])
  })

  test('scales at the ends: zeros, the smallest and the largest', () => {
    expect(encode('mxfp4', [])).toEqual({ scale: 0, codes: Array.from({ length: 32 }, () => 0) })
    expect(encode('nvfp4', [])).toEqual({ scale: 0, codes: Array.from({ length: 16 }, () => 0) })
    expect(encode('mxfp4', [1e-44]).scale).toBe(0)
    expect(encode('mxfp4', [3.4e38]).scale).toBe(252)
    expect(encode('nvfp4', [1e6]).scale).toBe(0x7e)
  })

  test('MLX reads the codes that E4M3 calls NaN as 480', () => {
    const values = new Float32Array(32)
    dequantizeFloatGroups(new Uint32Array(8).fill(0x7fff7fff), Uint8Array.of(127), FLOAT_GROUPS.mxfp8, values)
    expect([values[0], values[1]]).toEqual([-480, 480])
  })

  test('a half rounds as a float32 logarithm does, away from zero', () => {
    // float32 has numbers around 2^40.5 whose logarithm it cannot tell from 40.5
    const near = f(2 ** 40.5)
    const logarithm = f(Math.log2(near))
    expect(logarithm).toBe(40.5)
    expect(encode('mxfp4', [near * 6]).scale).toBe(41 + 127)
    expect(encode('mxfp4', [f(2 ** -40.5) * 6]).scale).toBe(-41 + 127)
  })
})
