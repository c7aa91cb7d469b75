import { mkdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { Tokenizer } from '@huggingface/tokenizers'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Api } from '../../src/api/api.ts'
import type { OptionValues } from '../../src/core/option.ts'
import { CORPUS } from './corpus.ts'
import { convertByProduct, expectSameTensors, productApi, temporaryFolder } from './gguf-files.ts'
import { judge, llamaQuantize, noLlama } from './llama.ts'
import { MODELS, noModels, readReference } from './models.ts'

/** Converts `input` into a folder of its own and returns its files' paths. */
async function convert(
  api: Api,
  input: string,
  target: 'gguf' | 'huggingface',
  options: OptionValues,
  output: string,
): Promise<string[]> {
  mkdirSync(output, { recursive: true })
  const control = api.start({
    input: { kind: 'path', path: input },
    target,
    options,
    output: { kind: 'path', path: output },
    name: null,
    overwrite: true,
  })
  for (;;) {
    for (const event of await control.next()) {
      if (event.type === 'failed') throw new Error(`${event.error.code}: ${event.error.message}`)
      if (event.type === 'done') return event.report.files.map((file) => path.join(output, file.path))
    }
  }
}

interface Stored {
  readonly dtype: string
  readonly shape: readonly number[]
  readonly data_offsets: readonly [number, number]
}

/** The tensors of a model.safetensors in f32, exactly, as bytes. */
function safetensors(folder: string): Map<string, { shape: string; values: Buffer }> {
  const file = readFileSync(path.join(folder, 'model.safetensors'))
  const start = 8 + Number(file.readBigUInt64LE(0))
  const header = JSON.parse(file.toString('utf8', 8, start)) as Record<string, Stored>
  return new Map(
    Object.entries(header).flatMap(([name, { dtype, shape, data_offsets: offsets }]) => {
      if (name === '__metadata__') return []
      const bytes = file.subarray(start + offsets[0], start + offsets[1])
      return [[name, { shape: shape.join('x'), values: dtype === 'F32' ? Buffer.from(bytes) : widened(dtype, bytes) }]]
    }),
  )
}

function widened(dtype: string, bytes: Buffer): Buffer {
  if (dtype !== 'BF16') throw new Error(`no test model has ${dtype}`)
  const values = Buffer.alloc(bytes.length * 2)
  for (let at = 0; at < bytes.length; at += 2) bytes.copy(values, 2 * at + 2, at, at + 2)
  return values
}

function tokenizerOf(folder: string): Tokenizer {
  const read = (name: string): object => JSON.parse(readFileSync(path.join(folder, name), 'utf8')) as object
  return new Tokenizer(read('tokenizer.json'), read('tokenizer_config.json'))
}

describe.skipIf(noModels !== null)(`HuggingFace to GGUF and back${noModels === null ? '' : ` (${noModels})`}`, () => {
  let folder: Awaited<ReturnType<typeof temporaryFolder>>
  let api: Api
  beforeAll(async () => {
    folder = await temporaryFolder()
    api = productApi()
  })
  afterAll(async () => {
    await api.close()
    await folder.remove()
  })

  const NAMES = [
    'main',
    'llama-spm',
    'llama3-tied',
    'mistral',
    'mixtral',
    'qwen2',
    'qwen3',
    'gemma2',
    'phi3',
    'gpt2',
    'bert',
    't5',
    'minicpm',
  ]

  test.each(NAMES)('%s: every weight bit for bit, every text the same ids', async (model) => {
    const file = await convertByProduct(api, model, 'f32', folder.path)
    const back = path.join(folder.path, `${model}-back`)
    await convert(api, file, 'huggingface', {}, back)
    const [before, after] = [safetensors(path.join(MODELS, model)), safetensors(back)]
    expect([...after.keys()].sort()).toEqual([...before.keys()].sort())
    for (const [name, { shape, values }] of before) {
      expect(after.get(name)!.shape, name).toBe(shape)
      expect(after.get(name)!.values.equals(values), name).toBe(true)
    }
    const [one, two] = [tokenizerOf(path.join(MODELS, model)), tokenizerOf(back)]
    const different = CORPUS.filter((text) => one.encode(text).ids.join() !== two.encode(text).ids.join())
    expect(different).toEqual([])
  })
})

const reason = noLlama ?? noModels

describe.skipIf(reason !== null)(`GGUF from GGUF as llama.cpp takes it${reason === null ? '' : ` (${reason})`}`, () => {
  let folder: Awaited<ReturnType<typeof temporaryFolder>>
  let api: Api
  beforeAll(async () => {
    folder = await temporaryFolder()
    api = productApi()
  })
  afterAll(async () => {
    await api.close()
    await folder.remove()
  })

  /** Logits and tokens of a model's first reference prompt. */
  async function answer(file: string, model: string): Promise<{ logits: Float32Array; ids: readonly number[] }> {
    const [{ text, ids }] = readReference(model) as [ReturnType<typeof readReference>[number]]
    const llama = await judge(file)
    try {
      return { logits: await llama.logits(ids), ids: await llama.tokenize(text) }
    } finally {
      await llama.close()
    }
  }

  test.each([
    ['q8_0', { 'split-max-size': '2M' }],
    ['q4_k_m', { 'split-max-tensors': 7 }],
    ['f16', { 'split-max-tensors': 1 }],
  ] as const)('%s, split by %j: the same logits, and merged the same file', async (quant, split) => {
    const source = path.join(MODELS, 'main')
    const parts = await convert(api, source, 'gguf', { quant, ...split }, path.join(folder.path, `split-${quant}`))
    const [whole] = await convert(api, source, 'gguf', { quant }, path.join(folder.path, `whole-${quant}`))
    expect(parts.length).toBeGreaterThan(2)
    expect(await answer(parts[0]!, 'main')).toEqual(await answer(whole!, 'main'))
    const [merged, ...others] = await convert(
      api,
      path.dirname(parts[0]!),
      'gguf',
      { quant: 'copy' },
      path.join(folder.path, `merged-${quant}`),
    )
    expect(others).toEqual([])
    expect(readFileSync(merged!).equals(readFileSync(whole!))).toBe(true)
  })

  test.each([
    ['q8_0', 'q4_k_m', 15],
    ['q4_k_m', 'q8_0', 7],
    ['f16', 'q4_k_m', 15],
    ['q4_k_m', 'f32', 0],
  ] as const)('%s to %s: the bytes of llama.cpp’s own requantising', async (from, to, fileType) => {
    const [source] = await convert(
      api,
      path.join(MODELS, 'main'),
      'gguf',
      { quant: from },
      path.join(folder.path, `from-${from}`),
    )
    const [ours] = await convert(api, source!, 'gguf', { quant: to }, path.join(folder.path, `${from}-${to}`))
    const theirs = path.join(folder.path, `${from}-${to}-theirs.gguf`)
    await llamaQuantize(source!, theirs, fileType)
    await expectSameTensors(ours!, theirs)
  })

  test('edited metadata is what llama.cpp goes by', async () => {
    const [source] = await convert(
      api,
      path.join(MODELS, 'main'),
      'gguf',
      { quant: 'q8_0' },
      path.join(folder.path, 'edit-from'),
    )
    const options = { quant: 'copy', 'set-metadata': 'tokenizer.ggml.add_bos_token=false' }
    const [edited] = await convert(api, source!, 'gguf', options, path.join(folder.path, 'edited'))
    const [before, after] = [await answer(source!, 'main'), await answer(edited!, 'main')]
    expect(after.logits).toEqual(before.logits)
    expect([before.ids[0], ...after.ids]).toEqual(before.ids)
    await expectSameTensors(source!, edited!)
  })
})
