import { execFile, fork, type ChildProcess } from 'node:child_process'
import path from 'node:path'
import { promisify } from 'node:util'
import { libraryFolder } from './library.mjs'

/** Why llama.cpp cannot judge here, or null. */
export const noLlama: string | null = libraryFolder().reason

/** llama.cpp with one model loaded. */
export interface Judge {
  readonly vocabSize: number
  /** As llama.cpp splits text, with the BOS and EOS that the file asks for. */
  tokenize(text: string): Promise<number[]>
  /** Without any special tokens. */
  tokenizePlainly(text: string): Promise<number[]>
  /** Ids of the special tokens, -1 for none, and which of bos, eos and sep are put around a text. */
  special(): Promise<Special>
  /** The sum of the losses of each token but the first, in nats. */
  loss(ids: readonly number[]): Promise<number>
  /** Raw logits of every position, [ids, vocabulary]. */
  logits(ids: readonly number[]): Promise<Float32Array>
  /** The `count` likeliest next tokens, one after the other. */
  greedy(ids: readonly number[], count: number): Promise<number[]>
  /** What a classifier makes of a text, [classes]. */
  classify(ids: readonly number[]): Promise<Float32Array>
  /** The hidden states of an encoder, [ids, width]. */
  encode(ids: readonly number[]): Promise<Float32Array>
  /** The one vector that an encoder makes of a text, [width]. */
  pool(ids: readonly number[]): Promise<Float32Array>
  /** Logits of an encoder-decoder, [decoderIds, vocabulary]. */
  translate(ids: readonly number[], decoderIds: readonly number[]): Promise<Float32Array>
  close(): Promise<void>
}

export interface Special {
  readonly ids: Readonly<Record<'bos' | 'eos' | 'eot' | 'sep' | 'mask' | `fim_${string}`, number>>
  readonly added: Readonly<Record<'bos' | 'eos' | 'sep', boolean>>
}

type Reply = { readonly id: number; readonly value?: unknown; readonly error?: string }

export interface JudgeOptions {
  /** Hidden states and classes instead of logits. */
  readonly embeddings?: boolean
  readonly threads?: number
  /** Only the tokenizer: for files without weights. */
  readonly vocabularyOnly?: boolean
}

/** Loads a GGUF file in a process of its own. Rejects with what llama.cpp logged if it refuses the file. */
export async function judge(ggufPath: string, options: JudgeOptions = {}): Promise<Judge> {
  const child = fork(path.join(import.meta.dirname, 'llama.mjs'), {
    serialization: 'advanced',
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    execArgv: [],
  })
  const { call, close } = channel(child)
  try {
    const { vocabSize } = (await call('open', { path: ggufPath, ...options })) as { vocabSize: number }
    return {
      vocabSize,
      tokenize: async (text) => (await call('tokenize', { text, addSpecial: true, parseSpecial: true })) as number[],
      tokenizePlainly: async (text) =>
        (await call('tokenize', { text, addSpecial: false, parseSpecial: false })) as number[],
      special: async () => (await call('special', {})) as Special,
      loss: async (ids) => (await call('loss', { ids })) as number,
      logits: async (ids) => (await call('logits', { ids })) as Float32Array,
      greedy: async (ids, count) => (await call('greedy', { ids, count })) as number[],
      classify: async (ids) => (await call('classify', { ids })) as Float32Array,
      encode: async (ids) => (await call('encode', { ids })) as Float32Array,
      pool: async (ids) => (await call('pool', { ids })) as Float32Array,
      translate: async (ids, decoderIds) => (await call('translate', { ids, decoderIds })) as Float32Array,
      close,
    }
  } catch (error) {
    await close()
    throw error
  }
}

/** Characters of the log kept for messages. */
const LOG_TAIL = 4000

function channel(child: ChildProcess): {
  call: (op: string, rest: object) => Promise<unknown>
  close: () => Promise<void>
} {
  const waiting = new Map<number, { resolve: (value: unknown) => void; reject: (error: Error) => void }>()
  let log = ''
  let next = 1
  let gone: Error | null = null
  child.stderr?.on('data', (chunk: Buffer) => (log = (log + chunk.toString()).slice(-LOG_TAIL)))
  child.on('message', (message) => {
    const reply = message as Reply
    const one = waiting.get(reply.id)
    waiting.delete(reply.id)
    if (reply.error === undefined) one?.resolve(reply.value)
    else one?.reject(new Error(`${reply.error}\n${log}`))
  })
  const exited = new Promise<void>((resolve) => {
    child.on('exit', (code, signal) => {
      gone = new Error(`llama.cpp ended with ${code ?? signal}\n${log}`)
      for (const one of waiting.values()) one.reject(gone)
      waiting.clear()
      resolve()
    })
  })
  return {
    call: (op, rest) =>
      new Promise((resolve, reject) => {
        if (gone !== null) return reject(gone)
        const id = next++
        waiting.set(id, { resolve, reject })
        child.send({ id, op, ...rest })
      }),
    close: async () => {
      child.kill()
      await exited
    },
  }
}

/** How llama.cpp's own quantiser did. */
export interface LlamaQuantized {
  readonly ms: number
  readonly peakBytes: number
}

/** What is decided against the mixture; types by ggml's numbers. */
export interface LlamaOptions {
  readonly pure?: boolean
  readonly leaveOutput?: boolean
  readonly output?: number
  readonly embedding?: number
  readonly overrides?: readonly (readonly [pattern: string, type: number])[]
  /** Layers to leave out, in order. */
  readonly prune?: readonly number[]
  /** Writes the parts that the input has; the output is then what their names start with. */
  readonly keepSplit?: boolean
  /** Importances by tensor, or the path of a JSON file of them. */
  readonly imatrix?: string | Readonly<Record<string, readonly number[]>>
}

/** Quantises a GGUF file with llama.cpp itself; `fileType` is its number for the mixture. */
export async function llamaQuantize(
  input: string,
  output: string,
  fileType: number,
  threads = 1,
  options: LlamaOptions = {},
): Promise<LlamaQuantized> {
  const script = path.join(import.meta.dirname, 'llama-quantize.mjs')
  const args = [script, input, output, String(fileType), String(threads), JSON.stringify(options)]
  const { stdout } = await promisify(execFile)(process.execPath, args)
  return JSON.parse(stdout) as LlamaQuantized
}

/** The log of a hundred thousand tensors. */
const MAX_LOG = 1 << 28

/**
 * The types that llama.cpp would give the tensors of a file, by its number of the mixture and by tensor; null for a
 * mixture that it refuses. Only the file's header need be there, and its length right.
 */
export async function llamaTypes(
  input: string,
  fileTypes: readonly number[],
  options: LlamaOptions = {},
): Promise<ReadonlyMap<number, ReadonlyMap<string, string> | null>> {
  const script = path.join(import.meta.dirname, 'llama-types.mjs')
  const args = [script, input, JSON.stringify(options), ...fileTypes.map(String)]
  const { stderr } = await promisify(execFile)(process.execPath, args, { maxBuffer: MAX_LOG })
  const found = new Map<number, ReadonlyMap<string, string> | null>()
  let types = new Map<string, string>()
  for (const line of stderr.split('\n')) {
    const [, name, from, to] =
      /^\[ *\d+\/ *\d+\] (\S+) +- \[.*\], type = +(\S+), size =[^(]*(?:\((\w+)\))?$/.exec(line) ?? []
    if (name !== undefined && from !== undefined) types.set(name, (to ?? from).toLowerCase())
    const [, fileType, status] = /^== (\d+) (\d+)$/.exec(line) ?? []
    if (fileType === undefined) continue
    found.set(Number(fileType), status === '0' ? types : null)
    types = new Map()
  }
  return found
}
