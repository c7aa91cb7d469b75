import { basename, resolve } from 'node:path'
import type { Api } from '../../src/api/api.ts'
import type { ConvertRequest, FormatInfo } from '../../src/api/wire.ts'
import { AppError } from '../../src/core/errors.ts'
import type { OptionSpec, OptionValues } from '../../src/core/option.ts'
import { formatId } from '../../src/engines/index.ts'
import { inputPlace, outputPlace, parseArguments, type Flags, type FlagSpec } from '../arguments.ts'
import type { Command, Terminal } from '../main.ts'
import { follow } from '../progress.ts'
import { definitions } from '../text.ts'
import { planText, reportText } from './convert-text.ts'
import { onInterrupt } from './interrupt.ts'
import { apiFor, COMMON_FLAGS, helpText, MACHINE_FLAGS } from './options.ts'
import { bytesOf, textOrFile } from './option-files.ts'
import { TRANSFORM_FLAGS, transformsOf } from './transforms.ts'

const FLAGS: readonly FlagSpec[] = [
  {
    name: 'output',
    short: 'o',
    value: 'PATH',
    help: 'the file to write, or the folder to write it into: one that is there, or a path without an ending (this folder)',
  },
  { name: 'check', help: 'run the finished model before it is reported, where something here can (GGUF: llama.cpp)' },
  { name: 'dry-run', help: 'say what would be done, with exact sizes, and do nothing' },
  { name: 'overwrite', help: 'replace an output that is there' },
  { name: 'restart', help: 'start afresh where an interrupted run would be taken up' },
  { name: 'quiet', help: 'no progress' },
  ...TRANSFORM_FLAGS,
  ...MACHINE_FLAGS,
  ...COMMON_FLAGS,
]

const USAGE = `usage: modelconvert convert INPUT FORMAT [options]

Writes the model in INPUT (a folder, or "sample", a small model that comes along) in another format.
Run again after an interruption, the same command goes on where it was.

  modelconvert convert ./Llama-3.2-1B gguf                      Llama-3.2-1B-Q4_K_M.gguf, here
  modelconvert convert ./Llama-3.2-1B gguf --quant q8_0 -o out/
  modelconvert convert ./Llama-3.2-1B gguf --dry-run            exact sizes first`

/** `modelconvert convert INPUT FORMAT`. */
export const convertCommand: Command = async (args, terminal) => {
  const formats = await writtenFormats(terminal)
  // the same option can mean different things to different formats
  const named = formats.find(({ id }) => args.some((word) => formatId(word) === id)) ?? null
  const specs = allOptions(formats, named)
  const { positionals, flags, options } = parseArguments(args, FLAGS, specs)
  if (flags.has('help')) {
    return terminal.stdout(
      named === null ? helpText(`${USAGE}\n\n${summary(formats)}`, FLAGS, []) : helpText(USAGE, FLAGS, named.options),
    )
  }
  const [input, format, ...others] = positionals
  if (input === undefined || format === undefined || others.length > 0) {
    throw new AppError('bad-option', `convert takes INPUT and FORMAT, and got ${positionals.length} words`, {
      hint: 'For example: modelconvert convert sample gguf --quant q4_k_m',
    })
  }
  const path = flags.get('output')
  const { folder, name } = outputPlace(typeof path === 'string' ? path : undefined)
  const asked: ConvertRequest = {
    input: inputPlace(input),
    target: formatId(format) ?? format,
    options: await withFiles(options, specs),
    output: { kind: 'path', path: folder },
    name,
    overwrite: flags.has('overwrite'),
    restart: flags.has('restart'),
    transforms: await transformsOf(flags),
    check: flags.has('check'),
  }
  const api = apiFor(terminal, flags)
  try {
    const request = path === undefined ? await inFolder(api, asked, input) : asked
    if (flags.has('dry-run')) return await dryRun(api, request, folder, flags, terminal)
    const job = api.start(request)
    const interrupt = onInterrupt(() => job.cancel(true), terminal, 'Stopping. Run the same command again to go on.')
    try {
      const report = await follow(job, flags.has('quiet') ? null : terminal.stderr, { verbose: flags.has('verbose') })
      const ok = report.check?.passed ?? true
      if (flags.has('json')) terminal.stdout(`${JSON.stringify({ ok, output: folder, report }, null, 2)}\n`)
      else terminal.stdout(reportText(report, folder))
      return ok ? 0 : 1
    } finally {
      interrupt.dispose()
    }
  } finally {
    await api.close()
  }
}

/** Options that are a file or its text, given as its path; JSON itself is taken as it is. */
async function withFiles(options: OptionValues, specs: readonly OptionSpec[]): Promise<OptionValues> {
  const read = { ...options }
  for (const { name, kind } of specs) {
    const value = read[name]
    if (kind.kind === 'file' && typeof value === 'string')
      read[name] = { name: basename(value), bytes: await bytesOf(value, kind.maxBytes) }
    if (kind.kind !== 'text' || kind.file !== true || typeof value !== 'string') continue
    read[name] = await textOrFile(value)
  }
  return read
}

/** Without -o a single file goes into this folder, and several into one of their own. */
async function inFolder(api: Api, request: ConvertRequest, input: string): Promise<ConvertRequest> {
  const { files } = await api.plan(request)
  if (files.length < 2) return request
  const model = basename(input === 'sample' ? input : resolve(input)).replace(/\.[a-z]\w*$/i, '')
  return { ...request, name: `${model}-${request.target}` }
}

async function writtenFormats(terminal: Terminal): Promise<readonly FormatInfo[]> {
  return (await apiFor(terminal, new Map()).formats()).filter(({ writes }) => writes)
}

/** Every option of every format; where several have the name, that of the format at hand. */
function allOptions(formats: readonly FormatInfo[], named: FormatInfo | null): readonly OptionSpec[] {
  const all = new Map<string, OptionSpec>()
  for (const { options } of named === null ? formats : [...formats, named]) {
    for (const spec of options) all.set(spec.name, spec)
  }
  return [...all.values()]
}

/** The formats with the names of their options. */
function summary(formats: readonly FormatInfo[]): string {
  const rows = formats.map(({ id, options }): [string, string] => [
    id,
    options.map(({ name }) => `--${name}`).join(' '),
  ])
  const [first] = formats
  const more = first === undefined ? '' : `\n\n  modelconvert convert ${first.id} --help              what they mean`
  return `FORMAT, and the options that it has:\n\n${definitions(rows)}${more}`
}

async function dryRun(
  api: Api,
  request: ConvertRequest,
  folder: string,
  flags: Flags,
  terminal: Terminal,
): Promise<void> {
  const plan = await api.plan(request)
  if (flags.has('json')) terminal.stdout(`${JSON.stringify({ ok: true, output: folder, plan }, null, 2)}\n`)
  else terminal.stdout(planText(plan, folder, flags.has('verbose')))
}
