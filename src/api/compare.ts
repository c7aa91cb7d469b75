import type { ComparedModel, Comparison } from '../core/check.ts'
import type { Checkpoint } from '../core/checkpoint.ts'
import type { Place } from '../core/bytes.ts'
import { AppError } from '../core/errors.ts'
import { recognise, runnableModel, runnerFor } from './check.ts'
import type { Control } from './control.ts'
import type { Host } from './host.ts'
import { CONTEXT, windowsOf, type Windows } from './perplexity.ts'
import type { RunningModel, TextMeasures } from './runner.ts'
import type { CompareRequest } from './wire.ts'

/** Logits that are held at once, of each model: 32 MiB. */
const MOST_LOGITS = 2 ** 23

/** Runs two models over a text and says how far their predictions are apart. Tells all to `control`, never throws. */
export async function compare(host: Host, request: CompareRequest, control: Control): Promise<void> {
  try {
    control.report({ phase: 'run', state: 'running', item: 'loading' })
    control.compared(await compared(host, request, control))
  } catch (error) {
    control.failed(AppError.from(error))
  }
}

interface Side {
  readonly name: string
  readonly files: ComparedModel['files']
  readonly running: RunningModel
  readonly measures: TextMeasures
  /** Tokens that it knows. */
  readonly vocabulary: number
}

async function compared(host: Host, request: CompareRequest, control: Control): Promise<Comparison> {
  const began = host.now()
  const a = await start(host, request.a, control)
  try {
    const b = await start(host, request.b, control)
    try {
      const windows = await sameWindows(a, b, request)
      const totals = await measure(a, b, windows, control)
      const { tokens } = totals
      return {
        by: a.running.by,
        threads: a.running.threads,
        tokens,
        builtIn: windows.builtIn,
        meanKl: totals.kl / tokens,
        largestKl: totals.largestKl,
        topAgreement: totals.same / tokens,
        a: { name: a.name, files: a.files, perplexity: Math.exp(totals.lossA / tokens) },
        b: { name: b.name, files: b.files, perplexity: Math.exp(totals.lossB / tokens) },
        elapsedMs: host.now() - began,
      }
    } finally {
      await b.running.close()
    }
  } finally {
    await a.running.close()
  }
}

async function start(host: Host, place: Place, control: Control): Promise<Side> {
  const { engine, folder, match } = await recognise(host, { input: place })
  if (engine.open === null) throw new AppError('unsupported', `${engine.title} cannot be read yet`)
  const checkpoint: Checkpoint = await engine.open(folder, match)
  const verdict = engine.canInfer(checkpoint)
  const fail = (because: string): never => {
    throw new AppError('unsupported', `${folder.name} cannot be compared: ${because}`, {
      where: { file: match.entry },
      hint: 'Convert it to GGUF first: llama.cpp runs that.',
    })
  }
  if (!verdict.can) return fail(verdict.because)
  if (verdict.kind === 'encoder') return fail('it is an encoder, which foretells no text')
  const runner = runnerFor(host, verdict)
  const model = runnableModel({ input: place }, checkpoint, verdict.kind)
  const limitation = runner === null ? 'nothing here can run it' : await runner.limitation(model)
  if (runner === null || limitation !== null) throw new AppError('unsupported', limitation ?? '')
  const running = await runner.load(model, { context: CONTEXT, signal: control.signal })
  const { measures } = running
  if (measures === null) {
    await running.close()
    return fail(`${running.by} shows no logits here`)
  }
  const vocabulary = checkpoint.tokenizer?.tokens.length ?? checkpoint.config.vocabSize
  return { name: folder.name, files: model.files, running, measures, vocabulary }
}

/** The text in windows that both see as the same tokens. Throws `unsupported` if they do not. */
async function sameWindows(a: Side, b: Side, { text, windows: most }: CompareRequest): Promise<Windows> {
  const context = Math.min(a.running.context, b.running.context)
  const [left, right] = [
    await windowsOf({ context }, a.measures, text, most),
    await windowsOf({ context }, b.measures, text, most),
  ]
  if (JSON.stringify(left.windows) === JSON.stringify(right.windows)) return left
  throw new AppError('unsupported', `${a.name} and ${b.name} split the text into different tokens`, {
    hint: 'Only models with the same tokenizer can be compared token by token.',
  })
}

interface Totals {
  tokens: number
  kl: number
  largestKl: number
  same: number
  lossA: number
  lossB: number
}

async function measure(a: Side, b: Side, { windows }: Windows, control: Control): Promise<Totals> {
  const totals: Totals = { tokens: 0, kl: 0, largestKl: 0, same: 0, lossA: 0, lossB: 0 }
  const { first } = a.measures
  const lead = first === null ? [] : [first]
  const step = Math.max(1, Math.floor(MOST_LOGITS / Math.max(a.vocabulary, b.vocabulary)))
  for (const [index, window] of windows.entries()) {
    // nothing follows the last token
    const ids = [...lead, ...window.slice(0, -1)]
    for (let at = 0; at < ids.length; at += step) {
      await control.pass()
      control.report({ phase: 'run', item: `comparing, window ${index + 1} of ${windows.length}` })
      const part = ids.slice(at, at + step)
      const [p, q] = await Promise.all([a.measures.logits(part, at === 0), b.measures.logits(part, at === 0)])
      if (p.length !== q.length) throw new AppError('unsupported', 'Their vocabularies differ in size')
      const columns = p.length / part.length
      for (let row = 0; row < part.length; row++) {
        // behind what stands before the window comes its first token, which is not foretold from anything of it
        const next = at + row < lead.length ? undefined : window[at + row - lead.length + 1]
        if (next === undefined) continue
        const [start, end] = [row * columns, (row + 1) * columns]
        addRow(totals, p.subarray(start, end), q.subarray(start, end), next)
      }
    }
  }
  for (const [side, loss] of [
    [a, totals.lossA],
    [b, totals.lossB],
  ] as const) {
    if (Number.isFinite(loss)) continue
    throw new AppError('bad-weights', `The logits of ${side.name} are no finite numbers`, {
      where: { file: side.files[0]?.path ?? side.name },
      hint: 'A weight is NaN or infinite: modelconvert check says more.',
    })
  }
  return totals
}

/** Adds what two predictions of one token say: their divergence, their favourites, and what they gave the token. */
function addRow(totals: Totals, p: Float32Array, q: Float32Array, next: number): void {
  const [a, b] = [summary(p), summary(q)]
  let kl = 0
  for (let i = 0; i < p.length; i++) {
    const logP = (p[i] ?? 0) - a.logSum
    const logQ = (q[i] ?? 0) - b.logSum
    const probability = Math.exp(logP)
    // what cannot happen tells nothing
    if (probability > 0) kl += probability * (logP - logQ)
  }
  totals.tokens++
  totals.kl += kl
  totals.largestKl = Math.max(totals.largestKl, kl)
  if (a.best === b.best) totals.same++
  totals.lossA += a.logSum - (p[next] ?? Number.NaN)
  totals.lossB += b.logSum - (q[next] ?? Number.NaN)
}

/** The likeliest of some logits, and the logarithm of the sum of their exponentials. */
function summary(logits: Float32Array): { readonly best: number; readonly logSum: number } {
  let best = 0
  for (let i = 1; i < logits.length; i++) if ((logits[i] ?? 0) > (logits[best] ?? 0)) best = i
  const largest = logits[best] ?? 0
  let sum = 0
  for (const logit of logits) sum += Math.exp(logit - largest)
  return { best, logSum: largest + Math.log(sum) }
}
