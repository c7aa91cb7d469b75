import { formatWhole, groupDigits } from '../../core/digits.ts'
import type { ErrorCode } from '../../core/errors.ts'
import type { OptionSpec } from '../../core/option.ts'
import type { Finding } from '../../core/plan.ts'

/** The context under which a page keeps a function that tells every option there is. */
export const OPTION_SPECS = Symbol('option specs')

/** What engines and API say, as it stands on the page: numbers grouped, options by their titles, alike things once. */

/** A text for the page: its numbers grouped, and `--name` replaced by the option's title. */
export function pageText(text: string, specs: readonly OptionSpec[] = []): string {
  const titled = text.replace(/\s\(--[a-z][\w-]*\)|--([a-z][\w-]*)/g, (whole, name: string | undefined) => {
    const spec = specs.find((one) => one.name === name)
    return name === undefined ? '' : spec === undefined ? whole : `“${spec.title}”`
  })
  return groupDigits(titled)
}

/** A text that ends as a sentence does. */
export function sentence(text: string): string {
  return /[.!?]$/.test(text) ? text : `${text}.`
}

/** What can be done on the page about failures whose hints are meant for the command. */
const ERROR_HINTS: Partial<Readonly<Record<ErrorCode, string>>> = {
  'output-exists': 'Replace it, or go back and give the output another name.',
  'source-changed': 'Start afresh, or bring back the file as it was.',
}

/** How the hint begins that lists what can be read: the page has a list of its own. */
const READABLE = 'These can be read:'
const GIVE_ALL = 'Give the file, or the folder that holds all of the model’s files.'

/** The hint of a failure, for the page; null for none. */
export function errorHint(code: ErrorCode, hint: string | null, specs: readonly OptionSpec[] = []): string | null {
  const own = code === 'not-a-model' && hint?.startsWith(READABLE) === true ? GIVE_ALL : ERROR_HINTS[code]
  if (own !== undefined) return own
  return hint === null ? null : pageText(hint, specs)
}

/** Findings that say the same of several things. */
export interface FindingGroup {
  readonly code: string
  readonly severity: Finding['severity']
  /** One line for all of them; that of the only one. */
  readonly message: string
  /** What is to be done about them, if that is the same for all; null otherwise. */
  readonly hint: string | null
  readonly findings: readonly Finding[]
}

/** How findings are summed up, by code. */
const SUMS: ReadonlyMap<string, (count: string) => string> = new Map([
  ['row-fallback', (count) => `${count} tensors get another type, since their rows are not whole blocks`],
  ['no-importance', (count) => `${count} matrices have no entry in the importance matrix and are rounded without`],
  ['bad-tensor', (count) => `${count} tensors are not what the model says`],
  ['missing-tensor', (count) => `${count} tensors are missing`],
  ['extra-tensor', (count) => `${count} tensors belong to no part of the model`],
  ['tensor-ignored', (count) => `${count} tensors are left out`],
  ['dtype-mismatch', (count) => `${count} tensors have another type than the configuration says`],
  ['all-zero', (count) => `${count} tensors hold nothing but zeros`],
  ['zero-weights', (count) => `${count} tensors hold nothing but zeros`],
  ['bad-weights', (count) => `${count} tensors hold values that are no numbers`],
  ['duplicate-token', (count) => `${count} tokens are there twice`],
  ['type-substituted', (count) => `${count} tensors get another type`],
  ['part-too-large', (count) => `${count} files are larger than was asked for`],
  ['token-id-ignored', (count) => `${count} special tokens have no place in the output`],
])

/** Findings of the same code and severity as one, in the order in which each first came up. */
export function groupFindings(findings: readonly Finding[]): readonly FindingGroup[] {
  const groups = new Map<string, Finding[]>()
  for (const finding of findings) {
    const key = `${finding.severity} ${finding.code}`
    groups.set(key, [...(groups.get(key) ?? []), finding])
  }
  return [...groups.values()].flatMap((members) => {
    const [first] = members
    if (first === undefined) return []
    const hints = new Set(members.map(({ hint }) => hint ?? null))
    const [hint = null] = hints.size === 1 ? hints : []
    const sum = SUMS.get(first.code)
    const message =
      members.length === 1
        ? first.message
        : (sum?.(formatWhole(members.length)) ??
          `${first.message}, and ${formatWhole(members.length - 1)} more like it`)
    return [{ code: first.code, severity: first.severity, message, hint, findings: members }]
  })
}
