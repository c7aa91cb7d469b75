import { describe, expect, test } from 'vitest'
import { createApi } from '../../src/api/api.ts'
import type { ConvertRequest } from '../../src/api/wire.ts'
import { AppError } from '../../src/core/errors.ts'
import type { Report } from '../../src/core/job.ts'
import type { Transforms } from '../../src/core/transform.ts'
import { huggingface } from '../../src/engines/hf/engine.ts'
import { DEFAULT_FAKE } from '../../src/models/fake.ts'
import { createReferenceBackend } from '../../src/kernels/reference/index.ts'
import { memoryFolder, MemoryOutput } from '../contracts/memory.ts'
import { tinyLlama } from './fixture.ts'
import { ANYWHERE, shuffledBackend, testHost } from './host.ts'

const CONFIG = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  hidden_size: 64,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  intermediate_size: 128,
  vocab_size: 512,
  torch_dtype: 'bfloat16',
}
const MINICPM = {
  ...CONFIG,
  architectures: ['MiniCPMForCausalLM'],
  model_type: 'minicpm',
  scale_emb: 12,
  scale_depth: 1.4,
  dim_model_base: 32,
}

const json = (value: unknown): Uint8Array => new TextEncoder().encode(JSON.stringify(value))
const configOnly = (config: object): Record<string, Uint8Array> => ({ 'config.json': json(config) })

interface Run {
  readonly files?: Record<string, Uint8Array>
  readonly target?: string
  readonly transforms: Transforms
  readonly memoryBudget?: number
  readonly threads?: number
}

async function run(options: Run): Promise<{ report: Report; output: MemoryOutput; readBytes: number }> {
  const { files = configOnly(CONFIG), target = 'huggingface', transforms, memoryBudget, threads } = options
  const input = memoryFolder(files, { name: 'tiny' })
  const output = new MemoryOutput()
  const backend = threads === undefined ? createReferenceBackend() : shuffledBackend(threads)
  const api = createApi(testHost({ input, output, backend, ...(memoryBudget === undefined ? {} : { memoryBudget }) }))
  const request: ConvertRequest = {
    input: ANYWHERE,
    target,
    options: {},
    output: ANYWHERE,
    name: null,
    overwrite: false,
    transforms,
  }
  const job = api.start(request)
  for (;;) {
    for (const event of await job.next()) {
      if (event.type === 'failed') throw AppError.fromData(event.error)
      if (event.type === 'done') return { report: event.report, output, readBytes: input.stats.readBytes }
    }
  }
}

const hashes = ({ files }: Report): readonly (readonly [string, string])[] =>
  files.map(({ path, sha256 }) => [path, sha256])

describe('made-up weights from a configuration alone', () => {
  test('a whole folder that validates, and the same bytes however it is computed', async () => {
    const transforms = { fakeWeights: DEFAULT_FAKE }
    const first = await run({ transforms })
    expect(first.report.files.map(({ path }) => path)).toContain('config.json')
    const again = await run({ transforms, memoryBudget: 1 << 20, threads: 3 })
    expect(hashes(again.report)).toEqual(hashes(first.report))
    const other = await run({ transforms: { fakeWeights: { ...DEFAULT_FAKE, seed: 1 } } })
    expect(hashes(other.report)).not.toEqual(hashes(first.report))
  })

  test('weights that are there are not read', async () => {
    const files = tinyLlama()
    const weights = files['model.safetensors']!.length
    const { readBytes } = await run({ files, transforms: { fakeWeights: DEFAULT_FAKE } })
    expect(readBytes).toBeGreaterThan(0)
    const without = Object.values(files).reduce((sum, bytes) => sum + bytes.length, 0) - weights
    // small files are read to open, to identify and to copy them
    expect(readBytes).toBeLessThan(without * 8)
    const missing = Object.fromEntries(Object.entries(files).filter(([path]) => path !== 'model.safetensors'))
    expect(hashes((await run({ files: missing, transforms: { fakeWeights: DEFAULT_FAKE } })).report)).toEqual(
      hashes((await run({ files, transforms: { fakeWeights: DEFAULT_FAKE } })).report),
    )
  })

  test('as a file says it, which goes before what is set', async () => {
    const fakeWeights = { ...DEFAULT_FAKE, seed: 9, std: 0.5, tensors: { 'lm_head.weight': { value: 2 } } }
    const text = '{"seed": 9, "std": 0.5, "tensors": {"lm_head.weight": {"value": 2}}}'
    const fakeConfig = { name: 'fake.json', text }
    const told = await run({ transforms: { fakeConfig, fakeWeights: DEFAULT_FAKE } })
    expect(hashes(told.report)).toEqual(hashes((await run({ transforms: { fakeWeights } })).report))
    await expect(run({ transforms: { fakeConfig: { name: 'fake.json', text: '{"sed": 1}' } } })).rejects.toMatchObject({
      code: 'bad-option',
      message: expect.stringContaining('fake.json'),
    })
  })

  test('a configuration without weights is still an error without the wish, which names what is missing', async () => {
    await expect(run({ transforms: {} })).rejects.toMatchObject({
      code: 'missing-file',
      where: { missing: ['model.safetensors'] },
    })
  })

  test('a folder without a configuration has none to make weights from', async () => {
    const files = { 'model.safetensors': tinyLlama()['model.safetensors']! }
    await expect(run({ files, transforms: { fakeWeights: DEFAULT_FAKE } })).rejects.toBeInstanceOf(AppError)
  })
})

describe('folding on request', () => {
  test('made-up MiniCPM weights become a Llama that opens as one', async () => {
    const { output } = await run({
      files: configOnly(MINICPM),
      transforms: { fakeWeights: { ...DEFAULT_FAKE, dtype: 'f32' }, mup2llama: true },
    })
    const folder = memoryFolder(Object.fromEntries(output.files))
    const checkpoint = await huggingface.open!(folder, (await huggingface.detect(folder))!)
    expect(checkpoint.architecture).toBe('llama')
    expect(checkpoint.config).toMatchObject({ className: 'LlamaForCausalLM', tied: false })
    expect(checkpoint.tensors.has('lm_head.weight')).toBe(true)
    expect(checkpoint.config.raw.has('scale_emb')).toBe(false)
    const twice = run({ files: Object.fromEntries(output.files), transforms: { mup2llama: true } })
    await expect(twice).rejects.toMatchObject({
      code: 'bad-option',
      message: 'The multipliers of this model were folded into its weights before',
    })
  })

  test('an inspection says whether it can be, by force or why not', async () => {
    const inspected = async (config: object): Promise<unknown> => {
      const host = testHost({ input: memoryFolder(configOnly(config)), output: new MemoryOutput() })
      return (await createApi(host).inspect(ANYWHERE, { fakeWeights: DEFAULT_FAKE })).mup
    }
    expect(await inspected(MINICPM)).toEqual({ folds: 'yes', because: null })
    expect(await inspected({ ...CONFIG, scale_emb: 12 })).toEqual({
      folds: 'forced',
      because: 'LlamaForCausalLM has scale_emb, but is not known to use muP',
    })
    expect(await inspected(CONFIG)).toEqual({
      folds: 'no',
      because: 'LlamaForCausalLM is not a muP model: there is nothing to fold',
    })
  })

  test('a Llama is an error', async () => {
    await expect(run({ files: tinyLlama(), transforms: { mup2llama: true } })).rejects.toMatchObject({
      code: 'bad-option',
      message: 'LlamaForCausalLM is not a muP model: there is nothing to fold',
    })
  })

  test('keeping the head tied means nothing without folding', async () => {
    await expect(run({ files: tinyLlama(), transforms: { keepTied: true } })).rejects.toMatchObject({
      code: 'bad-option',
    })
  })
})
