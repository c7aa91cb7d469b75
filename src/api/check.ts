import type { Folder } from '../core/bytes.ts'
import type { CheckReport, ModelKind, RunReport, Verdict } from '../core/check.ts'
import type { Checkpoint } from '../core/checkpoint.ts'
import { AppError } from '../core/errors.ts'
import type { Finding } from '../core/plan.ts'
import type { Engine, Match } from '../engines/engine.ts'
import { formatId, formatIds, loadEngine } from '../engines/index.ts'
import { detect } from './api.ts'
import { PROMPT, PROMPT_TOKENS } from './check-text.ts'
import type { Control } from './control.ts'
import type { Host } from './host.ts'
import { CONTEXT, perplexityOf, windowsOf } from './perplexity.ts'
import type { Generation, RunnableModel, Runner, RunningModel } from './runner.ts'
import type { CheckRequest } from './wire.ts'

/** Two probabilities that differ by less than this factor are the same but for rounding. */
const EQUAL = 1e-5

/** Whether a finished model can be run here, and what by. */
export async function runnable(host: Host, request: CheckRequest): Promise<Verdict> {
  const { engine, folder, match } = await recognise(host, request)
  if (engine.open === null) return { can: false, because: `${engine.title} cannot be opened` }
  const checkpoint = await engine.open(folder, match)
  const verdict = engine.canInfer(checkpoint)
  if (!verdict.can) return { can: false, because: `nothing here runs ${engine.title}: ${verdict.because}` }
  const because = await limitationOf(runnerFor(host, verdict), runnableModel(request, checkpoint, verdict.kind))
  return because === null ? verdict : { can: false, because }
}

/** Validates a model and, where something here can, runs it. Tells everything to `control` and never throws. */
export async function check(host: Host, request: CheckRequest, control: Control): Promise<void> {
  try {
    control.report({ phase: 'plan', state: 'running' })
    control.checked(await checked(host, request, control))
  } catch (error) {
    control.failed(AppError.from(error))
  }
}

/** The check itself. Throws `not-a-model`, `bad-option`, `cancelled`: what is wrong with the model is in the report. */
export async function checked(host: Host, request: CheckRequest, control: Control): Promise<CheckReport> {
  const began = host.now()
  const { engine, folder, match } = await recognise(host, request)
  const validated = request.validate !== false
  const findings: Finding[] = []
  if (validated) {
    control.report({ phase: 'validate', item: match.entry })
    for await (const finding of engine.validate(folder, match, { signal: control.signal })) {
      await control.pass()
      findings.push(finding)
    }
  }
  const opened = await opening(engine, folder, match)
  let ran: Ran
  if ('error' in opened) {
    if (!findings.some(isError)) findings.push(findingOf(opened.error))
    ran = { run: null, notRun: 'it cannot be opened', findings: [] }
  } else {
    ran = await runIfPossible(host, request, engine, opened.checkpoint, control)
  }
  findings.push(...ran.findings)
  return {
    format: engine.id,
    formatTitle: engine.title,
    because: match.because,
    name: 'checkpoint' in opened && opened.checkpoint.name !== '' ? opened.checkpoint.name : folder.name,
    files: 'checkpoint' in opened ? sizes(opened.checkpoint) : [],
    validated,
    findings,
    run: ran.run,
    notRun: ran.notRun,
    judges: [...(validated ? ['validation'] : []), ...(ran.run === null ? [] : [ran.run.by])],
    passed: !findings.some(isError),
    elapsedMs: host.now() - began,
  }
}

interface Recognised {
  readonly folder: Folder
  readonly engine: Engine
  readonly match: Match
}

/** What the place of a request holds, or that it is what the request says. */
export async function recognise(host: Host, request: CheckRequest): Promise<Recognised> {
  const folder = only(await host.open(request.input), request.files)
  if (request.format === undefined) return { folder, ...(await detect(folder)) }
  const id = formatId(request.format)
  if (id === null) {
    throw new AppError('bad-option', `There is no format ${JSON.stringify(request.format)}`, {
      hint: `The formats: ${formatIds().join(', ')}.`,
    })
  }
  const engine = await loadEngine(id)
  const match = await engine.detect(folder)
  if (match !== null) return { folder, engine, match }
  throw new AppError('not-a-model', `${folder.name} is not recognised as ${engine.title}`, {
    where: { file: folder.name },
    hint: 'Leave --format away to see what it is taken for.',
  })
}

/** A folder as if it held these files only. */
function only(folder: Folder, files: readonly string[] | undefined): Folder {
  if (files === undefined) return folder
  const wanted = new Set(files)
  return {
    name: folder.name,
    list: async () => (await folder.list()).filter(({ path }) => wanted.has(path)),
    open: (path) => folder.open(path),
  }
}

async function opening(
  engine: Engine,
  folder: Folder,
  match: Match,
): Promise<{ readonly checkpoint: Checkpoint } | { readonly error: AppError }> {
  if (engine.open === null) return { error: new AppError('unsupported', `${engine.title} cannot be read yet`) }
  try {
    return { checkpoint: await engine.open(folder, match) }
  } catch (thrown) {
    const error = AppError.from(thrown)
    if (error.code === 'cancelled') throw error
    return { error }
  }
}

const isError = ({ severity }: Finding): boolean => severity === 'error'

function findingOf({ code, message, where, hint }: AppError): Finding {
  return { severity: 'error', code, message, where, ...(hint === null ? {} : { hint }) }
}

function sizes(checkpoint: Checkpoint): CheckReport['files'] {
  return checkpoint.sources.map(({ path, size }) => ({ path, size }))
}

/** The runner that an engine's verdict names, if the host has it. */
export function runnerFor(host: Host, verdict: Extract<Verdict, { can: true }>): Runner | null {
  return host.runners.find(({ id }) => id === verdict.by) ?? null
}

async function limitationOf(runner: Runner | null, model: RunnableModel): Promise<string | null> {
  return runner === null ? 'nothing here can run it' : runner.limitation(model)
}

/** The files of an opened model, as a runner takes them. */
export function runnableModel(
  { input }: Pick<CheckRequest, 'input'>,
  checkpoint: Checkpoint,
  kind: ModelKind,
): RunnableModel {
  return { place: input, files: sizes(checkpoint), kind }
}

interface Ran {
  readonly run: RunReport | null
  readonly notRun: string | null
  readonly findings: readonly Finding[]
}

const notRun = (because: string): Ran => ({ run: null, notRun: because, findings: [] })

/** Runs a model if its engine knows what by, the host has that, and it takes the model; else says why not. */
async function runIfPossible(
  host: Host,
  request: CheckRequest,
  engine: Engine,
  checkpoint: Checkpoint,
  control: Control,
): Promise<Ran> {
  if (request.run === false) return notRun('that was not asked for')
  const verdict = engine.canInfer(checkpoint)
  if (!verdict.can) return notRun(`nothing here runs ${engine.title}: ${verdict.because}`)
  const runner = runnerFor(host, verdict)
  const model = runnableModel(request, checkpoint, verdict.kind)
  const because = await limitationOf(runner, model)
  if (because !== null || runner === null) return notRun(because ?? '')
  control.report({ phase: 'run', item: 'loading' })
  let running: RunningModel | null = null
  try {
    running = await runner.load(model, { context: CONTEXT, signal: control.signal })
    return { notRun: null, ...(await runLoaded(running, verdict.kind, request, checkpoint, control)) }
  } catch (thrown) {
    const error = AppError.from(thrown, 'device')
    if (error.code === 'cancelled' || error.code === 'bad-option') throw error
    if (error.code === 'unsupported') return notRun([error.message, error.hint ?? ''].join('. '))
    return { ...notRun(error.message), findings: [findingOf(error)] }
  } finally {
    await running?.close()
  }
}

async function runLoaded(
  running: RunningModel,
  kind: ModelKind,
  request: CheckRequest,
  checkpoint: Checkpoint,
  control: Control,
): Promise<{ readonly run: RunReport; readonly findings: readonly Finding[] }> {
  const prompt = request.prompt ?? PROMPT
  const findings: Finding[] = []
  const { by, threads, loadMs, measures } = running
  let generation: Generation | null = null
  let embedding: RunReport['embedding'] = null
  let perplexity: RunReport['perplexity'] = null
  if (kind === 'encoder') {
    control.report({ phase: 'run', item: 'embedding' })
    const vector = Array.from(await running.embed(prompt))
    embedding = { width: vector.length, norm: Math.hypot(...vector) }
    findings.push(...vectorFindings(vector))
  } else {
    control.report({ phase: 'run', item: 'generating' })
    generation = await running.generate(prompt, PROMPT_TOKENS)
    const vocabulary = checkpoint.tokenizer?.tokens.length ?? checkpoint.config.vocabSize
    findings.push(...generationFindings(generation, vocabulary))
    if (measures !== null) {
      const windows = await windowsOf(running, measures, request.text, request.windows)
      perplexity = await perplexityOf(measures, windows, control)
      findings.push(...lossFindings(perplexity.meanLoss, vocabulary, findings.some(isError)))
    }
  }
  if (!findings.some(isError)) findings.push({ severity: 'info', code: 'runs', message: `${by} loads and runs it` })
  const run: RunReport = {
    by,
    kind,
    threads,
    prompt,
    promptIds: generation?.promptIds ?? null,
    generated: generation === null ? null : generatedText(generation),
    embedding,
    perplexity,
    loadMs,
    memoryBytes: await running.memoryBytes(),
  }
  return { run, findings }
}

function generatedText(generation: Generation): NonNullable<RunReport['generated']> {
  const { ids, text, ended, logProbs, promptTokens, promptMs, ms } = generation
  const rate = (tokens: number, time: number): number | null => (tokens > 0 && time > 0 ? (tokens * 1000) / time : null)
  return {
    ids,
    text,
    ended,
    logProbs,
    promptTokensPerSecond: rate(promptTokens, promptMs),
    tokensPerSecond: rate(ids.length - 1, ms),
  }
}

/** What is wrong with the probabilities that came with a model's own words. */
function generationFindings({ logProbs }: Generation, vocabulary: number): readonly Finding[] {
  const bad = logProbs.filter((logProb) => !Number.isFinite(logProb)).length
  if (bad > 0) {
    const message = `The logits of ${bad} of ${logProbs.length} tokens are no finite numbers`
    return [{ severity: 'error', code: 'bad-logits', message, hint: 'A weight is NaN or infinite, or too large.' }]
  }
  if (vocabulary < 2 || logProbs.some((logProb) => Math.abs(logProb + Math.log(vocabulary)) > EQUAL)) return []
  const message = `All ${vocabulary} tokens are equally likely, whatever comes before: the model says nothing`
  return [
    { severity: 'error', code: 'equal-logits', message, hint: 'Its output or its last norm may hold zeros only.' },
  ]
}

function lossFindings(meanLoss: number, vocabulary: number, known: boolean): readonly Finding[] {
  if (!Number.isFinite(meanLoss)) {
    if (known) return []
    const message = 'On the text some logits are no finite numbers'
    return [{ severity: 'error', code: 'bad-logits', message, hint: 'A weight is NaN or infinite, or too large.' }]
  }
  if (known || vocabulary < 2 || meanLoss < Math.log(vocabulary)) return []
  const message = `It foretells the text worse than chance does (perplexity ${Math.exp(meanLoss).toPrecision(3)} with ${vocabulary} tokens)`
  const hint = 'It is untrained, made for something else than such text, or its weights are wrong.'
  return [{ severity: 'warning', code: 'worse-than-chance', message, hint }]
}

function vectorFindings(vector: readonly number[]): readonly Finding[] {
  if (vector.length > 0 && vector.every((value) => Number.isFinite(value))) {
    if (vector.some((value) => value !== 0)) return []
    const message = 'Its vector of the text holds zeros only'
    return [{ severity: 'error', code: 'equal-logits', message, hint: 'A norm or the pooler may hold zeros only.' }]
  }
  const message = 'Its vector of the text holds values that are no finite numbers'
  return [{ severity: 'error', code: 'bad-logits', message, hint: 'A weight is NaN or infinite, or too large.' }]
}
