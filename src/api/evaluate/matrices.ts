/**
 * Matrices that are quantised in parts. Rows of the result come in strips: so many outputs at a time that their values
 * fit. Of parts which lie the other way round (an input's outputs side by side) each strip takes its piece of every row:
 * from memory where they are held, else from the file, in runs that get longer the wider a strip is.
 */
import { bytesOf, elementCount } from '../../core/dtype.ts'
import { AppError } from '../../core/errors.ts'
import type { MatrixScheme } from '../../core/matrix-scheme.ts'
import { slice, type Recipe } from '../../core/tensor.ts'
import { matrixLayoutOf, type MatrixField } from './matrix-layout.ts'
import { BadElement, castInto } from './elementwise.ts'
import type { HeldParts, HeldPiece } from './held.ts'
import { elementRange, sequenceBytes, stackBytes, type Evaluator, type Run } from './node.ts'

/** Values of a strip: 4 MiB of f32; where its runs are read from a file 24 MiB, for longer ones. */
const STRIP_ELEMENTS = 1 << 20
const READ_STRIP_ELEMENTS = 6 << 20
/** Strips end on multiples of this many rows, where they are so wide: of every scheme's step. */
const STRIP_ROWS = 32
/** Outputs `first` to `first + rows` of one part, compiled. */
interface Loaded {
  readonly bytes: number
  readonly scratch: number
  readonly reads: number
  fill(into: Uint8Array, run: Run): Promise<void>
}

/** `partOf` makes the evaluator of a part, in the type asked for; `held` has parts that lie across. */
export function matrixEvaluator(
  recipe: Recipe & { op: 'dequantize' },
  scheme: MatrixScheme,
  held: HeldParts | null,
  partOf: (part: Recipe, field: MatrixField) => Evaluator,
): Evaluator {
  const [allRows = 0, columns = 0] = recipe.shape
  const layout = matrixLayoutOf(scheme, allRows)
  const across = layout.fields.some(({ axis }) => axis === 1)
  const inMemory = held !== null || !across
  const fitting = Math.floor((inMemory ? STRIP_ELEMENTS : READ_STRIP_ELEMENTS) / Math.max(1, columns))
  const grain = fitting >= STRIP_ROWS && STRIP_ROWS % layout.step === 0 ? STRIP_ROWS : layout.step
  const stripRows = Math.max(grain, Math.floor(fitting / grain) * grain)

  function load(field: MatrixField, first: number, rows: number): Loaded {
    const whole = recipe.parts[field.name]
    if (whole === undefined) throw new AppError('internal', `a quantisation without its ${field.name}`)
    const { axis, perStep } = field
    if (axis === null) return loaded(partOf(whole, field), field)
    const start = (first / layout.step) * perStep
    const size = whole.shape[axis] ?? 0
    const count = Math.min(size - start, Math.ceil(rows / layout.step) * perStep)
    const piece = axis === 1 ? (held?.cut(whole, start, count) ?? null) : null
    if (piece !== null) return fromMemory(piece, whole, field)
    return loaded(partOf(slice(whole, axis, start, count), field), field)
  }

  /** Where the strips of a range begin, and how many rows they have. */
  function* strips(start: number, count: number): Generator<{ first: number; rows: number; from: number; to: number }> {
    const end = start + count
    for (let at = start; at < end;) {
      const row = Math.floor(at / columns)
      const first = Math.floor(row / layout.step) * layout.step
      const stripEnd = (Math.floor(row / stripRows) + 1) * stripRows
      const wanted = Math.ceil(Math.ceil(end / columns) / layout.step) * layout.step
      const last = Math.min(allRows, stripEnd, wanted)
      const to = Math.min(end, last * columns)
      yield { first, rows: last - first, from: at, to }
      at = to
    }
  }
  const isWhole = (strip: { first: number; rows: number; from: number; to: number }): boolean =>
    strip.from === strip.first * columns && strip.to === (strip.first + strip.rows) * columns

  return {
    info: recipe,
    elements: elementCount(recipe.shape),
    quantum: (across ? Math.min(stripRows, Math.max(1, allRows)) : layout.step) * Math.max(1, columns),
    scratch(start, count) {
      let most = 0
      for (const strip of strips(start, count)) {
        const parts = layout.fields.map((field) => load(field, strip.first, strip.rows))
        const spill = isWhole(strip) ? 0 : stackBytes(strip.rows * columns * 4)
        const steps = parts.map(({ bytes, scratch }) => ({ kept: stackBytes(bytes), scratch }))
        most = Math.max(most, sequenceBytes([{ kept: spill, scratch: 0 }, ...steps]))
      }
      return most
    },
    reads(start, count) {
      let sum = 0
      for (const { first, rows } of strips(start, count)) {
        for (const field of layout.fields) sum += load(field, first, rows).reads
      }
      return sum
    },
    async fill(start, count, into, run) {
      for (const strip of strips(start, count)) {
        await run.stack.scope(async () => {
          const { first, rows, from, to } = strip
          const target = elementRange(recipe, into, from - start, to - from)
          const output = isWhole(strip) ? target : run.stack.take(rows * columns * 4)
          const parts: Record<string, Uint8Array> = {}
          for (const field of layout.fields) {
            const part = load(field, first, rows)
            const buffer = run.stack.take(part.bytes)
            await run.stack.scope(() => part.fill(buffer, run))
            parts[field.name] = buffer
          }
          const { bad } = await run.scheme({ kind: 'dequantize', scheme }).run(parts, output, rows, columns, run.signal)
          if (bad !== null) throw new BadElement(first * columns + bad, 'f32', 'f32')
          if (output !== target) target.set(elementRange(recipe, output, from - first * columns, to - from))
        })
      }
    },
  }
}

function loaded(of: Evaluator, { dtype }: MatrixField): Loaded {
  return {
    bytes: bytesOf(dtype, of.elements),
    scratch: of.scratch(0, of.elements),
    reads: of.reads(0, of.elements),
    fill: (into, run) => of.fill(0, of.elements, into, run),
  }
}

/** A piece of a part that is held; cast where kernels read another type. */
function fromMemory(piece: HeldPiece, { dtype: stored }: Recipe, { dtype }: MatrixField): Loaded {
  const elements = piece.bytes / bytesOf(stored, 1)
  return {
    bytes: bytesOf(dtype, elements),
    scratch: stored === dtype ? 0 : stackBytes(piece.bytes),
    reads: 0,
    async fill(into, run) {
      if (stored === dtype) return piece.fill(into)
      const own = run.stack.take(piece.bytes)
      piece.fill(own)
      await castInto(run, stored, dtype, own, into, 0, elements)
    },
  }
}
