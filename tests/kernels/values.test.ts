import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { bytesOf, DTYPES, type DType } from '../../src/core/dtype.ts'
import type { Backend } from '../../src/kernels/backend.ts'
import { decodeF16, encodeBf16, encodeF16 } from '../../src/kernels/reference/float.ts'
import { CODECS } from '../../src/kernels/reference/index.ts'
import { COMMON_OPS, selfTest } from '../../src/kernels/selftest.ts'
import {
  BLOCKS,
  bytesView,
  convert,
  expectSameBytes,
  floatsView,
  FLOATS,
  ONLY_WEIGHTED,
  reference,
  run,
  wasm,
  WEIGHTED,
} from './backends.ts'
import { gaussian, randoms } from './distributions.ts'

let local: Backend
let pool: Backend
beforeAll(async () => {
  local = await wasm(0)
  pool = await wasm(2)
})
afterAll(async () => {
  await local.close()
  await pool.close()
})

/** f32 values as the bytes of a float type, rounded by nothing but truncation: for values that fit exactly. */
function encode(dtype: DType, values: Float32Array): Uint8Array {
  if (dtype === 'f32') return bytesView(values)
  return new Uint8Array(Uint16Array.from(values, (v) => (dtype === 'f16' ? encodeF16(v) : encodeBf16(v))).buffer)
}

const ELEMENTS = 512 + 256

describe('WASM against the reference', () => {
  test('passes its self-test, and a liar does not', async () => {
    expect(await selfTest(local)).toEqual([])
    const liar: Backend = {
      ...local,
      prepare: (op) => ({
        op,
        run: async (input, output, elements) => {
          const result = await local.prepare(op).run(input, output, elements)
          output[output.length - 1]! ^= 1
          return result
        },
      }),
    }
    expect(await selfTest(liar)).toHaveLength(COMMON_OPS.length)
  })

  test('any finite bits quantise to the same bytes, or blame the same element', async () => {
    // All exponents alike: most such blocks overflow the f16 scale, so one half is kept small.
    const word = fc.oneof(fc.integer({ min: 0, max: 0x7f7fffff }), fc.integer({ min: 0x30000000, max: 0x43000000 }))
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...BLOCKS),
        fc.array(fc.tuple(word, fc.boolean()), { minLength: 8, maxLength: 64 }),
        fc.integer({ min: 0, max: 2 ** 31 }),
        fc.boolean(),
        async (to, words, seed, tame) => {
          const random = randoms(seed)
          const bits = Uint32Array.from({ length: ELEMENTS }, () => {
            const [value, negative] = words[Math.floor(random() * words.length)]!
            const magnitude = tame ? (value % 0x13000000) + 0x30000000 : value
            return (magnitude | (negative ? 0x80000000 : 0)) >>> 0
          })
          const input = new Uint8Array(bits.buffer)
          const [want, got] = [
            await run(reference, 'f32', to, input, ELEMENTS),
            await run(local, 'f32', to, input, ELEMENTS),
          ]
          expect(got.bad).toBe(want.bad)
          if (want.bad === null) expectSameBytes(got.output, want.output, to)
        },
      ),
      { numRuns: 400 },
    )
  })

  test('by importance too', async () => {
    const word = fc.oneof(fc.integer({ min: 0, max: 0x7f7fffff }), fc.integer({ min: 0x30000000, max: 0x43000000 }))
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...WEIGHTED),
        fc.array(fc.tuple(word, fc.boolean()), { minLength: 8, maxLength: 64 }),
        fc.array(fc.oneof(fc.constant(0), word), { minLength: 2, maxLength: 20 }),
        fc.integer({ min: 0, max: 2 ** 31 }),
        fc.boolean(),
        async (to, words, importances, seed, tame) => {
          const random = randoms(seed)
          const calm = (value: number): number => (tame && value !== 0 ? (value % 0x13000000) + 0x30000000 : value)
          const bits = Uint32Array.from({ length: ELEMENTS * 2 }, () => {
            const [value, negative] = words[Math.floor(random() * words.length)]!
            return (calm(value) | (negative ? 0x80000000 : 0)) >>> 0
          })
          const columns = Uint32Array.from({ length: ELEMENTS }, () =>
            calm(importances[Math.floor(random() * importances.length)]!),
          )
          const input = new Uint8Array(bits.buffer)
          const importance = new Float32Array(columns.buffer)
          const want = await run(reference, 'f32', to, input, ELEMENTS * 2, importance)
          const got = await run(local, 'f32', to, input, ELEMENTS * 2, importance)
          expect(got.bad).toBe(want.bad)
          if (want.bad === null) expectSameBytes(got.output, want.output, to)
        },
      ),
      { numRuns: 400 },
    )
  })

  test('any blocks dequantise to the same bytes, or blame the same element', async () => {
    await fc.assert(
      fc.asyncProperty(fc.constantFrom(...BLOCKS), fc.integer(), fc.boolean(), async (from, seed, tame) => {
        const random = randoms(seed)
        const input = Uint8Array.from({ length: bytesOf(from, ELEMENTS) }, () => random() * 256)
        const { bytes, block } = DTYPES[from]
        if (tame) {
          for (let i = 0; i < ELEMENTS / block; i++) {
            // Exponents of f16 scales that are neither Inf nor NaN.
            for (const at of CODECS[from]!.scales) input[i * bytes + at + 1]! &= 0xbb
          }
        }
        const [want, got] = [
          await run(reference, from, 'f32', input, ELEMENTS),
          await run(local, from, 'f32', input, ELEMENTS),
        ]
        expect(got.bad).toBe(want.bad)
        if (want.bad === null) expectSameBytes(got.output, want.output, from)
      }),
      { numRuns: 150 },
    )
  })

  test('every length, in unaligned buffers, writes its elements and nothing more', async () => {
    const random = randoms(3)
    for (const from of FLOATS) {
      for (const to of [...FLOATS, ...BLOCKS]) {
        for (let blocks = 0; blocks <= 9; blocks++) {
          const elements = blocks * DTYPES[to].block
          const input = encode(
            from,
            Float32Array.from({ length: elements }, () => gaussian(random)),
          )
          const unaligned = new Uint8Array(input.length + 1)
          unaligned.set(input, 1)
          const output = new Uint8Array(bytesOf(to, elements) + 65).fill(0xa5)
          const { bad } = await local
            .prepare({ kind: 'cast', from, to })
            .run(unaligned.subarray(1), output.subarray(1), elements)
          expect(bad).toBeNull()
          const want = await convert(reference, from, to, input, elements)
          expectSameBytes(output.subarray(1, 1 + want.length), want, `${from} -> ${to}, ${elements} elements`)
          expect(output[0]).toBe(0xa5)
          expect(output.subarray(1 + want.length).every((byte) => byte === 0xa5)).toBe(true)
        }
      }
    }
  })

  test('runs longer than a slice, on two threads, in and out of the arena', async () => {
    const elements = 256 * 5000
    const random = randoms(4)
    const values = Float32Array.from({ length: elements }, () => random() - 0.5)
    const want = await convert(local, 'f32', 'q8_0', bytesView(values), elements)
    expectSameBytes(await convert(pool, 'f32', 'q8_0', bytesView(values), elements), want, 'copied')
    const [input, output] = [pool.arena.alloc(values.byteLength), pool.arena.alloc(want.length)]
    input.set(bytesView(values))
    await pool.prepare({ kind: 'cast', from: 'f32', to: 'q8_0' }).run(input, output, elements)
    expectSameBytes(output, want, 'in place')
    // Of two bad elements in different slices the first is told, whichever thread is done first.
    new Float32Array(input.buffer, input.byteOffset, elements).set([NaN], 1_000_000)
    new Float32Array(input.buffer, input.byteOffset, elements).set([Infinity], 200_000)
    expect(await pool.prepare({ kind: 'cast', from: 'f32', to: 'q8_0' }).run(input, output, elements)).toEqual({
      bad: 200_000,
    })
    pool.arena.free(input)
    pool.arena.free(output)
  })
})

describe('what must not pass', () => {
  test('NaN and Inf are found at every position', async () => {
    for (const from of FLOATS) {
      for (const to of [...FLOATS, ...BLOCKS]) {
        const clean = encode(from, new Float32Array(ELEMENTS).fill(0.5))
        for (let at = 0; at < ELEMENTS; at++) {
          const input = clean.slice()
          const bad = encode(from, Float32Array.of([NaN, Infinity, -Infinity][at % 3]!))
          input.set(bad, at * bad.length)
          // A second one behind it must not be blamed.
          if (at + 7 < ELEMENTS) input.set(bad, (at + 7) * bad.length)
          expect((await run(local, from, to, input, ELEMENTS)).bad, `${from} -> ${to} at ${at}`).toBe(at)
        }
        const last = clean.slice()
        last.set(encode(from, Float32Array.of(NaN)), (ELEMENTS - 1) * bytesOf(from, 1))
        expect((await run(reference, from, to, last, ELEMENTS)).bad).toBe(ELEMENTS - 1)
      }
    }
  })

  test('what overflows a 16-bit type is blamed, and what only just fits is not', async () => {
    for (const backend of [reference, local]) {
      const cast = async (from: DType, to: DType, value: number) =>
        (await run(backend, from, to, encode(from, Float32Array.of(0, 0, 0, value)), 4)).bad
      expect(await cast('f32', 'f16', 65519.996)).toBeNull()
      expect(await cast('f32', 'f16', -65520)).toBe(3)
      expect(await cast('bf16', 'f16', 65536)).toBe(3)
      expect(await cast('bf16', 'f16', 65280)).toBeNull()
      expect(await cast('f32', 'bf16', 3.4e38)).toBe(3)
      expect(await cast('f32', 'bf16', 3.38e38)).toBeNull()
    }
  })

  test('a scale that overflows f16 blames the largest value of its block', async () => {
    // MXFP4's scale is an exponent that reaches as far as f32's.
    for (const to of BLOCKS.filter((type) => type !== 'mxfp4')) {
      const values = new Float32Array(ELEMENTS).fill(1)
      values[300] = -3e9
      values[301] = 3e9
      for (const backend of [reference, local, pool]) {
        expect((await run(backend, 'f32', to, bytesView(values), ELEMENTS)).bad).toBe(300)
      }
    }
  })
})

describe('importances', () => {
  test('NaN and Inf are found at every position, whatever overflows before them', async () => {
    const importance = new Float32Array(ELEMENTS).fill(1)
    for (const to of WEIGHTED) {
      for (let at = 0; at < ELEMENTS * 2; at += 37) {
        const values = new Float32Array(ELEMENTS * 2).fill(0.5)
        values[at] = [NaN, Infinity, -Infinity][at % 3]!
        for (const backend of [local, reference]) {
          if (backend === reference && at % 5 > 0) continue
          expect((await run(backend, 'f32', to, bytesView(values), ELEMENTS * 2, importance)).bad, to).toBe(at)
        }
      }
    }
  })

  test('rows longer than a slice, many rows, in and out of the arena, on two threads', async () => {
    const random = randoms(5)
    for (const [rows, columns] of [
      [2, 768 * 1024],
      [300, 2304],
    ] as const) {
      const elements = rows * columns
      const values = Float32Array.from({ length: elements }, () => random() - 0.5)
      const importance = Float32Array.from({ length: columns }, () => random())
      const want = await convert(local, 'f32', 'q4_0', bytesView(values), elements, importance)
      expectSameBytes(await convert(pool, 'f32', 'q4_0', bytesView(values), elements, importance), want, 'copied')
      const input = pool.arena.alloc(values.byteLength)
      const output = pool.arena.alloc(want.length)
      const held = pool.arena.alloc(importance.byteLength)
      input.set(bytesView(values))
      held.set(bytesView(importance))
      const kernel = pool.prepare({ kind: 'cast', from: 'f32', to: 'q4_0', weighted: true })
      await kernel.run(input, output, elements, undefined, { values: held, columns })
      expectSameBytes(output, want, 'in place')
      for (const buffer of [input, output, held]) pool.arena.free(buffer)
    }
  })

  test('ops that need them, ops that take none, and rows that do not fit are refused', async () => {
    const weighted = { kind: 'cast', from: 'f32', to: 'q4_k', weighted: true } as const
    const row = (columns: number) => ({ values: new Uint8Array(columns * 4), columns })
    for (const backend of [reference, local]) {
      const kernel = backend.prepare(weighted)
      const buffers = [new Uint8Array(2048), new Uint8Array(288), 512] as const
      const refused = expect.objectContaining({ code: 'internal' })
      await expect(kernel.run(...buffers)).rejects.toEqual(refused)
      await expect(kernel.run(...buffers, undefined, row(128))).rejects.toEqual(refused)
      await expect(kernel.run(...buffers, undefined, row(768))).rejects.toEqual(refused)
      await expect(kernel.run(...buffers, undefined, { ...row(128), columns: 256 })).rejects.toEqual(refused)
      const plain = backend.prepare({ kind: 'cast', from: 'f32', to: 'q4_k' })
      await expect(plain.run(...buffers, undefined, row(256))).rejects.toEqual(refused)
      for (const to of ['q8_0', 'mxfp4', 'f16'] as const) expect(backend.speed({ ...weighted, to })).toBe(0)
    }
  })

  test('types that are nothing without them are unsupported without, not a crash', () => {
    for (const to of ONLY_WEIGHTED) {
      for (const backend of [reference, local]) {
        const op = { kind: 'cast', from: 'f32', to } as const
        expect(backend.speed(op)).toBe(0)
        expect(() => backend.prepare(op)).toThrow(expect.objectContaining({ code: 'unsupported' }))
      }
    }
  })
})

describe('edge cases', () => {
  test('zeros of either sign make the scale that ggml makes', async () => {
    const zeros = new Float32Array(32).map((_, i) => (i % 2 ? -0 : 0))
    for (const backend of [reference, local]) {
      // 0 / -8 is -0: sign bit and nothing else, and the codes in the middle.
      expect([...(await convert(backend, 'f32', 'q4_0', bytesView(zeros), 32))]).toEqual([
        0,
        0x80,
        ...Array(16).fill(0x88),
      ])
      expect([...(await convert(backend, 'f32', 'q8_0', bytesView(zeros), 32))]).toEqual(Array(34).fill(0))
    }
  })

  test('of two values of the greatest magnitude the first gives Q4_0 its sign', async () => {
    for (const backend of [reference, local]) {
      for (const sign of [1, -1]) {
        const values = new Float32Array(32)
        values[5] = 8 * sign
        values[20] = -8 * sign
        const block = await convert(backend, 'f32', 'q4_0', bytesView(values), 32)
        expect(decodeF16(block[0]! | (block[1]! << 8))).toBe(-sign)
      }
    }
  })

  test('a scale whose inverse is Inf gives codes of 0', async () => {
    const values = new Float32Array(32).fill(1e-40)
    for (const backend of [reference, local]) {
      for (const to of ['q8_0', 'q4_0', 'q5_0'] as const) {
        const block = await convert(backend, 'f32', to, bytesView(values), 32)
        expect([...block.subarray(2)], to).toEqual(Array(block.length - 2).fill(0))
      }
    }
  })

  test('scalars that only the reference knows', async () => {
    const decoded = async (from: DType, bytes: Uint8Array) => [
      ...floatsView(await convert(reference, from, 'f32', bytes, bytes.length / bytesOf(from, 1))),
    ]
    expect(await decoded('bool', Uint8Array.of(0, 1, 255))).toEqual([0, 1, 1])
    expect(await decoded('i8', Uint8Array.of(127, 128))).toEqual([127, -128])
    expect(await decoded('f8_e4m3', Uint8Array.of(0x01, 0x08, 0x38, 0x7e, 0xfe))).toEqual([
      2 ** -9,
      2 ** -6,
      1,
      448,
      -448,
    ])
    expect(await decoded('f8_e5m2', Uint8Array.of(0x01, 0x3c, 0x7b))).toEqual([2 ** -16, 1, 57344])
    const longs = BigInt64Array.of(-3n, 2n ** 53n + 1n, -(2n ** 62n) - 2n ** 38n - 1n, 2n ** 62n + 2n ** 38n)
    expect(await decoded('i64', new Uint8Array(longs.buffer))).toEqual([-3, 2 ** 53, -(2 ** 62) - 2 ** 39, 2 ** 62])
    const doubles = new Uint8Array(Float64Array.of(0.1, -1e-300).buffer)
    expect(await decoded('f64', doubles)).toEqual([Math.fround(0.1), -0])
    expect((await run(reference, 'f64', 'f32', new Uint8Array(Float64Array.of(1, 1e300).buffer), 2)).bad).toBe(1)
    expect((await run(reference, 'f8_e4m3', 'f16', Uint8Array.of(0, 0x7f), 2)).bad).toBe(1)
  })
})
