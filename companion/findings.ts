import { groupDigits } from '../src/core/digits.ts'
import type { Finding } from '../src/core/plan.ts'
import { PAGE_WIDTH, wrap } from './text.ts'

/** Findings of one kind that are told in full; a large model can have hundreds, one for each of its tensors. */
const TOLD_EACH = 3

/** Findings for people, a few of each kind, or (`verbose`) all. Ends with a line feed if there are any. */
export function findingsText(findings: readonly Finding[], verbose: boolean): string {
  const kinds = new Map<string, Finding[]>()
  for (const finding of findings) {
    const kind = `${finding.severity} ${finding.code}`
    kinds.set(kind, [...(kinds.get(kind) ?? []), finding])
  }
  const lines = [...kinds.values()].flatMap((alike) => {
    // one more is as short as to say that there is one more
    const told = verbose || alike.length <= TOLD_EACH + 1 ? alike : alike.slice(0, TOLD_EACH)
    const more = alike.length - told.length
    return [
      ...told.flatMap(findingLines),
      ...(more === 0 ? [] : [`  and ${more} more of this kind (--verbose lists them)`]),
    ]
  })
  return lines.map((line) => `${line}\n`).join('')
}

function findingLines({ severity, message, hint }: Finding): readonly string[] {
  const text = groupDigits(message)
  const sentence = hint === undefined || /[.!?]$/.test(text) ? text : `${text}.`
  const [first = '', ...rest] = wrap(`${severity}: ${sentence}${hint === undefined ? '' : ` ${hint}`}`, PAGE_WIDTH)
  return [first, ...rest.map((line) => `  ${line}`)]
}
