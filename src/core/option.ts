import { AppError } from './errors.ts'

/** An option as data: the UI draws it, the command parses it, the API checks it. */
export interface OptionSpec {
  /** `quant`; the flag is `--quant`. */
  readonly name: string
  readonly title: string
  /** One sentence. */
  readonly help: string
  readonly kind: OptionKind
}

export type OptionKind =
  | { readonly kind: 'choice'; readonly choices: readonly Choice[]; readonly default: string }
  | { readonly kind: 'flag'; readonly default: boolean }
  | { readonly kind: 'integer'; readonly min: number; readonly max: number; readonly default: number | null }
  /**
   * With `file` the value is the text of a file, whose path the command takes. With `many` it may be given several
   * times: each on a line of its own.
   */
  | { readonly kind: 'text'; readonly default: string | null; readonly file?: true; readonly many?: true }
  /** The bytes of a file of at most `maxBytes`, whose path the command takes and which the UI lets choose. */
  | { readonly kind: 'file'; readonly maxBytes: number; readonly default: null }

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
  /** Other spellings that the command takes. */
  readonly aliases?: readonly string[]
}

export type OptionValue = string | number | boolean | FileValue | null
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
    const shown = typeof value === 'object' ? 'a file' : JSON.stringify(value)
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
    case 'text':
      return typeof value === 'string' ? value : fail('It takes text.')
    case 'file':
      if (typeof value !== 'object') return fail('It takes a file.')
      if (value.bytes.length <= kind.maxBytes) return value
      throw new AppError('bad-option', `${value.name} takes ${value.bytes.length} bytes, too many for --${spec.name}`, {
        hint: `It is held in memory, so it may take ${kind.maxBytes} at most.`,
      })
  }
}
