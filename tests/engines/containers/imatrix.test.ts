import { describe, expect, test } from 'vitest'
import { AppError } from '../../../src/core/errors.ts'
import { importanceOf, readImatrix, writeImatrix, type Imatrix } from '../../../src/engines/containers/imatrix.ts'

const SAMPLE: Imatrix = {
  form: 'gguf',
  entries: new Map([
    ['blk.0.attn_q.weight', { sums: Float32Array.of(1024, 2048, 0, 3), counts: [1024] }],
    ['blk.0.ffn_up_exps.weight', { sums: Float32Array.of(10, 20, 30, 40, 7, 8), counts: [5, 10, 0] }],
  ]),
  datasets: ['calibration.txt'],
  chunkCount: 2,
  chunkSize: 512,
}

const importances = ({ entries, form }: Imatrix) =>
  Object.fromEntries([...entries].map(([name, entry]) => [name, [...importanceOf(entry, form)]]))

const EXPECTED = {
  'blk.0.attn_q.weight': [1, 2, 0, Math.fround(3 / 1024)],
  // an expert that saw nothing has ones
  'blk.0.ffn_up_exps.weight': [2, 4, 3, 4, 1, 1],
}

async function failure(bytes: Uint8Array): Promise<AppError> {
  const error: unknown = await readImatrix(bytes, 'm.dat').catch((thrown: unknown) => thrown)
  expect(error).toBeInstanceOf(AppError)
  return error as AppError
}

describe('importance matrices', () => {
  test('the GGUF form comes back as it was', async () => {
    const read = await readImatrix(writeImatrix(SAMPLE, 'gguf'), 'm.gguf')
    expect(read).toEqual(SAMPLE)
    expect(importances(read)).toEqual(EXPECTED)
  })

  test('the legacy form has the means times the calls', async () => {
    const bytes = writeImatrix(SAMPLE, 'legacy')
    const view = new DataView(bytes.buffer)
    // entries, length of the name, the name, calls, values
    expect([view.getInt32(0, true), view.getInt32(4, true)]).toEqual([2, 19])
    expect(new TextDecoder().decode(bytes.subarray(8, 27))).toBe('blk.0.attn_q.weight')
    expect([view.getInt32(27, true), view.getInt32(31, true), view.getFloat32(35, true)]).toEqual([2, 4, 2])
    const read = await readImatrix(bytes, 'm.dat')
    expect(read).toMatchObject({ form: 'legacy', chunkCount: 2, datasets: ['calibration.txt'] })
    expect(importances(read)).toEqual(EXPECTED)
    // and back: the same means, with as many tokens as there were calls
    const again = await readImatrix(writeImatrix({ ...read, chunkSize: 512 }, 'gguf'), 'm.gguf')
    expect(importances(again)).toEqual(EXPECTED)
    expect(again.entries.get('blk.0.attn_q.weight')?.counts).toEqual([1024])
  })

  test('a legacy file may end with its entries', async () => {
    const bytes = writeImatrix({ ...SAMPLE, datasets: [] }, 'legacy')
    const read = await readImatrix(bytes.subarray(0, bytes.length - 8), 'm.dat')
    expect(read).toMatchObject({ chunkCount: 0, datasets: [] })
  })

  test('a cut legacy file is truncated at every byte but those between its parts', async () => {
    const bytes = writeImatrix(SAMPLE, 'legacy')
    const whole = bytes.length - 8 - 'calibration.txt'.length
    for (let length = 0; length < bytes.length; length++) {
      if (length === whole || length === whole + 4) continue
      const { code } = await failure(bytes.subarray(0, length))
      expect(code, `${length} bytes`).toBe('truncated')
    }
  })

  test('a cut GGUF file is refused at every byte', async () => {
    const bytes = writeImatrix(SAMPLE, 'gguf')
    // the last tensor's padding may be absent
    for (let length = 4; length < bytes.length - 32; length += 3)
      expect(['truncated', 'malformed'], `${length} bytes`).toContain((await failure(bytes.subarray(0, length))).code)
  })

  test.each([
    ['a count below zero', (view: DataView) => view.setInt32(0, -1, true), /number of entries is -1/],
    ['no entries', (view: DataView) => view.setInt32(0, 0, true), /no entries/],
    ['a name of two gigabytes', (view: DataView) => view.setInt32(4, 0x7fffffff, true), /name's length of entry 0/],
    ['more values than bytes', (view: DataView) => view.setInt32(31, 0x7fffffff, true), /ends within the values/],
    ['no values', (view: DataView) => view.setInt32(31, 0, true), /has no values/],
    ['a NaN', (view: DataView) => view.setFloat32(35, Number.NaN, true), /blk\.0\.attn_q\.weight holds NaN at 0/],
  ])('%s is refused', async (_, spoil, says) => {
    const bytes = writeImatrix(SAMPLE, 'legacy')
    spoil(new DataView(bytes.buffer))
    expect((await failure(bytes)).message).toMatch(says)
  })

  test('a GGUF file of a model is no importance matrix', async () => {
    const bytes = writeImatrix(SAMPLE, 'gguf')
    const at = Buffer.from(bytes).indexOf('imatrix')
    bytes.set(new TextEncoder().encode('modelxx'), at)
    expect((await failure(bytes)).message).toMatch(/not of an importance matrix/)
  })
})
