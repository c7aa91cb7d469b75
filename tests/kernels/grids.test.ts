import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { bytesOf, DTYPES, type DType } from '../../src/core/dtype.ts'
import type { Backend } from '../../src/kernels/backend.ts'
import { CODECS } from '../../src/kernels/reference/index.ts'
import { noGgml, startGgml, type Ggml } from '../oracle/ggml.ts'
import { bytesView, convert, expectSameBytes, GRIDS, reference, run, wasm } from './backends.ts'
import { distributions, importances, randoms } from './distributions.ts'

/** So many random blocks name each of a grid's 2048 entries some thirty times. */
const ELEMENTS = 256 * 2001
const COLUMNS = 256
/** What ggml quantises to some of these types only with importances, which must not be all 0. */
const MATRIX = COLUMNS * 2
const INFINITY = 0x7c00

/** Blocks of any bits. */
function randomBlocks(type: DType, elements: number): Uint8Array {
  const random = randoms(7)
  return Uint8Array.from({ length: bytesOf(type, elements) }, () => random() * 256)
}

/** Gives a block an f16 scale. */
function setScale(type: DType, block: Uint8Array, half: number): void {
  const bytes = new DataView(block.buffer, block.byteOffset, block.byteLength)
  for (const at of CODECS[type]!.scales) bytes.setUint16(at, half, true)
  if (type !== 'iq1_m') return
  for (let i = 0; i < 4; i++) block[49 + i * 2] = (block[49 + i * 2]! & 15) | (((half >> (4 * i)) & 15) << 4)
}

function blockOf(type: DType, blocks: Uint8Array, i: number): Uint8Array {
  const { bytes } = DTYPES[type]
  return blocks.subarray(i * bytes, (i + 1) * bytes)
}

const backends: [string, Backend][] = [['reference', reference]]
beforeAll(async () => {
  backends.push(['wasm', await wasm(0)], ['wasm, 2 threads', await wasm(2)])
})
afterAll(async () => {
  for (const [, backend] of backends) await backend.close()
})

/** Those that read a type. */
function readers(type: DType): readonly [string, Backend][] {
  const all = backends.filter(([, backend]) => backend.speed({ kind: 'cast', from: type, to: 'f32' }) > 0)
  expect(all).toHaveLength(3)
  return all
}

if (noGgml !== null) test.skip(`grids equal to ggml's: ${noGgml}`)

describe.skipIf(noGgml !== null)('dequantising as ggml', () => {
  let ggml: Ggml
  beforeAll(() => (ggml = startGgml()))
  afterAll(() => ggml?.close())

  for (const type of GRIDS) {
    test(`${type}: random blocks of all finite scales`, async () => {
      const blocks = randomBlocks(type, ELEMENTS)
      const random = randoms(8)
      for (let i = 0; i < ELEMENTS / 256; i++) {
        const half = Math.floor(random() * INFINITY) | (random() < 0.5 ? 0x8000 : 0)
        setScale(type, blockOf(type, blocks, i), [0, 0x8000, 1, 0x7bff][i] ?? half)
      }
      const want = bytesView(await ggml.decode(type, blocks))
      for (const [label, backend] of readers(type)) {
        expectSameBytes(await convert(backend, type, 'f32', blocks, ELEMENTS), want, label)
      }
    })

    test(`${type}: what ggml quantises by importance`, async () => {
      const importance = importances(COLUMNS).get('plain')!
      for (const [name, values] of distributions(MATRIX)) {
        const blocks = await ggml.encode(type, values, importance)
        const want = bytesView(await ggml.decode(type, blocks))
        for (const [label, backend] of readers(type)) {
          expectSameBytes(await convert(backend, type, 'f32', blocks, MATRIX), want, `${label}: ${name}`)
        }
      }
    })
  }
})

for (const type of GRIDS) {
  test(`${type}: a block whose scale is Inf or NaN is blamed, also where it is copied`, async () => {
    for (const half of [INFINITY, INFINITY | 0x8000, INFINITY | 1, 0xffff]) {
      const blocks = randomBlocks(type, 256 * 11)
      for (let i = 0; i < 11; i++) setScale(type, blockOf(type, blocks, i), i === 9 ? half : 0x3c00)
      for (const [, backend] of readers(type)) {
        expect((await run(backend, type, 'f32', blocks, 256 * 11)).bad).toBe(256 * 9)
      }
      expect((await run(reference, type, type, blocks, 256 * 11)).bad).toBe(256 * 9)
      expect((await run(reference, type, type, blocks, 256 * 9)).output).toEqual(
        blocks.subarray(0, bytesOf(type, 256 * 9)),
      )
    }
  })
}
