import { describe, expect, it } from 'vitest'
import { createApi } from '../../../src/api/api.ts'
import type { ConvertRequest } from '../../../src/api/wire.ts'
import type { Checkpoint } from '../../../src/core/checkpoint.ts'
import { AppError } from '../../../src/core/errors.ts'
import type { Report } from '../../../src/core/job.ts'
import { parseJson, type JsonObject } from '../../../src/core/json.ts'
import type { OptionValues } from '../../../src/core/option.ts'
import type { Plan } from '../../../src/core/plan.ts'
import { resolveOptions } from '../../../src/core/option.ts'
import { huggingface } from '../../../src/engines/hf/engine.ts'
import { memoryFolder, MemoryOutput } from '../../contracts/memory.ts'
import { ANYWHERE, testHost } from '../../api/host.ts'
import {
  edit,
  editWeights,
  jsonOf,
  noShared,
  openFiles,
  rawTensors,
  SHARED_MODELS,
  sharded,
  sharedFiles,
  tinyLlama,
  utf8,
  without,
  type Files,
  type RawTensor,
} from './folder.ts'

const text = (bytes: Uint8Array | undefined): string => new TextDecoder().decode(bytes)

function planOf(checkpoint: Checkpoint, options: OptionValues = {}): Promise<Plan> {
  return huggingface.convert!(checkpoint, resolveOptions(huggingface.options, options), new Map())
}

/** Converts files in memory, through the whole API. */
async function convertFiles(
  files: Files,
  options: OptionValues = {},
  change: Partial<ConvertRequest> = {},
): Promise<{ files: Files; report: Report }> {
  const output = new MemoryOutput()
  const api = createApi(testHost({ input: memoryFolder(files, { name: 'tiny' }), output }))
  const job = api.start({
    input: ANYWHERE,
    target: 'huggingface',
    options,
    output: ANYWHERE,
    name: null,
    overwrite: false,
    ...change,
  })
  for (;;) {
    for (const event of await job.next()) {
      if (event.type === 'failed') throw AppError.fromData(event.error)
      if (event.type === 'done') return { files: Object.fromEntries(output.files), report: event.report }
    }
  }
}

/** All tensors of a folder, whatever its files, by name. */
function weightsOf(files: Files): Map<string, RawTensor> {
  const all = Object.entries(files)
    .filter(([path]) => path.endsWith('.safetensors') && !path.startsWith('reference'))
    .flatMap(([, bytes]) => rawTensors(bytes))
  return new Map(all.map((tensor) => [tensor.name, tensor]))
}

function expectSameWeights(actual: Files, expected: Files): void {
  const [a, b] = [weightsOf(actual), weightsOf(expected)]
  expect([...a.keys()].sort()).toEqual([...b.keys()].sort())
  for (const [name, { dtype, shape, data }] of b) {
    expect({ dtype: a.get(name)!.dtype, shape: a.get(name)!.shape }, name).toEqual({ dtype, shape })
    expect(Buffer.compare(a.get(name)!.data, data), name).toBe(0)
  }
}

const errors = ({ findings }: Report) => findings.filter(({ severity }) => severity === 'error')

describe('a HuggingFace folder from another', () => {
  it('keeps weights, configuration and tokenizer, and says so in a valid folder', async () => {
    const source = tinyLlama()
    const { files, report } = await convertFiles(source)
    expect(errors(report)).toEqual([])
    expect(Object.keys(files).sort()).toEqual(Object.keys(source).sort())
    expectSameWeights(files, source)
    for (const path of ['tokenizer.json', 'tokenizer_config.json', 'generation_config.json']) {
      expect(text(files[path]), path).toBe(text(source[path]))
    }
    expect(JSON.parse(text(files['config.json']))).toEqual(JSON.parse(text(source['config.json'])))
    expect(report.files.at(-1)!.path).toBe('config.json')
  })

  it.skipIf(noShared).each(SHARED_MODELS)('is bit-identical for %s (../shared)', async (name) => {
    const source = sharedFiles(name)
    const { files, report } = await convertFiles(source)
    expect(report.findings.filter(({ severity }) => severity !== 'info')).toEqual([])
    expectSameWeights(files, source)
    // the same bytes as the reference writers': floats keep their point, tensors their order
    expect(text(files['config.json'])).toBe(text(source['config.json']))
    expect(Buffer.compare(files['model.safetensors']!, source['model.safetensors']!)).toBe(0)
    const carried = Object.keys(source).filter((path) => !/^(reference|model|config)/.test(path))
    for (const path of carried) expect(Buffer.compare(files[path]!, source[path]!), path).toBe(0)
    expect(Object.keys(files).length).toBe(carried.length + 2)
  })

  it('goes below a folder of the name that is given', async () => {
    const { files, report } = await convertFiles(tinyLlama(), {}, { name: 'out' })
    expect(errors(report)).toEqual([])
    expect(Object.keys(files).every((path) => path.startsWith('out/'))).toBe(true)
    expect(files['out/config.json']).toBeDefined()
  })

  it('refuses to replace one file of a folder that is there', async () => {
    const output = new MemoryOutput()
    const api = createApi(testHost({ input: memoryFolder(tinyLlama()), output }))
    const request = { input: ANYWHERE, target: 'hf', options: {}, output: ANYWHERE, name: null, overwrite: false }
    for (const _ of [0, 1]) {
      const job = api.start(request)
      let last
      do last = (await job.next()).at(-1)
      while (last?.type === 'progress' || last?.type === 'log')
      if (_ === 1) expect(last).toMatchObject({ type: 'failed', error: { code: 'output-exists' } })
    }
  })

  it('drops what is not true of the copy', async () => {
    const source = edit(tinyLlama(), 'config.json', { _name_or_path: '/home/me', auto_map: { AutoModel: 'x.Y' } })
    const plan = await planOf(await openFiles(source))
    const config = configOf(plan)
    expect(config).not.toHaveProperty('_name_or_path')
    expect(config).not.toHaveProperty('auto_map')
  })

  it('leaves a tied head out, and ids of generation as they are', async () => {
    const source = editWeights(edit(tinyLlama(), 'config.json', { tie_word_embeddings: true }), (all) => all)
    const { files, report } = await convertFiles(source)
    expect(weightsOf(files).has('lm_head.weight')).toBe(false)
    expect(jsonOf(files, 'config.json')['tie_word_embeddings']).toBe(true)
    expect(errors(report)).toEqual([])
  })

  it('makes a generation_config.json where there is none', async () => {
    const plan = await planOf(await openFiles(without(tinyLlama(), 'generation_config.json')))
    const source = jsonOf(tinyLlama(), 'config.json')
    const made = JSON.parse(fileText(plan, 'generation_config.json')) as Record<string, unknown>
    expect(made['eos_token_id']).toEqual(source['eos_token_id'])
    expect(made['_from_model_config']).toBe(true)
  })

  it('carries the names of a headless checkpoint over to those of the whole class', async () => {
    const source = editWeights(edit(tinyLlama(), 'config.json', { tie_word_embeddings: true }), (all) =>
      all
        .filter(({ name }) => name !== 'lm_head.weight')
        .map((tensor) => ({ ...tensor, name: tensor.name.slice('model.'.length) })),
    )
    const { files } = await convertFiles(source)
    expect([...weightsOf(files).keys()]).toContain('model.embed_tokens.weight')
  })
})

function fileText(plan: Plan, path: string): string {
  const segment = plan.files.find((file) => file.path === path)!.segments[0]!
  if (segment.kind !== 'bytes') throw new Error('not literal')
  return text(segment.bytes)
}
const configOf = (plan: Plan): Record<string, unknown> =>
  JSON.parse(fileText(plan, 'config.json')) as Record<string, unknown>

describe('types', () => {
  const values = (tensor: RawTensor): number[] => {
    const view = new DataView(tensor.data.buffer, tensor.data.byteOffset, tensor.data.byteLength)
    const count = tensor.shape.reduce((a, b) => a * b, 1)
    const f16 = (bits: number): number => {
      const [sign, exponent, fraction] = [bits >> 15 ? -1 : 1, (bits >> 10) & 31, bits & 1023]
      return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1 + fraction / 1024) * 2 ** (exponent - 15)
    }
    return Array.from({ length: count }, (_, i) => {
      if (tensor.dtype === 'f32') return view.getFloat32(4 * i, true)
      const bits = view.getUint16(2 * i, true)
      if (tensor.dtype === 'f16') return f16(bits)
      return new Float32Array(new Uint32Array([bits << 16]).buffer)[0]!
    })
  }

  it.each([
    ['f32', 'float32', 4, 0],
    ['f16', 'float16', 2, 2 ** -11],
    ['bf16', 'bfloat16', 2, 0],
  ] as const)('casts to %s', async (dtype, torch, bytes, tolerance) => {
    const source = tinyLlama()
    const { files, report } = await convertFiles(source, { dtype })
    expect(errors(report)).toEqual([])
    const config = jsonOf(files, 'config.json')
    expect(config['dtype'] ?? config['torch_dtype']).toBe(torch)
    const before = weightsOf(source)
    for (const [name, tensor] of weightsOf(files)) {
      expect(tensor.dtype).toBe(dtype)
      expect(tensor.data.length).toBe(bytes * tensor.shape.reduce((a, b) => a * b, 1))
      const expected = values(before.get(name)!)
      values(tensor).forEach((value, i) => {
        if (Math.abs(value - expected[i]!) > Math.abs(expected[i]!) * tolerance + (tolerance === 0 ? 0 : 2 ** -25)) {
          throw new Error(`${name}[${i}] is ${value}, not ${expected[i]}`)
        }
      })
    }
  })

  it('names the tensor whose weight F16 cannot hold', async () => {
    const name = 'model.layers.1.mlp.up_proj.weight'
    const source = editWeights(tinyLlama(), (all) =>
      all.map((tensor) => {
        if (tensor.name !== name) return tensor
        const data = tensor.data.slice()
        new DataView(data.buffer).setUint16(2 * (64 * 3 + 5), 0x4780, true) // 65536
        return { ...tensor, data }
      }),
    )
    const failure: unknown = await convertFiles(source, { dtype: 'f16' }).catch((error: unknown) => error)
    expect(failure).toMatchObject({ code: 'bad-weights', where: { tensor: name } })
    expect((failure as AppError).message).toMatch(/row 3\b.*5/)
  })
})

describe('shards', () => {
  const sizes = async (): Promise<[string, number][]> => {
    const plan = await planOf(await openFiles(tinyLlama()))
    return plan.files[0]!.segments.flatMap((segment) =>
      segment.kind === 'tensor' ? [[segment.name, segment.size] as [string, number]] : [],
    )
  }

  it('splits a model whose parts are together the whole, with an index that says where', async () => {
    const source = tinyLlama()
    const { files, report } = await convertFiles(source, { 'max-shard-size': '100KB' })
    expect(errors(report)).toEqual([])
    expectSameWeights(files, source)
    const shards = Object.keys(files).filter((path) => /^model-\d{5}-of-\d{5}\.safetensors$/.test(path))
    expect(shards.length).toBeGreaterThan(2)
    expect(shards.sort()[0]).toBe(`model-00001-of-${String(shards.length).padStart(5, '0')}.safetensors`)
    const index = jsonOf(files, 'model.safetensors.index.json') as {
      metadata: { total_size: number }
      weight_map: Record<string, string>
    }
    expect(text(files['model.safetensors.index.json'])).toBe(`${JSON.stringify(index, null, 2)}\n`)
    expect(Object.keys(index.weight_map)).toEqual(Object.keys(index.weight_map).sort())
    let total = 0
    for (const shard of shards) {
      const tensors = rawTensors(files[shard]!)
      const bytes = tensors.reduce((sum, { data }) => sum + data.length, 0)
      total += bytes
      expect(bytes <= 100_000 || tensors.length === 1).toBe(true)
      for (const { name } of tensors) expect(index.weight_map[name]).toBe(shard)
    }
    expect(index.metadata.total_size).toBe(total)
    expect(report.files.slice(-2).map(({ path }) => path)).toEqual(['model.safetensors.index.json', 'config.json'])
  })

  it('takes up shards and joins them again', async () => {
    const source = tinyLlama()
    const { files } = await convertFiles(sharded(source, 5))
    expect(Object.keys(files)).toContain('model.safetensors')
    expect(Object.keys(files)).not.toContain('model.safetensors.index.json')
    expectSameWeights(files, source)
  })

  it('needs no index for one file, however tight', async () => {
    const total = (await sizes()).reduce((sum, [, size]) => sum + size, 0)
    const files = async (limit: number): Promise<string[]> => {
      const plan = await planOf(await openFiles(tinyLlama()), { 'max-shard-size': String(limit) })
      return plan.files.map(({ path }) => path).filter((path) => path.startsWith('model'))
    }
    expect(await files(total)).toEqual(['model.safetensors'])
    expect(await files(total - 1)).toEqual([
      'model-00001-of-00002.safetensors',
      'model-00002-of-00002.safetensors',
      'model.safetensors.index.json',
    ])
    const count = (await sizes()).length
    expect((await files(1)).length).toBe(count + 1)
  })

  it.each(['', '5', 'GB', '-1GB', '0', '1.5XB', '1e9', '5 parsecs'])(
    'reads %j as a size or refuses it',
    async (size) => {
      const plan = planOf(await openFiles(tinyLlama()), { 'max-shard-size': size })
      if (size === '5') await expect(plan).resolves.toBeDefined()
      else await expect(plan).rejects.toMatchObject({ code: 'bad-option' })
    },
  )
})

describe('a checkpoint without a config.json', () => {
  const strip = (checkpoint: Checkpoint): Checkpoint => {
    const flags = ['attention_bias', 'mlp_bias'].filter((key) => checkpoint.config.raw.get(key) === true)
    const raw: JsonObject = new Map(flags.map((key) => [key, true]))
    return { ...checkpoint, config: { ...checkpoint.config, raw }, extras: new Map() }
  }

  it.skipIf(noShared).each(SHARED_MODELS)('has one made that means the same: %s (../shared)', async (name) => {
    const checkpoint = await openFiles(sharedFiles(name))
    const config = configOf(await planOf(strip(checkpoint)))
    const source = sharedFiles(name)
    const again = await openFiles({
      ...source,
      'config.json': utf8(JSON.stringify(config)),
    })
    const { raw: _a, ...made } = again.config
    const { raw: _b, ...original } = checkpoint.config
    expect(made).toEqual(original)
    expect(again.findings).toEqual(checkpoint.findings)
    expect(config).toHaveProperty('torch_dtype', 'bfloat16')
  })

  it.each([
    ['linear', { rope_type: 'linear', factor: 4 }],
    ['yarn', { rope_type: 'yarn', factor: 4, original_max_position_embeddings: 64, beta_fast: 16 }],
    [
      'llama3',
      {
        rope_type: 'llama3',
        factor: 8,
        low_freq_factor: 1,
        high_freq_factor: 4,
        original_max_position_embeddings: 64,
      },
    ],
  ])('keeps rotary scaling of the kind %s', async (_, rope_scaling) => {
    const source = edit(tinyLlama(), 'config.json', { rope_parameters: undefined, rope_theta: 5000, rope_scaling })
    const config = configOf(await planOf(strip(await openFiles(source))))
    expect(config['rope_scaling']).toEqual(rope_scaling)
    expect(config['rope_theta']).toBe(5000)
  })

  it('spells floats as Python does', async () => {
    const plan = await planOf(strip(await openFiles(tinyLlama())))
    expect(fileText(plan, 'config.json')).toMatch(/"rope_theta": \d+\.0,/)
  })

  it('refuses a model that cannot be described by one', async () => {
    const checkpoint = strip(await openFiles(tinyLlama()))
    const odd = { ...checkpoint, config: { ...checkpoint.config, embeddingScale: 12 } }
    await expect(planOf(odd)).rejects.toMatchObject({ code: 'unsupported' })
    await expect(planOf(odd)).rejects.toThrow(/embeddingScale/)
  })
})

describe('validation of what was written', () => {
  async function findings(files: Files): Promise<string[]> {
    const folder = memoryFolder(files)
    const match = await huggingface.detect(folder)
    if (match === null) return ['not detected']
    const all: string[] = []
    for await (const { severity, code } of huggingface.validate(folder, match)) all.push(`${severity} ${code}`)
    return all
  }
  const written = async (): Promise<Files> => (await convertFiles(tinyLlama())).files
  const split = async (): Promise<Files> => (await convertFiles(tinyLlama(), { 'max-shard-size': '100KB' })).files
  const change = (name: string, what: (tensor: RawTensor) => RawTensor | null) => (all: RawTensor[]) =>
    all.flatMap((tensor) => (tensor.name === name ? [what(tensor)].filter((one) => one !== null) : [tensor]))
  const NAME = 'model.layers.0.self_attn.k_proj.weight'
  const header = (bytes: Uint8Array, edit: (text: string) => string): Uint8Array => {
    const length = Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true))
    const edited = edit(text(bytes.subarray(8, 8 + length)))
    const json = utf8(edited.padEnd(Math.ceil(utf8(edited).length / 8) * 8))
    const result = new Uint8Array(8 + json.length + bytes.length - 8 - length)
    new DataView(result.buffer).setBigUint64(0, BigInt(json.length), true)
    result.set(json, 8)
    result.set(bytes.subarray(8 + length), 8 + json.length)
    return result
  }

  it('finds nothing', async () => {
    expect(await findings(await written())).toEqual([])
    expect(await findings(await split())).toEqual([])
  })

  it.each<[string, (files: Files) => Files, string]>([
    [
      'a wrong shape',
      (files) =>
        editWeights(
          files,
          change(NAME, (t) => ({ ...t, shape: t.shape.toReversed() })),
        ),
      'error bad-tensor',
    ],
    [
      'a missing tensor',
      (files) =>
        editWeights(
          files,
          change(NAME, () => null),
        ),
      'error missing-tensor',
    ],
    [
      'an extra tensor',
      (files) =>
        editWeights(files, (all) => [...all, { name: 'x', dtype: 'f32', shape: [1], data: new Uint8Array(4) }]),
      'error tensor-ignored',
    ],
    [
      'a bad offset',
      (files) => ({
        ...files,
        'model.safetensors': header(files['model.safetensors']!, (json) =>
          json.replace(/"data_offsets":\[0,(\d+)\]/, (_, end: string) => `"data_offsets":[2,${Number(end) + 2}]`),
        ),
      }),
      'error malformed',
    ],
    [
      'a wrong dtype',
      (files) => ({
        ...files,
        'model.safetensors': header(files['model.safetensors']!, (json) => json.replace('"BF16"', '"I16"')),
      }),
      'error bad-tensor',
    ],
    [
      'a dtype that is not the config’s',
      (files) => edit(files, 'config.json', { dtype: 'float32', torch_dtype: 'float32' }),
      'warning dtype-mismatch',
    ],
    [
      'NaN',
      (files) =>
        editWeights(
          files,
          change(NAME, (t) => {
            const data = t.data.slice()
            new DataView(data.buffer).setUint16(20, 0x7fc0, true)
            return { ...t, data }
          }),
        ),
      'error bad-weights',
    ],
    [
      'a config of another size',
      (files) => edit(files, 'config.json', { num_hidden_layers: 9 }),
      'error missing-tensor',
    ],
    [
      'a tie that the weights contradict',
      (files) => edit(files, 'config.json', { tie_word_embeddings: true }),
      'error tie-contradicts',
    ],
    [
      'a head that is missing without a tie',
      (files) =>
        editWeights(
          edit(files, 'config.json', { tie_word_embeddings: false }),
          change('lm_head.weight', () => null),
        ),
      'error missing-tensor',
    ],
    [
      'a file cut short',
      (files) => ({ ...files, 'model.safetensors': files['model.safetensors']!.slice(0, -5) }),
      'error truncated',
    ],
    ['no config', (files) => without(files, 'config.json'), 'error missing-file'],
  ])('names %s', async (_, plant, expected) => {
    expect(await findings(plant(await written()))).toContain(expected)
  })

  it.each<[string, (index: Record<string, unknown>) => unknown, string]>([
    [
      'a shard that is not there',
      (index) => ({ ...index, weight_map: { ...(index['weight_map'] as object), [NAME]: 'gone.safetensors' } }),
      'error missing-file',
    ],
    [
      'a tensor in another shard',
      (index) => {
        const map = index['weight_map'] as Record<string, string>
        const other = Object.values(map).find((shard) => shard !== map[NAME])
        return { ...index, weight_map: { ...map, [NAME]: other } }
      },
      'error missing-tensor',
    ],
    [
      'a tensor that it does not list',
      (index) => {
        const { [NAME]: _, ...map } = index['weight_map'] as Record<string, string>
        return { ...index, weight_map: map }
      },
      'error index-incomplete',
    ],
    ['a wrong total', (index) => ({ ...index, metadata: { total_size: 1 } }), 'error total-size'],
    ['no map', () => ({}), 'error malformed'],
  ])('names %s of an index', async (_, plant, expected) => {
    const files = await split()
    const index = plant(jsonOf(files, 'model.safetensors.index.json'))
    const all = await findings({ ...files, 'model.safetensors.index.json': utf8(JSON.stringify(index)) })
    expect(all).toContain(expected)
  })
})

describe('numbers of an index', () => {
  it('are strict JSON', async () => {
    const plan = await planOf(await openFiles(tinyLlama()), { 'max-shard-size': '100KB' })
    const index = fileText(plan, 'model.safetensors.index.json')
    expect(() => parseJson(index, 'index')).not.toThrow()
  })
})

describe('a model of an architecture that is not described', () => {
  const steps: RawTensor = { name: 'steps', dtype: 'i64', shape: [2], data: new Uint8Array(16).fill(7) }
  const yoda = (): Files =>
    edit(
      editWeights(tinyLlama(), (tensors) => [...tensors, steps]),
      'config.json',
      { architectures: ['YodaForCausalLM'], model_type: 'yoda', auto_map: { AutoModel: 'modeling_yoda.Yoda' } },
    )
  const tensorsOf = (files: Files): RawTensor[] =>
    Object.entries(files)
      .filter(([path]) => path.endsWith('.safetensors'))
      .flatMap(([, bytes]) => rawTensors(bytes))
      .toSorted((a, b) => (a.name < b.name ? -1 : 1))

  it('keeps names, bytes and configuration, in shards of another size', async () => {
    const source = yoda()
    const { files, report } = await convertFiles(source, { 'max-shard-size': '100KB' })
    expect(Object.keys(files)).toContain('model.safetensors.index.json')
    expect(tensorsOf(files)).toEqual(tensorsOf(source))
    expect(jsonOf(files, 'config.json')).toEqual(jsonOf(source, 'config.json'))
    expect(files['tokenizer.json']).toEqual(source['tokenizer.json'])
    expect(report.findings).toContainEqual(expect.objectContaining({ code: 'custom-code' }))
  })

  it('is cast where it holds floats', async () => {
    const { files } = await convertFiles(yoda(), { dtype: 'f16' })
    for (const { name, dtype } of tensorsOf(files)) expect(dtype, name).toBe(name === 'steps' ? 'i64' : 'f16')
    expect(tensorsOf(files).find(({ name }) => name === 'steps')).toEqual(steps)
    const { dtype, torch_dtype: older } = jsonOf(files, 'config.json')
    expect(dtype ?? older).toBe('float16')
  })
})
