import { describe, expect, it } from 'vitest'
import { createApi } from '../../../src/api/api.ts'
import type { ConvertRequest } from '../../../src/api/wire.ts'
import { AppError } from '../../../src/core/errors.ts'
import type { Report } from '../../../src/core/job.ts'
import { resolveOptions, type OptionValues } from '../../../src/core/option.ts'
import { gguf } from '../../../src/engines/gguf/engine.ts'
import { huggingface } from '../../../src/engines/hf/engine.ts'
import { safetensors as engine } from '../../../src/engines/safetensors/engine.ts'
import { ANYWHERE, testHost } from '../../api/host.ts'
import { memoryFolder, MemoryOutput } from '../../contracts/memory.ts'
import {
  jsonOf,
  noShared,
  rawTensors,
  safetensors,
  sharded,
  sharedFiles,
  tinyLlama,
  without,
  type Files,
  type RawTensor,
} from '../hf/folder.ts'

/** Converts files in memory, through the whole API. */
async function convert(
  files: Files,
  target: string,
  options: OptionValues = {},
  change: Partial<ConvertRequest> = {},
): Promise<{ files: Files; report: Report }> {
  const output = new MemoryOutput()
  const api = createApi(testHost({ input: memoryFolder(files, { name: 'bare' }), output }))
  const request = { input: ANYWHERE, target, options, output: ANYWHERE, name: null, overwrite: false }
  const job = api.start({ ...request, ...change })
  for (;;) {
    for (const event of await job.next()) {
      if (event.type === 'failed') throw AppError.fromData(event.error)
      if (event.type === 'done') return { files: Object.fromEntries(output.files), report: event.report }
    }
  }
}

async function open(files: Files) {
  const folder = memoryFolder(files, { name: 'bare' })
  const match = await engine.detect(folder)
  if (match === null) throw new Error('not detected')
  return engine.open!(folder, match)
}

const failure = async (promise: Promise<unknown>): Promise<AppError> => {
  const outcome: unknown = await promise.catch((error: unknown) => error)
  if (!(outcome instanceof AppError)) throw new Error(`no AppError, but ${String(outcome)}`)
  return outcome
}

const bytes = (length: number, seed = 1): Uint8Array =>
  Uint8Array.from({ length }, (_, at) => ((at + seed) * 2654435761) >>> 26)
const tensor = (name: string, dtype: RawTensor['dtype'], shape: number[], size: number): RawTensor => ({
  name,
  dtype,
  shape,
  data: bytes(size, name.length),
})

/** Of no model: every type, a scalar, an empty tensor, names that trip objects. */
const ODD: readonly RawTensor[] = [
  tensor('weight', 'f32', [3, 5], 60),
  tensor('half', 'f16', [7], 14),
  tensor('brain', 'bf16', [2, 2], 8),
  tensor('ids', 'i64', [4], 32),
  tensor('mask', 'bool', [9], 9),
  tensor('double', 'f64', [2], 16),
  tensor('scalar', 'f32', [], 4),
  tensor('empty', 'f32', [0, 4], 0),
  tensor('__proto__', 'u8', [3], 3),
  tensor('7', 'i32', [1], 4),
]
const METADATA = new Map([
  ['format', 'flax'],
  ['note', 'kept as it is'],
])
const odd = (): Files => ({ 'odd.safetensors': safetensors(ODD, METADATA) })

function all(files: Files): Map<string, RawTensor> {
  return new Map(
    Object.entries(files)
      .filter(([path]) => path.endsWith('.safetensors'))
      .flatMap(([, file]) => rawTensors(file))
      .map((one) => [one.name, one]),
  )
}

function bareWeights(files: Files): Files {
  return Object.fromEntries(Object.entries(files).filter(([path]) => /^model.*(safetensors|index\.json)$/.test(path)))
}

describe('tensors of no known model', () => {
  it('are opened with what is known of them', async () => {
    const checkpoint = await open(odd())
    expect(checkpoint.architecture).toBe('none')
    expect([...checkpoint.tensors.keys()].sort()).toEqual(ODD.map(({ name }) => name).sort())
    expect(checkpoint.findings).toMatchObject([{ severity: 'warning', code: 'architecture-unknown' }])
  })

  it('are copied byte for byte, metadata and all', async () => {
    const { files, report } = await convert(odd(), 'safetensors')
    expect(report.findings.filter(({ severity }) => severity === 'error')).toEqual([])
    expect(Object.keys(files)).toEqual(['bare.safetensors'])
    expect(Buffer.compare(files['bare.safetensors']!, odd()['odd.safetensors']!)).toBe(0)
  })

  it('are cast where they are floats, and say what is not', async () => {
    const weights = ODD.filter(({ name }) => ['ids', 'mask', 'double', 'scalar', 'empty'].includes(name))
    const one = {
      name: 'ones',
      dtype: 'f32',
      shape: [2],
      data: new Uint8Array(new Float32Array([1, -2]).buffer),
    } as const
    const zero = { ...weights.find(({ name }) => name === 'scalar')!, data: new Uint8Array(4) }
    const source = { 'a.safetensors': safetensors([...weights.filter(({ name }) => name !== 'scalar'), zero, one]) }
    const { files, report } = await convert(source, 'safetensors', { dtype: 'f16' })
    const result = all(files)
    expect(Object.keys(files)).toEqual(['bare-F16.safetensors'])
    expect([...result].map(([name, { dtype }]) => [name, dtype]).sort()).toEqual([
      ['double', 'f64'],
      ['empty', 'f16'],
      ['ids', 'i64'],
      ['mask', 'bool'],
      ['ones', 'f16'],
      ['scalar', 'f16'],
    ])
    expect([...new Uint16Array(result.get('ones')!.data.slice().buffer)]).toEqual([0x3c00, 0xc000])
    expect(result.get('ids')!.data).toEqual(weights.find(({ name }) => name === 'ids')!.data)
    expect(report.findings.map(({ code }) => code)).toContain('type-kept')
  })

  it('are split and joined again, with and without an index', async () => {
    const { files } = await convert(odd(), 'safetensors', { 'max-shard-size': '40' })
    const shards = Object.keys(files).filter((path) => path.endsWith('.safetensors'))
    expect(shards.length).toBeGreaterThan(2)
    const index = jsonOf(files, 'bare.safetensors.index.json') as { weight_map: object }
    expect(Object.keys(index.weight_map).length).toBe(ODD.length)
    const joined = await convert(files, 'safetensors')
    expect(Buffer.compare(joined.files['bare.safetensors']!, odd()['odd.safetensors']!)).toBe(0)
    const again = await convert(without(files, 'bare.safetensors.index.json'), 'safetensors')
    expect(Buffer.compare(again.files['bare.safetensors']!, odd()['odd.safetensors']!)).toBe(0)
    const lacking = without(files, 'bare.safetensors.index.json', shards.toSorted()[1]!)
    expect(await failure(open(lacking))).toMatchObject({ code: 'missing-file' })
  })

  it('go into a folder of the name that is given if they are several files', async () => {
    const { files, report } = await convert(odd(), 'safetensors', { 'max-shard-size': '40' }, { name: 'out' })
    expect(Object.keys(files).every((path) => path.startsWith('out/'))).toBe(true)
    expect(report.findings.filter(({ severity }) => severity === 'error')).toEqual([])
  })

  it('cannot become a model', async () => {
    const checkpoint = await open(odd())
    for (const target of [gguf, huggingface]) {
      const plan = target.convert!(checkpoint, resolveOptions(target.options, {}), new Map())
      const error = await failure(plan)
      expect(error.code).toBe('unsupported')
      expect(error.message).toContain('not known to be a model')
    }
  })

  it('are shown in the list of targets with the reason', async () => {
    const api = createApi(testHost({ input: memoryFolder(odd()), output: new MemoryOutput() }))
    const targets = await api.targets(ANYWHERE)
    const title = (format: string): string[] => targets.filter((one) => one.format === format).map((one) => one.title)
    expect(title('safetensors')).toEqual(['Unchanged', 'F32', 'F16', 'BF16'])
    expect(targets.find(({ format }) => format === 'safetensors')).toMatchObject({
      reason: null,
      options: { dtype: 'keep' },
    })
    expect(targets.filter(({ format }) => format !== 'safetensors').every(({ cost }) => cost === null)).toBe(true)
    expect(targets.find(({ format }) => format === 'gguf')!.reason).toContain('config.json')
  })
})

describe('detection', () => {
  it.each<[string, Files]>([
    ['a model with its config', tinyLlama()],
    ['an adapter', { 'adapter_model.safetensors': safetensors([ODD[0]!]) }],
    ['no safetensors', { 'a.bin': new Uint8Array(9) }],
  ])('leaves %s alone', async (_, files) => {
    expect(await engine.detect(memoryFolder(files))).toBeNull()
  })

  it('refuses files that are not of one set', async () => {
    const one = safetensors([ODD[0]!])
    expect(await failure(open({ 'a.safetensors': one, 'b.safetensors': one }))).toMatchObject({ code: 'not-a-model' })
  })
})

describe('a model without its config.json', () => {
  it('is found by names and shapes, and says what it assumes', async () => {
    const checkpoint = await open(bareWeights(tinyLlama()))
    const source = jsonOf(tinyLlama(), 'config.json') as Record<string, number>
    expect(checkpoint.architecture).toBe('llama')
    expect(checkpoint.config).toMatchObject({
      hiddenSize: source['hidden_size'],
      layers: source['num_hidden_layers'],
      intermediateSize: source['intermediate_size'],
      vocabSize: source['vocab_size'],
    })
    expect(checkpoint.findings.map(({ code }) => code)).toEqual(['architecture-found', 'config-assumed'])
    expect(checkpoint.findings[0]!.message).toMatch(/mistral/)
    expect(checkpoint.findings[1]!.message).toMatch(/heads are \d+ channels wide.*base 10000/)
  })

  it.skipIf(noShared).each([
    ['llama-spm', 'llama', false],
    ['llama3-tied', 'llama', false],
    ['main', 'llama', true],
    ['mistral', 'llama', false],
    ['qwen2', 'qwen2', false],
    ['qwen3', 'qwen3', true],
    ['gemma2', 'gemma2', false],
    ['phi3', 'phi3', false],
    ['gpt2', 'gpt2', false],
  ])('%s (../shared) is taken for %s', async (name, architecture, headDimRight) => {
    const files = sharedFiles(name)
    const checkpoint = await open({ 'model.safetensors': files['model.safetensors']! })
    expect(checkpoint.architecture).toBe(architecture)
    const folder = memoryFolder(files)
    const truth = await huggingface.open!(folder, (await huggingface.detect(folder))!)
    for (const key of ['hiddenSize', 'layers', 'intermediateSize', 'vocabSize', 'tied', 'dtype'] as const) {
      expect(checkpoint.config[key], key).toBe(truth.config[key])
    }
    const { heads, headDim, kvHeads } = checkpoint.config
    expect(heads * headDim).toBe(truth.config.heads * truth.config.headDim)
    expect(kvHeads * headDim).toBe(truth.config.kvHeads * truth.config.headDim)
    if (headDimRight) expect(headDim).toBe(truth.config.headDim)
    expect([...checkpoint.tensors.keys()].sort()).toEqual([...truth.tensors.keys()].sort())
    expect(checkpoint.tensors).toEqual(truth.tensors)
  })

  it.skipIf(noShared)('proves the width of a head by a norm (../shared)', async () => {
    const files = sharedFiles('qwen3')
    const checkpoint = await open({ 'model.safetensors': files['model.safetensors']! })
    expect(checkpoint.config.headDim).toBe(32)
    expect(checkpoint.findings.at(-1)!.message).not.toContain('channels wide')
  })

  it('is no model if a tensor is missing, or one too many, or of another shape', async () => {
    const tensors = rawTensors(tinyLlama()['model.safetensors']!)
    const name = 'model.layers.1.mlp.down_proj.weight'
    const variants: RawTensor[][] = [
      tensors.filter((one) => one.name !== name),
      [...tensors, ODD[0]!],
      tensors.map((one) => (one.name === name ? { ...one, shape: one.shape.toReversed() } : one)),
    ]
    for (const variant of variants) {
      expect((await open({ 'model.safetensors': safetensors(variant) })).architecture).toBe('none')
    }
  })

  it('becomes a HuggingFace folder with the configuration that could be proven', async () => {
    const source = { ...bareWeights(tinyLlama()), 'tokenizer.json': tinyLlama()['tokenizer.json']! }
    const { files, report } = await convert(source, 'huggingface')
    expect(report.findings.filter(({ severity }) => severity === 'error')).toEqual([])
    expect(Object.keys(files).sort()).toEqual([
      'config.json',
      'generation_config.json',
      'model.safetensors',
      'tokenizer.json',
    ])
    expect(jsonOf(files, 'config.json')).toMatchObject({ architectures: ['LlamaForCausalLM'], model_type: 'llama' })
    expect(Buffer.compare(files['model.safetensors']!, tinyLlama()['model.safetensors']!)).toBe(0)
    expect(report.findings.map(({ code }) => code)).toContain('config-assumed')
  })

  it('becomes one with the configuration that is given', async () => {
    const config = new TextDecoder().decode(tinyLlama()['config.json'])
    const { files, report } = await convert(bareWeights(sharded(tinyLlama(), 3)), 'huggingface', { config })
    expect(report.findings.filter(({ severity }) => severity === 'error')).toEqual([])
    expect(jsonOf(files, 'config.json')).toEqual(JSON.parse(config))
    expect(Buffer.compare(files['model.safetensors']!, tinyLlama()['model.safetensors']!)).toBe(0)
  })

  it('is refused with a configuration of another model', async () => {
    const other = JSON.stringify({ ...jsonOf(tinyLlama(), 'config.json'), num_hidden_layers: 7 })
    const error = await failure(convert(bareWeights(tinyLlama()), 'huggingface', { config: other }))
    expect(error.code).toBe('missing-tensor')
    const needless = await failure(convert(tinyLlama(), 'huggingface', { config: other }))
    expect(needless.code).toBe('bad-option')
    const broken = await failure(convert(bareWeights(tinyLlama()), 'huggingface', { config: '[1]' }))
    expect(broken.code).toBe('bad-option')
  })

  it('keeps names and metadata as a file of its own', async () => {
    const tensors = rawTensors(tinyLlama()['model.safetensors']!).filter(({ name }) => name !== 'lm_head.weight')
    const bare = tensors.map((one) => ({ ...one, name: one.name.replace(/^model\./, '') }))
    const buffer = tensor('layers.0.self_attn.rotary_emb.inv_freq', 'f32', [8], 32)
    const source = { 'model.safetensors': safetensors([...bare, buffer], METADATA) }
    const checkpoint = await open(source)
    expect(checkpoint.architecture).toBe('llama')
    expect(checkpoint.config.headDim).toBe(16)
    const { files } = await convert(source, 'safetensors')
    expect(Buffer.compare(files['bare.safetensors']!, source['model.safetensors']!)).toBe(0)
  })
})

describe('a model as bare weights', () => {
  it('has the same tensors', async () => {
    const { files } = await convert(tinyLlama(), 'safetensors', {}, { name: 'weights' })
    expect(Object.keys(files)).toEqual(['weights.safetensors'])
    expect(Buffer.compare(files['weights.safetensors']!, tinyLlama()['model.safetensors']!)).toBe(0)
  })

  it.skipIf(noShared)('is stored as HuggingFace has it, transposed weights too (../shared)', async () => {
    const source = sharedFiles('gpt2')
    const { files } = await convert(without(source, 'reference.safetensors'), 'safetensors')
    expect(Buffer.compare(files['bare.safetensors']!, source['model.safetensors']!)).toBe(0)
  })
})

describe('validation', () => {
  async function findings(files: Files): Promise<string[]> {
    const folder = memoryFolder(files)
    const match = (await engine.detect(folder))!
    const found: string[] = []
    for await (const { severity, code } of engine.validate(folder, match)) found.push(`${severity} ${code}`)
    return found
  }
  const split = async (): Promise<Files> => (await convert(odd(), 'safetensors', { 'max-shard-size': '40' })).files
  const INDEX = 'bare.safetensors.index.json'
  const indexed = async (change: (index: { metadata: object; weight_map: Record<string, string> }) => unknown) => {
    const files = await split()
    const index = JSON.parse(new TextDecoder().decode(files[INDEX])) as Parameters<typeof change>[0]
    return findings({ ...files, [INDEX]: new TextEncoder().encode(JSON.stringify(change(index))) })
  }

  it('finds nothing in what was written', async () => {
    expect(await findings(bareWeights(tinyLlama()))).toEqual([])
    expect(await findings(bareWeights(sharded(tinyLlama(), 3)))).toEqual([])
  })

  it('names a file cut short, a hole, NaN, and faults of an index', async () => {
    const file = odd()['odd.safetensors']!
    expect(await findings({ 'a.safetensors': file.slice(0, -1) })).toEqual(['error truncated'])
    expect(await findings({ 'a.safetensors': Uint8Array.of(...file, 0) })).toEqual(['error malformed'])
    const nan = { name: 'n', dtype: 'f32', shape: [1], data: Uint8Array.of(0, 0, 0xc0, 0x7f) } as const
    expect(await findings({ 'a.safetensors': safetensors([nan]) })).toEqual(['warning bad-weights'])
    expect(await indexed((index) => ({ ...index, metadata: { total_size: 3 } }))).toContain('error total-size')
    expect(await indexed((index) => ({ ...index, weight_map: { ...index.weight_map, weight: 'gone' } }))).toEqual([
      'error missing-file',
    ])
    const unlisted = await indexed((index) => {
      const shards = Object.values(index.weight_map)
      const shared = Object.keys(index.weight_map).find((name) => {
        return shards.filter((shard) => shard === index.weight_map[name]).length > 1
      })
      return { ...index, weight_map: { ...index.weight_map, [shared!]: undefined } }
    })
    expect(unlisted).toContain('error index-incomplete')
    expect(
      await indexed((index) => ({ ...index, weight_map: { ...index.weight_map, more: index.weight_map['weight'] } })),
    ).toEqual(['error missing-tensor'])
  })
})
