import { readFileSync } from 'node:fs'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { bytesOf, type DType } from '../../src/core/dtype.ts'
import type { Backend } from '../../src/kernels/backend.ts'
import { noGgml, startGgml, type Ggml } from '../oracle/ggml.ts'
import { MODELS, noModels } from '../oracle/models.ts'
import {
  BLOCKS,
  bytesView,
  convert,
  expectSameBytes,
  floatsView,
  FLOATS,
  reference,
  wasm,
  WEIGHTED,
} from './backends.ts'
import { distributions, importances } from './distributions.ts'

/** An odd number of blocks: the WASM kernels take them in twos and fours, through f32 in chunks of eight. */
const ELEMENTS = 256 * 37
/** Of the matrices that are quantised by importance: five rows, which are no power of two. */
const COLUMNS = 256 * 7
const MATRIX = COLUMNS * 5
/** The importances that the reference too is tested with here; elsewhere WASM is compared with it. */
const REFERENCE_KINDS = new Set(['half of them zero', 'of all magnitudes'])
/** ggml alone takes half a minute to make its tables for the grids of IQ1 and IQ2_S. */
const MODEL_MS = 900_000
/** What ggml makes Inf of, our kernels refuse; that is tested elsewhere. */
const F16_MAX = 65504

if (noGgml !== null) test.skip(`bytes equal to ggml's: ${noGgml}`)

describe.skipIf(noGgml !== null)('bytes equal to ggml', () => {
  let ggml: Ggml
  const backends: [string, Backend][] = []
  beforeAll(async () => {
    ggml = startGgml()
    backends.push(['reference', reference], ['wasm', await wasm(0)], ['wasm, 1 thread', await wasm(1)])
    backends.push(['wasm, 2 threads', await wasm(2)])
  })
  afterAll(async () => {
    ggml?.close()
    for (const [, backend] of backends) await backend.close()
  })

  for (const [name, values] of distributions(ELEMENTS)) {
    test(`quantising: ${name}`, async () => {
      for (const from of FLOATS) {
        const input = await convert(reference, 'f32', from, bytesView(values), ELEMENTS)
        const rounded = floatsView(await convert(reference, from, 'f32', input, ELEMENTS))
        for (const to of BLOCKS) {
          const want = await ggml.encode(to, rounded)
          for (const [label, backend] of backends) {
            expectSameBytes(await convert(backend, from, to, input, ELEMENTS), want, `${label}: ${from} -> ${to}`)
          }
        }
      }
    })

    test(`dequantising: ${name}`, async () => {
      for (const type of BLOCKS) {
        const blocks = await ggml.encode(type, values)
        const want = bytesView(await ggml.decode(type, blocks))
        for (const [label, backend] of backends) {
          expectSameBytes(await convert(backend, type, 'f32', blocks, ELEMENTS), want, `${label}: ${type} -> f32`)
        }
      }
    })

    test(`quantising by importance: ${name}`, async () => {
      const part = values.subarray(0, MATRIX)
      for (const from of FLOATS) {
        const input = await convert(reference, 'f32', from, bytesView(part), MATRIX)
        const rounded = floatsView(await convert(reference, from, 'f32', input, MATRIX))
        for (const [kind, importance] of importances(COLUMNS)) {
          for (const to of WEIGHTED) {
            const want = await ggml.encode(to, rounded, importance)
            for (const [label, backend] of backends) {
              // The reference is slow, and after f16 and bf16 have become f32 nothing differs.
              if (backend === reference && (from !== 'f32' || !REFERENCE_KINDS.has(kind))) continue
              const got = await convert(backend, from, to, input, MATRIX, importance)
              expectSameBytes(got, want, `${label}: ${from} -> ${to}, importances ${kind}`)
            }
          }
        }
      }
    })

    test(`f16 and bf16: ${name}`, async () => {
      for (const type of ['f16', 'bf16'] as const) {
        const halves = await ggml.encode(type, values)
        const floats = bytesView(await ggml.decode(type, halves))
        for (const [label, backend] of backends) {
          expectSameBytes(
            await convert(backend, 'f32', type, bytesView(values), ELEMENTS),
            halves,
            `${label}: f32 -> ${type}`,
          )
          expectSameBytes(await convert(backend, type, 'f32', halves, ELEMENTS), floats, `${label}: ${type} -> f32`)
        }
      }
    })
  }

  test('powers of two, and what lies just below them, give MXFP4 the exponent that log2f gives', async () => {
    const values = new Float32Array(32 * 277 * 60)
    const bits = new Int32Array(values.buffer)
    for (let exponent = 0; exponent < 277; exponent++) {
      for (let below = 0; below < 60; below++) {
        const at = (exponent * 60 + below) * 32
        values[at + (below % 32)] = 2 ** (exponent - 149)
        bits[at + (below % 32)]! -= below
        values[at + ((below + 7) % 32)] = -(2 ** (exponent - 150))
      }
    }
    const finite = values.map((value) => (Number.isFinite(value) ? value : 0))
    const want = await ggml.encode('mxfp4', finite)
    for (const [label, backend] of backends) {
      expectSameBytes(await convert(backend, 'f32', 'mxfp4', bytesView(finite), finite.length), want, label)
    }
  })

  test('all halves there are, both ways, and all neighbours of what rounds to them', async () => {
    for (const type of ['f16', 'bf16'] as const) {
      const infinity = type === 'f16' ? 0x7c00 : 0x7f80
      const finite = Uint16Array.from({ length: 65536 }, (_, i) => i).filter((half) => (half & 0x7fff) < infinity)
      const halves = new Uint8Array(finite.buffer)
      const floats = await ggml.decode(type, halves)
      for (const [label, backend] of backends) {
        const got = await convert(backend, type, 'f32', halves, finite.length)
        expectSameBytes(got, bytesView(floats), `${label}: ${type} -> f32`)
      }
      // Between each two neighbours: the tie, and one step to both sides of it.
      const sorted = [...floats].toSorted((a, b) => a - b)
      const near = new Float32Array((sorted.length - 1) * 3)
      const bits = new Int32Array(near.buffer)
      for (let i = 0; i + 1 < sorted.length; i++) {
        near[i * 3] = sorted[i]! / 2 + sorted[i + 1]! / 2
        bits[i * 3 + 1] = bits[i * 3]! - 1
        bits[i * 3 + 2] = bits[i * 3]! + 1
      }
      const usable = near.filter((value) => Number.isFinite(value))
      const want = await ggml.encode(type, usable)
      for (const [label, backend] of backends) {
        expectSameBytes(
          await convert(backend, 'f32', type, bytesView(usable), usable.length),
          want,
          `${label}: f32 -> ${type}`,
        )
      }
    }
  })

  test.skipIf(noModels !== null)(
    `the weights of the main model${noModels === null ? '' : ` (${noModels})`}`,
    async () => {
      for (const { name, dtype, bytes, elements } of weights('main')) {
        const floats = floatsView(await convert(reference, dtype, 'f32', bytes, elements))
        for (const to of BLOCKS) {
          const whole = elements - (elements % 256)
          const want = await ggml.encode(to, floats.subarray(0, whole))
          for (const [label, backend] of backends) {
            // The reference does half a million elements a second: a piece of every tensor is enough for it.
            const count = backend === reference ? Math.min(whole, 4096) : whole
            const got = await convert(backend, dtype, to, bytes, count)
            expectSameBytes(got, want.subarray(0, bytesOf(to, count)), `${label}: ${name} -> ${to}`)
          }
        }
        expect(floats.every((value) => Math.abs(value) <= F16_MAX)).toBe(true)
      }
    },
    MODEL_MS,
  )
})

interface Weights {
  readonly name: string
  readonly dtype: DType
  readonly bytes: Uint8Array
  readonly elements: number
}

/** The tensors of a model, from all its safetensors files. */
function* weights(model: string): Generator<Weights> {
  const folder = path.join(MODELS, model)
  const index = JSON.parse(readFileSync(path.join(folder, 'config.json'), 'utf8')) as object
  expect(index).toBeTypeOf('object')
  const file = readFileSync(path.join(folder, 'model.safetensors'))
  const headerBytes = Number(file.readBigUInt64LE(0))
  const header = JSON.parse(file.toString('utf8', 8, 8 + headerBytes)) as Record<
    string,
    { dtype: string; data_offsets: [number, number] }
  >
  for (const [name, entry] of Object.entries(header)) {
    if (name === '__metadata__') continue
    const dtype = entry.dtype.toLowerCase() as DType
    const [start, end] = entry.data_offsets
    const bytes = new Uint8Array(file.subarray(8 + headerBytes + start, 8 + headerBytes + end))
    yield { name, dtype, bytes, elements: bytes.length / bytesOf(dtype, 1) }
  }
}
