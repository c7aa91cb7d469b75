import { AppError } from '../src/core/errors.ts'
import { convertCommand } from './commands/convert.ts'
import { formatsCommand } from './commands/formats.ts'
import { inspectCommand } from './commands/inspect.ts'
import { createNodeHost } from './host.ts'
import type { Host } from '../src/api/host.ts'
import type { NodeHostOptions } from './host.ts'
import { version } from './version.ts'

/** What a command is given beside its arguments: replaceable, so that tests can look on and crash it. */
export interface Terminal {
  stdout(text: string): void
  readonly stderr: { readonly isTTY?: boolean; readonly columns?: number; write(text: string): unknown }
  createHost(options: NodeHostOptions): Host
}

/** A command: parses its arguments and prints. What it throws is printed by {@link main}. */
export type Command = (args: readonly string[], terminal: Terminal) => Promise<void>

const COMMANDS: ReadonlyMap<string, { readonly run: Command; readonly help: string }> = new Map([
  ['convert', { run: convertCommand, help: 'convert INPUT FORMAT [-o PATH] [--quant q4_k_m] ...  convert a model' }],
  [
    'inspect',
    { run: inspectCommand, help: 'inspect MODEL [--json]                               say what a model is' },
  ],
  [
    'formats',
    { run: formatsCommand, help: 'formats [--json]                                     list formats and options' },
  ],
])

const HELP = `modelconvert ${version}: convert machine-learning models, in bounded memory

${[...COMMANDS.values()].map(({ help }) => `  modelconvert ${help}`).join('\n')}

INPUT is a folder or file, or "sample", a small model that comes along.
Each command has its own --help. Exit status: 0 done, 1 failed, 2 wrong usage.
`

/** Exit status of a shell command that was interrupted from the keyboard. */
const INTERRUPTED = 130

/** Runs the command line; returns the exit status. */
export async function main(args: readonly string[], terminal: Terminal = processTerminal()): Promise<number> {
  const [name, ...rest] = args
  const asked = name === undefined || name === '--help' || name === '-h' || name === 'help'
  if (asked) {
    terminal.stdout(HELP)
    return name === undefined ? 2 : 0
  }
  if (name === '--version' || name === '-v') {
    terminal.stdout(`${version}\n`)
    return 0
  }
  const json = rest.includes('--json')
  const verbose = rest.includes('--verbose')
  try {
    const command = COMMANDS.get(name)
    if (command === undefined) {
      throw new AppError('bad-option', `There is no command ${name}`, {
        hint: `The commands: ${[...COMMANDS.keys()].join(', ')}.`,
      })
    }
    await command.run(rest, terminal)
    return 0
  } catch (thrown) {
    const error = AppError.from(thrown)
    if (json) terminal.stdout(`${JSON.stringify({ ok: false, error: jsonError(error, verbose) }, null, 2)}\n`)
    terminal.stderr.write(errorText(error, verbose))
    if (error.code === 'cancelled') return INTERRUPTED
    return error.code === 'bad-option' ? 2 : 1
  }
}

/** `error[code]: what, where`, then the hint; the stack only when asked for. */
export function errorText(error: AppError, verbose: boolean): string {
  const { file, tensor, offset } = error.where
  const place = [
    ...(tensor === undefined ? [] : [`tensor ${tensor}`]),
    ...(file === undefined ? [] : [`in ${file}`]),
    ...(offset === undefined ? [] : [`at byte ${offset}`]),
  ].join(' ')
  const lines = [`error[${error.code}]: ${error.message}${place === '' ? '' : ` (${place})`}`]
  if (error.hint !== null) lines.push(`  hint: ${error.hint}`)
  if (verbose) lines.push(error.toData().stack ?? '')
  return `${lines.join('\n')}\n`
}

function jsonError(error: AppError, verbose: boolean): object {
  const { stack, ...data } = error.toData()
  return verbose ? { ...data, stack } : data
}

function processTerminal(): Terminal {
  return {
    stdout: (text) => void process.stdout.write(text),
    stderr: process.stderr,
    createHost: createNodeHost,
  }
}
