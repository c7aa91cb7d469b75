import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { bytesOf, type DType } from '../../src/core/dtype.ts'
import type { MatrixScheme } from '../../src/core/matrix-scheme.ts'
import { schemeFields, schemeGroups, tensorBytes, type GroupScheme, type Scheme } from '../../src/core/tensor.ts'
import type { Backend, SchemeOp } from '../../src/kernels/backend.ts'
import { chooseBackend } from '../../src/kernels/dispatch.ts'
import { encodeBf16, encodeF16 } from '../../src/kernels/reference/float.ts'
import { SCHEME_OPS, selfTestSchemes } from '../../src/kernels/selftest-schemes.ts'
import { bytesView, expectSameBytes, FLOATS, reference, wasm } from './backends.ts'
import { distributions, randoms } from './distributions.ts'

let backends: readonly Backend[]
beforeAll(async () => {
  backends = [await wasm(0), await wasm(1), await wasm(2)]
})
afterAll(async () => {
  for (const backend of backends) await backend.close()
})

const AFFINE = [2, 3, 4, 5, 6, 8].flatMap((bits) =>
  [32, 64, 128].map((group): GroupScheme => ({ kind: 'affine', bits, group })),
)
const GROUP_SCHEMES: readonly GroupScheme[] = [...AFFINE, { kind: 'mxfp4' }, { kind: 'mxfp8' }, { kind: 'nvfp4' }]

const title = (scheme: Scheme): string => JSON.stringify(scheme).replaceAll(/["{}]/g, '')

type Parts = Record<string, Uint8Array>

/** Empty parts, each in a buffer of its own. */
function partsFor(scheme: Scheme, rows: number, columns: number): Parts {
  const fields = schemeFields(scheme, [rows, columns], 'f32')
  return Object.fromEntries(Object.entries(fields).map(([name, info]) => [name, new Uint8Array(tensorBytes(info))]))
}

interface Result {
  readonly bad: number | null
  readonly bytes: Parts
}

async function quantize(
  backend: Backend,
  from: DType,
  scheme: GroupScheme,
  values: Uint8Array,
  rows: number,
): Promise<Result> {
  const { group } = schemeGroups(scheme)
  const parts = partsFor(scheme, rows, group)
  const { bad } = await backend.prepareScheme({ kind: 'quantize', from, scheme }).run(parts, values, rows, group)
  return { bad, bytes: parts }
}

async function dequantize(
  backend: Backend,
  scheme: Scheme,
  parts: Parts,
  rows: number,
  columns: number,
): Promise<Result> {
  const values = new Uint8Array(rows * columns * 4)
  const { bad } = await backend.prepareScheme({ kind: 'dequantize', scheme }).run(parts, values, rows, columns)
  return { bad, bytes: { values } }
}

/** All backends agree with the reference: on the bytes, or on whom to blame. */
async function expectAgreement(what: string, act: (backend: Backend) => Promise<Result>): Promise<Result> {
  const want = await act(reference)
  for (const backend of backends) {
    const got = await act(backend)
    expect(got.bad, what).toBe(want.bad)
    if (want.bad !== null) continue
    for (const [name, bytes] of Object.entries(want.bytes)) expectSameBytes(got.bytes[name]!, bytes, `${what}, ${name}`)
  }
  return want
}

/** f32 values rounded to a type. */
function encode(dtype: DType, values: Float32Array): Uint8Array {
  if (dtype === 'f32') return bytesView(values)
  return new Uint8Array(Uint16Array.from(values, (v) => (dtype === 'f16' ? encodeF16(v) : encodeBf16(v))).buffer)
}

function wordsOf(bits: Iterable<number>): Uint8Array {
  return new Uint8Array(Uint32Array.from(bits).buffer)
}

/** Bits of an f32 of any kind: NaN, Inf, zeros and subnormal ones are frequent. */
const anyBits = fc.oneof(
  { weight: 8, arbitrary: fc.integer({ min: 0x38000000, max: 0x40000000 }) },
  { weight: 2, arbitrary: fc.integer({ min: 0, max: 0xffffffff }) },
  { weight: 1, arbitrary: fc.constantFrom(0, 0x80000000, 1, 0x80000001, 0x7f7fffff, 0xff7fffff, 0x007fffff) },
)
const finiteBits = anyBits.filter((bits) => (bits & 0x7f800000) !== 0x7f800000)

describe('every kernel is there', () => {
  test('and faster than the reference', () => {
    for (const scheme of GROUP_SCHEMES) {
      for (const from of FLOATS) {
        const op: SchemeOp = { kind: 'quantize', from, scheme }
        expect(backends[0]!.speed(op), title(scheme)).toBeGreaterThan(reference.speed(op))
      }
      const op: SchemeOp = { kind: 'dequantize', scheme }
      expect(backends[0]!.speed(op), title(scheme)).toBeGreaterThan(reference.speed(op))
    }
  })

  test('passes its self-test with all ops, and a liar does not', async () => {
    const [local] = backends
    for (const op of SCHEME_OPS) expect(local!.speed(op)).toBeGreaterThan(0)
    expect(await selfTestSchemes(local!)).toEqual([])
    const liar: Backend = {
      ...local!,
      prepareScheme: (op) => ({
        op,
        async run(parts, values, rows, columns) {
          const result = await local!.prepareScheme(op).run(parts, values, rows, columns)
          const made = op.kind === 'quantize' ? parts['codes']! : values
          made[made.length - 1]! ^= 1
          return result
        },
      }),
    }
    const failures = await selfTestSchemes(liar)
    expect(failures).toHaveLength(SCHEME_OPS.length)
    const op = SCHEME_OPS[0]!
    const choice = chooseBackend([liar, reference], op, new Map([[liar, failures]]))
    expect(choice.backend).toBe(reference)
    expect(choice.reason).toContain('failed its self-test')
  })

  test('what has no kernel is left to the reference, with the reason', () => {
    for (const op of [
      { kind: 'quantize', from: 'f64', scheme: { kind: 'affine', bits: 4, group: 32 } },
      { kind: 'quantize', from: 'f32', scheme: { kind: 'affine', bits: 4, group: 48 } },
      { kind: 'dequantize', scheme: { kind: 'affine', bits: 7, group: 32 } },
    ] satisfies SchemeOp[]) {
      expect(backends[0]!.speed(op)).toBe(0)
      expect(() => backends[0]!.prepareScheme(op)).toThrow(expect.objectContaining({ code: 'unsupported' }))
      const choice = chooseBackend([backends[0]!, reference], op)
      expect(choice.backend).toBe(reference)
      expect(choice.reason).toContain('cannot do')
    }
  })
})

describe.each(GROUP_SCHEMES)('$kind $bits $group against the reference', (scheme) => {
  const { group } = schemeGroups(scheme)
  const what = title(scheme)

  test('all distributions of all types: the same parts, and the same values back', async () => {
    // an odd number of groups
    const elements = group * 21
    for (const [name, values] of distributions(elements)) {
      for (const from of FLOATS) {
        const bytes = encode(from, values)
        const { bytes: parts } = await expectAgreement(`${what}, ${name}, ${from}`, (backend) =>
          quantize(backend, from, scheme, bytes, 21),
        )
        if (from !== 'f32') continue
        await expectAgreement(`${what}, ${name}, back`, (backend) => dequantize(backend, scheme, parts, 21, group))
      }
    }
  })

  test('any finite bits: the same parts, and the same values back or the same to blame', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(finiteBits, { minLength: group * 2, maxLength: group * 2 }), async (bits) => {
        const values = wordsOf(bits)
        const { bytes: parts } = await expectAgreement(what, (backend) => quantize(backend, 'f32', scheme, values, 2))
        await expectAgreement(`${what}, back`, (backend) => dequantize(backend, scheme, parts, 2, group))
      }),
      { numRuns: 60 },
    )
  })

  test('every f16 and bf16 there is; the first that is not finite is to blame', async () => {
    for (const from of ['f16', 'bf16'] as const) {
      const exponent = from === 'f16' ? 0x7c00 : 0x7f80
      const finite = Uint16Array.from({ length: 65536 }, (_, i) => ((i & exponent) === exponent ? i & 0x83ff : i))
      const bytes = new Uint8Array(finite.buffer)
      const rows = finite.length / group
      await expectAgreement(`${what}, ${from}`, (backend) => quantize(backend, from, scheme, bytes, rows))
      for (const at of [0, 4097, 65535]) {
        const wrong = finite.slice()
        wrong[at] = exponent
        const { bad } = await expectAgreement(`${what}, ${from}, Inf at ${at}`, (backend) =>
          quantize(backend, from, scheme, new Uint8Array(wrong.buffer), rows),
        )
        expect(bad).toBe(at)
      }
    }
    for (const bits of [0x7fc00000, 0xff800000]) {
      const values = new Uint32Array(group * 3)
      values[group + 5] = bits
      values[group + 7] = bits
      const { bad } = await expectAgreement(what, (backend) =>
        quantize(backend, 'f32', scheme, new Uint8Array(values.buffer), 3),
      )
      expect(bad).toBe(group + 5)
    }
  })

  test('any codes with any scales: the same values, or the same to blame', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 0, max: 0xffffffff }),
        fc.array(anyBits, { minLength: 10, maxLength: 10 }),
        async (seed, bits) => {
          const parts = partsFor(scheme, 5, group)
          fill(parts['codes']!, randoms(seed))
          if (scheme.kind === 'affine') {
            parts['scales'] = wordsOf(bits.slice(0, 5))
            parts['biases'] = wordsOf(bits.slice(5))
          } else fill(parts['scales']!, randoms(seed + 1))
          await expectAgreement(what, (backend) => dequantize(backend, scheme, parts, 5, group))
        },
      ),
      { numRuns: 60 },
    )
  })
})

test.each(['mxfp4', 'mxfp8'] as const)('%s: scales at the edges between two powers of two', async (kind) => {
  const largest = kind === 'mxfp4' ? 6 : 448
  const values: number[] = []
  for (let exponent = -149; exponent < 127; exponent++) {
    const middle = Math.fround(2 ** (exponent + 0.5) * largest)
    if (middle > 3.4e38) continue
    const bits = new Uint32Array(Float32Array.of(middle).buffer)[0]!
    for (let ulp = -40; ulp <= 40; ulp++) values.push(Math.max(0, bits + ulp))
  }
  const groups = new Uint32Array(values.length * 32)
  values.forEach((bits, i) => (groups[i * 32 + (i % 32)] = bits))
  await expectAgreement(kind, (backend) =>
    quantize(backend, 'f32', { kind }, new Uint8Array(groups.buffer), values.length),
  )
})

function fill(bytes: Uint8Array, random: () => number): void {
  for (let i = 0; i < bytes.length; i++) bytes[i] = random() * 256
}

/** Matrix schemes with the steps that rows and columns come in. */
const MATRIX_SCHEMES: readonly (readonly [MatrixScheme, number, number])[] = [
  ...[2, 3, 4, 8].flatMap((bits) => {
    const step = 32 % bits === 0 ? 32 / bits : 32
    return [128, 48, 7].flatMap((group) =>
      ([0, 1] as const).map(
        (zeroOffset) => [{ kind: 'gptq', bits, group, zeroOffset, actOrder: group === 7 }, step, step] as const,
      ),
    )
  }),
  ...[128, 48, 7].flatMap((group) => [
    [{ kind: 'awq', layout: 'gemm', group }, 8, 1] as const,
    [{ kind: 'awq', layout: 'gemv', group }, 1, 8] as const,
  ]),
  ...([2, 4, 8] as const).flatMap((bits) =>
    [128, 48, 7].flatMap((group) =>
      [true, false].map(
        (symmetric) =>
          [{ kind: 'packed', bits, group, symmetric, actOrder: group === 48 }, symmetric ? 1 : 32 / bits, 1] as const,
      ),
    ),
  ),
  ...(['f8_e4m3', 'f8_e5m2', 'i8'] as const).flatMap((codes) =>
    [true, false].flatMap((symmetric) =>
      (
        [
          [128, 128],
          [5, 7],
          [1, 1000],
          [1000, 1000],
        ] as const
      ).map(([rows, columns]) => [{ kind: 'scaled', codes, rows, columns, symmetric }, 1, 1] as const),
    ),
  ),
]

/** Parts of which every bit is drawn, but scales are as given and groups are those there are. */
function matrixParts(
  scheme: MatrixScheme,
  rows: number,
  columns: number,
  seed: number,
  scaleBits: readonly number[],
): Parts {
  const random = randoms(seed)
  const parts = partsFor(scheme, rows, columns)
  for (const [name, bytes] of Object.entries(parts)) {
    if (name === 'scales') {
      const words = new Uint32Array(bytes.buffer)
      words.forEach((_, i) => (words[i] = scaleBits[Math.floor(random() * scaleBits.length)]!))
    } else if (name === 'groups' && (scheme.kind === 'gptq' || scheme.kind === 'packed')) {
      const groups = new Int32Array(bytes.buffer)
      const count = Math.ceil(columns / scheme.group)
      groups.forEach((_, i) => (groups[i] = Math.floor(random() * count)))
    } else fill(bytes, random)
    // half of all runs are of numbers only
    if (name === 'codes' && seed % 2 === 0 && scheme.kind === 'scaled' && scheme.codes !== 'i8') {
      bytes.forEach((byte, i) => (bytes[i] = (byte & 0x7f) >= 0x78 ? byte ^ 0x40 : byte))
    }
  }
  return parts
}

describe.each(MATRIX_SCHEMES)('%o against the reference', (scheme, rowStep, columnStep) => {
  const what = title(scheme)

  test('there is a kernel, faster than the reference', () => {
    const op: SchemeOp = { kind: 'dequantize', scheme }
    expect(backends[0]!.speed(op)).toBeGreaterThan(reference.speed(op))
  })

  test('matrices of any shape: the same values, or the same to blame', async () => {
    const tame = Array.from({ length: 16 }, (_, i) => 0x3a000000 + i * 0x00123457)
    let sound = 0
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 150 }),
        fc.integer({ min: 1, max: 330 }),
        fc.integer({ min: 0, max: 0x7fffffff }),
        fc.oneof(fc.constant(tame), fc.array(anyBits, { minLength: 1, maxLength: 20 })),
        async (tall, wide, seed, scales) => {
          const rows = Math.ceil(tall / rowStep) * rowStep
          const columns = Math.ceil(wide / columnStep) * columnStep
          const parts = matrixParts(scheme, rows, columns, seed, scales)
          const { bad } = await expectAgreement(`${what} ${rows} x ${columns}`, (backend) =>
            dequantize(backend, scheme, parts, rows, columns),
          )
          if (bad === null) sound++
        },
      ),
      { numRuns: 40 },
    )
    expect(sound).toBeGreaterThan(5)
  })
})

test('matrices of many jobs are the same on all threads', async () => {
  for (const scheme of [
    { kind: 'gptq', bits: 4, group: 128, zeroOffset: 1, actOrder: true },
    { kind: 'awq', layout: 'gemm', group: 128 },
    { kind: 'packed', bits: 4, group: 128, symmetric: false, actOrder: false },
    { kind: 'scaled', codes: 'f8_e4m3', rows: 128, columns: 128, symmetric: true },
  ] satisfies MatrixScheme[]) {
    const [rows, columns] = [1000, 2048]
    const parts = matrixParts(scheme, rows, columns, 4, [0x3c000000, 0xbc123456])
    const { bad } = await expectAgreement(title(scheme), (backend) => dequantize(backend, scheme, parts, rows, columns))
    expect(bad).toBeNull()
    const scales = new Uint32Array(parts['scales']!.buffer)
    scales[scales.length - 1] = 0x7f800000
    const { bad: blamed } = await expectAgreement(title(scheme), (backend) =>
      dequantize(backend, scheme, parts, rows, columns),
    )
    expect(blamed).not.toBeNull()
  }
})

test('a group that there is not is refused before anything is read', async () => {
  const scheme: MatrixScheme = { kind: 'gptq', bits: 4, group: 32, zeroOffset: 1, actOrder: true }
  for (const wrong of [-1, 2]) {
    const parts = matrixParts(scheme, 8, 64, 1, [0x3f800000])
    new Int32Array(parts['groups']!.buffer)[5] = wrong
    for (const backend of [reference, ...backends]) {
      await expect(dequantize(backend, scheme, parts, 8, 64)).rejects.toMatchObject({ code: 'bad-tensor' })
    }
  }
})

describe('long runs', () => {
  const scheme: GroupScheme = { kind: 'affine', bits: 5, group: 64 }
  // more than two jobs, the last one short
  const rows = 2 * 8192 + 77

  test('are cut for the threads, in the arena and out of it, and blame the first of all', async () => {
    const random = randoms(9)
    const values = Float32Array.from({ length: rows * 64 }, () => random() - 0.5)
    const { bytes: parts } = await expectAgreement('quantise', (backend) =>
      quantize(backend, 'f32', scheme, bytesView(values), rows),
    )
    await expectAgreement('dequantise', (backend) => dequantize(backend, scheme, parts, rows, 64))
    for (const backend of backends) {
      const { arena } = backend
      const inArena = (bytes: Uint8Array): Uint8Array => {
        const buffer = arena.alloc(bytes.length)
        buffer.set(bytes)
        return buffer
      }
      const own = Object.fromEntries(Object.entries(parts).map(([name, bytes]) => [name, inArena(bytes)]))
      const out = arena.alloc(values.byteLength)
      expect(await backend.prepareScheme({ kind: 'dequantize', scheme }).run(own, out, rows, 64)).toEqual({ bad: null })
      const want = (await dequantize(reference, scheme, parts, rows, 64)).bytes['values']!
      expectSameBytes(out, want, 'in the arena')
      for (const buffer of [...Object.values(own), out]) arena.free(buffer)
    }
    for (const at of [rows * 64 - 1, 8192 * 64, 3]) values[at] = Number.NaN
    const { bad } = await expectAgreement('NaN', (backend) => quantize(backend, 'f32', scheme, bytesView(values), rows))
    expect(bad).toBe(3)
  })

  test('are aborted, and leave nothing in the arena', async () => {
    for (const backend of backends) {
      const arena = backend.arena as unknown as { readonly used: number }
      const before = arena.used
      const controller = new AbortController()
      const parts = partsFor(scheme, rows, 64)
      const values = new Uint8Array(rows * 256)
      const kernel = backend.prepareScheme({ kind: 'quantize', from: 'f32', scheme })
      const running = kernel.run(parts, values, rows, 64, controller.signal)
      controller.abort()
      await expect(running).rejects.toMatchObject({ code: 'cancelled' })
      expect(arena.used).toBe(before)
    }
  })

  test('parts that are too short or missing are refused', async () => {
    for (const backend of [reference, ...backends]) {
      const kernel = backend.prepareScheme({ kind: 'dequantize', scheme })
      const parts = partsFor(scheme, 3, 64)
      const values = new Uint8Array(3 * 256)
      const { scales: _, ...lacking } = parts
      await expect(kernel.run(lacking, values, 3, 64)).rejects.toMatchObject({ code: 'internal' })
      await expect(kernel.run(parts, values.subarray(4), 3, 64)).rejects.toMatchObject({ code: 'internal' })
      const short = { ...parts, codes: parts['codes']!.subarray(4) }
      await expect(kernel.run(short, values, 3, 64)).rejects.toMatchObject({ code: 'internal' })
      expect(bytesOf('f32', 3 * 64)).toBe(values.length)
    }
  })
})
