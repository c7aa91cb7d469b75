import type { FormatInfo, Target } from '../../src/api/wire.ts'
import { definitions, formatBytes } from '../text.ts'

/** What a model can become, a line or two for each format: the usual choice with its size, or why not. */
export function targetsText(targets: readonly Target[], formats: readonly FormatInfo[], verbose: boolean): string {
  const ids = [...new Set(targets.map(({ format }) => format))]
  const rows = ids.flatMap((id): [string, string][] => {
    const all = targets.filter(({ format }) => format === id)
    const open = all.filter(({ cost }) => cost !== null)
    const closed = byReason(all.filter(({ cost }) => cost === null))
    if (open.length === 0) return [[id, `no: ${[...closed.keys()].join(' ')}`]]
    const option = formats.find((format) => format.id === id)?.options.find(({ kind }) => kind.kind === 'choice')
    const usual = option?.kind.kind === 'choice' ? option.kind.default : null
    const best = open.find(({ options }) => option !== undefined && options[option.name] === usual) ?? open[0]
    const sizes = open.map(({ cost }) => cost?.writeBytes ?? 0)
    const others = open.length - 1
    const range = `${formatBytes(Math.min(...sizes))} to ${formatBytes(Math.max(...sizes))}`
    const more = others === 0 ? '' : `; ${others} ${others === 1 ? 'other' : 'others'}, ${range}`
    const first: [string, string] = [id, `${best?.title ?? ''} ${formatBytes(best?.cost?.writeBytes ?? 0)}${more}`]
    const rest = [...closed].map(([reason, titles]): [string, string] => ['', `not ${titles.join(', ')}: ${reason}`])
    return [first, ...(verbose ? rest : [])]
  })
  return `can become:\n${definitions(rows, { column: Math.max(0, ...ids.map((id) => id.length)) + 2 })}`
}

/** The titles of closed targets by the reason that they share. */
function byReason(closed: readonly Target[]): ReadonlyMap<string, readonly string[]> {
  const reasons = new Map<string, string[]>()
  for (const { reason, title } of closed) {
    const text = reason ?? 'it cannot be reached'
    reasons.set(text, [...(reasons.get(text) ?? []), title])
  }
  return reasons
}
