import { execFileSync } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { openPath } from '../../../companion/bytes.ts'
import { cast } from '../../../src/core/tensor.ts'
import { AppError } from '../../../src/core/errors.ts'
import { readTorchFile, torchRecipe, type TorchFile } from '../../../src/engines/containers/torch.ts'
import { memoryFolder } from '../../contracts/memory.ts'
import { ArrayInputs, evaluate } from '../../api/run.ts'

/** Debian's python3-torch: not on every machine. */
const PYTHON = '/usr/bin/python3'

function missingTorch(): string | null {
  if (!existsSync(PYTHON)) return `there is no ${PYTHON}`
  try {
    execFileSync(PYTHON, ['-c', 'import torch'], { stdio: 'pipe' })
    return null
  } catch {
    return 'python3-torch is not installed'
  }
}

const reason = missingTorch()

type Expected = Record<string, { shape: number[]; values: number[] }>

const ZIP_AND_LEGACY = ['zip', 'legacy'].flatMap((layout) =>
  ['plain', 'protocol3', 'protocol4', 'protocol5', 'tied', 'parameters', 'wrapped', 'module', 'sequential'].map(
    (kind) => `${layout}-${kind}`,
  ),
)
const VIEWS = ['zip-views', 'legacy-views', 'zip-nested', 'legacy-nested']

describe.skipIf(reason !== null)(`files of torch.save${reason === null ? '' : ` (${reason})`}`, () => {
  let folder = ''
  beforeAll(() => {
    folder = mkdtempSync(path.join(os.tmpdir(), 'modelconvert-torch-'))
    execFileSync(PYTHON, [path.join(import.meta.dirname, 'write-torch.py'), folder], { stdio: 'pipe' })
  }, 120_000)
  afterAll(() => rmSync(folder, { recursive: true, force: true }))

  const bytesOf = (name: string): Uint8Array => Uint8Array.from(readFileSync(path.join(folder, `${name}.pt`)))
  const expected = (name: string): Expected =>
    JSON.parse(readFileSync(path.join(folder, `${name}.json`), 'utf8')) as Expected

  async function readFile(name: string): Promise<TorchFile> {
    const opened = await openPath(path.join(folder, `${name}.pt`))
    const source = await opened.open(`${name}.pt`)
    try {
      return await readTorchFile(source)
    } finally {
      await source.close()
    }
  }

  async function expectValues(name: string): Promise<TorchFile> {
    const file = await readFile(name)
    const wanted = expected(name)
    expect(file.tensors.map((tensor) => tensor.name)).toEqual(Object.keys(wanted))
    const inputs = new ArrayInputs({ [`${name}.pt`]: bytesOf(name) })
    for (const tensor of file.tensors) {
      const { shape, values } = wanted[tensor.name]!
      expect(tensor.shape, tensor.name).toEqual(shape)
      const recipe = torchRecipe(tensor)
      expect(recipe.dtype).toBe(tensor.dtype)
      expect(recipe.shape, tensor.name).toEqual(shape)
      const { bytes } = await evaluate(cast(recipe, 'f32'), inputs)
      expect([...new Float32Array(bytes.buffer, bytes.byteOffset, values.length)], tensor.name).toEqual(
        values.map(Math.fround),
      )
    }
    return file
  }

  test.each(ZIP_AND_LEGACY.filter((name) => !/wrapped|module/.test(name)))('%s', async (name) => {
    const { layout } = await expectValues(name)
    expect(layout).toBe(name.split('-')[0])
  })

  test.each(VIEWS)('%s: every view as a recipe', async (name) => {
    const { tensors } = await expectValues(name)
    expect(tensors.filter(({ contiguous }) => !contiguous).length).toBeGreaterThan(1)
  })

  test.each(['zip-wrapped', 'legacy-wrapped'])('%s: the state dict inside a training checkpoint', async (name) => {
    await expectValues(name)
  })

  test.each(['zip-module', 'legacy-module'])('%s: a whole pickled module without its class', async (name) => {
    const { tensors } = await readFile(name)
    const wanted = expected(name)
    // the order within a module differs from state_dict's by nothing but where children stand
    expect(tensors.map((tensor) => tensor.name).toSorted()).toEqual(Object.keys(wanted).toSorted())
    expect(tensors.some((tensor) => tensor.name.endsWith('scratch'))).toBe(false)
    const inputs = new ArrayInputs({ [`${name}.pt`]: bytesOf(name) })
    const types = new Map(tensors.map((tensor) => [tensor.name, tensor.dtype]))
    expect(types.get('double.weight')).toBe('f64')
    expect(types.get('blocks.0.norm.num_batches_tracked')).toBe('i64')
    for (const tensor of tensors.filter(({ dtype }) => dtype === 'f32')) {
      const { bytes } = await evaluate(torchRecipe(tensor), inputs)
      expect([...new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4)], tensor.name).toEqual(
        wanted[tensor.name]!.values,
      )
    }
  })

  test.each(['zip-tied', 'legacy-tied'])('%s: tied tensors have one place', async (name) => {
    const [embed, head, part] = (await readFile(name)).tensors
    expect(head!.offset).toBe(embed!.offset)
    expect(part!.offset).toBe(embed!.offset + 2 * 4 * 4)
    expect(part!.storage).toEqual(embed!.storage)
  })

  test('reads headers and the pickle, and no weights', async () => {
    const bytes = bytesOf('large')
    const memory = memoryFolder({ 'a.pt': bytes })
    const source = await memory.open('a.pt')
    await readTorchFile(source)
    expect(memory.stats.readBytes).toBeLessThan(bytes.length / 10)
    expect(memory.stats.largestRead).toBeLessThan(1 << 17)
  })

  test.each([
    ['sparse', 'unsupported', /s in sparse\.pt is no plain tensor, but made by _rebuild_sparse_tensor/],
    ['quantised', 'unsupported', /q in quantised\.pt is no plain tensor, but made by _rebuild_qtensor/],
    ['complex', 'unsupported', /c in complex\.pt is a torch\.ComplexFloatStorage/],
    ['nothing', 'not-a-model', /nothing\.pt holds no tensors by name/],
    ['script', 'unsupported', /script\.pt is a TorchScript archive/],
  ])('%s: %s', async (name, code, message) => {
    const error = await readFile(name).catch((thrown: unknown) => thrown)
    expect(error).toBeInstanceOf(AppError)
    expect((error as AppError).code).toBe(code)
    expect((error as AppError).message).toMatch(message)
  })

  test('windows that overlap are refused by name', async () => {
    const [tensor] = (await readFile('windows')).tensors
    expect(() => torchRecipe(tensor!)).toThrow(
      /w in windows\.pt is a view with the shape \[4, 3\] and the strides \[2, 1\]/,
    )
  })

  test('a file cut short anywhere is refused, and never read beyond', async () => {
    for (const name of ['zip-plain', 'legacy-plain']) {
      const bytes = bytesOf(name)
      for (let cut = 1; cut < bytes.length; cut += Math.ceil(bytes.length / 97)) {
        const source = await memoryFolder({ 'a.pt': bytes.slice(0, cut) }).open('a.pt')
        const error = await readTorchFile(source).catch((thrown: unknown) => thrown)
        expect(error, `${name} cut at ${cut}`).toBeInstanceOf(AppError)
        expect(['truncated', 'malformed'], String(error)).toContain((error as AppError).code)
      }
    }
  })

  test('every file that was written is covered', () => {
    const written = readdirSync(folder).filter((file) => file.endsWith('.pt'))
    expect(written.length).toBe(ZIP_AND_LEGACY.length + VIEWS.length + 7)
  })
})
