import { parseArguments } from '../arguments.ts'
import type { Command } from '../main.ts'
import { apiFor, COMMON_FLAGS, helpText, optionText } from './options.ts'

const USAGE = `usage: modelconvert formats

Lists the formats that can be read and written, and their options.`

/** `usage: modelconvert formats`. */
export const formatsCommand: Command = async (args, terminal) => {
  const { flags } = parseArguments(args, COMMON_FLAGS, [])
  if (flags.has('help')) return terminal.stdout(helpText(USAGE, COMMON_FLAGS, []))
  const formats = await apiFor(terminal, flags).formats()
  if (flags.has('json')) return terminal.stdout(`${JSON.stringify({ ok: true, formats }, null, 2)}\n`)
  const parts = formats.map(({ id, title, reads, writes, options }) => {
    const can = [...(reads ? ['read'] : []), ...(writes ? ['written'] : [])].join(' and ')
    return [`${id}: ${title}, can be ${can}`, ...options.map((option) => optionText(option, 2))].join('\n')
  })
  const architectures = [...new Set(formats.flatMap((format) => format.architectures))]
  parts.push(['Architectures:', ...architectures.map((name) => `  ${name}`)].join('\n'))
  terminal.stdout(`${parts.join('\n\n')}\n`)
}
