// npm run bench [-- --size MIB --rounds N --folder PATH --only PARTS --case TITLE]: what the kernels, the threads and whole conversions reach on this machine,
// beside floors and goals. Everything that is compared is measured in this run, in turns, and told as medians: other
// work on the machine hits all of it alike.
import { execFile } from 'node:child_process'
import { mkdtempSync, rmSync, statfsSync } from 'node:fs'
import { availableParallelism, cpus, tmpdir } from 'node:os'
import path from 'node:path'
import { parseArgs, promisify } from 'node:util'
import { writeSynthetic } from '../long/synthetic.mjs'
import { libraryFolder } from '../oracle/library.mjs'
import { benchConversions } from './conversions.mjs'
import { benchFake } from './fake.mjs'
import { benchKernels } from './kernels.mjs'
import { benchSchemes } from './schemes.mjs'

const { values: options } = parseArgs({
  options: {
    size: { type: 'string', default: '1024' },
    rounds: { type: 'string', default: '3' },
    only: { type: 'string', default: 'kernels,whole,fake,llama' },
    folder: { type: 'string' },
    case: { type: 'string', default: '' },
  },
})
const MIB = 2 ** 20
const SIZE = Number(options.size) * MIB
const ROUNDS = Number(options.rounds)
const PARTS = options.only.split(',')

/** A conversion may take this much longer than the slowest of its parts alone: 1 / 0.85. */
const WHOLE_GOAL = 0.85
const TWO_THREADS_GOAL = 1.9
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

async function reportWhole(folder) {
  const { label, cores, rows } = await benchConversions(folder, SIZE, ROUNDS, options.case)
  say(`## Whole conversions of ${mib(SIZE)}, in process, ${label}`)
  say()
  const head = [
    'read',
    'kernel',
    'write',
    'SHA-256',
    'work',
    'whole',
    'rate',
    'of the slowest',
    `goal ${WHOLE_GOAL * 100} %`,
  ]
  const percent = (value) => `${(value * 100).toFixed(0)} %`
  table(
    ['conversion', ...head, 'of slowest or work'],
    rows.map((row) => [
      row.title,
      ...['read', 'kernel', 'write', 'hash', 'work', 'whole'].map((key) => seconds(row[key])),
      rate(row.report.readBytes, row.whole),
      percent(row.part),
      judge(row.part, WHOLE_GOAL),
      percent(row.bound),
    ]),
  )
  say(
    '"Of the slowest" is the slowest of read, kernel and write alone, as a part of the whole. "Work" is the processor',
  )
  say(
    `time of those and of SHA-256, over ${cores} cores: where files lie in memory, no conversion can take less. The whole`,
  )
  say('also plans, validates, and compares samples with the source.')
  for (const { title, report, plan } of rows)
    say(`- ${title}: ${mib(report.peakBytes)} of buffers, ${mib(plan.peakBytes)} planned`)
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
if (PARTS.includes('llama')) writeSynthetic(model, SIZE)
if (PARTS.includes('whole')) await reportWhole(folder)
if (PARTS.includes('fake')) await reportFake(folder)
if (PARTS.includes('llama')) await reportLlama(model, folder)
