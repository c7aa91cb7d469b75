import type { Engine } from '../engines/engine.ts'
import { formatIds, loadEngine } from '../engines/index.ts'
import { supportedArchitectures } from '../models/index.ts'
import type { Matrix, MatrixCell } from './wire.ts'

/** What becomes what, as the engines themselves say it. */
export async function matrix(): Promise<Matrix> {
  const engines = await Promise.all(formatIds().map(loadEngine))
  const architectures = supportedArchitectures()
  const readers = engines.filter((engine) => engine.open !== null)
  return {
    inputs: readers.flatMap((engine) =>
      engine.inputs.map((kind) => ({ ...kind, otherwise: kind.otherwise ?? null, format: engine.id })),
    ),
    outputs: engines.map(({ id, title }) => ({ id, title })),
    architectures: architectures.map((one) => ({
      ...one,
      refused: engines.flatMap((engine) => {
        const reason = engine.refuses(one.id)
        return reason === null ? [] : [{ format: engine.id, reason }]
      }),
    })),
    cells: readers.flatMap((reader) =>
      reader.inputs.flatMap(({ id }) =>
        engines.map((writer): MatrixCell => {
          const ids = architectures.filter((one) => reader.refuses(one.id) === null && writer.refuses(one.id) === null)
          return { input: id, output: writer.id, architectures: ids.map((one) => one.id), reason: whyNot(writer, ids) }
        }),
      ),
    ),
  }
}

function whyNot({ convert, title }: Engine, architectures: readonly unknown[]): string | null {
  if (convert === null) return `${title} cannot be written yet`
  return architectures.length > 0 ? null : 'No architecture is known to both formats'
}
