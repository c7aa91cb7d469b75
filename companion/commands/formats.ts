import type { FormatInfo, Matrix } from '../../src/api/wire.ts'
import { AppError } from '../../src/core/errors.ts'
import { formatId } from '../../src/engines/index.ts'
import { parseArguments } from '../arguments.ts'
import type { Command } from '../main.ts'
import { definitions, table } from '../text.ts'
import { apiFor, COMMON_FLAGS, helpText, optionText } from './options.ts'

const USAGE = `usage: modelconvert formats [FORMAT]

Shows what becomes what. With a FORMAT: what it takes, which models it can hold, and its options.`

/** `modelconvert formats [FORMAT]`. */
export const formatsCommand: Command = async (args, terminal) => {
  const { positionals, flags } = parseArguments(args, COMMON_FLAGS, [])
  if (flags.has('help')) return terminal.stdout(helpText(USAGE, COMMON_FLAGS, []))
  const [name, ...others] = positionals
  if (others.length > 0) {
    throw new AppError('bad-option', `formats takes one FORMAT at the most, and got ${positionals.length} words`)
  }
  const api = apiFor(terminal, flags)
  const [formats, matrix] = [await api.formats(), await api.matrix()]
  const json = flags.has('json')
  if (name === undefined) {
    return terminal.stdout(json ? `${JSON.stringify({ ok: true, formats, matrix }, null, 2)}\n` : matrixText(matrix))
  }
  const format = formats.find(({ id }) => id === formatId(name))
  if (format === undefined) {
    throw new AppError('bad-option', `There is no format ${JSON.stringify(name)}`, {
      hint: `The formats: ${formats.map(({ id }) => id).join(', ')}.`,
    })
  }
  const inputs = matrix.inputs.filter((input) => input.format === format.id)
  terminal.stdout(
    json ? `${JSON.stringify({ ok: true, format, inputs }, null, 2)}\n` : formatText(format, inputs, matrix),
  )
}

/** What becomes what: by input, then by architecture, then why not. */
function matrixText({ inputs, outputs, architectures, cells }: Matrix): string {
  const head = outputs.map(({ id }) => id)
  const cellText = (input: string, output: string): string => {
    const cell = cells.find((one) => one.input === input && one.output === output)
    const count = cell?.architectures.length ?? 0
    return count === 0 ? '-' : count === architectures.length ? 'all' : `${count} of ${architectures.length}`
  }
  const rows = inputs.map(({ id, title }) => [title, ...head.map((output) => cellText(id, output))])
  const models = architectures.map(({ classNames, refused }) => [
    classNames[0] ?? '',
    ...head.map((output) => (refused.some(({ format }) => format === output) ? '-' : 'yes')),
  ])
  const closed = cells.flatMap(({ input, output, reason }): [string, string][] =>
    reason === null ? [] : [[`${input} to ${output}`, reason]],
  )
  const refusals = new Set(
    architectures.flatMap(({ refused }) => refused.map(({ format, reason }) => `- under ${format}: ${reason}`)),
  )
  const notes = new Map<string, string[]>()
  for (const { title, otherwise } of inputs) {
    if (otherwise !== null) notes.set(otherwise, [...(notes.get(otherwise) ?? []), title])
  }
  const parts = [
    table(rows, ['FROM', ...head.map((id) => id.toUpperCase())]),
    `All, or how many, of these architectures:\n\n${table(models, ['ARCHITECTURE', ...head.map((id) => id.toUpperCase())])}`,
    ...(closed.length === 0 ? [] : [definitions(closed)]),
    ...(refusals.size === 0 ? [] : [[...refusals].join('\n')]),
    ...(notes.size === 0
      ? []
      : [
          definitions(
            [...notes].map(([text, titles]) => [titles.join(', '), text]),
            { indent: 0 },
          ),
        ]),
    definitions(
      [
        ['modelconvert inspect MODEL', 'what a model of yours becomes, and why not more'],
        ['modelconvert formats FORMAT', 'what a format takes, which models it can hold, its options'],
      ],
      { indent: 0, column: 30 },
    ),
  ]
  return `${parts.join('\n\n')}\n`
}

function formatText({ id, title, writes, options }: FormatInfo, inputs: Matrix['inputs'], matrix: Matrix): string {
  const held = matrix.architectures.filter(({ refused }) => !refused.some(({ format }) => format === id))
  const refused = new Map<string, string[]>()
  for (const one of matrix.architectures) {
    for (const { format, reason } of one.refused) {
      if (format === id) refused.set(reason, [...(refused.get(reason) ?? []), one.classNames[0] ?? one.id])
    }
  }
  const names = held.flatMap(({ classNames }) => classNames).join(', ')
  const models: [string, string][] = [
    ['these', names],
    ...[...refused].map(([reason, classes]): [string, string] => ['not these', `${classes.join(', ')}: ${reason}`]),
  ]
  const parts = [
    `${id}: ${title}${inputs.length === 0 ? ', cannot be read' : ''}${writes ? '' : ', cannot be written'}`,
    ...(inputs.length === 0
      ? []
      : [
          `Reads:\n${definitions(inputs.map((input) => [input.title, [input.help, input.otherwise].filter((text) => text !== null).join(' ')]))}`,
        ]),
    `Models:\n${definitions(models)}`,
    ...(options.length === 0
      ? []
      : [['Options when writing:', ...options.map((option) => optionText(option, 2))].join('\n')]),
  ]
  return `${parts.join('\n\n')}\n`
}
