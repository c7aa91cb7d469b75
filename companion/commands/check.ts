import { basename, resolve } from 'node:path'
import type { CheckRequest } from '../../src/api/wire.ts'
import { readFile } from '../../src/core/bytes.ts'
import { AppError } from '../../src/core/errors.ts'
import { inputPlace, parseArguments, parseCount, type FlagSpec, type Flags } from '../arguments.ts'
import { openPath } from '../bytes.ts'
import type { Command } from '../main.ts'
import { followTo } from '../progress.ts'
import { checkText } from './check-text.ts'
import { onInterrupt } from './interrupt.ts'
import { apiFor, COMMON_FLAGS, helpText } from './options.ts'

/** Flags of the commands that measure on a text. */
export const TEXT_FLAGS: readonly FlagSpec[] = [
  { name: 'text', value: 'FILE', help: 'the text to measure perplexity on (a short one that comes along)' },
  { name: 'windows', value: 'N', help: 'measure at most so many windows of 512 tokens (all)' },
  { name: 'threads', value: 'N', help: 'threads that run it (as many as the machine has)' },
  { name: 'quiet', help: 'no progress' },
]

const FLAGS: readonly FlagSpec[] = [
  { name: 'format', value: 'F', help: 'the format to take it for (whichever fits best)' },
  { name: 'no-run', help: 'validate only' },
  { name: 'prompt', value: 'TEXT', help: 'what it is to go on from ("Once upon a time")' },
  ...TEXT_FLAGS,
  ...COMMON_FLAGS,
]

const USAGE = `usage: modelconvert check MODEL [options]

Says whether a model is properly formed, and runs it where something here can: GGUF by llama.cpp,
which "npm install node-llama-cpp" brings. It says who judged.

  modelconvert check model-Q4_K_M.gguf
  modelconvert check model-Q4_K_M.gguf --text wiki.txt          perplexity on a text of yours

Exit status: 0 nothing is wrong, 1 something is, 2 wrong usage.`

/** Larger texts would be held in memory for nothing: a hundredth of it takes hours to measure. */
const MAX_TEXT_BYTES = 1 << 28

/** More windows than any text of that size has. */
const MAX_WINDOWS = 1 << 24

/** `modelconvert check MODEL`. */
export const checkCommand: Command = async (args, terminal) => {
  const { positionals, flags } = parseArguments(args, FLAGS, [])
  if (flags.has('help')) return terminal.stdout(helpText(USAGE, FLAGS, []))
  const [model, ...others] = positionals
  if (model === undefined || others.length > 0) {
    throw new AppError('bad-option', `check takes one MODEL, and got ${positionals.length} words`, {
      hint: 'For example: modelconvert check model.gguf',
    })
  }
  const format = flags.get('format')
  const prompt = flags.get('prompt')
  const request: CheckRequest = {
    input: inputPlace(model),
    ...(typeof format === 'string' ? { format } : {}),
    ...(typeof prompt === 'string' ? { prompt } : {}),
    ...(await textOptions(flags)),
    run: !flags.has('no-run'),
  }
  const api = apiFor(terminal, flags)
  try {
    const job = api.check(request)
    const interrupt = onInterrupt(() => job.cancel(false), terminal, 'Stopping.')
    try {
      const { report } = await followTo('checked', job, flags.has('quiet') ? null : terminal.stderr, false)
      terminal.stdout(
        flags.has('json')
          ? `${JSON.stringify({ ok: report.passed, check: report }, null, 2)}\n`
          : checkText(report, flags.has('verbose')),
      )
      return report.passed ? 0 : 1
    } finally {
      interrupt.dispose()
    }
  } finally {
    await api.close()
  }
}

/** What `--text` and `--windows` ask for. */
export async function textOptions(flags: Flags): Promise<{ readonly text?: string; readonly windows?: number }> {
  const file = flags.get('text')
  const windows = flags.get('windows')
  return {
    ...(typeof file === 'string' ? { text: await textOf(file) } : {}),
    ...(typeof windows === 'string' ? { windows: parseCount(windows, 'windows', 1, MAX_WINDOWS) } : {}),
  }
}

async function textOf(path: string): Promise<string> {
  const full = resolve(path)
  const bytes = await readFile(await openPath(full), basename(full), MAX_TEXT_BYTES)
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch (cause) {
    throw new AppError('bad-option', `${path} is no text in UTF-8`, { where: { file: path }, cause })
  }
}
