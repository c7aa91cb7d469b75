import { parseArguments } from '../arguments.ts'
import type { Command } from '../main.ts'
import { apiFor, COMMON_FLAGS, helpText } from './options.ts'

const USAGE = `modelconvert formats

Lists the formats that can be read and written, and their options.`

/** `modelconvert formats`. */
export const formatsCommand: Command = async (args, terminal) => {
  const { flags } = parseArguments(args, COMMON_FLAGS, [])
  if (flags.has('help')) return terminal.stdout(helpText(USAGE, COMMON_FLAGS, []))
  const formats = await apiFor(terminal, flags).formats()
  if (flags.has('json')) return terminal.stdout(`${JSON.stringify({ ok: true, formats }, null, 2)}\n`)
  const lines: string[] = []
  for (const { id, title, reads, writes, options } of formats) {
    const can = [...(reads ? ['reads'] : []), ...(writes ? ['writes'] : [])].join(' and ')
    lines.push(`${id}: ${title} (${can})`)
    for (const { name, kind, help } of options) {
      lines.push(`  --${name}  ${help}`)
      if (kind.kind !== 'choice') continue
      for (const choice of kind.choices) lines.push(`      ${choice.value.padEnd(8)} ${choice.help}`)
    }
  }
  lines.push(`architectures: ${formats[0]?.architectures.join(', ') ?? ''}`)
  terminal.stdout(`${lines.join('\n')}\n`)
}
