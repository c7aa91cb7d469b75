import { bytesOf, dtypeInfo, elementCount, type DType } from '../../core/dtype.ts'
import { AppError } from '../../core/errors.ts'
import type { Recipe, Reduction } from '../../core/tensor.ts'
import {
  commonMultiple,
  elementRange,
  panelElements,
  sequenceBytes,
  stackBytes,
  type Evaluator,
  type Run,
} from './node.ts'

/** The fault that a kernel found, before anyone knows which tensor it was computing. */
export class BadElement extends Error {
  /** Index in the tensor of the first element at fault. */
  readonly index: number
  readonly from: DType
  readonly to: DType

  constructor(index: number, from: DType, to: DType) {
    super(`element ${index} cannot be cast from ${from} to ${to}`)
    this.index = index
    this.from = from
    this.to = to
  }
}

/** Runs one cast and throws {@link BadElement} for an element that must not pass. */
export async function castInto(
  run: Run,
  from: DType,
  to: DType,
  input: Uint8Array,
  into: Uint8Array,
  start: number,
  count: number,
): Promise<void> {
  const { bad } = await run.kernel({ kind: 'cast', from, to }).run(input, into, count, run.signal)
  if (bad !== null) throw new BadElement(start + bad, from, to)
}

export function castEvaluator(recipe: Recipe & { op: 'cast' }, of: Evaluator): Evaluator {
  const from = of.info.dtype
  const to = recipe.dtype
  const inBlock = dtypeInfo(from).block
  // an output range of a finer type may start inside a block of the input
  const cover = (start: number, count: number): { start: number; count: number } => {
    const first = Math.floor(start / inBlock) * inBlock
    return { start: first, count: Math.ceil((start + count) / inBlock) * inBlock - first }
  }
  return {
    info: recipe,
    elements: of.elements,
    quantum: of.quantum,
    scratch(start, count) {
      const wide = cover(start, count)
      const spill = wide.count === count ? 0 : stackBytes(bytesOf(to, wide.count))
      return spill + stackBytes(bytesOf(from, wide.count)) + of.scratch(wide.start, wide.count)
    },
    reads(start, count) {
      const wide = cover(start, count)
      return of.reads(wide.start, wide.count)
    },
    fill: (start, count, into, run) =>
      run.stack.scope(async () => {
        const wide = cover(start, count)
        const output = wide.count === count ? into : run.stack.take(bytesOf(to, wide.count))
        const input = run.stack.take(bytesOf(from, wide.count))
        await of.fill(wide.start, wide.count, input, run)
        await castInto(run, from, to, input, output, wide.start, wide.count)
        if (output !== into) into.set(elementRange(recipe, output, start - wide.start, count))
      }),
  }
}

export function reshapeEvaluator(recipe: Recipe & { op: 'reshape' }, of: Evaluator): Evaluator {
  return {
    info: recipe,
    elements: of.elements,
    quantum: of.quantum,
    scratch: of.scratch.bind(of),
    reads: of.reads.bind(of),
    fill: of.fill.bind(of),
  }
}

/** An operand that broadcasts is held whole while a tile is computed: norms and scales, not matrices. */
const MAX_BROADCAST_ELEMENTS = 1 << 22

/** Ranges keep runs whole up to this: the value of one may take as much as its run. */
const MAX_RUN = 1 << 20

/** f32 throughout: the product is rounded, then the sum. */
export function affineEvaluator(
  recipe: Recipe & { op: 'affine' },
  of: Evaluator,
  mul: Operand,
  add: Operand,
): Evaluator {
  const times = operandOf(mul, recipe.shape)
  const plus = operandOf(add, recipe.shape)
  const operands = [times, plus]
  return {
    info: recipe,
    elements: of.elements,
    quantum: operands.reduce((quantum, { run }) => commonMultiple(quantum, run), of.quantum),
    scratch: (start, count) =>
      sequenceBytes([
        { kept: 0, scratch: of.scratch(start, count) },
        ...operands.map((operand) => operand.memory(start, count)),
      ]),
    reads: (start, count) =>
      operands.reduce((sum, operand) => sum + operand.reads(start, count), of.reads(start, count)),
    fill: (start, count, into, run) =>
      run.stack.scope(async () => {
        await of.fill(start, count, into, run)
        const values = new Float32Array(into.buffer, into.byteOffset, count)
        const scale = await times.load(start, count, run)
        const shift = await plus.load(start, count, run)
        if (typeof scale === 'number' && typeof shift === 'number') {
          for (let i = 0; i < count; i++) values[i] = Math.fround((values[i] ?? 0) * scale) + shift
          return
        }
        const [scaleAt, shiftAt] = [each(scale), each(shift)]
        for (let i = 0; i < count; i++) values[i] = Math.fround((values[i] ?? 0) * scaleAt(i)) + shiftAt(i)
      }),
  }
}

/** A number, or an f32 evaluator that broadcasts. */
export type Operand = number | Evaluator

/** One value for all, or the value for the i-th element of a range. */
type Loaded = number | ((i: number) => number)

function each(loaded: Loaded): (i: number) => number {
  return typeof loaded === 'number' ? () => loaded : loaded
}

interface LoadedOperand {
  /** Elements that share a value, side by side; 1 where that does not matter. */
  readonly run: number
  memory(start: number, count: number): { kept: number; scratch: number }
  reads(start: number, count: number): number
  load(start: number, count: number, run: Run): Promise<Loaded>
}

function operandOf(operand: Operand, shape: readonly number[]): LoadedOperand {
  if (typeof operand === 'number') {
    const value = Math.fround(operand)
    return { run: 1, memory: () => ({ kept: 0, scratch: 0 }), reads: () => 0, load: async () => value }
  }
  const inner = operand.elements === elementCount(shape) ? 1 : sharedRun(operand.info.shape, shape)
  const whole = inner === null
  if (whole && operand.elements > MAX_BROADCAST_ELEMENTS) {
    throw new AppError('unsupported', `An operand of ${operand.elements} elements is too large to broadcast`)
  }
  const range = (start: number, count: number): [number, number] => {
    if (inner === null) return [0, operand.elements]
    const first = Math.floor(start / inner)
    return [first, Math.ceil((start + count) / inner) - first]
  }
  return {
    run: inner !== null && inner <= MAX_RUN ? inner : 1,
    memory(start, count) {
      const [from, length] = range(start, count)
      return { kept: stackBytes(length * 4), scratch: operand.scratch(from, length) }
    },
    reads: (start, count) => operand.reads(...range(start, count)),
    async load(start, count, run) {
      const [from, length] = range(start, count)
      const buffer = run.stack.take(length * 4)
      await run.stack.scope(() => operand.fill(from, length, buffer, run))
      const values = new Float32Array(buffer.buffer, buffer.byteOffset, length)
      if (inner === 1) return (i) => values[i] ?? 0
      if (inner !== null) return (i) => values[Math.floor((start + i) / inner) - from] ?? 0
      const at = broadcastIndex(operand.info.shape, shape)
      return (i) => values[at(start + i)] ?? 0
    },
  }
}

/** Elements of `shape` that share a value of an operand which has all axes but the last few, of size 1; null for others. */
function sharedRun(small: readonly number[], shape: readonly number[]): number | null {
  const last = small.findLastIndex((size) => size !== 1)
  if (small.length !== shape.length || last < 0) return null
  return small.slice(0, last + 1).join() === shape.slice(0, last + 1).join()
    ? elementCount(shape.slice(last + 1))
    : null
}

/** Maps an element's index in `shape` to the index of its operand in `small`. */
function broadcastIndex(small: readonly number[], shape: readonly number[]): (index: number) => number {
  const offset = shape.length - small.length
  const axes = small.map((size, axis) => ({
    inner: elementCount(shape.slice(axis + offset + 1)),
    full: shape[axis + offset] ?? 1,
    step: size === 1 ? 0 : elementCount(small.slice(axis + 1)),
  }))
  return (index) => axes.reduce((sum, { inner, full, step }) => sum + (Math.floor(index / inner) % full) * step, 0)
}

/** Sums in f64 and rounds once. The input is f32. */
export function reduceEvaluator(recipe: Recipe & { op: 'reduce' }, of: Evaluator): Evaluator {
  const size = of.info.shape[recipe.axis] ?? 1
  const inner = elementCount(of.info.shape.slice(recipe.axis + 1))
  const panel = Math.min(panelElements(of.info), of.elements)

  /** Input ranges for the outputs from `start` on, in order. */
  function* panels(start: number, count: number): Generator<{ from: number; count: number }> {
    if (count === 0 || size === 0) return
    const first = Math.floor(start / inner) * size * inner
    const end = (Math.floor((start + count - 1) / inner) + 1) * size * inner
    for (let from = first; from < end; from += panel) yield { from, count: Math.min(panel, end - from) }
  }
  const worst = (start: number, count: number): number => {
    let most = 0
    for (const part of panels(start, count)) {
      most = Math.max(most, stackBytes(part.count * 4) + of.scratch(part.from, part.count))
    }
    return most
  }
  return {
    info: recipe,
    elements: elementCount(recipe.shape),
    quantum: inner,
    scratch: (start, count) => stackBytes(count * 8) + worst(start, count),
    reads(start, count) {
      let sum = 0
      for (const part of panels(start, count)) sum += of.reads(part.from, part.count)
      return sum
    },
    fill: (start, count, into, run) =>
      run.stack.scope(async () => {
        const held = run.stack.take(count * 8)
        const sums = new Float64Array(held.buffer, held.byteOffset, count).fill(IDENTITY[recipe.how])
        const fold = FOLD[recipe.how]
        for (const part of panels(start, count)) {
          await run.stack.scope(async () => {
            const buffer = run.stack.take(part.count * 4)
            await of.fill(part.from, part.count, buffer, run)
            const values = new Float32Array(buffer.buffer, buffer.byteOffset, part.count)
            for (let i = 0; i < part.count; i++) {
              const index = part.from + i
              const out = Math.floor(index / (size * inner)) * inner + (index % inner) - start
              if (out >= 0 && out < count) sums[out] = fold(sums[out] ?? 0, values[i] ?? 0)
            }
          })
        }
        const output = new Float32Array(into.buffer, into.byteOffset, count)
        for (let i = 0; i < count; i++) output[i] = outcome(recipe.how, sums[i] ?? 0, size)
      }),
  }
}

function outcome(how: Reduction, folded: number, size: number): number {
  if (how === 'mean') return folded / size
  return how === 'inverse-norm' ? 1 / Math.sqrt(folded) : folded
}

const IDENTITY = { sum: 0, mean: 0, absmax: 0, max: -Infinity, min: Infinity, 'inverse-norm': 0 } as const

const FOLD = {
  sum: (a: number, b: number) => a + b,
  mean: (a: number, b: number) => a + b,
  max: (a: number, b: number) => Math.max(a, b),
  min: (a: number, b: number) => Math.min(a, b),
  absmax: (a: number, b: number) => Math.max(a, Math.abs(b)),
  'inverse-norm': (a: number, b: number) => a + b * b,
} as const
