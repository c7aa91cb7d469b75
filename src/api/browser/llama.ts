/**
 * llama.cpp in the page: wllama, llama.cpp's own server compiled to WebAssembly, in a worker of its own that is ended by
 * ending it. It gives what a server gives: words and their probabilities, vectors of texts; not the logits of a given
 * text.
 */
import type { Wllama } from '@wllama/wllama/esm/index.js'
import wasmUrl from '@wllama/wllama/esm/wasm/wllama.wasm?url'
import type { Folder, Place } from '../../core/bytes.ts'
import { AppError, throwIfAborted } from '../../core/errors.ts'
import type { Generation, RunnableModel, Runner, RunningModel } from '../runner.ts'
import { BlobSource } from './bytes-file.ts'

export interface LlamaRunnerOptions {
  readonly open: (place: Place) => Promise<Folder>
  /** 0 for as many as suit. */
  readonly threads: number
}

const GIB = 2 ** 30

/** What the memory of wllama can grow to. */
const MEMORY_BYTES = 4 * GIB

/** Of that, what is taken beside the weights: the program, the vocabulary, a small context. */
const OTHER_BYTES = GIB / 4

/** Its threads wait for each other by spinning: more than half the cores, and the page stands still. */
const THREADS_SHARE = 2

/** Lines of its log that are kept: why it refuses a file is told nowhere else. */
const LOG_LINES = 40

/** llama.cpp for pages, fetched when it is first to run something. */
export function createLlamaRunner({ open, threads }: LlamaRunnerOptions): Runner {
  return {
    id: 'llama.cpp',
    limitation: async (model) => limitationOf(model),
    async load(model, { context, signal }): Promise<RunningModel> {
      throwIfAborted(signal)
      const count = threads > 0 ? threads : Math.max(1, Math.floor(navigator.hardwareConcurrency / THREADS_SHARE))
      const session = await LlamaSession.start(signal)
      try {
        const blobs = await blobsOf(await open(model.place), model)
        const began = performance.now()
        await session.load(blobs, { context, threads: count, embeddings: model.kind === 'encoder' })
        const loadMs = performance.now() - began
        return {
          by: session.by,
          threads: session.threads,
          context,
          loadMs,
          generate: (prompt, tokens) => session.generate(prompt, tokens),
          embed: (text) => session.embed(text),
          measures: null,
          memoryBytes: async () => null,
          close: () => session.close(),
        }
      } catch (error) {
        await session.close()
        throw error
      }
    },
  }
}

function limitationOf({ files }: RunnableModel): string | null {
  if (!hasWideMemory()) {
    return (
      'This browser has no 64-bit memory for WebAssembly, which llama.cpp needs in a page. Chrome, Edge and Firefox ' +
      'have it; the command modelconvert check needs none.'
    )
  }
  const bytes = files.reduce((sum, { size }) => sum + size, 0)
  if (bytes <= MEMORY_BYTES - OTHER_BYTES) return null
  return (
    `It takes ${(bytes / GIB).toFixed(1)} GiB, and in a page llama.cpp has ${MEMORY_BYTES / GIB} GiB of memory for ` +
    'everything. The command modelconvert check runs larger models.'
  )
}

/** Whether WebAssembly memory can be addressed by 64 bits here; a browser that cannot takes the number for a wrong one. */
function hasWideMemory(): boolean {
  try {
    const wide = { address: 'i64', initial: 1n } as unknown as WebAssembly.MemoryDescriptor
    return new WebAssembly.Memory(wide).buffer.byteLength > 0
  } catch {
    return false
  }
}

async function blobsOf(folder: Folder, { files }: RunnableModel): Promise<readonly Blob[]> {
  const blobs: Blob[] = []
  for (const { path } of files) {
    const source = await folder.open(path)
    if (!(source instanceof BlobSource)) throw new AppError('internal', `${path} is no file of the browser's`)
    blobs.push(source.blob)
  }
  return blobs
}

/** A completion, as llama.cpp's server tells it; what is no number comes as null. */
interface Completion {
  readonly choices: readonly {
    readonly text: string
    readonly finish_reason: string | null
    readonly logprobs?: {
      readonly content?: readonly { readonly id: number; readonly logprob: number | null }[]
    } | null
  }[]
  readonly usage: { readonly prompt_tokens: number }
  readonly timings?: { readonly prompt_ms: number; readonly predicted_ms: number }
}

interface LoadSettings {
  readonly context: number
  readonly threads: number
  readonly embeddings: boolean
}

/** One loaded wllama, from its worker's start to its end. */
class LlamaSession {
  readonly by: string
  readonly #wllama: Wllama
  readonly #log: string[]
  /** Rejects once the worker breaks down, or the signal is aborted: wllama itself would wait for ever. */
  readonly #lost: Promise<never>

  private constructor(wllama: Wllama, by: string, log: string[], lost: Promise<never>) {
    this.#wllama = wllama
    this.by = by
    this.#log = log
    this.#lost = lost
    lost.catch(() => undefined)
  }

  static async start(signal: AbortSignal): Promise<LlamaSession> {
    const library = await import('@wllama/wllama/esm/index.js').catch((cause: unknown) => {
      throw new AppError('device', 'llama.cpp could not be fetched', {
        hint: 'Go online once: it is kept for later.',
        cause,
      })
    })
    const log: string[] = []
    let fail: (error: AppError) => void = () => undefined
    const lost = new Promise<never>((_, reject) => (fail = reject))
    const note = (...words: unknown[]): void => {
      log.push(words.map(String).join(' '))
      if (log.length > LOG_LINES) log.shift()
    }
    const error = (...words: unknown[]): void => {
      const [first] = words
      if (first instanceof Event) fail(new AppError('device', 'The worker of llama.cpp could not be started'))
      else note(...words)
    }
    const logger = { debug: note, log: note, warn: note, error }
    const wllama = new library.Wllama({ default: new URL(wasmUrl, self.location.href).href }, { logger })
    // its build for other browsers would come from somebody else's server
    wllama.setCompat(null)
    signal.addEventListener('abort', () => {
      fail(AppError.from(signal.reason, 'cancelled'))
      void wllama.exit()
    })
    return new LlamaSession(wllama, `llama.cpp ${library.Wllama.getLibllamaVersion()} (wllama)`, log, lost)
  }

  get threads(): number {
    return this.#wllama.getNumThreads()
  }

  async load(blobs: readonly Blob[], { context, threads, embeddings }: LoadSettings): Promise<void> {
    const settings = {
      // the processor gives the same figures everywhere
      n_gpu_layers: 0,
      n_threads: threads,
      n_ctx: context,
      n_batch: context,
      n_ubatch: context,
      n_parallel: 1,
      flash_attn: false,
      cache_type_k: 'f32',
      cache_type_v: 'f32',
      warmup: false,
      embeddings,
    } as const
    await this.#call(this.#wllama.loadModel([...blobs], settings))
    // that it was refused is not thrown
    if (Number(this.#wllama.getLoadedContextInfo().n_vocab) > 0) return
    const reason = this.#log
      .map((line) => /error loading model: (.*)/.exec(line)?.[1])
      .find((line) => line !== undefined)
    throw new AppError('malformed', `llama.cpp refuses it${reason === undefined ? '' : `: ${reason}`}`)
  }

  async generate(prompt: string, count: number): Promise<Generation> {
    const request = { prompt, max_tokens: count, temperature: 0, n_probs: 1 }
    const answer = (await this.#call(this.#wllama.createCompletion(request))) as unknown as Completion
    const [choice] = answer.choices
    const tokens = choice?.logprobs?.content ?? []
    if (choice === undefined || tokens.length === 0) throw new AppError('device', 'llama.cpp said nothing')
    return {
      promptIds: null,
      promptTokens: answer.usage.prompt_tokens,
      ids: tokens.map(({ id }) => id),
      text: choice.text,
      ended: choice.finish_reason === 'stop',
      logProbs: tokens.map(({ logprob }) => logprob ?? Number.NaN),
      promptMs: answer.timings?.prompt_ms ?? 0,
      ms: answer.timings?.predicted_ms ?? 0,
    }
  }

  async embed(text: string): Promise<ArrayLike<number>> {
    // as it comes, not brought to the length 1
    const request = { input: text, embd_normalize: -1 }
    const [first] = (await this.#call(this.#wllama.createEmbedding(request))).data
    if (first === undefined || typeof first.embedding === 'string') {
      throw new AppError('device', 'llama.cpp gave no vector')
    }
    return first.embedding.map((value: number | null) => value ?? Number.NaN)
  }

  async close(): Promise<void> {
    await this.#wllama.exit()
  }

  async #call<T>(answer: Promise<T>): Promise<T> {
    try {
      return await Promise.race([answer, this.#lost])
    } catch (thrown) {
      const { code, message } = AppError.from(thrown, 'device')
      if (thrown instanceof AppError) throw thrown
      throw new AppError(code, `llama.cpp broke down in the page: ${message}`, {
        hint: 'The memory may have run out. The command modelconvert check runs it outside of the browser.',
        cause: thrown,
      })
    }
  }
}
