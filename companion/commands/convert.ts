import type { Api } from '../../src/api/api.ts'
import type { ConvertRequest, PlanSummary } from '../../src/api/wire.ts'
import { AppError } from '../../src/core/errors.ts'
import type { Report } from '../../src/core/job.ts'
import type { OptionSpec } from '../../src/core/option.ts'
import { formatId } from '../../src/engines/index.ts'
import { inputPlace, outputPlace, parseArguments, type FlagSpec } from '../arguments.ts'
import type { Command, Terminal } from '../main.ts'
import { follow } from '../progress.ts'
import { formatBytes, formatSeconds, table } from '../text.ts'
import { apiFor, COMMON_FLAGS, helpText, MACHINE_FLAGS } from './options.ts'

const FLAGS: readonly FlagSpec[] = [
  {
    name: 'output',
    short: 'o',
    value: 'PATH',
    help: 'the file to write, or the folder to write it into (this folder)',
  },
  { name: 'dry-run', help: 'say what would be done, with exact sizes, and do nothing' },
  { name: 'overwrite', help: 'replace an output that is there' },
  { name: 'restart', help: 'start afresh where an interrupted run would be taken up' },
  { name: 'quiet', help: 'no progress' },
  ...MACHINE_FLAGS,
  ...COMMON_FLAGS,
]

const USAGE = `modelconvert convert INPUT FORMAT [options]

Reads the model in INPUT (a folder, or "sample") and writes it in another format.
Run again after an interruption, the same command goes on where it was.`

/** `modelconvert convert INPUT FORMAT`. */
export const convertCommand: Command = async (args, terminal) => {
  const specs = await allOptions(terminal)
  const { positionals, flags, options } = parseArguments(args, FLAGS, specs)
  if (flags.has('help')) return terminal.stdout(helpText(USAGE, FLAGS, specs))
  const [input, format, ...others] = positionals
  if (input === undefined || format === undefined || others.length > 0) {
    throw new AppError('bad-option', `convert takes INPUT and FORMAT, and got ${positionals.length} words`, {
      hint: 'For example: modelconvert convert sample gguf --quant q4_k_m',
    })
  }
  const path = flags.get('output')
  const { place, name } = outputPlace(typeof path === 'string' ? path : undefined)
  const request: ConvertRequest = {
    input: inputPlace(input),
    target: formatId(format) ?? format,
    options,
    output: place,
    name,
    overwrite: flags.has('overwrite'),
    restart: flags.has('restart'),
  }
  const api = apiFor(terminal, flags)
  try {
    if (flags.has('dry-run')) return await dryRun(api, request, flags, terminal)
    const job = api.start(request)
    const interrupt = onInterrupt(() => job.cancel(true), terminal)
    try {
      const report = await follow(job, flags.has('quiet') ? null : terminal.stderr)
      terminal.stdout(flags.has('json') ? `${JSON.stringify({ ok: true, report }, null, 2)}\n` : reportText(report))
    } finally {
      interrupt.dispose()
    }
  } finally {
    await api.close()
  }
}

async function allOptions(terminal: Terminal): Promise<readonly OptionSpec[]> {
  const api = apiFor(terminal, new Map())
  const all = new Map<string, OptionSpec>()
  for (const { options } of await api.formats()) for (const spec of options) all.set(spec.name, spec)
  return [...all.values()]
}

/** Ctrl-C stops and keeps what was written; a second one ends the process at once. */
function onInterrupt(stop: () => void, terminal: Terminal): { dispose(): void } {
  let asked = false
  const listener = (): void => {
    if (asked) process.exit(130)
    asked = true
    terminal.stderr.write('\nStopping. Run the same command again to go on.\n')
    stop()
  }
  process.on('SIGINT', listener)
  process.on('SIGTERM', listener)
  return {
    dispose() {
      process.off('SIGINT', listener)
      process.off('SIGTERM', listener)
    },
  }
}

async function dryRun(
  api: Api,
  request: ConvertRequest,
  flags: ReadonlyMap<string, string | true>,
  terminal: Terminal,
): Promise<void> {
  const plan = await api.plan(request)
  terminal.stdout(flags.has('json') ? `${JSON.stringify({ ok: true, plan }, null, 2)}\n` : planText(plan))
}

function planText(plan: PlanSummary): string {
  const rows = plan.tensors.map(({ name, shape, from, to, bytes }) => [
    name,
    `[${shape.join(', ')}]`,
    from === to ? from : `${from} -> ${to}`,
    formatBytes(bytes),
  ])
  const lines = [table(rows), '']
  for (const { severity, message } of plan.findings) lines.push(`${severity}: ${message}`)
  for (const { path, size } of plan.files) lines.push(`${path}  ${formatBytes(size)} (${size} bytes)`)
  lines.push(
    `reads ${formatBytes(plan.readBytes)}, writes ${formatBytes(plan.writeBytes)}, holds at most ${formatBytes(plan.peakBytes)}`,
  )
  if (plan.keptBytes > 0) lines.push(`an interrupted run has written ${formatBytes(plan.keptBytes)} of it already`)
  if (plan.freeBytes !== null) lines.push(`free at the output: ${formatBytes(plan.freeBytes)}`)
  return `${lines.join('\n')}\n`
}

function reportText(report: Report): string {
  const seconds = report.elapsedMs / 1000
  const lines = report.files.map(({ path, size, sha256 }) => `${path}  ${formatBytes(size)}\n  sha256 ${sha256}`)
  const kept = report.keptBytes > 0 ? `, ${formatBytes(report.keptBytes)} of it from an interrupted run` : ''
  lines.push(
    `read ${formatBytes(report.readBytes)}, wrote ${formatBytes(report.writeBytes)}${kept} in ${seconds < 10 ? `${seconds.toFixed(2)} s` : formatSeconds(seconds)}` +
      ` (${formatBytes(report.readBytes / Math.max(seconds, 1e-3))}/s), holding at most ${formatBytes(report.peakBytes)}`,
  )
  if (report.backends.length > 0) lines.push(`computed by ${report.backends.join(', ')}`)
  const validated = report.findings.find(({ code }) => code === 'samples-agree')
  if (validated !== undefined) lines.push(`valid: ${validated.message}`)
  return `${lines.join('\n')}\n`
}
