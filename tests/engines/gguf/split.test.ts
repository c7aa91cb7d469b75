import { describe, expect, test } from 'vitest'
import type { AppError } from '../../../src/core/errors.ts'
import type { OptionValues } from '../../../src/core/option.ts'
import { readGguf } from '../../../src/engines/containers/gguf/reader.ts'
import { memoryFolder } from '../../contracts/memory.ts'
import { filesOf, findingsOf, openFiles, planOf, type Files } from './folder.ts'
import { madeUpCheckpoint, type MadeUp } from './made-up.ts'

const SHAPE: MadeUp = { layers: 3, hidden: 64, intermediate: 128, heads: 4, kvHeads: 2, tied: false }

async function make(options: OptionValues): Promise<Files> {
  const { checkpoint, folder } = madeUpCheckpoint(SHAPE)
  return filesOf(checkpoint, folder, { quant: 'q8_0', ...options })
}

async function headers(files: Files): Promise<Awaited<ReturnType<typeof readGguf>>[]> {
  const folder = memoryFolder(files)
  return Promise.all(Object.keys(files).map(async (path) => readGguf(await folder.open(path))))
}

describe('splitting', () => {
  test('by tensors: names, keys and order as llama.cpp wants them', async () => {
    const files = await make({ 'split-max-tensors': 10 })
    const whole = await make({})
    const [only] = await headers(whole)
    expect(only!.tensors).toHaveLength(30)
    expect(Object.keys(files)).toEqual([
      'Made-Up-1B-Instruct-Q8_0-00001-of-00003.gguf',
      'Made-Up-1B-Instruct-Q8_0-00002-of-00003.gguf',
      'Made-Up-1B-Instruct-Q8_0-00003-of-00003.gguf',
    ])
    const parts = await headers(files)
    expect(parts.map(({ tensors }) => tensors.length)).toEqual([10, 10, 10])
    expect(parts.flatMap(({ tensors }) => tensors.map(({ name }) => name))).toEqual(
      only!.tensors.map(({ name }) => name),
    )
    for (const [no, { metadata }] of parts.entries()) {
      expect(metadata.get('split.no')).toEqual({ type: 'u16', value: no })
      expect(metadata.get('split.count')).toEqual({ type: 'u16', value: 3 })
      expect(metadata.get('split.tensors.count')).toEqual({ type: 'i32', value: 30 })
      if (no > 0) expect(metadata.size).toBe(3)
    }
    expect([...parts[0]!.metadata.keys()].slice(0, -3)).toEqual([...only!.metadata.keys()])
  })

  test.each(['20K', '31.5k', '64K', '0.1M'])(
    'by size, at most %s each, and none smaller than it need be',
    async (size) => {
      const files = await make({ 'split-max-size': size })
      const limit = Number.parseFloat(size) * (size.endsWith('M') ? 1e6 : 1e3)
      const sizes = Object.values(files).map(({ length }) => length)
      expect(sizes.length).toBeGreaterThan(1)
      for (const bytes of sizes) expect(bytes).toBeLessThanOrEqual(limit)
      const parts = await headers(files)
      for (const [no, { tensors }] of parts.slice(1).entries()) {
        // what opens a part would not have fitted into the one before; bounds leave some padding unused
        expect(sizes[no]! + tensors[0]!.size + 256).toBeGreaterThan(limit)
      }
      expect((await findingsOf(files)).filter(({ severity }) => severity === 'error')).toEqual([])
    },
  )

  test('a tensor larger than the limit has a file of its own, and a finding', async () => {
    const { checkpoint } = madeUpCheckpoint(SHAPE)
    const plan = await planOf(checkpoint, { quant: 'f32', 'split-max-size': '20K' })
    const large = plan.findings.filter(({ code }) => code === 'part-too-large').map(({ where }) => where?.tensor)
    expect(large).toContain('blk.0.ffn_up.weight')
    for (const { segments } of plan.files.filter(({ size }) => size > 20_000))
      expect(segments.filter(({ kind }) => kind === 'tensor')).toHaveLength(1)
  })

  test('what fits one file is not split', async () => {
    expect(await make({ 'split-max-size': '2G' })).toEqual(await make({}))
  })

  test.each(['0', '12', '-1G', '2T', 'big', '1e9'])('a size of %s is refused', async (size) => {
    const { checkpoint } = madeUpCheckpoint(SHAPE)
    await expect(planOf(checkpoint, { 'split-max-size': size })).rejects.toMatchObject({ code: 'bad-option' })
  })
})

describe('reading and merging', () => {
  test('a split model is the whole one', async () => {
    const { checkpoint } = await openFiles(await make({ 'split-max-size': '20K' }))
    const { checkpoint: whole } = await openFiles(await make({}))
    expect(checkpoint.config).toEqual(whole.config)
    expect(checkpoint.tokenizer).toEqual(whole.tokenizer)
    expect([...checkpoint.tensors.keys()]).toEqual([...whole.tensors.keys()])
    expect(checkpoint.name).toBe(whole.name)
  })

  test('merging gives the bytes of the file that was never split, and splitting again those of the parts', async () => {
    const parts = await make({ 'split-max-tensors': 7 })
    const whole = Object.values(await make({}))[0]!
    const { checkpoint, folder } = await openFiles(parts)
    const [merged, ...others] = Object.values(await filesOf(checkpoint, folder, { quant: 'copy' }))
    expect(others).toEqual([])
    expect(Buffer.compare(merged!, whole)).toBe(0)
    const again = await openFiles({ 'whole.gguf': whole })
    const split = await filesOf(again.checkpoint, again.folder, { quant: 'copy', 'split-max-tensors': 7 })
    expect(Object.values(split).map((bytes) => [...bytes])).toEqual(Object.values(parts).map((bytes) => [...bytes]))
  })

  test('parts are taken in their order, whatever lies beside them', async () => {
    const parts = await make({ 'split-max-tensors': 10 })
    const shuffled = Object.fromEntries(Object.entries(parts).toReversed())
    const { checkpoint } = await openFiles({ ...shuffled, 'README.md': new Uint8Array(3) })
    expect(checkpoint.sources.map(({ path }) => path)).toEqual(Object.keys(parts))
  })

  test('a part that is missing is named, on opening and on validating', async () => {
    const parts = await make({ 'split-max-tensors': 10 })
    const [first, second] = Object.keys(parts)
    const { [second!]: _, ...rest } = parts
    const missing = { code: 'missing-file', where: { file: second } }
    await expect(openFiles(rest)).rejects.toMatchObject(missing)
    expect(await findingsOf(rest)).toMatchObject([{ severity: 'error', ...missing }])
    const { [first!]: __, ...headless } = parts
    const error = (await openFiles(headless).catch((thrown: unknown) => thrown)) as AppError
    expect(error).toMatchObject({ code: 'missing-file', where: { file: first } })
    expect(error.hint).toContain('folder')
  })

  test('validation sees keys of the wrong type, which llama.cpp would not open', async () => {
    const parts = await make({ 'split-max-tensors': 20 })
    const [, last] = Object.keys(parts)
    const bytes = parts[last!]!
    // the type of split.no: magic, version, counts, and the key with its length
    const at = 24 + 8 + 'split.no'.length
    expect(bytes[at]).toBe(2)
    bytes[at] = 3
    expect((await findingsOf(parts)).filter(({ severity }) => severity === 'error')).toMatchObject([
      { code: 'bad-split', where: { file: last } },
    ])
  })

  test('bad weights are found in any part, by their place in it', async () => {
    const parts = await make({ 'split-max-tensors': 10 })
    const last = Object.keys(parts)[2]!
    const [, , header] = await headers(parts)
    const tensor = header!.tensors.find(({ type }) => type.name === 'q8_0')!
    new DataView(parts[last]!.buffer).setUint16(tensor.offset, 0x7e00, true)
    expect((await findingsOf(parts)).filter(({ severity }) => severity === 'error')).toMatchObject([
      { code: 'bad-weights', where: { file: last, tensor: tensor.name, offset: tensor.offset } },
    ])
  })
})
