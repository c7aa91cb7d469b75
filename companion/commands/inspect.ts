import type { Inspection } from '../../src/api/wire.ts'
import { formatWhole, groupDigits } from '../../src/core/digits.ts'
import { AppError } from '../../src/core/errors.ts'
import { inputPlace, parseArguments, type FlagSpec } from '../arguments.ts'
import type { Command } from '../main.ts'
import { definitions, formatBytes, formatCount, table } from '../text.ts'
import { findingsText } from '../findings.ts'
import { metadataText } from './convert-text.ts'
import { apiFor, COMMON_FLAGS, helpText } from './options.ts'
import { targetsText } from './targets-text.ts'
import { SOURCE_FLAGS, transformsOf } from './transforms.ts'

const USAGE = `usage: modelconvert inspect MODEL

Says what a model is and what it can become, from its headers: nothing large is read.`

const FLAGS: readonly FlagSpec[] = [...SOURCE_FLAGS, ...COMMON_FLAGS]

/** `modelconvert inspect MODEL`. */
export const inspectCommand: Command = async (args, terminal) => {
  const { positionals, flags } = parseArguments(args, FLAGS, [])
  if (flags.has('help')) return terminal.stdout(helpText(USAGE, FLAGS, []))
  const [model, ...others] = positionals
  if (model === undefined || others.length > 0) {
    throw new AppError('bad-option', `inspect takes one MODEL, and got ${positionals.length} words`, {
      hint: 'For example: modelconvert inspect sample',
    })
  }
  const api = apiFor(terminal, flags)
  try {
    const place = inputPlace(model)
    const transforms = await transformsOf(flags)
    const inspection = await api.inspect(place, transforms)
    const targets = await api.targets(place, { transforms })
    const becomes = targetsText(targets, await api.formats(), flags.has('verbose'))
    terminal.stdout(
      flags.has('json')
        ? `${JSON.stringify({ ok: true, inspection, targets }, null, 2)}\n`
        : text(inspection, becomes, flags.has('verbose')),
    )
  } finally {
    await api.close()
  }
}

function text(model: Inspection, becomes: string, verbose: boolean): string {
  const rows: (readonly [string, string])[] = [
    ['name', model.name],
    ['format', `${model.formatTitle}: ${model.because}`],
    ['architecture', model.layers > 0 ? `${model.className} (${model.architecture})` : model.className],
    [
      'parameters',
      `${formatCount(model.parameters)} (${formatWhole(model.parameters)}) in ${formatWhole(model.tensorCount)} tensors`,
    ],
    [
      'weights',
      `${formatBytes(model.weightBytes)}: ${model.dtypes.map(({ dtype, bytes }) => `${dtype} ${formatBytes(bytes)}`).join(', ')}`,
    ],
    ...(model.layers > 0 ? configurationRows(model) : []),
  ]
  const lines = [definitions(rows, { indent: 0, column: Math.max(...rows.map(([name]) => name.length)) + 2 })]
  lines.push('', becomes, '', table(model.files.map(({ path, size }) => [path, formatBytes(size)])))
  if (verbose && model.metadata.length > 0) lines.push('', metadataText(model.metadata))
  if (model.findings.length > 0) lines.push('', findingsText(model.findings, verbose).trimEnd())
  return `${lines.join('\n')}\n`
}

/** What tensors of no known model do not have. */
function configurationRows(model: Inspection): readonly (readonly [string, string])[] {
  return [
    [
      'shape',
      `${model.layers} layers, width ${formatWhole(model.hiddenSize)}, ${model.heads} heads (${model.kvHeads} for keys and values)`,
    ],
    ['context', `${formatWhole(model.contextLength)} tokens`],
    ['vocabulary', `${formatWhole(model.vocabSize)}${model.tied ? ', embedding and head tied' : ''}`],
    ['tokenizer', groupDigits(model.tokenizer ?? 'none')],
  ]
}
