/** Kernels that convert nothing: random values, and low-rank updates. */
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { bytesOf } from '../../src/core/dtype.ts'
import { QUANTILES, type Backend, type DrawType } from '../../src/kernels/backend.ts'
import { bytesView, expectSameBytes, floatsView, reference, wasm } from './backends.ts'

const TYPES: readonly DrawType[] = ['f32', 'f16', 'bf16']

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

/** Any bytes: a table is only looked up. */
const tables = new Map(
  TYPES.map((to) => [
    to,
    Uint8Array.from({ length: bytesOf(to, QUANTILES) }, (_, i) => Math.imul(i, 2654435761) >>> 24),
  ]),
)

async function draw(
  backend: Backend,
  how: 'uniform' | 'normal',
  to: DrawType,
  elements: number,
  { seed = 1, start = 0, low = -1, high = 1 } = {},
): Promise<{ output: Uint8Array; bad: number | null }> {
  const output = new Uint8Array(bytesOf(to, elements))
  const from = how === 'uniform' ? { low, high } : { table: tables.get(to)! }
  const { bad } = await backend.prepareDraw({ kind: 'draw', how, to }).run({ seed, start, from }, output, elements)
  return { output, bad }
}

describe('random values', () => {
  test('WASM gives the reference’s bytes, from any index on', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom('uniform', 'normal') as fc.Arbitrary<'uniform' | 'normal'>,
        fc.constantFrom(...TYPES),
        fc.integer({ min: 0, max: 5000 }),
        fc.integer({ min: 0, max: 2 ** 32 - 1 }),
        // near where the words of the counter carry, for elements and for pairs
        fc.tuple(fc.constantFrom(0, 2 ** 32, 2 ** 33, 2 ** 40 + 2 ** 33), fc.integer({ min: -3000, max: 3000 })),
        fc.double({ min: -3e4, max: 3e4, noNaN: true }),
        fc.double({ min: 0, max: 3e4, noNaN: true }),
        async (how, to, elements, seed, [origin, offset], low, width) => {
          const details = { seed, start: Math.max(0, origin + offset), low, high: low + width }
          const [want, got] = [
            await draw(reference, how, to, elements, details),
            await draw(local, how, to, elements, details),
          ]
          expect([want.bad, got.bad]).toEqual([null, null])
          expectSameBytes(got.output, want.output, `${how} ${to}`)
        },
      ),
      { numRuns: 300 },
    )
  })

  test.each(['uniform', 'normal'] as const)(
    '%s: threads and windows change nothing, tiles make up the whole',
    async (how) => {
      const elements = (1 << 20) + 77
      for (const to of TYPES) {
        const want = await draw(reference, how, to, elements, { start: 5 })
        expectSameBytes((await draw(pool, how, to, elements, { start: 5 })).output, want.output, to)
        // in the arena: no copies
        const output = pool.arena.alloc(bytesOf(to, elements))
        const from = how === 'uniform' ? { low: -1, high: 1 } : { table: tables.get(to)! }
        const kernel = pool.prepareDraw({ kind: 'draw', how, to })
        for (const [first, end] of [
          [0, 333_333],
          [333_333, elements],
        ] as const) {
          const piece = output.subarray(bytesOf(to, first), bytesOf(to, end))
          await kernel.run({ seed: 1, start: 5 + first, from }, piece, end - first)
        }
        expectSameBytes(output.slice(), want.output, to)
        pool.arena.free(output)
      }
    },
  )

  test('the first value that the type cannot hold is blamed', async () => {
    const details = { low: 0, high: 70_000 }
    const want = await draw(reference, 'uniform', 'f16', 4000, details)
    expect(want.bad).not.toBeNull()
    for (const backend of [local, pool])
      expect((await draw(backend, 'uniform', 'f16', 4000, details)).bad).toBe(want.bad)
    expect((await draw(local, 'uniform', 'bf16', 4000, details)).bad).toBeNull()
  })

  test('uniform values fill their interval evenly', async () => {
    const { output } = await draw(pool, 'uniform', 'f32', 1 << 20, { low: -2, high: 6, seed: 9 })
    const counts = new Uint32Array(16)
    for (const value of floatsView(output)) counts[Math.floor((value + 2) * 2)]!++
    const expected = 2 ** 16
    const chi = counts.reduce((sum, count) => sum + (count - expected) ** 2 / expected, 0)
    // 15 degrees of freedom: one in 10^6
    expect(chi).toBeLessThan(55)
  })

  test('runs that lack what they need are refused', async () => {
    for (const backend of [reference, local]) {
      const uniform = backend.prepareDraw({ kind: 'draw', how: 'uniform', to: 'f32' })
      const draw = { seed: 0, start: 0, from: { low: 0, high: 1 } }
      await expect(uniform.run(draw, new Uint8Array(16), 4)).resolves.toEqual({ bad: null })
      await expect(uniform.run(draw, new Uint8Array(15), 4)).rejects.toMatchObject({ code: 'internal' })
      const normal = backend.prepareDraw({ kind: 'draw', how: 'normal', to: 'f32' })
      await expect(normal.run(draw, new Uint8Array(16), 4)).rejects.toMatchObject({ code: 'internal' })
      const small = { ...draw, from: { table: new Uint8Array(16) } }
      await expect(normal.run(small, new Uint8Array(16), 4)).rejects.toMatchObject({ code: 'internal' })
    }
  })
})

const floats = (count: number, seed: number): Float32Array =>
  Float32Array.from({ length: count }, (_, i) => Math.sin((i + 1) * seed) * (1 + (i % 7)))

async function update(
  backend: Backend,
  [rows, rank, columns]: readonly [number, number, number],
  scale: number,
): Promise<Float32Array> {
  const output = bytesView(floats(rows * columns, 0.37)).slice()
  const [up, down] = [bytesView(floats(rows * rank, 0.71)), bytesView(floats(rank * columns, 1.13))]
  await backend.prepareLowRank({ kind: 'low-rank', rank }).run({ up, down, columns, scale }, output, rows)
  return floatsView(output)
}

describe('low-rank updates', () => {
  const sizes = fc.tuple(
    fc.integer({ min: 1, max: 9 }),
    fc.integer({ min: 1, max: 20 }),
    fc.integer({ min: 1, max: 600 }),
  )

  test('are what a sum in doubles says', async () => {
    await fc.assert(
      fc.asyncProperty(sizes, fc.double({ min: -4, max: 4, noNaN: true }), async ([rows, rank, columns], scale) => {
        const got = await update(local, [rows, rank, columns], scale)
        const [base, up, down] = [floats(rows * columns, 0.37), floats(rows * rank, 0.71), floats(rank * columns, 1.13)]
        got.forEach((value, i) => {
          let sum = 0
          for (let k = 0; k < rank; k++) {
            sum += up[Math.floor(i / columns) * rank + k]! * down[k * columns + (i % columns)]!
          }
          expect(Math.abs(value - (base[i]! + scale * sum))).toBeLessThan(2e-5 * rank)
        })
      }),
      { numRuns: 60 },
    )
  })

  test('WASM gives the reference’s bytes', async () => {
    await fc.assert(
      fc.asyncProperty(sizes, fc.double({ min: -4, max: 4, noNaN: true }), async (size, scale) => {
        const [want, got] = [await update(reference, size, scale), await update(local, size, scale)]
        expectSameBytes(bytesView(got), bytesView(want), size.join(' x '))
      }),
      { numRuns: 200 },
    )
  })

  test('on threads and through windows', async () => {
    const size = [1500, 3, 1001] as const
    const [want, got] = [await update(reference, size, 0.5), await update(pool, size, 0.5)]
    expectSameBytes(bytesView(got), bytesView(want), size.join(' x '))
  })

  test('rows that are not whole, and factors that are too small, are refused', async () => {
    for (const backend of [reference, local]) {
      const kernel = backend.prepareLowRank({ kind: 'low-rank', rank: 2 })
      const run = (up: number, down: number, values: number): Promise<unknown> =>
        kernel.run(
          { up: new Uint8Array(up), down: new Uint8Array(down), columns: 4, scale: 1 },
          new Uint8Array(values),
          2,
        )
      await expect(run(16, 32, 32)).resolves.toBeUndefined()
      for (const [up, down, values] of [
        [12, 32, 32],
        [16, 28, 32],
        [16, 32, 28],
      ] as const) {
        await expect(run(up, down, values)).rejects.toMatchObject({ code: 'internal' })
      }
    }
  })
})
