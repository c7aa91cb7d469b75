// A child process that runs llama.cpp: an abort in there ends this process and not the tests.
// Messages: { id, op, ... } in, { id, value } or { id, error } out. Set as docs say for comparing with PyTorch: no flash
// attention, K and V cache in F32.
import { load } from './library.mjs'

/** Tokens of context: more than any test prompt with its continuation. */
const CONTEXT = 512
/** ggml's number of F32. */
const F32 = 0

const api = load()
let model = null
let context = null
let vocab = null

function open({ path, embeddings = false, vocabularyOnly = false, threads = 2 }) {
  close()
  model = api.loadModel(path, { ...api.modelDefaults(), n_gpu_layers: 0, vocab_only: vocabularyOnly })
  if (model === null) throw new Error(`llama.cpp refuses ${path}`)
  vocab = api.vocab(model)
  if (vocabularyOnly) return { vocabSize: api.vocabSize(vocab) }
  const params = api.contextDefaults()
  Object.assign(params, {
    n_ctx: CONTEXT,
    n_batch: CONTEXT,
    n_ubatch: CONTEXT,
    n_threads: threads,
    n_threads_batch: threads,
  })
  Object.assign(params, { flash_attn_type: 0, type_k: F32, type_v: F32, no_perf: true, embeddings })
  context = api.newContext(model, params)
  if (context === null) throw new Error('llama.cpp made no context')
  return { vocabSize: api.vocabSize(vocab) }
}

function close() {
  if (context !== null) api.freeContext(context)
  if (model !== null) api.freeModel(model)
  context = null
  model = null
}

function tokenize({ text, addSpecial, parseSpecial }) {
  const bytes = Buffer.from(text, 'utf8')
  const tokens = new Int32Array(bytes.length + 8)
  const count = api.tokenize(vocab, text, bytes.length, tokens, tokens.length, addSpecial, parseSpecial)
  if (count < 0) throw new Error(`llama_tokenize gave ${count}`)
  return Array.from(tokens.subarray(0, count))
}

/** Ids of the special tokens, -1 for none, and which of them are put around a text. */
function special() {
  const all = (functions) => Object.fromEntries(Object.entries(functions).map(([name, get]) => [name, get(vocab)]))
  return { ids: all(api.special), added: all(api.added) }
}

/** Runs tokens from position `past` on and returns what `read` makes of it. */
function withBatch(ids, past, step, read) {
  const { koffi } = api
  const batch = api.batchInit(ids.length, 0, 1)
  try {
    batch.n_tokens = ids.length
    koffi.encode(batch.token, koffi.array('int32_t', ids.length), Int32Array.from(ids))
    koffi.encode(
      batch.pos,
      koffi.array('int32_t', ids.length),
      Int32Array.from(ids, (_, i) => past + i),
    )
    koffi.encode(batch.n_seq_id, koffi.array('int32_t', ids.length), new Int32Array(ids.length).fill(1))
    const sequences = koffi.decode(batch.seq_id, koffi.array('void *', ids.length))
    for (const pointer of sequences) koffi.encode(pointer, 'int32_t', 0)
    koffi.encode(batch.logits, koffi.array('int8_t', ids.length), new Int8Array(ids.length).fill(1))
    const status = step(context, batch)
    if (status !== 0) throw new Error(`llama.cpp gave ${status} for a batch`)
    return read(koffi)
  } finally {
    api.batchFree(batch)
  }
}

function floats(pointer, count) {
  return Float32Array.from(api.koffi.decode(pointer, api.koffi.array('float', count, 'Typed')))
}

/** Runs tokens from position `past` on and returns the logits of all of them, [tokens, vocabulary]. */
function run(ids, past) {
  return withBatch(ids, past, api.decode, () => floats(api.logits(context), ids.length * api.vocabSize(vocab)))
}

/** What a classifier makes of a text, [classes]. */
function classify({ ids }) {
  return withBatch(ids, 0, api.encode, () => floats(api.sequenceEmbeddings(context, 0), api.classes(model)))
}

/** The one vector that an encoder makes of a text, [width]. */
function pool({ ids }) {
  return withBatch(ids, 0, api.encode, () => floats(api.sequenceEmbeddings(context, 0), api.width(model)))
}

/** The hidden states of an encoder, [tokens, width]. */
function encode({ ids }) {
  return withBatch(ids, 0, api.encode, () => floats(api.embeddings(context), ids.length * api.width(model)))
}

/** Runs an encoder and then its decoder over tokens of their own: logits, [decoder tokens, vocabulary]. */
function translate({ ids, decoderIds }) {
  withBatch(ids, 0, api.encode, () => null)
  api.clearMemory(api.memory(context), true)
  return run(decoderIds, 0)
}

function logits(ids) {
  api.clearMemory(api.memory(context), true)
  return run(ids, 0)
}

/** The sum of the losses of each token but the first, in nats. */
function loss(ids) {
  const size = api.vocabSize(vocab)
  const all = logits(ids)
  let sum = 0
  for (let i = 0; i + 1 < ids.length; i++) {
    const row = all.subarray(i * size, (i + 1) * size)
    let max = Number.NEGATIVE_INFINITY
    for (const value of row) max = Math.max(max, value)
    let total = 0
    for (const value of row) total += Math.exp(value - max)
    sum += max + Math.log(total) - row[ids[i + 1]]
  }
  return sum
}

function greedy(ids, count) {
  const size = api.vocabSize(vocab)
  const found = []
  let last = logits(ids).subarray((ids.length - 1) * size)
  while (found.length < count) {
    let best = 0
    for (let i = 1; i < size; i++) if (last[i] > last[best]) best = i
    found.push(best)
    if (found.length < count) last = run([best], ids.length + found.length - 1)
  }
  return found
}

const OPS = {
  open,
  classify,
  encode,
  pool,
  translate,
  tokenize,
  special,
  logits: ({ ids }) => logits(ids),
  loss: ({ ids }) => loss(ids),
  greedy: ({ ids, count }) => greedy(ids, count),
}

process.on('message', (message) => {
  try {
    process.send({ id: message.id, value: OPS[message.op](message) })
  } catch (error) {
    process.send({ id: message.id, error: error.message })
  }
})
process.send({ id: 0, value: 'ready' })
