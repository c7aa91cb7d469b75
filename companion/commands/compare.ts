import { AppError } from '../../src/core/errors.ts'
import { inputPlace, parseArguments, type FlagSpec } from '../arguments.ts'
import type { Command } from '../main.ts'
import { followTo } from '../progress.ts'
import { TEXT_FLAGS, textOptions } from './check.ts'
import { comparisonText } from './check-text.ts'
import { onInterrupt } from './interrupt.ts'
import { apiFor, COMMON_FLAGS, helpText } from './options.ts'

const FLAGS: readonly FlagSpec[] = [...TEXT_FLAGS, ...COMMON_FLAGS]

const USAGE = `usage: modelconvert compare A B [options]

Runs two GGUF models over a text and says how far B's predictions are from A's: perplexity of both,
mean KL divergence, and how often they agree on the likeliest token. A is usually the source of B.
llama.cpp runs them, which "npm install node-llama-cpp" brings; both are in memory at once.

  modelconvert compare model-F16.gguf model-Q4_K_M.gguf --text wiki.txt`

/** `modelconvert compare A B`. */
export const compareCommand: Command = async (args, terminal) => {
  const { positionals, flags } = parseArguments(args, FLAGS, [])
  if (flags.has('help')) return terminal.stdout(helpText(USAGE, FLAGS, []))
  const [a, b, ...others] = positionals
  if (a === undefined || b === undefined || others.length > 0) {
    throw new AppError('bad-option', `compare takes A and B, and got ${positionals.length} words`, {
      hint: 'For example: modelconvert compare model-F16.gguf model-Q4_K_M.gguf',
    })
  }
  const request = { a: inputPlace(a), b: inputPlace(b), ...(await textOptions(flags)) }
  const api = apiFor(terminal, flags)
  try {
    const job = api.compare(request)
    const interrupt = onInterrupt(() => job.cancel(false), terminal, 'Stopping.')
    try {
      const stream = flags.has('quiet') ? null : terminal.stderr
      const { comparison } = await followTo('compared', job, stream, false)
      terminal.stdout(
        flags.has('json') ? `${JSON.stringify({ ok: true, comparison }, null, 2)}\n` : comparisonText(comparison),
      )
    } finally {
      interrupt.dispose()
    }
  } finally {
    await api.close()
  }
}
