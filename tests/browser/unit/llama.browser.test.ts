import { afterEach, expect, test, vi } from 'vitest'
import { createLlamaRunner } from '../../../src/api/browser/llama.ts'
import type { Runner } from '../../../src/api/runner.ts'

const GIB = 2 ** 30

/** What llama.cpp in the page says to files of so many bytes; none is opened. */
function limitation(...sizes: readonly number[]): ReturnType<Runner['limitation']> {
  const open = (): Promise<never> => Promise.reject(new Error('nothing is to be opened'))
  const files = sizes.map((size, index) => ({ path: `${index}.gguf`, size }))
  return createLlamaRunner({ open, threads: 1 }).limitation({ place: { kind: 'sample' }, files, kind: 'decoder' })
}

afterEach(() => vi.restoreAllMocks())

test('models that fit its memory can be tried, those of more than 2 GiB too', async () => {
  expect(await limitation(4_000_000)).toBeNull()
  expect(await limitation(2.4 * GIB)).toBeNull()
})

test('what is too large for its memory is told with both sizes, and where it would run', async () => {
  for (const sizes of [[5 * GIB], [2 * GIB, 2 * GIB, GIB]]) {
    const said = await limitation(...sizes)
    expect(said).toContain('5.0 GiB')
    expect(said).toContain('4 GiB')
    expect(said).toContain('modelconvert check')
  }
})

test('a browser without 64-bit memory is told what it lacks', async () => {
  vi.spyOn(WebAssembly, 'Memory').mockImplementation(function () {
    throw new TypeError('cannot convert a BigInt to a number')
  })
  expect(await limitation(4_000_000)).toContain('no 64-bit memory for WebAssembly')
})
