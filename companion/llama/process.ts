/**
 * Entry of a process of its own that runs llama.cpp through node-llama-cpp: an assertion that fails in there ends this
 * process and not the command, and stopping it is killing it.
 */
import type { Llama, LlamaContextSequence, LlamaEmbeddingContext, LlamaModel, Token } from 'node-llama-cpp'
import type { Generated, Loaded, LoadRequest, Operation, Operations, Reply, Request } from './protocol.ts'

/** A model in memory, as one of the two that it can be. */
type Opened =
  | { readonly kind: 'decoder'; readonly model: LlamaModel; readonly sequence: LlamaContextSequence }
  | { readonly kind: 'encoder'; readonly model: LlamaModel; readonly context: LlamaEmbeddingContext }

let llama: Llama | null = null
let opened: Opened | null = null

/** The errors that llama.cpp logged last: why it refuses a file is told nowhere else. */
const log: string[] = []
const LOG_LINES = 20

/** How long the log may lag behind what failed, in milliseconds. */
const LOG_DELAY_MS = 100

/** Families that were trained with the first token before every text and make little of a text without it. */
const NEEDS_FIRST_TOKEN = /^gemma/

class Refusal extends Error {}

async function start(): Promise<string | null> {
  let library: typeof import('node-llama-cpp')
  try {
    library = await import('node-llama-cpp')
  } catch (error) {
    const missing = error instanceof Error && 'code' in error && error.code === 'ERR_MODULE_NOT_FOUND'
    return missing ? 'node-llama-cpp is not installed' : `node-llama-cpp cannot be loaded: ${reasonOf(error)}`
  }
  try {
    llama = await library.getLlama({
      // the same figures on every machine, and no building of anything
      gpu: false,
      build: 'never',
      skipDownload: true,
      progressLogs: false,
      maxThreads: 0,
      logLevel: library.LlamaLogLevel.error,
      logger: (_, message) => {
        log.push(message.trimEnd())
        if (log.length > LOG_LINES) log.shift()
      },
    })
    return null
  } catch (error) {
    return `node-llama-cpp has no llama.cpp for ${process.platform}-${process.arch}: ${reasonOf(error)}`
  }
}

async function load({ path, context, threads: asked, embeddings }: LoadRequest): Promise<Loaded> {
  if (llama === null) throw new Error('llama.cpp was not started')
  const threads = asked > 0 ? asked : llama.cpuMathCores
  const began = performance.now()
  log.length = 0
  let model: LlamaModel
  try {
    model = await llama.loadModel({ modelPath: path, gpuLayers: 0, ignoreMemorySafetyChecks: true })
    const size = Math.min(context, model.trainContextSize)
    if (embeddings) {
      const options = { contextSize: size, batchSize: size, threads, ignoreMemorySafetyChecks: true }
      opened = { kind: 'encoder', model, context: await model.createEmbeddingContext(options) }
    } else {
      const made = await model.createContext({
        contextSize: size,
        batchSize: size,
        threads: { ideal: threads, min: threads },
        // an exact cache: with its usual one even an F32 file is off by 5e-3 in log-probability
        flashAttention: false,
        experimentalKvCacheKeyType: 'F32',
        experimentalKvCacheValueType: 'F32',
        ignoreMemorySafetyChecks: true,
        failedCreationRemedy: false,
      })
      opened = { kind: 'decoder', model, sequence: made.getSequence() }
    }
  } catch (error) {
    throw new Refusal(await refusal(error))
  }
  const { tokens, trainContextSize, architecture } = model
  return {
    llama: llama.llamaCppRelease.release.replace(/^v/, ''),
    context: Math.min(context, trainContextSize),
    loadMs: performance.now() - began,
    threads,
    first: NEEDS_FIRST_TOKEN.test(architecture) ? tokens.bos : null,
  }
}

/** What llama.cpp logged of it, or what was thrown if it logged nothing. */
async function refusal(error: unknown): Promise<string> {
  await new Promise((resolve) => setTimeout(resolve, LOG_DELAY_MS))
  const told = log.map((line) => /error loading model: (.*)/.exec(line)?.[1]).find((line) => line !== undefined)
  return told ?? log.at(0)?.replace(/^\w+: /, '') ?? reasonOf(error)
}

function decoder(): { readonly model: LlamaModel; readonly sequence: LlamaContextSequence } {
  if (opened?.kind !== 'decoder') throw new Error('no decoder was loaded')
  return opened
}

function tokenize({ text }: { readonly text: string }): readonly number[] {
  if (opened === null) throw new Error('no model was loaded')
  return opened.model.tokenize(text)
}

/** The likeliest token after the last of `ids`, and its probability. */
async function next(
  sequence: LlamaContextSequence,
  ids: readonly Token[],
): Promise<{ readonly token: Token; readonly logProb: number }> {
  const last = ids.at(-1)
  if (last === undefined) throw new Error('nothing to go on from')
  const generateNext = { token: true, totalLogitWeight: true }
  const found = await sequence.controlledEvaluate([...ids.slice(0, -1), [last, { generateNext }]])
  const { token, totalLogitWeight } = found.at(-1)?.next ?? {}
  if (token === undefined || token === null) throw new Error('llama.cpp chose no token')
  // the weight of the likeliest is 1: it is the one that the others are measured by
  return { token, logProb: -Math.log(totalLogitWeight ?? Number.NaN) }
}

async function generate({ prompt, count }: Operations['generate']['ask']): Promise<Generated> {
  const { model, sequence } = decoder()
  await sequence.clearHistory()
  const { bos, shouldPrependBosToken } = model.tokens
  const promptIds = [...(shouldPrependBosToken && bos !== null ? [bos] : []), ...model.tokenize(prompt)]
  const ids: Token[] = []
  const logProbs: number[] = []
  const began = performance.now()
  let at = await next(sequence, promptIds)
  const promptMs = performance.now() - began
  const second = performance.now()
  for (;;) {
    ids.push(at.token)
    logProbs.push(at.logProb)
    if (ids.length === count || model.isEogToken(at.token)) break
    at = await next(sequence, [at.token])
  }
  const ended = model.isEogToken(at.token)
  const spoken = ended ? ids.slice(0, -1) : ids
  const text = model.detokenize(spoken, false, promptIds)
  return { promptIds, ids, text, ended, logProbs, promptMs, ms: performance.now() - second }
}

async function losses({ ids }: { readonly ids: readonly number[] }): Promise<Float64Array> {
  const { sequence } = decoder()
  await sequence.clearHistory()
  const found = await sequence.controlledEvaluate(
    ids.slice(0, -1).map((id, index) => {
      const wanted = ids[index + 1] as Token
      const logits = { filter: { tokens: [wanted], includeSelected: true } }
      return [id as Token, { generateNext: { token: true, totalLogitWeight: true, logits } }]
    }),
  )
  return Float64Array.from(found, (output, index) => {
    const { logits, token, totalLogitWeight } = output?.next ?? {}
    const wanted = logits?.get(ids[index + 1] as Token)
    const largest = logits?.get(token as Token)
    if (wanted === undefined || largest === undefined || totalLogitWeight === undefined) return Number.NaN
    return largest + Math.log(totalLogitWeight) - wanted
  })
}

async function logits({ ids, fresh }: Operations['logits']['ask']): Promise<Float32Array> {
  const { sequence } = decoder()
  if (fresh) await sequence.clearHistory()
  let all = new Float32Array(0)
  const read = (index: number, found: ReadonlyMap<Token, number>): void => {
    if (all.length === 0) all = new Float32Array(ids.length * found.size)
    const start = (index * all.length) / ids.length
    for (const [token, logit] of found) all[start + token] = logit
  }
  const asked = ids.map((id): [Token, { generateNext: { logits: true } }] => [
    id as Token,
    { generateNext: { logits: true } },
  ])
  const found = await sequence.controlledEvaluate(asked)
  for (const [index, output] of found.entries()) {
    if (output?.next.logits === undefined) throw new Error('llama.cpp gave no logits')
    read(index, output.next.logits)
  }
  return all
}

async function embed({ text }: { readonly text: string }): Promise<readonly number[]> {
  if (opened?.kind !== 'encoder') throw new Error('no encoder was loaded')
  return (await opened.context.getEmbeddingFor(text)).vector
}

const OPERATIONS: { readonly [K in Operation]: (ask: Operations[K]['ask']) => unknown } = {
  start,
  load,
  tokenize,
  generate,
  losses,
  logits,
  embed,
  memory: () => process.resourceUsage().maxRSS * 1024,
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

async function answer({ id, op, ask }: Request): Promise<Reply> {
  try {
    return { id, answer: await OPERATIONS[op](ask as never) }
  } catch (error) {
    return { id, error: reasonOf(error), refused: error instanceof Refusal }
  }
}

process.on('message', (message) => {
  void answer(message as Request).then((reply) => process.send?.(reply))
})
// without the command there is nobody to answer
process.on('disconnect', () => process.exit())
