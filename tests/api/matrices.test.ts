import { describe, expect, test } from 'vitest'
import { dequantize, read, schemeFields, slice, tensorBytes, type Recipe, type Scheme } from '../../src/core/tensor.ts'
import { kernels } from '../../src/api/kernels.ts'
import { tensorTiles, type Tile } from '../../src/api/tiles.ts'
import { createReferenceBackend } from '../../src/kernels/reference/index.ts'
import { ArrayInputs, evaluate } from './run.ts'

/** A matrix with pseudo-random parts, each in a file of its own; scales are F16 of 1 to 2. */
function matrix(scheme: Scheme, rows: number, columns: number): { recipe: Recipe; files: Map<string, Uint8Array> } {
  const files = new Map<string, Uint8Array>()
  const parts: Record<string, Recipe> = {}
  let state = 1
  for (const [field, info] of Object.entries(schemeFields(scheme, [rows, columns], 'f16'))) {
    const bytes = new Uint8Array(tensorBytes(info))
    const halves = new Uint16Array(bytes.buffer, 0, Math.floor(bytes.length / 2))
    for (let i = 0; i < halves.length; i++) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0
      halves[i] = field === 'scales' ? 0x3c00 + (state >>> 22) : state >>> 16
    }
    files.set(field, bytes)
    parts[field] = read(info, field, 0)
  }
  return { recipe: dequantize(scheme, [rows, columns], parts), files }
}

const half = (files: Map<string, Uint8Array>, index: number): number => {
  const bytes = files.get('scales')!
  return 1 + ((bytes[index * 2]! + 256 * bytes[index * 2 + 1]!) % 1024) / 1024
}

/** Field `index` of four bits. */
const nibble = (files: Map<string, Uint8Array>, part: string, index: number): number =>
  Math.floor(files.get(part)![Math.floor(index / 2)]! / (index % 2 === 0 ? 1 : 16)) % 16

/** Computes all tiles, three at a time; `hold`: with memory for what is to be held between them. */
async function run(
  recipe: Recipe,
  files: Map<string, Uint8Array>,
  hold: boolean,
): Promise<{ values: Float32Array; read: Map<string, number>; slab: number; held: number; planned: number }> {
  const computing = kernels([createReferenceBackend()])
  const read = new Map<string, number>()
  const values = new Float32Array(tensorBytes({ dtype: 'f32', shape: recipe.shape }) / 4)
  const out = new Uint8Array(values.buffer)
  let [slab, planned, held] = [0, 0, 0]
  const inputs = {
    async read(file: string, offset: number, into: Uint8Array) {
      into.set(files.get(file)!.subarray(offset, offset + into.length))
      read.set(file, (read.get(file) ?? 0) + into.length)
    },
    product: () => Promise.reject(new Error('no products')),
  }
  const holder = (bytes: number): Uint8Array => {
    held += bytes
    return new Uint8Array(bytes)
  }
  const tiles = [...tensorTiles('w', recipe, 0, hold ? holder : null)]
  const [takes, gives] = [tiles.map((tile) => tile.takes), tiles.map((tile) => tile.gives)]
  const computed = async (tile: Tile): Promise<void> => {
    slab = Math.max(slab, tile.slab)
    planned += tile.reads
    out.set(await tile.compute(new Uint8Array(tile.slab), { ...computing, inputs, signal: undefined }), tile.offset)
  }
  for (let at = 0; at < tiles.length; at += 3) await Promise.all(tiles.slice(at, at + 3).map(computed))
  const sum = (all: readonly number[]): number => all.reduce((a, b) => a + b, 0)
  expect([sum(takes), takes[0], sum(gives), gives.at(-1)]).toEqual([held, held, held, held])
  return { values, read, slab, held, planned }
}

const bytesOf = (values: Float32Array): Buffer => Buffer.from(values.buffer)

const [ROWS, COLUMNS, GROUP] = [2048, 10240, 128]
const LARGE: [string, Scheme, (files: Map<string, Uint8Array>, row: number, column: number) => number][] = [
  [
    'GPTQ',
    { kind: 'gptq', bits: 4, group: GROUP, zeroOffset: 1, actOrder: false },
    (files, row, column) => {
      const group = Math.floor(column / GROUP)
      const code = nibble(files, 'codes', (Math.floor(column / 8) * ROWS + row) * 8 + (column % 8))
      return half(files, group * ROWS + row) * (code - nibble(files, 'zeros', group * ROWS + row) - 1)
    },
  ],
  [
    'AWQ',
    { kind: 'awq', layout: 'gemm', group: GROUP },
    (files, row, column) => {
      const group = Math.floor(column / GROUP)
      const at = Math.floor(row / 8) * 8 + [0, 4, 1, 5, 2, 6, 3, 7][row % 8]!
      const code = nibble(files, 'codes', column * ROWS + at)
      return half(files, group * ROWS + row) * (code - nibble(files, 'zeros', group * ROWS + at))
    },
  ],
  [
    'compressed-tensors',
    { kind: 'packed', bits: 4, group: GROUP, symmetric: true, actOrder: false },
    (files, row, column) =>
      half(files, (row * COLUMNS) / GROUP + Math.floor(column / GROUP)) *
      (nibble(files, 'codes', row * COLUMNS + column) - 8),
  ],
]

describe('large matrices', () => {
  for (const [name, scheme, expected] of LARGE) {
    test.each(scheme.kind === 'packed' ? [true] : [true, false])(
      `${name}: in strips, parts held and each byte read once: %s`,
      async (hold) => {
        const { recipe, files } = matrix(scheme, ROWS, COLUMNS)
        const { values, read: counted, slab, held, planned } = await run(recipe, files, hold)
        for (let at = 0; at < values.length; at += 997) {
          const [row, column] = [Math.floor(at / COLUMNS), at % COLUMNS]
          if (values[at] !== expected(files, row, column))
            expect([row, column, values[at]]).toEqual(expected(files, row, column))
        }
        let total = 0
        for (const [file, bytes] of counted) {
          total += bytes
          // what is not held is read in runs, with gaps between short ones
          const across = scheme.kind !== 'packed' && !hold
          expect(bytes / files.get(file)!.length, file).toBeLessThanOrEqual(across ? 4 : 1)
        }
        expect(total).toBe(planned)
        // the values of a strip twice and its codes; never the matrix of 80 MiB
        const across = scheme.kind !== 'packed'
        expect(slab).toBeLessThan((hold || !across ? 16 : 64) << 20)
        expect(held > 0).toBe(hold && across)
        expect(held).toBeLessThan(ROWS * COLUMNS)
      },
    )
  }
  test('what is cut from a matrix is not held, but read in runs', async () => {
    const { recipe, files } = matrix(LARGE[0]![1], 2048, 2048)
    const upper = await run(slice(recipe, 0, 0, 1024), files, true)
    const lower = await run(slice(recipe, 0, 1024, 1024), files, true)
    const whole = await run(recipe, files, true)
    expect([upper.held, lower.held]).toEqual([0, 0])
    expect(upper.read.get('codes')! + lower.read.get('codes')!).toBeLessThanOrEqual(4 * whole.read.get('codes')!)
    const [both, all] = [Buffer.concat([upper.values, lower.values].map(bytesOf)), bytesOf(whole.values)]
    expect(both.equals(all)).toBe(true)
  })
  test('very large ones are not held, but read in runs, each byte once', async () => {
    const scheme: Scheme = { kind: 'gptq', bits: 8, group: 4096, zeroOffset: 0, actOrder: false }
    const { recipe } = matrix(scheme, 36864, 4096)
    let codes = 0
    const none = (): never => expect.unreachable()
    for (const tile of tensorTiles('w', recipe, 0, none)) {
      codes += tile.reads
      expect(tile.takes).toBe(0)
    }
    const stored = Object.values((recipe as Recipe & { op: 'dequantize' }).parts).reduce(
      (sum, part) => sum + tensorBytes(part),
      0,
    )
    expect(codes / stored).toBeLessThan(1.1)
  })
  test('ranges that cut rows and strips agree with the whole', async () => {
    for (const [rows, columns] of [
      [96, 160],
      [32, 32],
      [288, 64],
    ] as const) {
      for (const scheme of [
        { kind: 'gptq', bits: 3, group: 48, zeroOffset: 1, actOrder: false },
        { kind: 'awq', layout: 'gemm', group: 32 },
        { kind: 'awq', layout: 'gemv', group: 32 },
        { kind: 'packed', bits: 4, group: 32, symmetric: false, actOrder: false },
        { kind: 'scaled', codes: 'i8', rows: 5, columns: 7, symmetric: false },
      ] as Scheme[]) {
        const { recipe, files } = matrix(scheme, rows, columns)
        const { values } = await run(recipe, files, false)
        expect((await run(recipe, files, true)).values).toEqual(values)
        const { bytes } = await evaluate(recipe, new ArrayInputs(Object.fromEntries(files)))
        expect(new Float32Array(Uint8Array.from(bytes).buffer)).toEqual(values)
        const cut = slice(slice(recipe, 0, 7, 17), 1, 3, 13)
        const part = await evaluate(cut, new ArrayInputs(Object.fromEntries(files)))
        const own = new Float32Array(Uint8Array.from(part.bytes).buffer)
        for (const [i, value] of own.entries()) {
          expect(value).toBe(values[(7 + Math.floor(i / 13)) * columns + 3 + (i % 13)])
        }
      }
    }
  })
})
