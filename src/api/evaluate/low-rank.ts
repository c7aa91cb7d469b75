import { elementCount } from '../../core/dtype.ts'
import { permute, slice, type Recipe } from '../../core/tensor.ts'
import { elementRange, sequenceBytes, stackBytes, type Evaluator, type Run } from './node.ts'

/** A tile holds so many times the values of the right-hand factor, which is read anew for each, if that is not too many. */
const FACTOR_SHARE = 8
const LEAST_ELEMENTS = 1 << 18
const MOST_ELEMENTS = 1 << 21

/** A matrix and a product of narrow ones. Rows are never cut; `compile` makes evaluators in f32. */
export function lowRankEvaluator(
  recipe: Recipe & { op: 'low-rank' },
  compile: (recipe: Recipe) => Evaluator,
): Evaluator {
  const [rows = 0, columns = 0] = recipe.shape
  const rank = recipe.up.shape[1] ?? 0
  const of = compile(recipe.of)
  const down = compile(recipe.down)
  const upOf = (first: number, count: number): Evaluator => compile(rowsOf(recipe.up, first, count))

  /** The whole rows of a range. */
  const cover = (start: number, count: number): { first: number; rows: number } => {
    const first = Math.floor(start / columns)
    return { first, rows: Math.ceil((start + count) / columns) - first }
  }
  const all = (evaluator: Evaluator): readonly [number, number] => [0, evaluator.elements]

  async function load(evaluator: Evaluator, run: Run): Promise<Uint8Array> {
    const buffer = run.stack.take(evaluator.elements * 4)
    await run.stack.scope(() => evaluator.fill(...all(evaluator), buffer, run))
    return buffer
  }

  return {
    info: recipe,
    elements: elementCount(recipe.shape),
    quantum: tileRows(rows, columns, down.elements) * Math.max(1, columns),
    scratch(start, count) {
      if (count === 0) return 0
      const whole = cover(start, count)
      const elements = whole.rows * columns
      const up = upOf(whole.first, whole.rows)
      return sequenceBytes([
        {
          kept: elements === count ? 0 : stackBytes(elements * 4),
          scratch: of.scratch(whole.first * columns, elements),
        },
        { kept: stackBytes(up.elements * 4), scratch: up.scratch(...all(up)) },
        { kept: stackBytes(down.elements * 4), scratch: down.scratch(...all(down)) },
      ])
    },
    reads(start, count) {
      if (count === 0) return 0
      const whole = cover(start, count)
      const up = upOf(whole.first, whole.rows)
      return of.reads(whole.first * columns, whole.rows * columns) + up.reads(...all(up)) + down.reads(...all(down))
    },
    fill: (start, count, into, run) =>
      run.stack.scope(async () => {
        if (count === 0) return
        const whole = cover(start, count)
        const elements = whole.rows * columns
        const values = elements === count ? into : run.stack.take(elements * 4)
        await run.stack.scope(() => of.fill(whole.first * columns, elements, values, run))
        const factors = {
          up: await load(upOf(whole.first, whole.rows), run),
          down: await load(down, run),
          columns,
          scale: recipe.scale,
        }
        await run.lowRank({ kind: 'low-rank', rank }).run(factors, values, whole.rows, run.signal)
        if (values !== into) into.set(elementRange(recipe, values, start - whole.first * columns, count))
      }),
  }
}

/** Rows of a matrix; of a transposed one, the columns of what it was: the rest would be read for nothing. */
function rowsOf(matrix: Recipe, first: number, count: number): Recipe {
  return matrix.op === 'permute'
    ? permute(slice(matrix.of, 1, first, count), matrix.axes)
    : slice(matrix, 0, first, count)
}

/** A power of two, so that whole blocks of every type are not many times as much. */
function tileRows(rows: number, columns: number, factor: number): number {
  const wanted = Math.min(MOST_ELEMENTS, Math.max(LEAST_ELEMENTS, FACTOR_SHARE * factor))
  let count = 1
  while (count * columns < wanted) count *= 2
  return Math.max(1, Math.min(count, rows))
}
