/*
 * The kernels for quantisations in parts (MLX, GPTQ, AWQ, compressed-tensors, FP8), one thread each: against the
 * TypeScript reference, a copy of as many bytes as the values have in f32, and ggml's own code for the type that is most
 * alike; all in turns in one run. `node tests/bench/schemes.mjs`, after `npm run build:node`, or `benchSchemes()`.
 */
import { fileURLToPath } from 'node:url'
import { createNodeHost } from '../../dist/node/index.js'
import { loadGgml } from '../oracle/ggml.mjs'
import { libraryFolder } from '../oracle/library.mjs'

/** A tile of a conversion: 2^20 values. */
const [ROWS, COLUMNS] = [256, 4096]
const VALUES = ROWS * COLUMNS
const ROUNDS = 25
const WARM_UP = 5
/** The reference takes so much longer that a few rounds tell. */
const REFERENCE_ROUNDS = 3

const affine = (bits, group = 64) => ({ kind: 'affine', bits, group })
const gptq = (bits, actOrder = false) => ({ kind: 'gptq', bits, group: 128, zeroOffset: 1, actOrder })
const packed = (bits, symmetric, actOrder = false) => ({ kind: 'packed', bits, group: 128, symmetric, actOrder })
const scaled = (codes, rows, columns) => ({ kind: 'scaled', codes, rows, columns, symmetric: true })

/** What is measured, and ggml's type that is most alike. */
const CASES = [
  ...[2, 3, 4, 5, 6, 8].map((bits) => ['quantize', 'bf16', affine(bits), { 4: 'q4_1', 5: 'q5_1', 8: 'q8_0' }[bits]]),
  ['quantize', 'f32', affine(4), 'q4_1'],
  ['quantize', 'f16', affine(4), 'q4_1'],
  ...['mxfp4', 'mxfp8', 'nvfp4'].map((kind) => ['quantize', 'bf16', { kind }, kind === 'mxfp4' ? kind : undefined]),
  ...[2, 3, 4, 5, 6, 8].map((bits) => ['dequantize', null, affine(bits), { 4: 'q4_1', 5: 'q5_1', 8: 'q8_0' }[bits]]),
  ...['mxfp4', 'mxfp8', 'nvfp4'].map((kind) => ['dequantize', null, { kind }, kind === 'mxfp4' ? kind : undefined]),
  ...[2, 3, 4, 8].map((bits) => ['dequantize', null, gptq(bits), { 4: 'q4_0', 8: 'q8_0' }[bits]]),
  ['dequantize', null, gptq(4, true), 'q4_0'],
  ['dequantize', null, { kind: 'awq', layout: 'gemm', group: 128 }, 'q4_0'],
  ['dequantize', null, { kind: 'awq', layout: 'gemv', group: 128 }, 'q4_0'],
  ['dequantize', null, packed(4, true), 'q4_0'],
  ['dequantize', null, packed(4, false), 'q4_0'],
  ['dequantize', null, packed(8, true), 'q8_0'],
  ['dequantize', null, packed(4, true, true), 'q4_0'],
  ['dequantize', null, scaled('f8_e4m3', 128, 128), 'q8_0'],
  ['dequantize', null, scaled('f8_e5m2', 1, COLUMNS), 'q8_0'],
  ['dequantize', null, scaled('i8', 1, COLUMNS), 'q8_0'],
]

const median = (values) => values.toSorted((a, b) => a - b)[values.length >> 1]

function randoms(seed) {
  let state = seed
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 32
  }
}

/** The sizes of a scheme's parts, in bytes. */
function partSizes(scheme) {
  const groups = scheme.group === undefined ? 0 : VALUES / scheme.group
  switch (scheme.kind) {
    case 'affine':
      return { codes: (VALUES * scheme.bits) / 8, scales: groups * 4, biases: groups * 4 }
    case 'mxfp4':
      return { codes: VALUES / 2, scales: VALUES / 32 }
    case 'mxfp8':
      return { codes: VALUES, scales: VALUES / 32 }
    case 'nvfp4':
      return { codes: VALUES / 2, scales: VALUES / 16 }
    case 'gptq':
    case 'packed':
      return {
        codes: (VALUES * scheme.bits) / 8,
        ...(scheme.symmetric === true ? {} : { zeros: (groups * scheme.bits) / 8 }),
        scales: groups * 4,
        ...(scheme.actOrder ? { groups: COLUMNS * 4 } : {}),
      }
    case 'awq':
      return { codes: VALUES / 2, zeros: groups / 2, scales: groups * 4 }
    default:
      return {
        codes: VALUES,
        scales: 4 * Math.ceil(ROWS / scheme.rows) * Math.ceil(COLUMNS / scheme.columns),
      }
  }
}

function fillPart(name, scheme, bytes, random) {
  const { buffer, byteOffset, length } = bytes
  if (name === 'groups') {
    const groups = new Int32Array(buffer, byteOffset, COLUMNS)
    groups.forEach((_, i) => (groups[i] = Math.floor(random() * (COLUMNS / scheme.group))))
  } else if (length * 8 < VALUES * 2 && scheme.kind !== 'mxfp4' && scheme.kind !== 'mxfp8' && scheme.kind !== 'nvfp4') {
    if (name === 'zeros') bytes.forEach((_, i) => (bytes[i] = random() * 256))
    else new Float32Array(buffer, byteOffset, length / 4).forEach((_, i, all) => (all[i] = 0.001 + random() * 0.001))
  } else if (name === 'scales') bytes.forEach((_, i) => (bytes[i] = 100 + random() * 16))
  // no NaN among 8-bit floats: their exponents stay below the highest
  else bytes.forEach((_, i) => (bytes[i] = scheme.kind === 'scaled' ? random() * 0x60 : random() * 256))
}

/**
 * Milliseconds of processor time, of all threads: ours runs in a worker, and on a busy machine being waked takes longer
 * than the work.
 */
async function timed(call) {
  const started = process.cpuUsage()
  await call()
  const { user, system } = process.cpuUsage(started)
  return (user + system) / 1000
}

/** Normal weights as a type's bytes. */
function weights(from, into) {
  const random = randoms(7)
  const values = Float32Array.from({ length: VALUES }, () => 0.03 * (random() + random() + random() - 1.5))
  if (from === 'f32') into.set(new Uint8Array(values.buffer))
  else if (from === 'bf16') {
    const bits = new Uint32Array(values.buffer)
    new Uint16Array(into.buffer, into.byteOffset, VALUES).set(Uint16Array.from(bits, (word) => word >>> 16))
  }
  return values
}

async function measure(wasm, reference, ggml, [kind, from, scheme, like]) {
  const { arena } = wasm
  const random = randoms(3)
  const sizes = partSizes(scheme)
  const parts = Object.fromEntries(Object.entries(sizes).map(([name, size]) => [name, arena.alloc(size)]))
  for (const [name, bytes] of Object.entries(parts)) fillPart(name, scheme, bytes, random)
  const values = arena.alloc(VALUES * (from === null || from === 'f32' ? 4 : 2))
  const floats = weights(from, values)
  if (from === 'f16') {
    const kernel = wasm.prepare({ kind: 'cast', from: 'f32', to: 'f16' })
    await kernel.run(new Uint8Array(floats.buffer), values, VALUES)
  }
  const isGroups = scheme.kind === 'affine' || /^(mx|nv)/.test(scheme.kind)
  const group = scheme.group ?? (scheme.kind === 'nvfp4' ? 16 : 32)
  const shape = isGroups ? [VALUES / group, group] : [ROWS, COLUMNS]
  const op = kind === 'quantize' ? { kind, from, scheme } : { kind, scheme }
  const run = (backend) => backend.prepareScheme(op).run(parts, values, ...shape)
  const check = async (backend) => {
    const { bad } = await run(backend)
    if (bad !== null) throw new Error(`${JSON.stringify(op)}: element ${bad} is bad`)
    const made = kind === 'quantize' ? Object.values(parts) : [values]
    return made.map((bytes) => bytes.slice())
  }
  const [want, got] = [await check(reference), await check(wasm)]
  if (want.some((bytes, i) => Buffer.compare(bytes, got[i]) !== 0))
    throw new Error(`${JSON.stringify(op)}: other bytes`)
  const copies = [arena.alloc(VALUES * 4), arena.alloc(VALUES * 4)]
  let theirs = null
  if (ggml !== null && like !== undefined) {
    const encoded = ggml.encode(like, floats)
    const decoded = new Float32Array(VALUES)
    theirs = () => (kind === 'quantize' ? ggml.encode(like, floats, encoded) : ggml.decode(like, encoded, decoded))
  }
  const samples = []
  for (let round = 0; round < ROUNDS + WARM_UP; round++) {
    const sample = {
      ours: await timed(() => run(wasm)),
      copy: await timed(() => copies[0].set(copies[1])),
      ggml: theirs === null ? null : await timed(theirs),
    }
    if (round >= WARM_UP) samples.push(sample)
  }
  const slow = []
  for (let round = 0; round < REFERENCE_ROUNDS; round++) slow.push(await timed(() => run(reference)))
  for (const buffer of [...Object.values(parts), values, ...copies]) arena.free(buffer)
  const ours = median(samples.map((sample) => sample.ours))
  const speed = (ms) => Math.round((VALUES * 4) / ms / 1e3)
  const { kind: name, ...rest } = scheme
  return {
    op: `${kind === 'quantize' ? `${from} -> ` : ''}${[name, ...Object.values(rest).map(String)].join(' ')}${kind === 'quantize' ? '' : ' -> f32'}`,
    oursMBs: speed(ours),
    referenceMBs: speed(median(slow)),
    gain: Number((median(slow) / ours).toFixed(1)),
    ofCopy: Number(median(samples.map((sample) => sample.copy / sample.ours)).toFixed(2)),
    like: like ?? '',
    ofGgml: theirs === null ? null : Number(median(samples.map((sample) => sample.ggml / sample.ours)).toFixed(2)),
  }
}

/** Measures all schemes that there are kernels for. */
export async function benchSchemes() {
  const host = createNodeHost({ threads: 1 })
  const [wasm, reference] = await host.backends()
  const ggml = libraryFolder().reason === null ? loadGgml() : null
  const rows = []
  for (const one of CASES) {
    const op = one[0] === 'quantize' ? { kind: one[0], from: one[1], scheme: one[2] } : { kind: one[0], scheme: one[2] }
    if (wasm.speed(op) > 0) rows.push(await measure(wasm, reference, ggml, one))
  }
  await wasm.close()
  return rows
}

if (process.argv[1] === fileURLToPath(import.meta.url)) console.table(await benchSchemes())
