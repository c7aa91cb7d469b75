// Whole conversions, beside what each of their parts takes alone: reading all weights, all kernels on weights in memory,
// writing as many bytes, and hashing them. Everything in turns in one run.
import { createHash } from 'node:crypto'
import { rmSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import path from 'node:path'
import { createApi, createNodeHost } from '../../dist/node/index.js'
import { writeSynthetic } from '../long/synthetic.mjs'

const MIB = 2 ** 20
/** As in src/api: what a tile reads or writes at the most, and how often a file is flushed. */
const TILE_BYTES = 4 * MIB
const CHECKPOINT_BYTES = 64 * MIB
/** Inputs of a GPTQ matrix that are decoded at once, beside as many outputs as make a tile. */
const STRIP_COLUMNS = 2048
const GPTQ = { kind: 'gptq', bits: 4, group: 128, zeroOffset: 1, actOrder: true }

/** From which model to what, and what a planned tensor takes to compute: a list of steps of one slot. */
const CASES = [
  ...['f16', 'q8_0', 'q4_k_m'].map((quant) => ({
    title: `bf16 -> GGUF ${quant}`,
    source: 'model',
    target: 'gguf',
    options: { quant },
    steps: castSteps,
  })),
  { title: 'bf16 -> MLX 4-bit', source: 'model', target: 'mlx', options: { quant: '4bit' }, steps: mlxSteps },
  { title: 'GPTQ -> GGUF q4_k_m', source: 'gptq', target: 'gguf', options: { quant: 'q4_k_m' }, steps: gptqSteps },
  { title: 'GPTQ -> bf16', source: 'gptq', target: 'hf', options: { dtype: 'bf16' }, steps: gptqSteps },
]

const median = (numbers) => numbers.toSorted((a, b) => a - b)[numbers.length >> 1]
const product = (shape) => shape.reduce((all, size) => all * size, 1)

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

/** Pieces of at most `most` of `count`. */
function pieces(count, most) {
  return Array.from({ length: Math.ceil(count / most) }, (_, i) => Math.min(most, count - i * most))
}

// --- the kernels of a plan ------------------------------------------------------------------------------------------

const cast = (backend, from, to, input, output, elements) =>
  backend.prepare({ kind: 'cast', from, to }).run(input, output, elements)

/** Values that come as they are need no kernel, but they are looked through for NaN. */
function castSteps({ shape, from, to, bytes }) {
  const elements = product(shape)
  const most = Math.floor(TILE_BYTES / Math.max(2, bytes / elements) / 256) * 256
  return pieces(elements, most).map(
    (count) => (backend, slot) => cast(backend, from, to, slot.values, slot.made, count),
  )
}

/** Codes stand for their scales and biases, too. */
function mlxSteps({ name, shape, from, to, bytes }) {
  if (/(scales|biases)$/.test(name)) return []
  if (to !== 'u32') return castSteps({ shape, from, to, bytes })
  const scheme = { kind: 'affine', bits: 4, group: 64 }
  return pieces(product(shape) / 8, TILE_BYTES / 2 / 64).map((groups) => async (backend, slot) => {
    const parts = {
      codes: slot.made.subarray(0, groups * 32),
      scales: slot.floats.subarray(0, groups * 4),
      biases: slot.floats.subarray(TILE_BYTES, TILE_BYTES + groups * 4),
    }
    const values = slot.values.subarray(0, groups * 128)
    await backend.prepareScheme({ kind: 'quantize', from, scheme }).run(parts, values, groups, 64)
    await cast(backend, 'f32', from, parts.scales, slot.made, groups)
    await cast(backend, 'f32', from, parts.biases, slot.made, groups)
  })
}

/** Matrices are decoded, then cast; embeddings and norms are not quantised. */
function gptqSteps({ name, shape, from, to, bytes }) {
  if (shape.length < 2 || /embd|embed|lm_head|^output\.weight/.test(name)) return castSteps({ shape, from, to, bytes })
  const elements = product(shape)
  return pieces(elements, TILE_BYTES / 2).map((count) => async (backend, slot) => {
    const rows = Math.ceil(count / STRIP_COLUMNS / 32) * 32
    const groups = STRIP_COLUMNS / GPTQ.group
    const parts = {
      codes: slot.codes.subarray(0, (rows * STRIP_COLUMNS) / 2),
      zeros: slot.codes.subarray(0, (groups * rows) / 2),
      scales: slot.scales.subarray(0, groups * rows * 4),
      groups: slot.groups,
    }
    const values = slot.floats.subarray(0, rows * STRIP_COLUMNS * 4)
    await backend.prepareScheme({ kind: 'dequantize', scheme: GPTQ }).run(parts, values, rows, STRIP_COLUMNS)
    await cast(backend, 'f32', to, slot.floats, slot.made, count)
  })
}

/** Buffers for one tile in work; weights of the model are its values. */
async function makeSlot(arena, source, index, count) {
  const slot = {
    values: arena.alloc(TILE_BYTES),
    made: arena.alloc(2 * TILE_BYTES),
    floats: arena.alloc(2.5 * TILE_BYTES),
    codes: arena.alloc(TILE_BYTES),
    scales: arena.alloc(TILE_BYTES),
    groups: arena.alloc(STRIP_COLUMNS * 4),
  }
  // behind the header, on whole values
  await source.read(2 * Math.floor((source.size - TILE_BYTES) / (2 * count)) * index + 65_536, slot.values)
  slot.codes.forEach((_, i) => (slot.codes[i] = Math.imul(i, 0x9e3779b1) >>> 24))
  new Float32Array(slot.scales.buffer, slot.scales.byteOffset, TILE_BYTES / 4).fill(0.003)
  const groups = new Int32Array(slot.groups.buffer, slot.groups.byteOffset, STRIP_COLUMNS)
  groups.forEach((_, i) => (groups[i] = Math.floor(i / GPTQ.group)))
  return slot
}

/** All kernel work of a plan on weights that are in memory already; `model` is one in bf16. */
async function computeAll(host, model, steps, width) {
  const [backend] = await host.backends()
  const folder = await host.open({ kind: 'path', path: model })
  const file = (await folder.list()).find(({ path: name }) => name.endsWith('.safetensors'))
  const source = await folder.open(file.path)
  const slots = await Promise.all(Array.from({ length: width }, (_, i) => makeSlot(backend.arena, source, i, width)))
  await source.close()
  const free = [...slots]
  const ms = await timed(() =>
    inFlight(steps, width, async (step) => {
      const slot = free.pop()
      await step(backend, slot)
      free.push(slot)
    }),
  )
  for (const slot of slots) for (const buffer of Object.values(slot)) backend.arena.free(buffer)
  return ms
}

// --- reading, writing, hashing --------------------------------------------------------------------------------------

/** Reads all weights, a tile at a time, as many reads at once as a conversion has. */
async function readAll(host, model, width) {
  const folder = await host.open({ kind: 'path', path: model })
  const files = (await folder.list()).filter((file) => file.path.endsWith('.safetensors'))
  const sources = await Promise.all(files.map((file) => folder.open(file.path)))
  const tiles = sources.flatMap((source) =>
    Array.from({ length: Math.ceil(source.size / TILE_BYTES) }, (_, i) => ({ source, at: i * TILE_BYTES })),
  )
  const [backend] = await host.backends()
  const buffers = Array.from({ length: width }, () => backend.arena.alloc(TILE_BYTES))
  const free = [...buffers]
  const ms = await timed(() =>
    inFlight(tiles, width, async ({ source, at }) => {
      const buffer = free.pop()
      await source.read(at, buffer.subarray(0, Math.min(TILE_BYTES, source.size - at)))
      free.push(buffer)
    }),
  )
  for (const buffer of buffers) backend.arena.free(buffer)
  await Promise.all(sources.map((source) => source.close()))
  return ms
}

/** Writes as many bytes as a conversion does, in pieces, with its flushes; and removes them again. */
async function writeAll(host, out, sizes) {
  const [backend] = await host.backends()
  const buffer = backend.arena.alloc(TILE_BYTES)
  const output = await host.openOutput({ kind: 'path', path: out })
  const sink = await output.create('write-only.bin', { keep: 0 })
  let flushing = Promise.resolve()
  const ms = await timed(async () => {
    let at = 0
    let flushed = 0
    for (const size of sizes) {
      await sink.write(buffer.subarray(0, size), at)
      at += size
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
function hashAll(sizes) {
  const buffer = Buffer.alloc(TILE_BYTES, 7)
  const hash = createHash('sha256')
  return timed(async () => {
    for (const size of sizes) hash.update(buffer.subarray(0, size))
    hash.digest()
  })
}

// --------------------------------------------------------------------------------------------------------------------

async function convert(api, request) {
  const job = api.start(request)
  for (;;) {
    for (const event of await job.next()) {
      if (event.type === 'done') return event.report
      if (event.type === 'failed') throw new Error(`${event.error.code}: ${event.error.message}`)
    }
  }
}

async function measure(host, api, models, out, { title, source, target, options, steps }, rounds) {
  const [backend] = await host.backends()
  const width = backend.threads + 2
  const model = models[source]
  const place = (folder) => ({ kind: 'path', path: folder })
  const name = title.replaceAll(/\W+/g, '-')
  const request = {
    input: place(model),
    target,
    options,
    output: place(out),
    name,
    overwrite: true,
    restart: true,
  }
  const plan = await api.plan(request)
  const sizes = pieces(plan.writeBytes, TILE_BYTES)
  const work = plan.tensors.flatMap(steps)
  const samples = []
  let report
  for (let round = 0; round < rounds; round++) {
    const parts = {
      read: await readAll(host, model, width),
      kernel: await computeAll(host, models.model, work, width),
      write: await writeAll(host, out, sizes),
      hash: await hashAll(sizes),
    }
    report = await convert(api, request)
    const busy = Object.values(parts).reduce((sum, one) => sum + one.work, 0) / availableParallelism()
    const slowest = Math.max(parts.read.ms, parts.kernel.ms, parts.write.ms)
    samples.push({
      read: parts.read.ms,
      kernel: parts.kernel.ms,
      write: parts.write.ms,
      hash: parts.hash.ms,
      work: busy,
      whole: report.elapsedMs,
      part: slowest / report.elapsedMs,
      bound: Math.max(slowest, busy) / report.elapsedMs,
    })
  }
  rmSync(out, { recursive: true, force: true })
  const middle = Object.fromEntries(
    Object.keys(samples[0]).map((key) => [key, median(samples.map((sample) => sample[key]))]),
  )
  return { title, plan, report, ...middle }
}

/**
 * Measures conversions of models of `bytes` bytes in `folder`; only those whose title contains `only`. Times are in
 * milliseconds, medians of so many rounds.
 */
export async function benchConversions(folder, bytes, rounds, only = '') {
  const cases = CASES.filter(({ title }) => title.includes(only))
  const models = { model: path.join(folder, 'whole-model'), gptq: path.join(folder, 'whole-gptq') }
  writeSynthetic(models.model, bytes)
  if (cases.some(({ source }) => source === 'gptq')) writeSynthetic(models.gptq, bytes, { gptq: true })
  const host = createNodeHost()
  const api = createApi(host)
  const [backend] = await host.backends()
  const rows = []
  for (const one of cases) rows.push(await measure(host, api, models, path.join(folder, 'whole'), one, rounds))
  await api.close()
  for (const model of Object.values(models)) rmSync(model, { recursive: true, force: true })
  return { label: backend.label, cores: availableParallelism(), rows }
}
