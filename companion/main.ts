import { AppError } from '../src/core/errors.ts'
import { checkCommand } from './commands/check.ts'
import { compareCommand } from './commands/compare.ts'
import { convertCommand } from './commands/convert.ts'
import { formatsCommand } from './commands/formats.ts'
import { inspectCommand } from './commands/inspect.ts'
import { createNodeHost } from './host.ts'
import type { Host } from '../src/api/host.ts'
import type { NodeHostOptions } from './host.ts'
import { definitions } from './text.ts'
import { version } from './version.ts'

/** What a command is given beside its arguments: replaceable, so that tests can look on and crash it. */
export interface Terminal {
  stdout(text: string): void
  readonly stderr: { readonly isTTY?: boolean; readonly columns?: number; write(text: string): unknown }
  createHost(options: NodeHostOptions): Host
}

/**
 * A command: parses its arguments and prints. Returns the exit status where that is not 0; what it throws is printed by
 * {@link main}.
 */
export type Command = (args: readonly string[], terminal: Terminal) => Promise<number | void>

const COMMANDS: ReadonlyMap<string, { readonly run: Command; readonly usage: string; readonly help: string }> = new Map(
  [
    [
      'convert',
      { run: convertCommand, usage: 'convert INPUT FORMAT [options]', help: 'write a model in another format' },
    ],
    ['inspect', { run: inspectCommand, usage: 'inspect MODEL', help: 'say what a model is' }],
    ['check', { run: checkCommand, usage: 'check MODEL', help: 'say whether a model is well formed, and run it' }],
    ['compare', { run: compareCommand, usage: 'compare A B', help: 'say how far model B is from model A' }],
    ['formats', { run: formatsCommand, usage: 'formats', help: 'list formats and their options' }],
  ],
)

const HELP = `modelconvert ${version}: converts machine-learning models in bounded memory

${definitions(
  [...COMMANDS.values()].map(({ usage, help }) => [usage, help]),
  { column: 34 },
)}

Try it:
  modelconvert convert sample gguf --quant q4_k_m

INPUT, MODEL, A and B are a folder or a file; INPUT and MODEL also "sample", the small model that comes along.
Every command has --help, --json and --verbose. Exit status: 0 done, 1 failed, 2 wrong usage.
`

/** Exit status of a shell command that was interrupted from the keyboard. */
const INTERRUPTED = 130

/** Runs the command line; returns the exit status. */
export async function main(args: readonly string[], terminal: Terminal = processTerminal()): Promise<number> {
  const [first, ...others] = args
  // "help convert" is "convert --help"
  const [name, ...rest] = first === 'help' && COMMANDS.has(others[0] ?? '') ? [...others, '--help'] : args
  if (name === undefined) {
    terminal.stderr.write(HELP)
    return 2
  }
  if (name === '--help' || name === '-h' || name === 'help') {
    terminal.stdout(HELP)
    return 0
  }
  if (name === '--version' || name === '-V') {
    terminal.stdout(`${version}\n`)
    return 0
  }
  const json = rest.includes('--json')
  const verbose = rest.includes('--verbose')
  try {
    const command = COMMANDS.get(name)
    if (command === undefined) {
      throw new AppError('bad-option', `There is no command ${JSON.stringify(name)}`, {
        hint: `The commands: ${[...COMMANDS.keys()].join(', ')}.`,
      })
    }
    return (await command.run(rest, terminal)) ?? 0
  } catch (thrown) {
    const error = withHint(AppError.from(thrown), name)
    if (json) terminal.stdout(`${JSON.stringify({ ok: false, error: jsonError(error, verbose) }, null, 2)}\n`)
    terminal.stderr.write(errorText(error, verbose))
    if (error.code === 'cancelled') return INTERRUPTED
    return error.code === 'bad-option' ? 2 : 1
  }
}

/** Wrong usage is always told where right usage is described. */
function withHint(error: AppError, command: string): AppError {
  if (error.code !== 'bad-option' || error.hint !== null) return error
  return new AppError(error.code, error.message, {
    where: error.where,
    hint: `See modelconvert ${command} --help.`,
    cause: error,
  })
}

/** `error[code]: what, where`, then the hint; the stack only when asked for. */
export function errorText(error: AppError, verbose: boolean): string {
  const { message, hint } = error
  const { file, tensor, offset } = error.where
  // what the message says already need not be said again
  const place = [
    ...(tensor === undefined || message.includes(tensor) ? [] : [`tensor ${tensor}`]),
    ...(file === undefined || message.includes(file) ? [] : [`in ${file}`]),
    ...(offset === undefined || message.includes(String(offset)) ? [] : [`at byte ${offset}`]),
  ].join(' ')
  const lines = [`error[${error.code}]: ${message}${place === '' ? '' : ` (${place})`}`]
  if (hint !== null) lines.push(`  hint: ${hint}`)
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
