import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { bytesOf, dtypeInfo, elementCount } from '../../src/core/dtype.ts'
import * as t from '../../src/core/tensor.ts'
import type { Recipe } from '../../src/core/tensor.ts'
import { createReferenceBackend } from '../../src/kernels/reference/index.ts'
import { ArrayInputs, evaluate } from './run.ts'

/** A tensor as plain numbers: what the operations mean, one element at a time. */
interface Model {
  readonly shape: readonly number[]
  at(index: readonly number[]): number
}

interface Pair {
  readonly recipe: Recipe
  readonly model: Model
}

function unravel(flat: number, shape: readonly number[]): number[] {
  const index: number[] = []
  for (const size of shape.toReversed()) {
    index.unshift(flat % size)
    flat = Math.floor(flat / size)
  }
  return index
}

function ravel(index: readonly number[], shape: readonly number[]): number {
  return shape.reduce((sum, size, axis) => sum * size + index[axis]!, 0)
}

function values({ shape, at }: Model): number[] {
  return Array.from({ length: elementCount(shape) }, (_, i) => at(unravel(i, shape)))
}

const changed = (index: readonly number[], axis: number, value: number): number[] =>
  index.map((old, other) => (other === axis ? value : old))

/** f32 integers from a file: small enough that sums and products are exact. */
function leaf(shape: readonly number[], seed: number): { pair: Pair; bytes: Uint8Array } {
  const count = elementCount(shape)
  const data = Float32Array.from({ length: count }, (_, i) => ((i * 7919 + seed * 104729) % 2003) - 1001)
  const bytes = new Uint8Array(data.byteLength + 12)
  bytes.set(new Uint8Array(data.buffer), 12)
  return {
    pair: {
      recipe: t.read({ dtype: 'f32', shape }, 'weights', 12),
      model: { shape, at: (index) => data[ravel(index, shape)]! },
    },
    bytes,
  }
}

type Step = (pair: Pair, pick: (most: number) => number) => Pair

const STEPS: Readonly<Record<string, Step>> = {
  slice(pair, pick) {
    const { recipe, model } = pair
    const axis = pick(model.shape.length)
    const start = pick(model.shape[axis]!)
    const length = 1 + pick(model.shape[axis]! - start)
    const sliced = t.slice(recipe, axis, start, length)
    return {
      recipe: sliced,
      model: { shape: sliced.shape, at: (index) => model.at(changed(index, axis, index[axis]! + start)) },
    }
  },
  concat(pair, pick) {
    const { recipe, model } = pair
    const axis = pick(model.shape.length)
    const size = model.shape[axis]!
    const joined = t.concat([recipe, t.affine(recipe, 2, 1)], axis)
    return {
      recipe: joined,
      model: {
        shape: joined.shape,
        at: (index) =>
          index[axis]! < size ? model.at(index) : 2 * model.at(changed(index, axis, index[axis]! - size)) + 1,
      },
    }
  },
  permute({ recipe, model }, pick) {
    const axes = model.shape.map((_, axis) => axis)
    for (let i = axes.length - 1; i > 0; i--) {
      const j = pick(i + 1)
      ;[axes[i], axes[j]] = [axes[j]!, axes[i]!]
    }
    const permuted = t.permute(recipe, axes)
    return {
      recipe: permuted,
      model: {
        shape: permuted.shape,
        at(index) {
          const source = index.map(() => 0)
          axes.forEach((axis, i) => (source[axis] = index[i]!))
          return model.at(source)
        },
      },
    }
  },
  reshape({ recipe, model }, pick) {
    const count = elementCount(model.shape)
    const divisors = Array.from({ length: count }, (_, i) => i + 1).filter((d) => count % d === 0)
    const first = divisors[pick(divisors.length)]!
    const shape = [first, count / first]
    return {
      recipe: t.reshape(recipe, shape),
      model: { shape, at: (index) => model.at(unravel(ravel(index, shape), model.shape)) },
    }
  },
  affine({ recipe, model }, pick) {
    const axis = pick(model.shape.length)
    const size = model.shape[axis]!
    const factors = Array.from({ length: size }, (_, i) => (i % 3) + 1)
    const operandShape = model.shape.map((_, other) => (other === axis ? size : 1)).slice(axis)
    return {
      recipe: t.affine(recipe, t.literalF32(operandShape, factors), 3),
      model: { shape: model.shape, at: (index) => model.at(index) * factors[index[axis]!]! + 3 },
    }
  },
  affineWhole({ recipe, model }) {
    return {
      recipe: t.affine(recipe, 1, t.affine(recipe, -2, 0)),
      model: { shape: model.shape, at: (index) => model.at(index) + -2 * model.at(index) },
    }
  },
  affineRows({ recipe, model }, pick) {
    const axis = pick(model.shape.length)
    const shape = model.shape.map((size, other) => (other <= axis ? size : 1))
    const factors = Array.from({ length: elementCount(shape) }, (_, i) => (i % 5) - 2)
    const factorAt = (index: readonly number[]): number =>
      factors[
        ravel(
          index.map((at, other) => (other <= axis ? at : 0)),
          shape,
        )
      ]!
    return {
      recipe: t.affine(recipe, 2, t.literalF32(shape, factors)),
      model: { shape: model.shape, at: (index) => model.at(index) * 2 + factorAt(index) },
    }
  },
  lowRank(pair, pick) {
    const { recipe, model } = STEPS['reshape']!(pair, pick)
    const [rows, columns] = model.shape as [number, number]
    const rank = 1 + pick(3)
    const up = Array.from({ length: rows * rank }, (_, i) => (i % 7) - 3)
    const down = Array.from({ length: rank * columns }, (_, i) => (i % 5) - 2)
    // the left factor as it is, or stored the other way round
    const across = Array.from({ length: rank * rows }, (_, i) => up[(i % rows) * rank + Math.floor(i / rows)]!)
    const left = pick(2) === 0 ? t.literalF32([rows, rank], up) : t.transpose(t.literalF32([rank, rows], across))
    return {
      recipe: t.lowRank(recipe, left, t.literalF32([rank, columns], down), 2),
      model: {
        shape: model.shape,
        at(index) {
          const [row, column] = index as [number, number]
          const products = Array.from({ length: rank }, (_, k) => up[row * rank + k]! * down[k * columns + column]!)
          return model.at(index) + 2 * products.reduce((a, b) => a + b, 0)
        },
      },
    }
  },
  gather({ recipe, model }, pick) {
    const axis = pick(model.shape.length)
    const indices = Array.from({ length: 1 + pick(6) }, () => pick(model.shape[axis]!))
    const gathered = t.gather(recipe, axis, indices)
    return {
      recipe: gathered,
      model: { shape: gathered.shape, at: (index) => model.at(changed(index, axis, indices[index[axis]!]!)) },
    }
  },
  pad({ recipe, model }, pick) {
    const axis = pick(model.shape.length)
    const size = model.shape[axis]!
    const before = pick(3)
    const padded = t.pad(recipe, axis, before, 1 + pick(3), 5)
    return {
      recipe: padded,
      model: {
        shape: padded.shape,
        at(index) {
          const within = index[axis]! - before
          return within >= 0 && within < size ? model.at(changed(index, axis, within)) : 5
        },
      },
    }
  },
  reduce({ recipe, model }, pick) {
    const axis = pick(model.shape.length)
    const how = (['sum', 'max', 'min', 'absmax'] as const)[pick(4)]!
    const folds = {
      sum: (all: number[]) => all.reduce((a, b) => a + b, 0),
      max: (all: number[]) => Math.max(...all),
      min: (all: number[]) => Math.min(...all),
      absmax: (all: number[]) => Math.max(...all.map(Math.abs)),
    }
    const reduced = t.reduce(recipe, axis, how)
    return {
      recipe: reduced,
      model: {
        shape: reduced.shape,
        at: (index) =>
          Math.fround(
            folds[how](Array.from({ length: model.shape[axis]! }, (_, i) => model.at(changed(index, axis, i)))),
          ),
      },
    }
  },
  cast({ recipe, model }) {
    // to f64 and back: exact, and a type of another width in between
    return { recipe: t.cast(t.cast(recipe, 'f32'), 'f32'), model }
  },
}

function floats(bytes: Uint8Array): number[] {
  return [...new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4)]
}

async function checkRange({ recipe, model }: Pair, inputs: ArrayInputs, start: number, count: number): Promise<void> {
  const before = inputs.bytesRead
  const { bytes, scratch, used, reads } = await evaluate(recipe, inputs, start, count)
  expect(floats(bytes)).toEqual(values(model).slice(start, start + count))
  expect(used).toBe(scratch)
  expect(inputs.bytesRead - before).toBe(reads)
}

describe('recipes evaluate to what their operations mean, over any range', () => {
  const shapes = fc.array(fc.integer({ min: 1, max: 7 }), { minLength: 1, maxLength: 4 })

  for (const [name, step] of Object.entries(STEPS)) {
    test(name, async () => {
      await fc.assert(
        fc.asyncProperty(shapes, fc.nat(), fc.infiniteStream(fc.nat()), async (shape, seed, stream) => {
          const { pair, bytes } = leaf(shape, seed % 1000)
          const pick = (most: number): number => stream.next().value % most
          const result = step(pair, pick)
          const total = elementCount(result.model.shape)
          const start = pick(total)
          await checkRange(result, new ArrayInputs({ weights: bytes }), start, 1 + pick(total - start))
        }),
        { numRuns: 150 },
      )
    })
  }

  test('chains of three', async () => {
    const names = Object.keys(STEPS)
    await fc.assert(
      fc.asyncProperty(shapes, fc.nat(), fc.infiniteStream(fc.nat()), async (shape, seed, stream) => {
        const { pair, bytes } = leaf(shape, seed % 1000)
        const pick = (most: number): number => stream.next().value % most
        let result = pair
        for (let i = 0; i < 3; i++) result = STEPS[names[pick(names.length)]!]!(result, pick)
        const total = elementCount(result.model.shape)
        const start = pick(total)
        const all = values(result.model).slice(start)
        // beyond 2^24 the f32 sums of a chain would round and the plain numbers would not
        fc.pre(all.every((value) => Math.abs(value) < 2 ** 24))
        await checkRange(result, new ArrayInputs({ weights: bytes }), start, 1 + pick(total - start))
      }),
      { numRuns: 300 },
    )
  })
})

describe('large moves', () => {
  test('a transpose larger than a panel reads whole panels, and gives the transposed', async () => {
    const [rows, columns] = [1500, 700]
    const { pair, bytes } = leaf([rows, columns], 3)
    const inputs = new ArrayInputs({ weights: bytes })
    const transposed = t.transpose(pair.recipe)
    const { bytes: out, scratch } = await evaluate(transposed, inputs)
    const got = floats(out)
    for (let i = 0; i < got.length; i += 997) {
      expect(got[i]).toBe(pair.model.at([i % rows, Math.floor(i / rows)]))
    }
    expect(inputs.bytesRead).toBe(rows * columns * 4)
    expect(inputs.calls).toBeLessThanOrEqual(6)
    expect(scratch).toBeLessThanOrEqual(1 << 20)
  })

  test('the query permutation of a head streams: each byte is read once, in large reads', async () => {
    const [heads, width, columns] = [8, 128, 512]
    const { pair, bytes } = leaf([heads * width, columns], 5)
    const inputs = new ArrayInputs({ weights: bytes })
    const split = t.reshape(pair.recipe, [heads, 2, width / 2, columns])
    const recipe = t.reshape(t.permute(split, [0, 2, 1, 3]), [heads * width, columns])
    const { bytes: out } = await evaluate(recipe, inputs)
    const got = floats(out)
    for (let i = 0; i < got.length; i += 1013) {
      const [row, column] = [Math.floor(i / columns), i % columns]
      const within = row % width
      const source = row - within + (within % 2) * (width / 2) + Math.floor(within / 2)
      expect(got[i]).toBe(pair.model.at([source, column]))
    }
    expect(inputs.bytesRead).toBe(heads * width * columns * 4)
    expect(inputs.calls).toBeLessThanOrEqual(4)
  })

  test('a slice of columns does not read the rest of the tensor one row at a time', async () => {
    const { pair, bytes } = leaf([2000, 64], 1)
    const inputs = new ArrayInputs({ weights: bytes })
    await checkRange(
      {
        recipe: t.slice(pair.recipe, 1, 16, 32),
        model: { shape: [2000, 32], at: ([row, column]) => pair.model.at([row!, column! + 16]) },
      },
      inputs,
      0,
      2000 * 32,
    )
    expect(inputs.calls).toBeLessThanOrEqual(2)
  })
})

describe('types', () => {
  test('a cast to and from every float type agrees with the known values', async () => {
    const inputs = new ArrayInputs({})
    const numbers = t.literalF32([8], [0, -0, 1, -1.5, 65504, 2 ** -24, 0.1, 3.25])
    const half = await evaluate(t.cast(t.cast(numbers, 'f16'), 'f32'), inputs)
    expect(floats(half.bytes)).toEqual([0, -0, 1, -1.5, 65504, 2 ** -24, 0.0999755859375, 3.25])
    const brain = await evaluate(t.cast(t.cast(numbers, 'bf16'), 'f32'), inputs)
    expect(floats(brain.bytes)).toEqual([0, -0, 1, -1.5, 65536, 2 ** -24, 0.10009765625, 3.25])
  })

  test('a block type dequantises over ranges that start inside a block', async () => {
    const weights = Array.from({ length: 512 }, (_, i) => Math.sin(i))
    const stored = await evaluate(t.cast(t.literalF32([2, 256], weights), 'q4_k'), new ArrayInputs({}))
    const recipe = t.cast(t.read({ dtype: 'q4_k', shape: [2, 256] }, 'blocks', 0), 'f32')
    const inputs = new ArrayInputs({ blocks: stored.bytes })
    const whole = floats((await evaluate(recipe, inputs)).bytes)
    const part = await evaluate(recipe, inputs, 100, 300)
    expect(floats(part.bytes)).toEqual(whole.slice(100, 400))
    expect(part.used).toBe(part.scratch)
    for (const [i, value] of whole.entries()) expect(Math.abs(value - weights[i]!)).toBeLessThan(0.1)
  })

  test('importances go to the columns of every row, of each expert its own, over ranges that cut rows', async () => {
    const shape = [3, 5, 256] as const
    const { pair, bytes } = leaf(shape, 3)
    const importance = Float32Array.from({ length: 3 * 256 }, (_, i) => ((i * 31) % 97) / (1 + Math.floor(i / 256)))
    const files = { weights: bytes, imatrix: new Uint8Array(importance.buffer) }
    const given = t.read({ dtype: 'f32', shape: [3, 256] }, 'imatrix', 0)
    const reference = createReferenceBackend()
    for (const type of ['q4_0', 'q4_k'] as const) {
      const kernel = reference.prepare({ kind: 'cast', from: 'f32', to: type, weighted: true })
      const want: Uint8Array[] = []
      for (let expert = 0; expert < 3; expert++) {
        const output = new Uint8Array(bytesOf(type, 5 * 256))
        const values = new Uint8Array(importance.slice(expert * 256, (expert + 1) * 256).buffer)
        const input = bytes.slice(12 + expert * 5120, 12 + (expert + 1) * 5120)
        await kernel.run(input, output, 5 * 256, undefined, { values, columns: 256 })
        want.push(output)
      }
      const all = Buffer.concat(want)
      const recipe = t.cast(pair.recipe, type, given)
      expect([...t.readsOf(recipe)].map((read) => read.file)).toEqual(['weights', 'imatrix'])
      const plain = await evaluate(t.cast(pair.recipe, type), new ArrayInputs(files))
      expect(Buffer.compare(plain.bytes, all)).not.toBe(0)
      const block = dtypeInfo(type).block
      for (const [start, count] of [
        [0, 3 * 5 * 256],
        [4 * 256, 3 * 256],
        [256 - block, 2 * block],
        [9 * 256, block],
        [0, 0],
      ] as const) {
        const inputs = new ArrayInputs(files)
        const { bytes: got, scratch, used, reads } = await evaluate(recipe, inputs, start, count)
        expect(Buffer.compare(got, all.subarray(bytesOf(type, start), bytesOf(type, start + count)))).toBe(0)
        expect(used).toBe(scratch)
        expect(inputs.bytesRead).toBe(reads)
      }
    }
    for (const bad of [-1, NaN, Infinity]) {
      const wrong = t.literalF32([256], new Float32Array(256).fill(1).with(7, bad))
      const evaluated = evaluate(t.cast(pair.recipe, 'q4_k', wrong), new ArrayInputs(files))
      await expect(evaluated).rejects.toMatchObject({ code: 'malformed' })
    }
    expect(t.cast(pair.recipe, 'q8_0', given)).toEqual(t.cast(pair.recipe, 'q8_0'))
    const tooMany = t.literalF32([255], new Float32Array(255))
    expect(() => t.cast(pair.recipe, 'q4_k', tooMany)).toThrow(RangeError)
    expect(() => t.cast(pair.recipe, 'q4_k', t.cast(given, 'f16'))).toThrow(RangeError)
  })

  test('a NaN names its element', async () => {
    const recipe = t.cast(t.literalF32([4], [1, 2, NaN, 4]), 'f16')
    await expect(evaluate(recipe, new ArrayInputs({}))).rejects.toMatchObject({ index: 2, to: 'f16' })
  })
})

describe('quantisation in parts', () => {
  for (const bits of [2, 3, 4, 5, 6, 8]) {
    test(`affine ${bits} bits: errors stay below a step, and a group's largest magnitude is exact`, async () => {
      const group = 64
      const rows = 6
      const weights = Array.from({ length: rows * 128 }, (_, i) => Math.sin(i * 12.9898) * (1 + (i % 5)))
      const source = t.literalF32([rows, 128], weights)
      const producer = t.quantize(source, { kind: 'affine', bits, group }, 'f32')
      const inputs = new ArrayInputs({})
      const parts = {
        codes: t.part(producer, 'codes'),
        scales: t.part(producer, 'scales'),
        biases: t.part(producer, 'biases'),
      }
      const values = await evaluate(t.dequantize(producer.scheme, [rows, 128], parts), inputs)
      const scales = floats((await evaluate(parts.scales, inputs)).bytes)
      for (const [i, value] of floats(values.bytes).entries()) {
        const g = Math.floor(i / group)
        const own = weights.slice(g * group, (g + 1) * group)
        const edge = Math.abs(weights[i]!) === Math.max(...own.map(Math.abs))
        const bound = edge ? 1e-6 : Math.abs(scales[g]!)
        expect(Math.abs(value - weights[i]!)).toBeLessThanOrEqual(bound * (1 + 1e-5))
      }
      expect(values.used).toBe(values.scratch)
      // a part alone, over a range that starts inside a group, is the same
      const codes = await evaluate(parts.codes, inputs)
      const some = await evaluate(parts.codes, inputs, 3, 20)
      expect([...some.bytes]).toEqual([...codes.bytes.subarray(12, 92)])
    })
  }
})

describe('norms of rows', () => {
  test('their inverse makes rows of length 1, in any tiles', async () => {
    const [rows, columns] = [37, 100]
    const { pair, bytes } = leaf([rows, columns], 5)
    const unit = t.affine(pair.recipe, t.reduce(pair.recipe, 1, 'inverse-norm'))
    const inputs = new ArrayInputs({ weights: bytes })
    const all: number[] = []
    for (let start = 0; start < rows * columns; start += 333) {
      const count = Math.min(333, rows * columns - start)
      const { bytes: part, scratch, used } = await evaluate(unit, inputs, start, count)
      expect(used).toBe(scratch)
      all.push(...floats(part))
    }
    const given = values(pair.model)
    for (let row = 0; row < rows; row++) {
      const length = Math.hypot(...given.slice(row * columns, (row + 1) * columns))
      for (let i = row * columns; i < (row + 1) * columns; i++) expect(all[i]).toBeCloseTo(given[i]! / length, 6)
    }
  })
})

describe('generated values', () => {
  test('are the same whatever range they are made in, and within their bounds', async () => {
    const recipe = t.generate({ dtype: 'f32', shape: [100, 10] }, { kind: 'uniform', seed: 42, low: -0.5, high: 0.5 })
    const inputs = new ArrayInputs({})
    const whole = floats((await evaluate(recipe, inputs)).bytes)
    expect(floats((await evaluate(recipe, inputs, 333, 100)).bytes)).toEqual(whole.slice(333, 433))
    expect(whole.every((value) => value >= -0.5 && value < 0.5)).toBe(true)
    expect(new Set(whole).size).toBeGreaterThan(990)
    const mean = whole.reduce((a, b) => a + b, 0) / whole.length
    expect(Math.abs(mean)).toBeLessThan(0.05)
    // golden: these bits must never change, on no engine
    expect(whole.slice(0, 3).map((value) => Math.fround(value))).toMatchInlineSnapshot(`
      [
        0.21703702211380005,
        -0.3921048045158386,
        -0.11422282457351685,
      ]
    `)
  })

  test('a constant fills', async () => {
    const recipe = t.generate({ dtype: 'bf16', shape: [5] }, { kind: 'constant', value: 1 })
    const { bytes } = await evaluate(recipe, new ArrayInputs({}))
    expect([...new Uint16Array(bytes.slice().buffer)]).toEqual([0x3f80, 0x3f80, 0x3f80, 0x3f80, 0x3f80])
  })
})

describe('products of earlier stages', () => {
  test('are read by stage and key', async () => {
    const inputs = new ArrayInputs({ 'solve/w': new Uint8Array(new Float32Array([1, 2, 3]).buffer) })
    const { bytes } = await evaluate(t.product({ dtype: 'f32', shape: [3] }, 'solve', 'w'), inputs, 1, 2)
    expect(floats(bytes)).toEqual([2, 3])
  })
})

describe('recipes refuse what has no meaning', () => {
  const weights = t.literalF32(
    [4, 64],
    Array.from({ length: 256 }, () => 0),
  )
  const blocks = t.read({ dtype: 'q8_0', shape: [4, 64] }, 'f', 0)
  const cases: readonly [string, () => unknown][] = [
    ['a slice past the end', () => t.slice(weights, 0, 3, 2)],
    ['an axis that is not there', () => t.slice(weights, 2, 0, 1)],
    ['joining different types', () => t.concat([weights, t.cast(weights, 'f16')], 0)],
    ['joining different widths', () => t.concat([weights, t.slice(weights, 1, 0, 2)], 0)],
    ['axes that are no permutation', () => t.permute(weights, [0, 0])],
    ['another number of elements', () => t.reshape(weights, [3, 64])],
    ['an operand that does not broadcast', () => t.affine(weights, t.literalF32([3], [1, 2, 3]))],
    ['an index outside', () => t.gather(weights, 0, [4])],
    ['moving along blocks', () => t.slice(blocks, 1, 0, 32)],
    ['transposing blocks', () => t.transpose(blocks)],
    ['rows that are no whole blocks', () => t.cast(weights, 'q4_k')],
    ['a literal of the wrong size', () => t.literal({ dtype: 'f32', shape: [2] }, new Uint8Array(7))],
    ['groups that do not fit the row', () => t.quantize(weights, { kind: 'affine', bits: 4, group: 48 }, 'f32')],
    [
      'a part that is not made',
      () => t.part(t.quantize(weights, { kind: 'affine', bits: 4, group: 32 }, 'f32'), 'zeros'),
    ],
  ]
  for (const [name, make] of cases) test(name, () => expect(make).toThrow(RangeError))
})
