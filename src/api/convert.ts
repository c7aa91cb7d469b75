import { PART_SUFFIX, type FileEntry, type Folder, type OutputFolder } from '../core/bytes.ts'
import { AppError, throwIfAborted } from '../core/errors.ts'
import type { Report, WrittenFile } from '../core/job.ts'
import type { CostedPlan, Finding } from '../core/plan.ts'
import type { Backend } from '../kernels/backend.ts'
import { prepare, removeUnfinished, type Prepared } from './api.ts'
import { checked } from './check.ts'
import type { Control } from './control.ts'
import { windowFor, type Window } from './cost.ts'
import { writeFile, type Execution } from './execute.ts'
import type { Host } from './host.ts'
import { identify, requireSame, type SourceIdentity } from './identity.ts'
import { Journal } from './journal.ts'
import { kernels } from './kernels.ts'
import { Pool } from './pool.ts'
import { JobInputs } from './sources.ts'
import { stageFiles } from './stages.ts'
import { compareSamples } from './verify.ts'
import type { ConvertRequest } from './wire.ts'

/**
 * One conversion from request to report: plan, check the room, write under temporary names, validate, publish. Tells
 * everything to `control` and never throws.
 */
export async function convert(host: Host, request: ConvertRequest, control: Control): Promise<void> {
  try {
    control.report({ phase: 'plan', state: 'planning' })
    // kernels start while the model is looked at; who needs them is told what fails
    host.backends().catch(() => undefined)
    const prepared = await prepare(host, request)
    throwIfAborted(control.signal)
    const output = await host.openOutput(request.output)
    const lock = await host.lock(await lockName(host, request, prepared))
    if (lock === null) {
      throw new AppError('busy', 'This conversion is already running', {
        hint: 'Wait for it, or cancel it where it runs.',
      })
    }
    try {
      const report = await run(host, request, prepared, output, control)
      control.done(request.check === true ? await withCheck(host, request, report, control) : report)
    } finally {
      await lock.release()
    }
  } catch (error) {
    control.failed(AppError.from(error))
  }
}

/** A report with what running the finished model showed. What is written stays, whatever that was. */
async function withCheck(host: Host, request: ConvertRequest, report: Report, control: Control): Promise<Report> {
  const files = report.files.map(({ path }) => path)
  try {
    const check = await checked(host, { input: request.output, files, validate: false }, control)
    return { ...report, check }
  } catch (thrown) {
    const { code, message } = AppError.from(thrown)
    // who stops a run knows that
    if (code === 'cancelled') return report
    const finding: Finding = { severity: 'warning', code: 'not-run', message: `It was not run: ${message}` }
    return { ...report, findings: [...report.findings, finding] }
  }
}

/** One writer for a job at a place; the same conversion elsewhere is another matter. */
async function lockName(host: Host, { output }: ConvertRequest, { key }: Prepared): Promise<string> {
  const where = 'path' in output ? output.path : 'name' in output ? output.name : ''
  const digest = await host.digest()
  await digest.update(new TextEncoder().encode(`${key} ${output.kind} ${where}`))
  const name = await digest.hex()
  digest.close()
  return `convert-${name}`
}

async function run(
  host: Host,
  request: ConvertRequest,
  prepared: Prepared,
  output: OutputFolder,
  control: Control,
): Promise<Report> {
  const { plan, source, key } = prepared
  const backends = await host.backends()
  const threads = Math.max(1, ...backends.map((backend) => backend.threads))
  const window = windowFor(threads, host.memoryBudget)
  const identity = await identify(host, source.folder, source.checkpoint.sources)
  const journal = await takeUpJournal(output, key, plan, identity, request)
  const published = journal.data.publishing ? await alreadyPublished(output, plan) : new Set<string>()
  await checkOutput(output, plan, journal, published, request.overwrite)

  const findings: Finding[] = [...plan.findings]
  for (const finding of findings) control.log(finding)
  const pool = new Pool(arenaOf(backends))
  const used = new Set<Backend>()
  const scratch = plan.stages.length === 0 ? null : await host.openScratch(`job-${key}`)
  const inputs = new JobInputs(source.folder, source.checkpoint.sources, scratch)
  const execution: Execution = { host, control, window, pool, inputs, kernels: kernels(backends, used) }
  const files: WrittenFile[] = []
  let keptBytes = 0
  try {
    if (scratch !== null) await runStages(execution, plan, scratch)
    const kept = journal.data.files.reduce((sum, file) => sum + file.watermark, 0)
    control.report({ phase: 'write', state: 'running', bytesDone: 0, bytesTotal: plan.writeBytes, bytesKept: kept })
    for (const file of plan.files) {
      const done = published.has(file.path) ? journal.file(file.path) : null
      if (done !== null) {
        files.push({ path: file.path, size: file.size, sha256: done.sha256 })
        control.report({ bytesDone: control.progress.bytesDone + file.size })
        continue
      }
      const written = await writeFile(execution, file, output, journal)
      keptBytes += written.kept
      files.push({ path: written.path, size: written.size, sha256: written.sha256 })
    }
    requireSame(identity, await identify(host, source.folder, source.checkpoint.sources))
    findings.push(...(await publish(execution, prepared, output, journal, published, request, window)))
    await journal.remove()
  } catch (error) {
    const failure = AppError.from(error)
    const kept = journal.data.files.some(({ watermark }) => watermark > 0)
    if (!kept || !isWorthKeeping(failure, control, output)) await discard(output, plan, journal, published)
    throw failure
  } finally {
    await inputs.close()
    if (scratch !== null && control.progress.state !== 'paused') await emptyScratch(scratch, plan)
  }
  return {
    target: plan.target,
    files,
    findings,
    readBytes: inputs.bytesRead,
    writeBytes: plan.writeBytes,
    keptBytes,
    elapsedMs: control.elapsedMs,
    peakBytes: pool.highWater,
    backends: [...used].map((backend) => backend.label),
  }
}

/** The interrupted job's journal if this is the same job on the same sources; a new one if there was none. */
async function takeUpJournal(
  output: OutputFolder,
  key: string,
  plan: CostedPlan,
  identity: readonly SourceIdentity[],
  request: ConvertRequest,
): Promise<Journal> {
  const found = await Journal.find(output, key)
  if (found !== null && request.restart !== true) {
    requireSame(found.data.sources, identity)
    return found
  }
  return Journal.begin(output, key, plan.target, identity)
}

/** Files that got their final names before a crash while publishing. */
async function alreadyPublished(output: OutputFolder, plan: CostedPlan): Promise<Set<string>> {
  const published = new Set<string>()
  for (const { path, size } of plan.files) {
    const part = await output.open(path + PART_SUFFIX).catch(() => null)
    await part?.close()
    if (part !== null || !(await output.exists(path))) continue
    const final = await output.open(path)
    if (final.size === size) published.add(path)
    await final.close()
  }
  return published
}

/** Refuses before the start what would fail at the end: a taken name, a full disk. */
async function checkOutput(
  output: OutputFolder,
  plan: CostedPlan,
  journal: Journal,
  published: ReadonlySet<string>,
  overwrite: boolean,
): Promise<void> {
  for (const { path } of plan.files) {
    if (!overwrite && !published.has(path) && (await output.exists(path))) throw outputExists(path)
  }
  const free = await output.freeBytes()
  const kept = journal.data.files.reduce((sum, file) => sum + file.watermark, 0)
  const needed = plan.writeBytes - kept
  if (free !== null && free < needed) {
    throw new AppError('no-space', `${needed} bytes are needed and ${free} are free at ${output.name}`, {
      where: { file: output.name },
      hint: 'Free some room, choose another place, or take a smaller target.',
    })
  }
}

function outputExists(path: string): AppError {
  return new AppError('output-exists', `${path} is there already`, {
    where: { file: path },
    hint: 'Choose another name, or ask for overwriting (--overwrite).',
  })
}

async function runStages(execution: Execution, plan: CostedPlan, scratch: OutputFolder): Promise<void> {
  const files = stageFiles(plan.stages)
  const total = files.reduce((sum, file) => sum + file.size, 0)
  execution.control.report({ phase: 'stage', state: 'running', bytesDone: 0, bytesTotal: total })
  for (const file of files) {
    if (await scratch.exists(file.path)) {
      execution.control.report({ bytesDone: execution.control.progress.bytesDone + file.size })
      continue
    }
    await writeFile(execution, file, scratch, null)
    await scratch.publish([file.path], false)
  }
}

async function emptyScratch(scratch: OutputFolder, plan: CostedPlan): Promise<void> {
  for (const { path } of stageFiles(plan.stages)) await scratch.remove(path)
}

/**
 * Validates and gives the files their names. Where unfinished files can be read, validation comes first and a file that
 * fails it never appears.
 */
async function publish(
  execution: Execution,
  prepared: Prepared,
  output: OutputFolder,
  journal: Journal,
  published: ReadonlySet<string>,
  request: ConvertRequest,
  window: Window,
): Promise<readonly Finding[]> {
  const { control } = execution
  const { plan } = prepared
  const waiting = plan.files.map((file) => file.path).filter((path) => !published.has(path))
  const name = async (): Promise<void> => {
    await control.pass()
    control.report({ phase: 'publish', item: null })
    await journal.publishing()
    await output.publish(waiting, request.overwrite)
  }
  if (!output.resumable) await name()
  control.report({ phase: 'validate', item: null })
  const findings = await validate(execution, prepared, new UnpublishedFolder(output, plan, waiting), window)
  const fault = findings.find((finding) => finding.severity === 'error')
  if (fault !== undefined) {
    for (const path of output.resumable ? [] : waiting) await output.remove(path)
    throw new AppError('internal', `The output failed its validation: ${fault.message}`, {
      where: fault.where ?? {},
      hint: 'Nothing was saved. This is a fault of the converter: please report it with this message.',
    })
  }
  if (output.resumable) await name()
  return findings
}

async function validate(
  execution: Execution,
  prepared: Prepared,
  folder: Folder,
  window: Window,
): Promise<readonly Finding[]> {
  const { engine, plan } = prepared
  const match = await engine.detect(folder)
  if (match === null) {
    return [
      { severity: 'error', code: 'not-detected', message: `What was written is not recognised as ${engine.title}` },
    ]
  }
  const findings: Finding[] = []
  for await (const finding of engine.validate(folder, match)) {
    await execution.control.pass()
    findings.push(finding)
  }
  findings.push(...(await compareSamples(execution, plan, folder, window)))
  return findings
}

/** The files of a plan under their final names while they still have their temporary ones. */
class UnpublishedFolder implements Folder {
  readonly name: string
  readonly #output: OutputFolder
  readonly #files: readonly FileEntry[]
  readonly #waiting: ReadonlySet<string>

  constructor(output: OutputFolder, plan: CostedPlan, waiting: readonly string[]) {
    this.name = output.name
    this.#output = output
    this.#files = plan.files.map(({ path, size }) => ({ path, size, modified: null }))
    this.#waiting = new Set(output.resumable ? waiting : [])
  }

  async list(): Promise<readonly FileEntry[]> {
    return this.#files
  }

  async open(path: string): ReturnType<Folder['open']> {
    if (!this.#files.some((file) => file.path === path)) {
      throw new AppError('missing-file', `${path} is not part of the output`, { where: { file: path } })
    }
    if (!this.#waiting.has(path)) return this.#output.open(path)
    const source = await this.#output.open(path + PART_SUFFIX)
    return {
      name: path,
      size: source.size,
      modified: source.modified,
      read: (offset, into, signal) => source.read(offset, into, signal),
      close: () => source.close(),
    }
  }
}

/** Whether a failed job leaves its files for a later resume. */
function isWorthKeeping(error: AppError, control: Control, output: OutputFolder): boolean {
  if (!output.resumable) return false
  if (error.code === 'cancelled') return control.keep
  return !['bad-weights', 'source-changed', 'truncated', 'malformed', 'internal'].includes(error.code)
}

async function discard(
  output: OutputFolder,
  plan: CostedPlan,
  journal: Journal,
  published: ReadonlySet<string>,
): Promise<void> {
  try {
    for (const { path } of plan.files) {
      if (!published.has(path)) await removeUnfinished(output, path)
    }
    await journal.remove()
  } catch {
    // the failure that led here is the one to tell
  }
}

/** Slabs come from the fastest backend's memory, so that its kernels work in place. */
function arenaOf(backends: readonly Backend[]): Backend['arena'] {
  const op = { kind: 'cast', from: 'bf16', to: 'q8_0' } as const
  const best = [...backends].sort((a, b) => b.speed(op) - a.speed(op))[0]
  if (best === undefined) throw new AppError('device', 'There is no backend to compute with')
  return best.arena
}
