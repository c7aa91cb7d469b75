import { bytesOf, dtypeInfo, elementCount } from '../../core/dtype.ts'
import type { Recipe, TensorInfo } from '../../core/tensor.ts'
import { elementRange, PANEL_BYTES, stackBytes, type Evaluator } from './node.ts'

/** Elements that lie together both in the input and in the output. */
interface Piece {
  /** Index of the input; -1 for constant padding. */
  input: number
  /** First element in the input. */
  from: number
  /** First element in the output. */
  at: number
  count: number
}

/** Pieces evaluated by one call of the input's `fill`: one large piece straight into place, or many small ones. */
interface Batch {
  readonly input: number
  readonly from: number
  readonly count: number
  readonly pieces: readonly Piece[]
}

/** How a moving op lays runs of its inputs side by side, seen as [outer, axis, inner]. */
interface Layout {
  readonly axisSize: number
  readonly inner: number
  /** For an index of the output's axis: which input, which index there, and how many follow on in step. */
  locate(index: number): { readonly input: number; readonly index: number; readonly length: number }
  /** Axis size of an input. */
  inputAxis(input: number): number
}

export function sliceEvaluator(recipe: Recipe & { op: 'slice' }, of: Evaluator): Evaluator {
  const axisSize = sizeAt(recipe, recipe.axis)
  return runsEvaluator(recipe, [of], {
    axisSize,
    inner: innerSize(recipe, recipe.axis),
    locate: (index) => ({ input: 0, index: recipe.start + index, length: axisSize - index }),
    inputAxis: () => sizeAt(of.info, recipe.axis),
  })
}

export function concatEvaluator(recipe: Recipe & { op: 'concat' }, of: readonly Evaluator[]): Evaluator {
  const sizes = of.map((input) => sizeAt(input.info, recipe.axis))
  const starts: number[] = []
  let total = 0
  for (const size of sizes) {
    starts.push(total)
    total += size
  }
  return runsEvaluator(recipe, of, {
    axisSize: total,
    inner: innerSize(recipe, recipe.axis),
    locate(index) {
      const input = starts.findLastIndex((start, i) => start <= index && (sizes[i] ?? 0) > 0)
      const within = index - (starts[input] ?? 0)
      return { input, index: within, length: (sizes[input] ?? 0) - within }
    },
    inputAxis: (input) => sizes[input] ?? 0,
  })
}

export function gatherEvaluator(recipe: Recipe & { op: 'gather' }, of: Evaluator): Evaluator {
  const { indices } = recipe
  return runsEvaluator(recipe, [of], {
    axisSize: indices.length,
    inner: innerSize(recipe, recipe.axis),
    locate(index) {
      const first = indices[index] ?? 0
      let length = 1
      while (indices[index + length] === first + length) length++
      return { input: 0, index: first, length }
    },
    inputAxis: () => sizeAt(of.info, recipe.axis),
  })
}

export function padEvaluator(recipe: Recipe & { op: 'pad' }, of: Evaluator): Evaluator {
  const size = sizeAt(of.info, recipe.axis)
  const total = sizeAt(recipe, recipe.axis)
  const padding = constantBytes(recipe, recipe.value)
  return runsEvaluator(
    recipe,
    [of],
    {
      axisSize: total,
      inner: innerSize(recipe, recipe.axis),
      locate(index) {
        if (index < recipe.before) return { input: -1, index: 0, length: recipe.before - index }
        const within = index - recipe.before
        if (within < size) return { input: 0, index: within, length: size - within }
        return { input: -1, index: 0, length: total - index }
      },
      inputAxis: () => size,
    },
    padding,
  )
}

function runsEvaluator(
  info: TensorInfo,
  inputs: readonly Evaluator[],
  layout: Layout,
  padding: Uint8Array = new Uint8Array(0),
): Evaluator {
  const piecesOf = (start: number, count: number): Generator<Piece> => pieces(layout, start, count)
  const cost = (start: number, count: number, of: (batch: Batch, input: Evaluator) => number): number[] => {
    const costs: number[] = []
    for (const batch of batches(info, piecesOf(start, count))) {
      const input = inputs[batch.input]
      if (input !== undefined) costs.push(of(batch, input))
    }
    return costs
  }
  const own = (batch: Batch): number => (isDirect(batch) ? 0 : stackBytes(bytesOf(info.dtype, batch.count)))
  const first = inputs[0]
  return {
    info,
    elements: elementCount(info.shape),
    quantum: inputs.length === 1 && first !== undefined && layout.axisSize === layout.inputAxis(0) ? first.quantum : 1,
    scratch: (start, count) =>
      cost(start, count, (batch, input) => own(batch) + input.scratch(batch.from, batch.count)).reduce(
        (most, one) => Math.max(most, one),
        0,
      ),
    reads: (start, count) =>
      cost(start, count, (batch, input) => input.reads(batch.from, batch.count)).reduce((sum, one) => sum + one, 0),
    async fill(start, count, into, run) {
      for (const batch of batches(info, piecesOf(start, count))) {
        const place = (piece: Piece): Uint8Array => elementRange(info, into, piece.at - start, piece.count)
        const input = inputs[batch.input]
        if (input === undefined) {
          for (const piece of batch.pieces) repeat(padding, place(piece))
          continue
        }
        const [only] = batch.pieces
        if (only !== undefined && isDirect(batch)) {
          await input.fill(batch.from, batch.count, place(only), run)
          continue
        }
        await run.stack.scope(async () => {
          const panel = run.stack.take(bytesOf(info.dtype, batch.count))
          await input.fill(batch.from, batch.count, panel, run)
          for (const piece of batch.pieces) {
            place(piece).set(elementRange(info, panel, piece.from - batch.from, piece.count))
          }
        })
      }
    },
  }
}

function isDirect(batch: Batch): boolean {
  return batch.pieces.length === 1
}

/** The pieces of an output range, in the output's order, neighbours joined. */
function* pieces(layout: Layout, start: number, count: number): Generator<Piece> {
  const { axisSize, inner } = layout
  const end = start + count
  let pending: Piece | null = null
  let at = start
  while (at < end) {
    const row = Math.floor(at / inner)
    const within = at % inner
    const outer = Math.floor(row / axisSize)
    const { input, index, length } = layout.locate(row % axisSize)
    const size = Math.min(length * inner - within, end - at)
    const from = input < 0 ? 0 : (outer * layout.inputAxis(input) + index) * inner + within
    if (pending !== null && pending.input === input && (input < 0 || pending.from + pending.count === from)) {
      pending.count += size
    } else {
      if (pending !== null) yield pending
      pending = { input, from, at, count: size }
    }
    at += size
  }
  if (pending !== null) yield pending
}

/** A piece this large is evaluated straight into place; smaller ones share a panel. */
const DIRECT_BYTES = 1 << 16

/** Groups pieces of one input whose span in it, gaps included, fits a panel: one read in place of many. */
function* batches(info: TensorInfo, all: Iterable<Piece>): Generator<Batch> {
  const { block, bytes } = dtypeInfo(info.dtype)
  const sizeOf = (elements: number): number => (elements / block) * bytes
  const open = new Map<number, { from: number; end: number; used: number; pieces: Piece[] }>()
  const close = (input: number): Batch | null => {
    const group = open.get(input)
    if (group === undefined) return null
    open.delete(input)
    return { input, from: group.from, count: group.end - group.from, pieces: group.pieces }
  }
  for (const piece of all) {
    if (piece.input < 0 || sizeOf(piece.count) >= DIRECT_BYTES) {
      yield { input: piece.input, from: piece.from, count: piece.count, pieces: [piece] }
      continue
    }
    const group = open.get(piece.input)
    if (group !== undefined) {
      const from = Math.min(group.from, piece.from)
      const end = Math.max(group.end, piece.from + piece.count)
      const used = group.used + piece.count
      // gaps are read for nothing: up to four times what is wanted is still cheaper than one read a piece
      if (sizeOf(end - from) <= PANEL_BYTES && end - from <= 4 * used) {
        group.from = from
        group.end = end
        group.used = used
        group.pieces.push(piece)
        continue
      }
      const done = close(piece.input)
      if (done !== null) yield done
    }
    open.set(piece.input, { from: piece.from, end: piece.from + piece.count, used: piece.count, pieces: [piece] })
  }
  for (const input of open.keys()) {
    const done = close(input)
    if (done !== null) yield done
  }
}

function sizeAt(info: TensorInfo, axis: number): number {
  return info.shape[axis] ?? 1
}

function innerSize(info: TensorInfo, axis: number): number {
  return elementCount(info.shape.slice(axis + 1))
}

/** One element's bytes. */
function constantBytes(info: TensorInfo, value: number): Uint8Array {
  const bytes = new Uint8Array(dtypeInfo(info.dtype).bytes)
  const view = new DataView(bytes.buffer)
  switch (info.dtype) {
    case 'f64':
      view.setFloat64(0, value, true)
      break
    case 'f32':
      view.setFloat32(0, value, true)
      break
    case 'f16':
    case 'bf16':
    case 'f8_e4m3':
    case 'f8_e5m2':
      if (value !== 0) throw new RangeError(`pad of ${info.dtype} with ${value}: cast to f32 first`)
      break
    case 'u64':
    case 'i64':
      view.setBigInt64(0, BigInt(value), true)
      break
    default:
      for (let i = 0; i < bytes.length; i++) bytes[i] = (value >> (8 * i)) & 255
  }
  return bytes
}

function repeat(pattern: Uint8Array, into: Uint8Array): void {
  for (let i = 0; i < into.length; i++) into[i] = pattern[i % pattern.length] ?? 0
}
