/*
 * The WASM kernels against ggml's own C, one thread each, alternating in one run so that whatever else the machine does
 * hits both, by processor time; and how much two threads gain on a long job. `node tests/bench/kernels.mjs [TYPE ...]`, or `benchKernels()`.
 */
import { readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads'
import { runnerImport } from 'vite'
import { libraryFolder } from '../oracle/library.mjs'
import { loadGgml, TYPES } from '../oracle/ggml.mjs'

const GENERATED = new URL('../../src/kernels/wasm/generated/', import.meta.url)
/** `enum type` of wasm/kernels.h. */
const CODES = {
  q8_0: 3,
  q4_0: 4,
  q5_0: 5,
  q4_k: 6,
  q6_k: 7,
  q4_1: 8,
  q5_1: 9,
  q5_k: 10,
  q2_k: 11,
  q3_k: 12,
  iq4_nl: 13,
  iq4_xs: 14,
  mxfp4: 15,
  tq1_0: 16,
  tq2_0: 17,
  iq1_s: 18,
  iq1_m: 19,
  iq2_xxs: 20,
  iq2_xs: 21,
  iq2_s: 22,
  iq3_xxs: 23,
  iq3_s: 24,
}
/** How many times as fast as ggml a kernel must be, and should be. */
const TARGETS = {
  q2_k: [4.5, 6],
  q3_k: [2, 3],
  q4_k: [4.5, 6],
  q5_k: [4.5, 6],
  q6_k: [3.3, 5],
  iq4_nl: [8, 15],
  iq4_xs: [8, 15],
  iq1_s: [1.5, 3],
  iq1_m: [1.5, 3],
  iq2_xxs: [1.5, 3],
  iq2_xs: [1.5, 3],
  iq2_s: [1.5, 3],
  iq3_xxs: [1.5, 3],
  iq3_s: [1.5, 3],
  q8_0: [4.5, 5],
  q4_0: [2.7, 3.5],
  q4_1: [null, null],
  q5_0: [null, null],
  q5_1: [null, null],
  mxfp4: [null, null],
  tq1_0: [null, null],
  tq2_0: [null, null],
}
/** The types that take an importance matrix: each is measured with one as well. */
const WEIGHTED = [
  'q4_0',
  'q4_1',
  'q5_0',
  'q5_1',
  'q2_k',
  'q3_k',
  'q4_k',
  'q5_k',
  'q6_k',
  'iq4_nl',
  'iq4_xs',
  'iq1_s',
  'iq1_m',
  'iq2_xxs',
  'iq2_xs',
  'iq2_s',
  'iq3_xxs',
  'iq3_s',
]
/** Of these, the ones that there is nothing of without one. */
const ONLY_WEIGHTED = new Set(['iq1_s', 'iq2_xxs', 'iq2_xs'])
/** Types that are searched even without one. */
const SEARCHED = new Set(Object.keys(CODES).filter((type) => /_k$|^iq/.test(type)))
/**
 * A tile of the size that conversions use. On a small one that comes again and again the branch predictor learns the
 * data by heart, and ggml's branchy Q4_0 gets twice as fast as it is on weights that it sees once.
 */
const SIMPLE_ELEMENTS = 1 << 20
/** What is searched takes 20 to 80 times as long. */
const SEARCHED_ELEMENTS = 1 << 16
/** Columns of the matrix where there are importances. */
const COLUMNS = 4096
const ROUNDS = 60
/** Rounds before V8 has optimised the kernels. */
const WARM_UP = 15
/** Types of which ggml does little in a second have fewer rounds of both kinds. */
const MOST_MS = 4000
/** A sample takes at least this long by ggml's clock. */
const SAMPLE_MS = 4

async function wasmModule(name) {
  const text = await readFile(new URL(`${name}.ts`, GENERATED), 'utf8')
  return WebAssembly.compile(Buffer.from(text.match(/'([^']+)'/)[1], 'base64'))
}

/** The host's part in TypeScript, as the backend has it. */
async function host(name) {
  return (await runnerImport(fileURLToPath(new URL(`../../src/kernels/wasm/${name}.ts`, import.meta.url)))).module
}

/** A memory with all that quantising to a type takes, and its allocator. */
async function prepared(type) {
  const memory = new WebAssembly.Memory({ initial: 256, maximum: 16384 })
  const { createArena } = await host('arena')
  const arena = createArena(memory, 2 * 65536, memory.buffer.byteLength, false)
  const { createSearchTables } = await host('search-tables')
  createSearchTables(memory, arena).prepare(type)
  return { memory, alloc: (bytes) => arena.alloc(bytes).byteOffset }
}

function weights(elements) {
  const values = new Float32Array(elements)
  let state = 1
  const random = () => {
    state = (state + 0x6d2b79f5) >>> 0
    let word = Math.imul(state ^ (state >>> 15), state | 1)
    word ^= word + Math.imul(word ^ (word >>> 7), word | 61)
    return ((word ^ (word >>> 14)) >>> 0) / 2 ** 32
  }
  for (let i = 0; i < elements; i++) {
    values[i] = 0.02 * Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random())
  }
  return values
}

const median = (values) => values.toSorted((a, b) => a - b)[values.length >> 1]

/** Processor time of this process so far, in milliseconds: what others run beside it is not in it. */
function processorTime() {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1000
}

function time(repeat, call) {
  const started = processorTime()
  for (let i = 0; i < repeat; i++) call()
  return (processorTime() - started) / repeat
}

async function against(ggml, type, weighted) {
  const elements = weighted || SEARCHED.has(type) ? SEARCHED_ELEMENTS : SIMPLE_ELEMENTS
  const values = weights(elements)
  const { memory, alloc } = await prepared(type)
  const { exports: kernels } = await WebAssembly.instantiate(await wasmModule('single'), { env: { memory } })
  const [input, importance, output] = [alloc(elements * 4), alloc(COLUMNS * 4), alloc(elements * 4)]
  new Float32Array(memory.buffer, input, elements).set(values)
  const importances = weighted ? weights(COLUMNS).map((value) => value * value) : null
  if (importances !== null) new Float32Array(memory.buffer, importance, COLUMNS).set(importances)
  const [, bytes, block] = TYPES[type]
  const expected = new Uint8Array((elements / block) * bytes)
  const ours = weighted
    ? () => kernels.convert_weighted(0, CODES[type], input, output, elements, importance, COLUMNS)
    : () => kernels.convert(0, CODES[type], input, output, elements)
  const theirs = () => ggml.encode(type, values, expected, importances)
  theirs()
  const each = time(2, theirs)
  const repeat = Math.max(1, Math.round(SAMPLE_MS / each))
  const share = Math.min(1, MOST_MS / (each * repeat * ROUNDS))
  const warmUp = Math.ceil(WARM_UP * share)
  const samples = []
  for (let round = 0; round < Math.ceil(ROUNDS * share) + warmUp; round++) {
    const sample = [time(repeat * 4, ours), time(repeat, theirs)]
    if (round >= warmUp) samples.push(sample)
  }
  if (Buffer.compare(new Uint8Array(memory.buffer, output, expected.length), expected) !== 0) {
    throw new Error(`${type}: the bytes are not ggml's`)
  }
  const speed = (ms) => (elements * 4) / ms / 1e3
  const [floor, goal] = weighted && !ONLY_WEIGHTED.has(type) ? [null, null] : TARGETS[type]
  return {
    type: weighted ? `${type}, importance` : type,
    oursMBs: Number(speed(median(samples.map(([own]) => own))).toPrecision(3)),
    ggmlMBs: Number(speed(median(samples.map(([, other]) => other))).toPrecision(3)),
    ratio: Number(median(samples.map(([own, other]) => other / own)).toFixed(2)),
    floor,
    goal,
  }
}

/** The gain of two threads over one on a job of some seconds. */
async function scaling(type) {
  const module = await wasmModule('shared')
  const memory = new WebAssembly.Memory({ initial: 512, maximum: 16384, shared: true })
  const elements = 1 << 21
  const base = 4 * 65536
  new Float32Array(memory.buffer, base, elements).set(weights(elements))
  const workers = await Promise.all(
    [0, 1].map(async (i) => {
      const worker = new Worker(fileURLToPath(import.meta.url), {
        workerData: {
          module,
          memory,
          stackTop: (i + 2) * 65536,
          to: CODES[type],
          bytes: TYPES[type][1],
          block: TYPES[type][2],
        },
      })
      const answer = () => new Promise((resolve) => worker.once('message', resolve))
      await answer()
      return {
        run: (start, count) => {
          worker.postMessage({
            input: base + start * 4,
            output: base + elements * 4 + (start / TYPES[type][2]) * TYPES[type][1],
            count,
          })
          return answer()
        },
        end: () => worker.terminate(),
      }
    }),
  )
  const timed = async (act) => {
    const started = performance.now()
    for (let i = 0; i < 4; i++) await act()
    return performance.now() - started
  }
  const ratios = []
  for (let round = 0; round < 5; round++) {
    const one = await timed(() => workers[0].run(0, elements))
    const two = await timed(() => Promise.all(workers.map(({ run }, i) => run((i * elements) / 2, elements / 2))))
    if (round > 0) ratios.push(one / two)
  }
  await Promise.all(workers.map(({ end }) => end()))
  return Number(median(ratios).toFixed(2))
}

/** Measures the types, all if none are named. Null with a reason on stderr where ggml is not installed. */
export async function benchKernels(named = []) {
  const { reason } = libraryFolder()
  if (reason !== null) {
    console.error(`kernels are not measured: ${reason}`)
    return null
  }
  const ggml = loadGgml()
  const types = []
  const asked = (type) => named.length === 0 || named.includes(type)
  for (const type of Object.keys(TARGETS).filter((type) => asked(type) && !ONLY_WEIGHTED.has(type)))
    types.push(await against(ggml, type, false))
  for (const type of WEIGHTED.filter(asked)) types.push(await against(ggml, type, true))
  return { types, twoThreads: { type: 'q4_k', gain: await scaling('q4_k') } }
}

async function serve() {
  const { module, memory, stackTop, to } = workerData
  const { exports: kernels } = await WebAssembly.instantiate(module, { env: { memory } })
  kernels.__stack_pointer.value = stackTop
  parentPort.on('message', ({ input, output, count }) =>
    parentPort.postMessage(kernels.convert(0, to, input, output, count)),
  )
  parentPort.postMessage('ready')
}

if (!isMainThread && workerData?.stackTop !== undefined) await serve()
else if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const result = await benchKernels(process.argv.slice(2))
  if (result !== null) {
    console.table(result.types)
    console.log(`two threads over one, ${result.twoThreads.type}: ${result.twoThreads.gain}x`)
  }
}
