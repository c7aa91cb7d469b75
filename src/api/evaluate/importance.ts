import { bytesOf } from '../../core/dtype.ts'
import { AppError } from '../../core/errors.ts'
import type { Recipe } from '../../core/tensor.ts'
import { BadElement } from './elementwise.ts'
import { commonMultiple, elementRange, sequenceBytes, stackBytes, type Evaluator } from './node.ts'

/** A run of whole rows of one matrix, all with the same importances. */
interface Rows {
  readonly start: number
  readonly count: number
  /** Which row of the importances is theirs. */
  readonly matrix: number
}

/**
 * Quantises by importance. Some types look at the whole row, so rows are never cut: a range that starts or ends inside one
 * is widened. `importance` is f32, a row of columns for each matrix of a stack, or one for all.
 */
export function weightedCastEvaluator(
  recipe: Recipe & { op: 'cast' },
  of: Evaluator,
  importance: Evaluator,
): Evaluator {
  const from = of.info.dtype
  const to = recipe.dtype
  const columns = recipe.shape.at(-1) ?? 1
  const matrices = columns === 0 ? 1 : importance.elements / columns
  const matrixElements = of.elements / matrices

  const cover = (start: number, count: number): { start: number; count: number } => {
    const first = Math.floor(start / columns) * columns
    return { start: first, count: Math.ceil((start + count) / columns) * columns - first }
  }
  function* rowsOf(start: number, count: number): Generator<Rows> {
    for (let at = start; at < start + count;) {
      const matrix = Math.floor(at / matrixElements)
      const end = Math.min(start + count, (matrix + 1) * matrixElements)
      yield { start: at, count: end - at, matrix }
      at = end
    }
  }
  const load = (matrix: number): [number, number] => [matrix * columns, columns]

  return {
    info: recipe,
    elements: of.elements,
    quantum: commonMultiple(of.quantum, columns),
    scratch(start, count) {
      if (count === 0) return 0
      const wide = cover(start, count)
      let most = 0
      for (const { matrix } of rowsOf(wide.start, wide.count)) {
        most = Math.max(most, importance.scratch(...load(matrix)))
      }
      return sequenceBytes([
        { kept: wide.count === count ? 0 : stackBytes(bytesOf(to, wide.count)), scratch: 0 },
        { kept: stackBytes(bytesOf(from, wide.count)), scratch: of.scratch(wide.start, wide.count) },
        { kept: stackBytes(columns * 4), scratch: most },
      ])
    },
    reads(start, count) {
      if (count === 0) return 0
      const wide = cover(start, count)
      let sum = of.reads(wide.start, wide.count)
      for (const { matrix } of rowsOf(wide.start, wide.count)) sum += importance.reads(...load(matrix))
      return sum
    },
    fill: (start, count, into, run) =>
      run.stack.scope(async () => {
        if (count === 0) return
        const wide = cover(start, count)
        const output = wide.count === count ? into : run.stack.take(bytesOf(to, wide.count))
        const input = run.stack.take(bytesOf(from, wide.count))
        await run.stack.scope(() => of.fill(wide.start, wide.count, input, run))
        const values = run.stack.take(columns * 4)
        const kernel = run.kernel({ kind: 'cast', from, to, weighted: true })
        for (const rows of rowsOf(wide.start, wide.count)) {
          await run.stack.scope(() => importance.fill(...load(rows.matrix), values, run))
          checkImportances(values)
          const at = rows.start - wide.start
          const source = elementRange(of.info, input, at, rows.count)
          const target = elementRange(recipe, output, at, rows.count)
          const { bad } = await kernel.run(source, target, rows.count, run.signal, { values, columns })
          if (bad !== null) throw new BadElement(rows.start + bad, from, to)
        }
        if (output !== into) into.set(elementRange(recipe, output, start - wide.start, count))
      }),
  }
}

/** A search with negative weights would look for the worst. */
function checkImportances(values: Uint8Array): void {
  const numbers = new Float32Array(values.buffer, values.byteOffset, values.byteLength / 4)
  const at = numbers.findIndex((value) => !(value >= 0 && value < Infinity))
  if (at < 0) return
  throw new AppError(
    'malformed',
    `The importance of column ${at} is ${numbers[at]}, which must be finite and not negative`,
    {
      hint: 'Make the importance matrix again.',
    },
  )
}
