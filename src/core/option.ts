import { AppError } from './errors.ts'

/** An option as data: the UI draws it, the command parses it, the API checks it. */
export interface OptionSpec {
  /** `quant`; the flag is `--quant`. */
  readonly name: string
  readonly title: string
  /** One sentence. */
  readonly help: string
  /** The heading that it stands under with its like; absent for those that come first. */
  readonly group?: string
  /** The formats of the sources that it is for; all if absent. */
  readonly sources?: readonly string[]
  /** The name of the option that it means nothing without; absent if there is none. */
  readonly needs?: string
  readonly kind: OptionKind
}

export type OptionKind =
  | { readonly kind: 'choice'; readonly choices: readonly Choice[]; readonly default: string }
  | { readonly kind: 'flag'; readonly default: boolean }
  | { readonly kind: 'integer'; readonly min: number; readonly max: number; readonly default: number | null }
  | { readonly kind: 'number'; readonly min: number; readonly max: number; readonly default: number | null }
  /** With `file` the value is the text of a file, whose path the command takes. */
  | { readonly kind: 'text'; readonly default: string | null; readonly file?: true }
  /**
   * Several texts of the same parts, such as `attn_v=q8_0`: the command takes the flag once for each, the UI shows a
   * row of fields for each.
   */
  | { readonly kind: 'list'; readonly parts: readonly ListPart[]; readonly default: null }
  /**
   * The bytes of a file of at most `maxBytes`, whose path the command takes and which the UI lets choose. A file whose
   * name fits the expression `names` is none of a model, but meant for this option: the UI takes it where it is dropped.
   */
  | { readonly kind: 'file'; readonly maxBytes: number; readonly names?: string; readonly default: null }

/** One part of a list's texts. */
export interface ListPart {
  /** For people: "Key". */
  readonly title: string
  /** What stands between the part before and this one; empty for the first. */
  readonly before: string
  /** Shown where nothing is given. */
  readonly example: string
  /** Whether it may be left out, with what stands before it. */
  readonly optional?: true
  /** All that it can be; any text if absent. */
  readonly choices?: readonly string[]
  /** Whether it may have several lines. */
  readonly lines?: true
  /** Whether it is a key of the output's metadata: those that are there are offered. */
  readonly metadataKey?: true
}

/** A file given as an option: small enough to be held in memory. */
export interface FileValue {
  /** Its own name, for messages. */
  readonly name: string
  readonly bytes: Uint8Array
}

export interface Choice {
  readonly value: string
  /** For people: "Q4_K_M". */
  readonly title: string
  /** When to take it, one sentence. */
  readonly help: string
  /** One of the few that most people want: shown first, the others on demand. */
  readonly featured?: true
  /** Leaves the weights of a model of the same format as they are: recommended where those are quantised already. */
  readonly keeps?: true
  /** Other spellings that the command takes. */
  readonly aliases?: readonly string[]
}

export type OptionValue = string | number | boolean | FileValue | readonly string[] | null
export type OptionValues = Readonly<Record<string, OptionValue>>

/**
 * Values for all of `specs`: those given, checked, and the defaults. Throws `bad-option` for an unknown name, a wrong
 * type, or a value outside the choices (compared without regard to case), saying what would be right.
 */
export function resolveOptions(specs: readonly OptionSpec[], given: OptionValues): OptionValues {
  const known = new Map(specs.map((spec) => [spec.name, spec]))
  for (const name of Object.keys(given)) {
    if (known.has(name)) continue
    const names = [...known.keys()].map((other) => `--${other}`).join(', ')
    throw new AppError('bad-option', `There is no option --${name} for this target`, {
      hint: names === '' ? 'It has no options.' : `Its options: ${names}.`,
    })
  }
  return Object.fromEntries(specs.map((spec) => [spec.name, resolveOption(spec, given[spec.name])]))
}

function resolveOption(spec: OptionSpec, value: OptionValue | undefined): OptionValue {
  const { kind } = spec
  if (value === undefined || value === null) return kind.default
  const fail = (hint: string): never => {
    const shown = isFileValue(value) ? 'a file' : JSON.stringify(value)
    throw new AppError('bad-option', `--${spec.name} cannot be ${shown}`, { hint })
  }
  switch (kind.kind) {
    case 'choice': {
      const wanted = typeof value === 'object' ? '' : String(value).toLowerCase()
      const found = kind.choices.find((choice) => choice.value === wanted || choice.aliases?.includes(wanted) === true)
      return found?.value ?? fail(`Choose one of ${kind.choices.map((choice) => choice.value).join(', ')}.`)
    }
    case 'flag':
      return typeof value === 'boolean' ? value : fail('It is either given or not.')
    case 'integer': {
      const number = Number(value)
      const good = Number.isSafeInteger(number) && number >= kind.min && number <= kind.max
      return good ? number : fail(`It takes a whole number from ${kind.min} to ${kind.max}.`)
    }
    case 'number': {
      const number = typeof value === 'object' || value === '' ? Number.NaN : Number(value)
      return number >= kind.min && number <= kind.max
        ? number
        : fail(`It takes a number from ${kind.min} to ${kind.max}.`)
    }
    case 'text':
      return typeof value === 'string' ? value : fail('It takes text.')
    case 'list': {
      const items = typeof value === 'string' ? [value] : isList(value) ? value : fail('It takes texts.')
      return isList(items) && items.some((item) => item.trim() !== '') ? items : kind.default
    }
    case 'file':
      if (!isFileValue(value)) return fail('It takes a file.')
      if (value.bytes.length <= kind.maxBytes) return value
      throw new AppError('bad-option', `${value.name} takes ${value.bytes.length} bytes, too many for --${spec.name}`, {
        hint: `It is held in memory, so it may take ${kind.maxBytes} at most.`,
      })
  }
}

/** Whether an option's value is a file. */
export function isFileValue(value: OptionValue | undefined): value is FileValue {
  return typeof value === 'object' && value !== null && 'bytes' in value
}

function isList(value: OptionValue): value is readonly string[] {
  return Array.isArray(value) && value.every((item) => typeof item === 'string')
}

/** The texts of a list's value, without blank ones; none if it is not given. */
export function listItems(value: OptionValue | undefined): readonly string[] {
  const items =
    typeof value === 'string' ? [value] : value !== undefined && value !== null && isList(value) ? value : []
  return items.filter((item) => item.trim() !== '')
}

/** A text of a list in its parts; empty ones for those that it does not have. */
export function splitItem(parts: readonly ListPart[], text: string): readonly string[] {
  const escaped = (plain: string): string => plain.replaceAll(/[^\w\s]/g, '\\$&')
  const pattern = parts.map(({ before, optional, choices }, index) => {
    const ofChoices = optional === true && choices !== undefined
    const value = ofChoices ? choices.map(escaped).join('|') : index === parts.length - 1 && index > 0 ? '.*' : '.*?'
    return index === 0 ? `(${value})` : `(?:${escaped(before)}(${value}))?`
  })
  const found = new RegExp(`^${pattern.join('')}$`, 's').exec(text)
  return parts.map((_, index) => found?.[index + 1] ?? '')
}

/** The text of a list whose parts these are. */
export function joinItem(parts: readonly ListPart[], values: readonly string[]): string {
  return parts
    .map(({ before, optional }, index) => {
      const value = values[index] ?? ''
      return value === '' && optional === true ? '' : before + value
    })
    .join('')
}
