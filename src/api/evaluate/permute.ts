import { bytesOf, dtypeInfo, elementCount } from '../../core/dtype.ts'
import type { Recipe } from '../../core/tensor.ts'
import { panelElements, stackBytes, type Evaluator } from './node.ts'

/**
 * Axes before the first one that moves split the tensor into units that are permuted each for itself: the heads of a
 * query matrix, or the whole of a transposed one. Axes behind the last one that moves make up runs that stay whole.
 * The input is read in panels of whole units, or of a large unit's consecutive runs, and scattered.
 */
export function permuteEvaluator(recipe: Recipe & { op: 'permute' }, of: Evaluator): Evaluator {
  const { axes } = recipe
  const moved = axes.map((axis, index) => axis !== index)
  const first = moved.indexOf(true)
  const last = moved.lastIndexOf(true)
  const inShape = of.info.shape.slice(first, last + 1)
  const outShape = recipe.shape.slice(first, last + 1)
  const run = elementCount(recipe.shape.slice(last + 1))
  const unit = elementCount(inShape) * run
  // where a step along each input axis leads in the output, in runs
  const outStep = inShape.map((_, axis) => elementCount(outShape.slice(axes.indexOf(axis + first) - first + 1)))
  const panel = panelElements(of.info)

  /** Input ranges to evaluate for an output range. */
  function* panels(start: number, count: number): Generator<{ from: number; count: number }> {
    if (count === 0) return
    const firstUnit = Math.floor(start / unit)
    const endUnit = Math.ceil((start + count) / unit)
    // blocks lie within runs, so whole runs are whole blocks
    const step = unit <= panel ? Math.floor(panel / unit) * unit : Math.max(run, Math.floor(panel / run) * run)
    const end = endUnit * unit
    for (let from = firstUnit * unit; from < end; from += step) yield { from, count: Math.min(step, end - from) }
  }

  function scatter(input: Uint8Array, from: number, count: number, into: Uint8Array, start: number): void {
    const outCount = bytesToElements(recipe.dtype, into.length)
    const copy = copier(recipe.dtype, run, input, into)
    const index = inShape.map(() => 0)
    const firstRun = from / run
    const runs = count / run
    let unitBase = Math.floor(from / unit) * (unit / run)
    let rest = firstRun - unitBase
    for (let axis = inShape.length - 1; axis >= 0; axis--) {
      const size = inShape[axis] ?? 1
      index[axis] = rest % size
      rest = Math.floor(rest / size)
    }
    let target = unitBase + index.reduce((sum, value, axis) => sum + value * (outStep[axis] ?? 0), 0)
    for (let i = 0; i < runs; i++) {
      copy(i * run, target * run - start, outCount)
      // to the next run of the input
      let axis = inShape.length - 1
      for (; axis >= 0; axis--) {
        const size = inShape[axis] ?? 1
        const step = outStep[axis] ?? 0
        const next = (index[axis] ?? 0) + 1
        if (next < size) {
          index[axis] = next
          target += step
          break
        }
        index[axis] = 0
        target -= (size - 1) * step
      }
      if (axis < 0) {
        unitBase += unit / run
        target = unitBase
      }
    }
  }

  return {
    info: recipe,
    elements: elementCount(recipe.shape),
    quantum: unit,
    scratch(start, count) {
      let most = 0
      for (const part of panels(start, count)) {
        const bytes = stackBytes(bytesOf(of.info.dtype, part.count)) + of.scratch(part.from, part.count)
        most = Math.max(most, bytes)
      }
      return most
    },
    reads(start, count) {
      let sum = 0
      for (const part of panels(start, count)) sum += of.reads(part.from, part.count)
      return sum
    },
    async fill(start, count, into, context) {
      for (const part of panels(start, count)) {
        await context.stack.scope(async () => {
          const input = context.stack.take(bytesOf(of.info.dtype, part.count))
          await of.fill(part.from, part.count, input, context)
          scatter(input, part.from, part.count, into, start)
        })
      }
    },
  }
}

function bytesToElements(dtype: Recipe['dtype'], bytes: number): number {
  const { block, bytes: size } = dtypeInfo(dtype)
  return (bytes / size) * block
}

/** Copies one run from element `from` of the input to element `to` of the output; what lies outside of it is dropped. */
type Copy = (from: number, to: number, outCount: number) => void

function copier(dtype: Recipe['dtype'], run: number, input: Uint8Array, into: Uint8Array): Copy {
  const { block, bytes } = dtypeInfo(dtype)
  if (run === 1 && block === 1 && (bytes === 1 || bytes === 2 || bytes === 4)) {
    const source = words(input, bytes)
    const target = words(into, bytes)
    return (from, to, outCount) => {
      if (to >= 0 && to < outCount) target[to] = source[from] ?? 0
    }
  }
  return (from, to, outCount) => {
    const start = Math.max(0, to)
    const end = Math.min(outCount, to + run)
    if (start >= end) return
    const at = ((from + start - to) / block) * bytes
    into.set(input.subarray(at, at + ((end - start) / block) * bytes), (start / block) * bytes)
  }
}

function words(bytes: Uint8Array, size: 1 | 2 | 4): Uint8Array | Uint16Array | Uint32Array {
  if (size === 1) return bytes
  return size === 2
    ? new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2)
    : new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4)
}
