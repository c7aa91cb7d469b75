// npm run bench [-- --size MIB --rounds N --folder PATH]: what the kernels, the threads and whole conversions reach on this machine,
// beside floors and goals. Everything that is compared is measured in this run, in turns, and told as medians: other
// work on the machine hits all of it alike.
import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdtempSync, rmSync, statfsSync } from 'node:fs'
import { availableParallelism, cpus, tmpdir } from 'node:os'
import path from 'node:path'
import { parseArgs, promisify } from 'node:util'
import { createApi, createNodeHost } from '../../dist/node/index.js'
import { writeSynthetic } from '../long/synthetic.mjs'
import { libraryFolder } from '../oracle/library.mjs'
import { benchFake } from './fake.mjs'
import { benchKernels } from './kernels.mjs'
import { benchSchemes } from './schemes.mjs'

const { values: options } = parseArgs({
  options: {
    size: { type: 'string', default: '1024' },
    rounds: { type: 'string', default: '3' },
    only: { type: 'string', default: 'kernels,whole,fake,llama' },
    folder: { type: 'string' },
  },
})
const MIB = 2 ** 20
const SIZE = Number(options.size) * MIB
const ROUNDS = Number(options.rounds)
const PARTS = options.only.split(',')

/** As in src/api: what a tile reads or writes at the most, and how often a file is flushed. */
const TILE_BYTES = 4 * MIB
const CHECKPOINT_BYTES = 64 * MIB
/** A conversion may take this much longer than the slowest of its parts alone: 1 / 0.85. */
const WHOLE_GOAL = 0.85
const TWO_THREADS_GOAL = 1.9
const QUANTS = ['f16', 'q8_0', 'q4_k_m']
/** Numbers of llama.cpp's `llama_ftype`. */
const LLAMA_TYPES = { q8_0: 7, q4_k_m: 15 }

const run = promisify(execFile)
const ROOT = path.resolve(import.meta.dirname, '../..')
const median = (numbers) => numbers.toSorted((a, b) => a - b)[numbers.length >> 1]
const mib = (bytes) => `${(bytes / MIB).toFixed(0)} MiB`
const seconds = (ms) => `${(ms / 1000).toFixed(2)} s`
const rate = (bytes, ms) => `${(bytes / MIB / (ms / 1000)).toFixed(0)} MiB/s`
const judge = (value, wanted) => (value >= wanted ? 'pass' : 'SHORT')
const say = (line = '') => process.stdout.write(`${line}\n`)

function table(head, rows) {
  const all = [head, ...rows.map((row) => row.map(String))]
  const widths = head.map((_, i) => Math.max(...all.map((row) => row[i].length)))
  const line = (row) => `| ${row.map((cell, i) => cell.padEnd(widths[i])).join(' | ')} |`
  say(line(head))
  say(`|${widths.map((width) => '-'.repeat(width + 2)).join('|')}|`)
  for (const row of all.slice(1)) say(line(row))
  say()
}

/** Processor time of all threads so far, in milliseconds. */
function processorTime() {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1000
}

/** How long something takes, and the processor time of all threads in it. */
async function timed(act) {
  const [began, work] = [performance.now(), processorTime()]
  await act()
  return { ms: performance.now() - began, work: processorTime() - work }
}

/** Runs `work` over `items`, at most `width` at once, in order. */
async function inFlight(items, width, work) {
  let next = 0
  await Promise.all(
    Array.from({ length: width }, async () => {
      while (next < items.length) await work(items[next++])
    }),
  )
}

// --- kernels --------------------------------------------------------------------------------------------------------

async function reportKernels() {
  const result = await benchKernels()
  say('## Kernels: WASM SIMD against ggml, one thread each')
  say()
  if (result === null) return say('Skipped: ggml is not installed here.\n')
  table(
    ['type', 'ours', 'ggml', 'ratio', 'floor', '', 'goal', ''],
    result.types.map(({ type, oursMBs, ggmlMBs, ratio, floor, goal }) => [
      type,
      `${oursMBs} MB/s`,
      `${ggmlMBs} MB/s`,
      `${ratio}x`,
      ...(floor === null ? ['', ''] : [`${floor}x`, judge(ratio, floor)]),
      ...(goal === null ? ['', ''] : [`${goal}x`, judge(ratio, goal)]),
    ]),
  )
  const { type, gain } = result.twoThreads
  say(`Two threads on long jobs (${type}): ${gain}x one, goal ${TWO_THREADS_GOAL}x: ${judge(gain, TWO_THREADS_GOAL)}`)
  say()
}

async function reportSchemes() {
  say('## Kernels for quantisations in parts, one thread')
  say()
  table(
    ['values', 'ours', 'reference', 'gain', 'of a copy', "ggml's type", 'of ggml'],
    (await benchSchemes()).map(({ op, oursMBs, referenceMBs, gain, ofCopy, like, ofGgml }) => [
      op,
      `${oursMBs} MB/s`,
      `${referenceMBs} MB/s`,
      `${gain}x`,
      `${Math.round(ofCopy * 100)} %`,
      like,
      ofGgml === null ? '' : `${ofGgml}x`,
    ]),
  )
  say('MB/s of values as f32, by processor time; a copy is one of as many bytes, and ggml decodes or quantises its own')
  say('type that is most alike.')
  say()
}

// --- whole conversions ----------------------------------------------------------------------------------------------

const place = (folder) => ({ kind: 'path', path: folder })

function request(model, quant, out) {
  return {
    input: place(model),
    target: 'gguf',
    options: { quant },
    output: place(out),
    name: quant,
    overwrite: true,
    restart: true,
  }
}

async function convert(api, what) {
  const job = api.start(what)
  for (;;) {
    for (const event of await job.next()) {
      if (event.type === 'done') return event.report
      if (event.type === 'failed') throw new Error(`${event.error.code}: ${event.error.message}`)
    }
  }
}

/** Reads all weights, a tile at a time, as many reads at once as a conversion has. */
async function readAll(host, model, width) {
  const folder = await host.open(place(model))
  const files = (await folder.list()).filter((file) => file.path.endsWith('.safetensors'))
  const sources = await Promise.all(files.map((file) => folder.open(file.path)))
  const pieces = sources.flatMap((source) =>
    Array.from({ length: Math.ceil(source.size / TILE_BYTES) }, (_, i) => ({ source, at: i * TILE_BYTES })),
  )
  const [backend] = await host.backends()
  const buffers = Array.from({ length: width }, () => backend.arena.alloc(TILE_BYTES))
  const free = [...buffers]
  const ms = await timed(() =>
    inFlight(pieces, width, async ({ source, at }) => {
      const buffer = free.pop()
      await source.read(at, buffer.subarray(0, Math.min(TILE_BYTES, source.size - at)))
      free.push(buffer)
    }),
  )
  for (const buffer of buffers) backend.arena.free(buffer)
  await Promise.all(sources.map((source) => source.close()))
  return ms
}

/** The tiles of a plan: how many elements of what become what. Values that come as they are need no kernel. */
function tilesOf(plan) {
  return plan.tensors.flatMap(({ shape, from, to, bytes }) => {
    const elements = shape.reduce((product, size) => product * size, 1)
    const step = TILE_BYTES / Math.max(2, bytes / elements)
    const count = Math.floor(step / 256) * 256
    return Array.from({ length: Math.ceil(elements / count) }, (_, i) => {
      const own = Math.min(count, elements - i * count)
      return { from, to, elements: own, bytes: Math.round((own * bytes) / elements) }
    })
  })
}

/** All kernel work of a plan on weights that are in memory already. */
async function computeAll(host, model, tiles, width) {
  const [backend] = await host.backends()
  const folder = await host.open(place(model))
  const file = (await folder.list()).find(({ path: name }) => name.endsWith('.safetensors'))
  const source = await folder.open(file.path)
  const pairs = await Promise.all(
    Array.from({ length: width }, async (_, i) => {
      const input = backend.arena.alloc(TILE_BYTES)
      // behind the header, on whole values
      await source.read(2 * Math.floor((source.size - TILE_BYTES) / (2 * width)) * i + 65_536, input)
      return { input, output: backend.arena.alloc(2 * TILE_BYTES) }
    }),
  )
  await source.close()
  const free = [...pairs]
  const work = async ({ from, to, elements, bytes }) => {
    const pair = free.pop()
    await backend
      .prepare({ kind: 'cast', from, to })
      .run(pair.input.subarray(0, elements * 2), pair.output.subarray(0, bytes), elements)
    free.push(pair)
  }
  const ms = await timed(() => inFlight(tiles, width, work))
  for (const { input, output } of pairs) {
    backend.arena.free(input)
    backend.arena.free(output)
  }
  return ms
}

/** Writes as many bytes as a conversion does, in its pieces, with its flushes; and removes them again. */
async function writeAll(host, out, tiles) {
  const [backend] = await host.backends()
  const buffer = backend.arena.alloc(TILE_BYTES)
  const output = await host.openOutput(place(out))
  const sink = await output.create('write-only.bin', { keep: 0 })
  let flushing = Promise.resolve()
  const ms = await timed(async () => {
    let at = 0
    let flushed = 0
    for (const { bytes } of tiles) {
      await sink.write(buffer.subarray(0, bytes), at)
      at += bytes
      if (at - flushed < CHECKPOINT_BYTES) continue
      await flushing
      flushed = at
      flushing = sink.flush()
    }
    await flushing
    await sink.flush()
  })
  await sink.abort()
  backend.arena.free(buffer)
  return ms
}

/** SHA-256 of as many bytes, in the same pieces. */
function hashAll(tiles) {
  const buffer = Buffer.alloc(TILE_BYTES, 7)
  const hash = createHash('sha256')
  return timed(async () => {
    for (const { bytes } of tiles) hash.update(buffer.subarray(0, bytes))
    hash.digest()
  })
}

async function reportWhole(model, folder) {
  const host = createNodeHost()
  const api = createApi(host)
  const [backend] = await host.backends()
  const width = backend.threads + 2
  const out = path.join(folder, 'whole')
  const cores = availableParallelism()
  say(`## Whole conversions: ${mib(SIZE)} of bf16, in process, ${backend.label}`)
  say()
  const rows = []
  const notes = []
  for (const quant of QUANTS) {
    const plan = await api.plan(request(model, quant, out))
    const tiles = tilesOf(plan)
    const samples = []
    let report
    for (let round = 0; round < ROUNDS; round++) {
      const parts = {
        read: await readAll(host, model, width),
        kernel: await computeAll(host, model, tiles, width),
        write: await writeAll(host, out, tiles),
        hash: await hashAll(tiles),
      }
      report = await convert(api, request(model, quant, out))
      const work = Object.values(parts).reduce((sum, one) => sum + one.work, 0) / cores
      const slowest = Math.max(parts.read.ms, parts.kernel.ms, parts.write.ms)
      samples.push({
        read: parts.read.ms,
        kernel: parts.kernel.ms,
        write: parts.write.ms,
        hash: parts.hash.ms,
        work,
        whole: report.elapsedMs,
        part: slowest / report.elapsedMs,
        bound: Math.max(slowest, work) / report.elapsedMs,
      })
    }
    const middle = (key) => median(samples.map((sample) => sample[key]))
    const percent = (value) => `${(value * 100).toFixed(0)} %`
    rows.push([
      quant,
      ...['read', 'kernel', 'write', 'hash', 'work', 'whole'].map((key) => seconds(middle(key))),
      rate(report.readBytes, middle('whole')),
      percent(middle('part')),
      judge(middle('part'), WHOLE_GOAL),
      percent(middle('bound')),
    ])
    notes.push(`${quant}: ${mib(report.peakBytes)} of buffers, ${mib(plan.peakBytes)} planned`)
  }
  await api.close()
  const goal = `goal ${WHOLE_GOAL * 100} %`
  const head = [
    'read',
    'kernel',
    'write',
    'SHA-256',
    'work',
    'whole',
    'rate',
    'of the slowest',
    goal,
    'of slowest or work',
  ]
  table(['target', ...head], rows)
  say(
    '"Of the slowest" is the slowest of read, kernel and write alone, as a part of the whole. "Work" is the processor',
  )
  say(
    `time of those and of SHA-256, over ${cores} cores: where files lie in memory, no conversion can take less. The whole`,
  )
  say('also plans, validates, and compares samples with the source.')
  for (const note of notes) say(`- ${note}`)
  say()
}

// --- made-up weights ------------------------------------------------------------------------------------------------

async function reportFake(folder) {
  const { label, rates, whole } = await benchFake(folder, SIZE, ROUNDS)
  say(`## Made-up weights: ${label}`)
  say()
  table(
    ['drawn alone', 'type', 'rate'],
    rates.map(({ how, to, mbs }) => [how, to, `${mbs.toFixed(0)} MB/s`]),
  )
  table(
    ['whole model, bf16', 'ours', 'dd, the same disk', ''],
    whole.map(({ distribution, mbs, ddMbs }) => [
      distribution,
      `${mbs.toFixed(0)} MB/s`,
      `${ddMbs.toFixed(0)} MB/s`,
      `${(mbs / ddMbs).toFixed(2)}x`,
    ]),
  )
  say('Ours also plans, hashes, reads again, validates, and compares samples.')
  say()
}

// --- against llama.cpp ----------------------------------------------------------------------------------------------

async function child(args) {
  const { stdout } = await run(process.execPath, args, {
    env: { ...process.env, XDG_STATE_HOME: path.join(tmpdir(), 'modelconvert-bench-state') },
    maxBuffer: 2 ** 26,
  })
  return JSON.parse(stdout)
}

/** The command in a process of its own, with its VmHWM. */
async function ours(model, quant, out, threads) {
  const script = path.join(import.meta.dirname, 'whole.mjs')
  return child([script, model, quant, out, String(threads)])
}

async function reportLlama(model, folder) {
  say("## Against llama.cpp's own llama_model_quantize, on the same weights")
  say()
  const { reason } = libraryFolder()
  if (reason !== null) return say(`Skipped: ${reason}.\n`)
  const threads = Math.min(availableParallelism(), 16)
  const out = path.join(folder, 'llama')
  await child([path.join(import.meta.dirname, 'whole.mjs'), model, 'bf16', out, String(threads)])
  const source = path.join(out, 'bf16.gguf')
  const rows = []
  for (const [quant, type] of Object.entries(LLAMA_TYPES)) {
    const theirs = []
    const own = []
    for (let round = 0; round < ROUNDS; round++) {
      own.push(await ours(model, quant, out, threads))
      const target = path.join(out, 'theirs.gguf')
      const script = path.join(ROOT, 'tests/oracle/llama-quantize.mjs')
      theirs.push(await child([script, source, target, String(type), String(threads)]))
      rmSync(target)
    }
    const ratios = own.map(({ ms }, i) => theirs[i].ms / ms)
    rows.push([
      quant,
      seconds(median(own.map(({ ms }) => ms))),
      seconds(median(theirs.map(({ ms }) => ms))),
      `${median(ratios).toFixed(2)}x`,
      mib(median(own.map(({ peakBytes }) => peakBytes))),
      mib(median(theirs.map(({ peakBytes }) => peakBytes))),
    ])
  }
  table(['target', 'ours', 'llama.cpp', 'as fast', 'our peak RSS', "llama.cpp's"], rows)
  say(
    `${threads} threads each. Ours reads safetensors, hashes, and validates; llama.cpp reads a BF16 GGUF file (mapped,`,
  )
  say('so what it reads counts into its RSS).')
  say()
}

// --------------------------------------------------------------------------------------------------------------------

/** Memory as a disk, where there is room for the model and three outputs: then a slow disk hides nothing. */
function room() {
  try {
    const { bavail, bsize } = statfsSync('/dev/shm')
    if (bavail * bsize > 6 * SIZE) return '/dev/shm'
  } catch {
    // not on this platform
  }
  return tmpdir()
}

const home = options.folder ?? room()
const folder = mkdtempSync(path.join(home, 'modelconvert-bench-'))
process.on('exit', () => rmSync(folder, { recursive: true, force: true }))
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit(1))

const [cpu] = cpus()
say(`# Benchmark: ${cpus().length} x ${cpu?.model ?? 'unknown'}, Node ${process.versions.node}, files in ${home}`)
say()
if (PARTS.includes('kernels')) await reportKernels()
if (PARTS.includes('kernels') || PARTS.includes('schemes')) await reportSchemes()
const model = path.join(folder, 'model')
if (PARTS.includes('whole') || PARTS.includes('llama')) writeSynthetic(model, SIZE)
if (PARTS.includes('whole')) await reportWhole(model, folder)
if (PARTS.includes('fake')) await reportFake(folder)
if (PARTS.includes('llama')) await reportLlama(model, folder)
