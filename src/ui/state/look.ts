import type { FormatInfo, Inspection, Target, Wire } from '../../api/wire.ts'
import { groupTargets, sourceKind } from './formats.ts'
import type { Model } from './session-types.ts'
import { givenOf, type Source } from './source.ts'

/** What a source is, and what it can become. */
export interface Seen {
  readonly inspection: Inspection
  readonly targets: readonly Target[]
}

/** Looks at a source. Throws what opening it throws. */
export async function look(wire: Wire, source: Source): Promise<Seen> {
  const given = givenOf(source)
  const [inspection, targets] = await Promise.all([
    wire.inspect(source.place, given),
    wire.targets(source.place, given === undefined ? undefined : { transforms: given }),
  ])
  return { inspection, targets }
}

/** The model that made-up weights would make of a source; null if it has no configuration that can be used. */
export async function outlined(wire: Wire, source: Source): Promise<Inspection | null> {
  return wire.inspect(source.place, givenOf({ ...source, madeUp: true })).catch(() => null)
}

/** What was seen of a source, as the page shows it. */
export function modelOf(source: Source, { inspection, targets }: Seen, formats: readonly FormatInfo[]): Model {
  return { source, inspection, targets, groups: groupTargets(targets, formats, sourceKind(inspection)) }
}
