import type { Place } from '../core/bytes.ts'
import { elementCount } from '../core/dtype.ts'
import { AppError } from '../core/errors.ts'
import { resolveOptions, type OptionValues } from '../core/option.ts'
import type { Engine } from '../engines/engine.ts'
import { formatIds, loadEngine } from '../engines/index.ts'
import { planFor } from './api.ts'
import type { Host } from './host.ts'
import { openTransformed } from './transforms.ts'
import type { Target, TargetsGiven } from './wire.ts'

/** Plans every choice of every format that can be written, or of the one that options are given for. */
export async function targets(host: Host, place: Place, given?: TargetsGiven): Promise<readonly Target[]> {
  const source = await openTransformed(host, place, given?.transforms)
  const weights = [...source.checkpoint.tensors.values()].reduce((sum, tensor) => sum + elementCount(tensor.shape), 0)
  const found: Target[] = []
  for (const id of formatIds()) {
    const engine = await loadEngine(id)
    if (engine.convert === null || (given?.format !== undefined && given.format !== id)) continue
    for (const variant of variants(engine)) {
      const base = { format: id, formatTitle: engine.title, ...variant }
      try {
        const options = resolveOptions(engine.options, { ...given?.options, ...variant.options })
        const plan = await planFor(host, source, engine, options)
        const { writeBytes, readBytes, peakBytes } = plan
        const cost = { writeBytes, readBytes, peakBytes, bitsPerWeight: (writeBytes * 8) / weights }
        found.push({ ...base, cost, reason: null, findings: plan.findings })
      } catch (error) {
        const { message, hint } = AppError.from(error)
        found.push({ ...base, cost: null, reason: hint === null ? message : `${message}. ${hint}`, findings: [] })
      }
    }
  }
  return found
}

/** The choices of a format's first choice option are what people pick from; the other options keep their defaults. */
function variants(engine: Engine): readonly { title: string; help: string; options: OptionValues }[] {
  const option = engine.options.find(({ kind }) => kind.kind === 'choice')
  if (option === undefined || option.kind.kind !== 'choice') return [{ title: engine.title, help: '', options: {} }]
  return option.kind.choices.map(({ value, title, help }) => ({ title, help, options: { [option.name]: value } }))
}
