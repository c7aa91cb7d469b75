import { describe, expect, test } from 'vitest'
import fc from 'fast-check'
import { AppError } from '../../../src/core/errors.ts'
import type { OptionValues } from '../../../src/core/option.ts'
import { gguf } from '../../../src/engines/gguf/engine.ts'
import { optimise, sizeTarget } from '../../../src/engines/gguf/weights/size-target.ts'
import { madeUpCheckpoint } from './made-up.ts'

const steps = (name: string, points: readonly (readonly [bytes: number, error: number])[]) =>
  points.map(([bytes, error]) => ({ name, type: 'q4_k' as const, bytes, weights: 1, error }))

/** The least error of all choices within the budget; null if there is none. */
function exhaustive(tensors: readonly ReturnType<typeof steps>[], budget: number): number | null {
  const [first, ...rest] = tensors
  if (first === undefined) return budget < 0 ? null : 0
  let best: number | null = null
  for (const { bytes, error } of first) {
    const other = exhaustive(rest, budget - bytes)
    if (other !== null && (best === null || other + error < best)) best = other + error
  }
  return best
}

describe('the choice', () => {
  test('goes where a byte saves the most error', () => {
    const tensors = [
      steps('a', [[10, 5], [20, 1], [40, 0]]), // prettier-ignore
      steps('b', [[10, 2], [20, 1], [40, 0]]), // prettier-ignore
    ]
    const picked = (budget: number) => optimise(tensors, budget)?.map(({ bytes }) => bytes)
    expect(picked(19)).toBeUndefined()
    expect(picked(20)).toEqual([10, 10])
    expect(picked(30)).toEqual([20, 10])
    expect(picked(40)).toEqual([20, 20])
    expect(picked(1000)).toEqual([40, 40])
  })

  test('leaves out steps that others beat', () => {
    const tensors = [steps('a', [[10, 5], [20, 6], [30, 4.9], [40, 1]])] // prettier-ignore
    expect(optimise(tensors, 39)?.[0]?.bytes).toBe(30)
    expect(optimise(tensors, 40)?.[0]?.bytes).toBe(40)
  })

  test('fits, is close to the best there is, and is the same each time', () => {
    const tensor = fc.array(fc.tuple(fc.integer({ min: 1, max: 60 }), fc.integer({ min: 0, max: 99 })), {
      minLength: 1,
      maxLength: 5,
    })
    fc.assert(
      fc.property(
        fc.array(tensor, { minLength: 1, maxLength: 5 }),
        fc.integer({ min: 0, max: 300 }),
        (given, budget) => {
          const tensors = given.map((points, i) => steps(String(i), points))
          const chosen = optimise(tensors, budget)
          const best = exhaustive(tensors, budget)
          if (best === null) {
            expect(chosen).toBeNull()
            return
          }
          const bytes = chosen!.reduce((sum, step) => sum + step.bytes, 0)
          const error = chosen!.reduce((sum, step) => sum + step.error, 0)
          expect(bytes).toBeLessThanOrEqual(budget)
          // a greedy walk is off by one tensor's step at the most
          expect(error).toBeLessThanOrEqual(best + Math.max(...given.flat().map(([, one]) => one)))
          expect(optimise(tensors, budget)).toEqual(chosen)
        },
      ),
    )
  })
})

describe('the options', () => {
  test.each([
    [{ 'target-size': '4.2GB' }, { kind: 'bytes', bytes: 4.2e9, title: '4.2GB' }],
    [{ 'target-size': '800 MB' }, { kind: 'bytes', bytes: 8e8, title: '800MB' }],
    [{ 'target-size': '1GiB' }, { kind: 'bytes', bytes: 2 ** 30, title: '1GiB' }],
    [{ 'target-size': '123456' }, { kind: 'bytes', bytes: 123456, title: '123456' }],
    [{ 'target-bpw': '4.50' }, { kind: 'bits', bits: 4.5, title: '4.5bpw' }],
    [{ 'target-bpw': null, 'target-size': '' }, null],
  ])('%j', (options: OptionValues, expected) => {
    expect(sizeTarget(options)).toEqual(expected)
  })

  test.each([
    [{ 'target-size': 'big' }, /--target-size cannot be "big"/],
    [{ 'target-size': '-1GB' }, /--target-size cannot be/],
    [{ 'target-size': '0' }, /--target-size cannot be/],
    [{ 'target-bpw': '0' }, /--target-bpw cannot be "0"/],
    [{ 'target-bpw': 'four' }, /--target-bpw cannot be "four"/],
    [{ 'target-bpw': '4', 'target-size': '1GB' }, /both given/],
    [{ quant: 'copy', 'target-size': '1GB' }, /keeps each type/],
  ])('%j is refused', async (options, says) => {
    const { checkpoint } = madeUpCheckpoint({
      layers: 1,
      hidden: 256,
      intermediate: 256,
      heads: 4,
      kvHeads: 4,
      tied: true,
    })
    const error: unknown = await gguf.convert!(checkpoint, options, new Map()).catch((thrown: unknown) => thrown)
    expect(error).toBeInstanceOf(AppError)
    expect((error as AppError).code).toBe('bad-option')
    expect((error as AppError).message).toMatch(says)
  })
})
