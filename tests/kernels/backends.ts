import { pathToFileURL } from 'node:url'
import { expect } from 'vitest'
import { nodeSpawn } from '../../companion/threads.ts'
import { bytesOf, type DType } from '../../src/core/dtype.ts'
import type { Backend, KernelResult } from '../../src/kernels/backend.ts'
import { createReferenceBackend } from '../../src/kernels/reference/index.ts'
import { createWasmBackend } from '../../src/kernels/wasm/index.ts'
import { bundleNodeWorker } from '../setup/bundle-node-worker.ts'

export const FLOATS: readonly DType[] = ['f32', 'f16', 'bf16']
/** The block types that values can become as they are. */
export const BLOCKS: readonly DType[] = [
  'q8_0',
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
  'iq3_xxs',
  'iq3_s',
  'mxfp4',
  'tq1_0',
  'tq2_0',
  'q1_0',
  'q2_0',
  'iq1_m',
  'iq2_s',
]
/** Those whose values are entries of grids. */
export const GRIDS: readonly DType[] = ['iq1_s', 'iq1_m', 'iq2_xxs', 'iq2_xs', 'iq2_s', 'iq3_xxs', 'iq3_s']
/** Those that values cannot become without an importance matrix. */
export const ONLY_WEIGHTED: readonly DType[] = GRIDS.filter((type) => !BLOCKS.includes(type))
/** Those that take an importance matrix. */
export const WEIGHTED: readonly DType[] = [
  ...BLOCKS.filter((type) => !['q8_0', 'mxfp4', 'tq1_0', 'tq2_0', 'q1_0', 'q2_0'].includes(type)),
  ...ONLY_WEIGHTED,
]

export const reference = createReferenceBackend()

/** The WASM backend on so many threads; 0 is the calling thread. */
export async function wasm(threads: number): Promise<Backend> {
  const url = pathToFileURL(await bundleNodeWorker())
  const backend = await createWasmBackend({ spawn: nodeSpawn(url), threads })
  expect(backend.limitation).toBeNull()
  expect(backend.threads).toBe(Math.max(threads, 1))
  return backend
}

export function bytesView(values: Float32Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
}

export function floatsView(bytes: Uint8Array): Float32Array {
  return new Float32Array(bytes.slice().buffer)
}

/** Runs one op over ordinary buffers; with importances the rows have as many columns. */
export async function run(
  backend: Backend,
  from: DType,
  to: DType,
  input: Uint8Array,
  elements: number,
  importance?: Float32Array,
): Promise<KernelResult & { readonly output: Uint8Array }> {
  const output = new Uint8Array(bytesOf(to, elements))
  if (importance === undefined) {
    return { ...(await backend.prepare({ kind: 'cast', from, to }).run(input, output, elements)), output }
  }
  const kernel = backend.prepare({ kind: 'cast', from, to, weighted: true })
  const rows = { values: bytesView(importance), columns: importance.length }
  return { ...(await kernel.run(input, output, elements, undefined, rows)), output }
}

/** Converts what must convert. */
export async function convert(
  backend: Backend,
  from: DType,
  to: DType,
  input: Uint8Array,
  elements: number,
  importance?: Float32Array,
): Promise<Uint8Array> {
  const { bad, output } = await run(backend, from, to, input, elements, importance)
  expect(bad).toBeNull()
  return output
}

/** Fails with the first difference: printing megabytes helps nobody. */
export function expectSameBytes(got: Uint8Array, want: Uint8Array, what: string): void {
  expect(got.length, what).toBe(want.length)
  if (Buffer.compare(got, want) === 0) return
  const at = want.findIndex((byte, i) => byte !== got[i])
  const count = want.reduce((sum, byte, i) => sum + (byte === got[i] ? 0 : 1), 0)
  expect.fail(`${what}: byte ${at} is ${got[at]}, not ${want[at]} (${count} of ${want.length} differ)`)
}
