import type { Inspection } from '../../src/api/wire.ts'
import { AppError } from '../../src/core/errors.ts'
import { inputPlace, parseArguments } from '../arguments.ts'
import type { Command } from '../main.ts'
import { formatBytes, formatCount, table } from '../text.ts'
import { apiFor, COMMON_FLAGS, helpText } from './options.ts'

const USAGE = `modelconvert inspect MODEL

Says what a model is, from its headers: nothing large is read.`

/** `modelconvert inspect MODEL`. */
export const inspectCommand: Command = async (args, terminal) => {
  const { positionals, flags } = parseArguments(args, COMMON_FLAGS, [])
  if (flags.has('help')) return terminal.stdout(helpText(USAGE, COMMON_FLAGS, []))
  const [model, ...others] = positionals
  if (model === undefined || others.length > 0) {
    throw new AppError('bad-option', `inspect takes one MODEL, and got ${positionals.length} words`, {
      hint: 'For example: modelconvert inspect sample',
    })
  }
  const api = apiFor(terminal, flags)
  try {
    const inspection = await api.inspect(inputPlace(model))
    terminal.stdout(flags.has('json') ? `${JSON.stringify({ ok: true, inspection }, null, 2)}\n` : text(inspection))
  } finally {
    await api.close()
  }
}

function text(model: Inspection): string {
  const rows: [string, string][] = [
    ['name', model.name],
    ['format', `${model.formatTitle}: ${model.because}`],
    ['architecture', `${model.className} (${model.architecture})`],
    ['parameters', `${formatCount(model.parameters)} in ${model.tensorCount} tensors`],
    [
      'weights',
      `${formatBytes(model.weightBytes)}: ${model.dtypes.map(({ dtype, bytes }) => `${dtype} ${formatBytes(bytes)}`).join(', ')}`,
    ],
    [
      'shape',
      `${model.layers} layers, width ${model.hiddenSize}, ${model.heads} heads (${model.kvHeads} for keys and values)`,
    ],
    ['context', `${model.contextLength} tokens`],
    ['vocabulary', `${model.vocabSize}${model.tied ? ', embedding and head tied' : ''}`],
    ['tokenizer', model.tokenizer ?? 'none'],
  ]
  // a name is no number, whatever it begins with
  const width = Math.max(...rows.map(([name]) => name.length))
  const lines = rows.map(([name, value]) => `${name.padEnd(width)}  ${value}`)
  lines.push('', table(model.files.map(({ path, size }) => [path, formatBytes(size)])))
  for (const { severity, message } of model.findings) lines.push(`${severity}: ${message}`)
  return `${lines.join('\n')}\n`
}
