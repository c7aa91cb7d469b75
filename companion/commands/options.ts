import type { Api } from '../../src/api/api.ts'
import { createApi } from '../../src/api/api.ts'
import { AppError } from '../../src/core/errors.ts'
import type { ListPart, OptionSpec } from '../../src/core/option.ts'
import { parseCount, parseSize, type Flags, type FlagSpec } from '../arguments.ts'
import type { Terminal } from '../main.ts'
import { definitions } from '../text.ts'

/** Flags that every command takes. */
export const COMMON_FLAGS: readonly FlagSpec[] = [
  { name: 'json', help: 'print one JSON object on stdout' },
  { name: 'verbose', help: 'say more; with errors, where in the code they arose' },
  { name: 'help', short: 'h', help: 'print this help' },
]

/** Flags of commands that compute. */
export const MACHINE_FLAGS: readonly FlagSpec[] = [
  { name: 'device', value: 'auto|cpu', help: 'what computes (auto)' },
  { name: 'threads', value: 'N', help: 'kernel threads (as many as the machine has)' },
  {
    name: 'memory',
    value: 'SIZE',
    help: 'bytes that buffers may take, such as 512M (a quarter of what is free, at most 1G)',
  },
]

/** More threads than any machine has are a typing error. */
const MAX_THREADS = 1024

/** Devices of the design that this build has no kernels for yet. */
const LATER_DEVICES: ReadonlySet<string> = new Set(['webgpu', 'native', 'cuda'])

/** The API on a host as the flags ask for it. */
export function apiFor(terminal: Terminal, flags: Flags): Api {
  const threads = flags.get('threads')
  const memory = flags.get('memory')
  const device = flags.get('device') ?? 'auto'
  if (typeof device === 'string' && LATER_DEVICES.has(device)) {
    throw new AppError('unsupported', `The device ${device} has no kernels in this version`, {
      hint: 'Leave --device away: the CPU does everything.',
    })
  }
  if (device !== 'auto' && device !== 'cpu') {
    throw new AppError('bad-option', `--device cannot be ${JSON.stringify(device)}`, { hint: 'Choose auto or cpu.' })
  }
  return createApi(
    terminal.createHost({
      ...(typeof threads === 'string' ? { threads: parseCount(threads, 'threads', 1, MAX_THREADS) } : {}),
      ...(typeof memory === 'string' ? { memoryBudget: parseSize(memory, 'memory') } : {}),
    }),
  )
}

/** A help text from the flags' and options' own words. */
export function helpText(usage: string, flags: readonly FlagSpec[], specs: readonly OptionSpec[]): string {
  const options = specs.map((spec) => optionText(spec, 2))
  const own = definitions(
    flags.map(({ name, short, value, help }) => [
      `${short === undefined ? '' : `-${short}, `}--${name}${value === undefined ? '' : ` ${value}`}`,
      help,
    ]),
  )
  return `${[usage, ...(options.length === 0 ? [] : [options.join('\n')]), own].join('\n\n')}\n`
}

/** How a text of a list is written: `KEY[:TYPE]=VALUE`. */
function itemForm(parts: readonly ListPart[]): string {
  return parts
    .map(({ before, title, optional }) =>
      optional === true ? `[${before}${title.toUpperCase()}]` : before + title.toUpperCase(),
    )
    .join('')
}

/** A format's option with its choices. */
export function optionText({ name, kind, help }: OptionSpec, indent: number): string {
  switch (kind.kind) {
    case 'flag':
      return definitions([[`--${name}`, help]], { indent })
    case 'integer':
    case 'number':
      return definitions([[`--${name} N`, help]], { indent })
    case 'text':
      return definitions([[`--${name} TEXT`, help]], { indent })
    case 'file':
      return definitions([[`--${name} FILE`, help]], { indent })
    case 'list':
      return definitions([[`--${name} ${itemForm(kind.parts)}`, `${help} Can be given several times.`]], { indent })
    case 'choice': {
      // types by name alone need no line each
      if (kind.choices.every((choice) => choice.help === '')) {
        const all = kind.choices.map(({ value }) => value).join(', ')
        return definitions([[`--${name} TYPE`, `${help} One of ${all}; ${kind.default} is the default.`]], { indent })
      }
      const choices = kind.choices.map((choice): [string, string] => [
        choice.value,
        `${choice.help}${choice.value === kind.default ? ' The default.' : ''}`,
      ])
      const column = Math.max(...choices.map(([value]) => value.length)) + 2
      return [
        definitions([[`--${name} TYPE`, help]], { indent }),
        definitions(choices, { indent: indent + 4, column: Math.max(column, 22) }),
      ].join('\n')
    }
  }
}
