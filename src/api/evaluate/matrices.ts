/**
 * Matrices that are quantised in parts. Rows of the result come in strips: so many outputs at a time that their values
 * fit, and that of parts which lie the other way round (an input's outputs side by side) each byte is read a few times
 * at the most.
 */
import { bytesOf, dtypeInfo, elementCount } from '../../core/dtype.ts'
import { AppError } from '../../core/errors.ts'
import type { MatrixScheme } from '../../core/matrix-scheme.ts'
import { slice, type Recipe } from '../../core/tensor.ts'
import { matrixLayoutOf, type MatrixField } from './matrix-layout.ts'
import { BadElement } from './elementwise.ts'
import { elementRange, PANEL_BYTES, sequenceBytes, stackBytes, type Evaluator, type Run } from './node.ts'

/** Values of a strip: 24 MiB of f32. Wider strips read in longer runs. */
const STRIP_ELEMENTS = 6 << 20
/** Strips end on multiples of this many rows, where they are so wide: of every scheme's step. */
const STRIP_ROWS = 32
/**
 * A strip reads all of a part that lies across, gaps included, while that is no more than its values take: 8 times for
 * 4 bits (the last strip of a matrix as the others). Runs are short, and a short read costs as much as one of a MiB; beyond, each is read by itself.
 */
const READ_PER_VALUE = 4

/** Outputs `first` to `first + rows` of one part, compiled. */
interface Loaded {
  readonly bytes: number
  readonly scratch: number
  readonly reads: number
  fill(into: Uint8Array, run: Run): Promise<void>
}

/** `partOf` makes the evaluator of a part, in the type asked for. */
export function matrixEvaluator(
  recipe: Recipe & { op: 'dequantize' },
  scheme: MatrixScheme,
  partOf: (part: Recipe, field: MatrixField) => Evaluator,
): Evaluator {
  const [allRows = 0, columns = 0] = recipe.shape
  const layout = matrixLayoutOf(scheme, allRows)
  const across = layout.fields.some(({ axis }) => axis === 1)
  const fitting = Math.floor(STRIP_ELEMENTS / Math.max(1, columns))
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
    const stored = elementCount(whole.shape) * dtypeInfo(whole.dtype).bytes
    const isPanel =
      axis === 1 && count < size && stored <= READ_PER_VALUE * Math.max(rows, Math.min(stripRows, allRows)) * columns
    if (isPanel && whole.dtype === field.dtype) return panelled(partOf(whole, field), field, start, count)
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

/** Columns `start` to `start + count`, cut from panels of whole rows. */
function panelled(of: Evaluator, { dtype }: MatrixField, start: number, count: number): Loaded {
  const [rows = 0, width = 0] = of.info.shape
  const size = dtypeInfo(dtype).bytes
  const panelRows = Math.max(1, Math.floor(PANEL_BYTES / (width * size)))
  const panels = function* (): Generator<{ row: number; rows: number }> {
    for (let row = 0; row < rows; row += panelRows) yield { row, rows: Math.min(panelRows, rows - row) }
  }
  let scratch = 0
  let reads = 0
  for (const panel of panels()) {
    const [from, elements] = [panel.row * width, panel.rows * width]
    scratch = Math.max(scratch, stackBytes(elements * size) + of.scratch(from, elements))
    reads += of.reads(from, elements)
  }
  return {
    bytes: rows * count * size,
    scratch,
    reads,
    async fill(into, run) {
      for (const panel of panels()) {
        await run.stack.scope(async () => {
          const buffer = run.stack.take(panel.rows * width * size)
          await of.fill(panel.row * width, panel.rows * width, buffer, run)
          for (let row = 0; row < panel.rows; row++) {
            const at = (row * width + start) * size
            into.set(buffer.subarray(at, at + count * size), (panel.row + row) * count * size)
          }
        })
      }
    },
  }
}
