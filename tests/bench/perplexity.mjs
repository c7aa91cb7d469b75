// node tests/bench/perplexity.mjs [--model ../shared/models/main] [--only q4_k_m,q8_0] [--windows 60] [--imatrix]
// Every type that can be written: bits for each weight, time, and perplexity as llama.cpp computes it, beside
// llama.cpp's own quantisation of the same weights; and sizes that were asked for, beside the mixture of that size.
// Prints the table of docs/GGUF.md. The figure is that of ../shared/quality.json: paragraphs tokenised without special
// tokens and joined, windows of 512 tokens without overlap, the mean of the 511 losses in each.
// With --imatrix all types are rounded with what tests/bench/imatrix.py measures on calib.txt (python3 with torch);
// without it those that need one are left out. Needs `npm run build:node` before it.
import { execFile, fork } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { parseArgs, promisify } from 'node:util'
import { createApi, createNodeHost } from '../../dist/node/index.js'
import { libraryFolder } from '../oracle/library.mjs'
import { sameTensors } from './gguf-hashes.mjs'

const ROOT = path.resolve(import.meta.dirname, '../..')
const { values: options } = parseArgs({
  options: {
    model: { type: 'string', default: path.join(ROOT, '../shared/models/main') },
    text: { type: 'string', default: path.join(ROOT, '../shared/text/eval.txt') },
    only: { type: 'string', default: '' },
    windows: { type: 'string', default: '60' },
    calibration: { type: 'string', default: path.join(ROOT, '../shared/text/calib.txt') },
    imatrix: { type: 'boolean', default: false },
  },
})
const WINDOW = 512
/** Of the calibration text: enough for means that hardly change. */
const CALIBRATION_WINDOWS = 40
/** Refused without importances. */
const WITH_IMPORTANCES = new Set([
  'iq1_s',
  'iq1_m',
  'iq2_xxs',
  'iq2_xs',
  'iq2_s',
  'iq2_m',
  'iq3_xxs',
  'iq3_xs',
  'q2_k_s',
])
/** Sizes that are asked for: those of these mixtures. */
const SIZES = ['q3_k_m', 'q4_k_m', 'q5_k_m']
/** Numbers of llama.cpp's `llama_ftype`. */
const FILE_TYPES = new Map(
  Object.entries({ f16: 1, q4_0: 2, q4_1: 3, q8_0: 7, q5_0: 8, q5_1: 9, q2_k: 10, q3_k_s: 11, q3_k_m: 12, q3_k_l: 13 })
    .concat(Object.entries({ q4_k_s: 14, q4_k_m: 15, q5_k_s: 16, q5_k_m: 17, q6_k: 18, iq4_nl: 25, iq4_xs: 30 }))
    .concat(Object.entries({ iq2_xxs: 19, iq2_xs: 20, q2_k_s: 21, iq3_xs: 22, iq3_xxs: 23, iq1_s: 24, iq3_s: 26 }))
    .concat(Object.entries({ iq3_m: 27, iq2_s: 28, iq2_m: 29, iq1_m: 31 }))
    .concat(Object.entries({ bf16: 32, tq1_0: 36, tq2_0: 37, mxfp4_moe: 38, q1_0: 40, q2_0: 41 })),
)

const { reason } = libraryFolder()
if (reason !== null) {
  process.stdout.write(`Skipped: ${reason}\n`)
  process.exit(0)
}
const folder = mkdtempSync(path.join(tmpdir(), 'modelconvert-perplexity-'))
const api = createApi(createNodeHost({ threads: 1 }))
const run = promisify(execFile)

/** llama.cpp in a process of its own. */
function startJudge() {
  const child = fork(path.join(ROOT, 'tests/oracle/llama.mjs'), {
    serialization: 'advanced',
    stdio: ['ignore', 'ignore', 'ignore', 'ipc'],
    execArgv: [],
  })
  const waiting = new Map()
  let next = 1
  child.on('message', ({ id, value, error }) => {
    const one = waiting.get(id)
    waiting.delete(id)
    if (error === undefined) one?.resolve(value)
    else one?.reject(new Error(error))
  })
  child.on('exit', (code, signal) => {
    for (const { reject } of waiting.values()) reject(new Error(`llama.cpp ended with ${code ?? signal}`))
  })
  const call = (op, rest) =>
    new Promise((resolve, reject) => {
      const id = next++
      waiting.set(id, { resolve, reject })
      child.send({ id, op, ...rest })
    })
  return { call, close: () => child.kill() }
}

const judge = startJudge()

async function tokensOf(text) {
  const tokens = []
  for (const paragraph of text.split('\n\n')) {
    if (paragraph.trim() === '') continue
    tokens.push(...(await judge.call('tokenize', { text: paragraph, addSpecial: false, parseSpecial: false })))
  }
  return tokens
}

let tokens = null

async function perplexity(file) {
  // threads that wait for each other would wait for whatever else the machine does
  await judge.call('open', { path: file, threads: 1 })
  tokens ??= await tokensOf(readFileSync(options.text, 'utf8'))
  const windows = Math.min(Number(options.windows), Math.floor(tokens.length / WINDOW))
  let sum = 0
  for (let i = 0; i < windows; i++) sum += await judge.call('loss', { ids: tokens.slice(i * WINDOW, (i + 1) * WINDOW) })
  return Math.exp(sum / (windows * (WINDOW - 1)))
}

/** The importances on the calibration text, as the oracle's JSON and as a file of llama-imatrix's older form. */
async function measureImportances() {
  const tokens = await tokensOf(readFileSync(options.calibration, 'utf8'))
  const count = Math.min(CALIBRATION_WINDOWS, Math.floor(tokens.length / WINDOW))
  const windows = Array.from({ length: count }, (_, i) => tokens.slice(i * WINDOW, (i + 1) * WINDOW))
  const [ids, json] = ['ids.json', 'importances.json'].map((name) => path.join(folder, name))
  writeFileSync(ids, JSON.stringify(windows))
  await run('/usr/bin/python3', [path.join(ROOT, 'tests/bench/imatrix.py'), options.model, ids, json])
  const int = (value) => Buffer.from(Int32Array.of(value).buffer)
  const means = Object.entries(JSON.parse(readFileSync(json, 'utf8')))
  const parts = means.flatMap(([name, values]) => {
    const sums = Float32Array.from(values, (value) => value * count)
    return [int(name.length), Buffer.from(name), int(count), int(values.length), Buffer.from(sums.buffer)]
  })
  // the library gets the very floats that the file gives back: the mean of a sum that was rounded
  const given = means.map(([name, values]) => [
    name,
    values.map((value) => Math.fround(Math.fround(value * count) / count)),
  ])
  writeFileSync(json, JSON.stringify(Object.fromEntries(given)))
  return { json, file: { name: 'calib.dat', bytes: new Uint8Array(Buffer.concat([int(means.length), ...parts])) } }
}

async function convert(name, given) {
  const request = {
    input: { kind: 'path', path: options.model },
    target: 'gguf',
    options: given,
    output: { kind: 'path', path: folder },
    name,
    overwrite: true,
  }
  const { tensors } = await api.plan(request)
  const weights = tensors.reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0)
  const bits = (tensors.reduce((sum, { bytes }) => sum + bytes, 0) * 8) / weights
  const control = api.start(request)
  for (;;) {
    for (const event of await control.next()) {
      if (event.type === 'failed') throw new Error(`${event.error.code}: ${event.error.message}`)
      if (event.type !== 'done') continue
      const file = path.join(folder, event.report.files[0].path)
      return { file, bits, ms: event.report.elapsedMs, bytes: statSync(file).size }
    }
  }
}

async function quantizeByLlama(source, quant, importances) {
  const target = path.join(folder, 'theirs.gguf')
  const script = path.join(ROOT, 'tests/oracle/llama-quantize.mjs')
  const { stdout } = await run(process.execPath, [
    script,
    source,
    target,
    String(FILE_TYPES.get(quant)),
    '1',
    JSON.stringify(importances === null ? {} : { imatrix: importances.json }),
  ])
  return { file: target, ms: JSON.parse(stdout).ms }
}

function line(cells) {
  process.stdout.write(`| ${cells.join(' | ')} |\n`)
}

try {
  const spec = (await api.formats()).find(({ id }) => id === 'gguf').options.find(({ name }) => name === 'quant')
  const only = options.only === '' ? null : options.only.split(',')
  const quants = spec.kind.choices.map(({ value }) => value).filter((value) => only === null || only.includes(value))
  const exact = await convert('f32', { quant: 'f32' })
  line(['type', 'bits a weight', 'time', "llama.cpp's", 'perplexity', "llama.cpp's"])
  line(['---', '---:', '---:', '---:', '---:', '---:'])
  const sizes = new Map()
  await judge.call('open', { path: exact.file, threads: 1 })
  const importances = options.imatrix ? await measureImportances() : null
  for (const quant of quants) {
    if (quant === 'copy' || (importances === null && WITH_IMPORTANCES.has(quant))) continue
    const imatrix = importances === null ? {} : { imatrix: importances.file }
    const ours = quant === 'f32' ? exact : await convert(quant, { quant, ...imatrix })
    sizes.set(quant, ours.bytes)
    const cells = [quant.toUpperCase(), ours.bits.toFixed(2), `${(ours.ms / 1000).toFixed(2)} s`]
    const figure = (await perplexity(ours.file)).toFixed(4)
    if (!FILE_TYPES.has(quant)) {
      line([...cells, '', figure, ''])
      continue
    }
    const theirs = await quantizeByLlama(exact.file, quant, importances)
    // what llama.cpp computes depends on the tensors alone
    const other = sameTensors(ours.file, theirs.file) ? 'same bytes' : (await perplexity(theirs.file)).toFixed(4)
    line([...cells, `${(theirs.ms / 1000).toFixed(2)} s`, figure, other])
  }
  for (const quant of SIZES) {
    const bytes = sizes.get(quant)
    if (bytes === undefined) continue
    const ours = await convert('sized', {
      'target-size': String(bytes),
      ...(importances === null ? {} : { imatrix: importances.file }),
    })
    const figure = (await perplexity(ours.file)).toFixed(4)
    line([`size of ${quant.toUpperCase()}`, ours.bits.toFixed(2), `${(ours.ms / 1000).toFixed(2)} s`, '', figure, ''])
  }
} finally {
  judge.close()
  await api.close()
  rmSync(folder, { recursive: true, force: true })
}
