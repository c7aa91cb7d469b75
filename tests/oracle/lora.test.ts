/** LoRA adapters merged by the product, against torch doing the sums in doubles. */
import { spawnSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Api } from '../../src/api/api.ts'
import type { ConvertRequest } from '../../src/api/wire.ts'
import { AppError } from '../../src/core/errors.ts'
import type { Report } from '../../src/core/job.ts'
import type { Transforms } from '../../src/core/transform.ts'
import { rawTensors } from '../engines/hf/folder.ts'
import { convertFolder, productApi, relativeError, temporaryFolder } from './convert-folder.ts'
import { judge, noLlama } from './llama.ts'
import { MODELS, noModels } from './models.ts'

// Debian: apt-get install python3-torch
const PYTHON = '/usr/bin/python3'
const noTorch = spawnSync(PYTHON, ['-c', 'import torch']).status === 0 ? null : 'python3-torch is not installed'
const reason = noTorch ?? noModels

const blocks = (count: number, modules: readonly string[]): string[] =>
  Array.from({ length: count }, (_, i) => modules.map((module) => `model.layers.${i}.${module}`)).flat()
const all = (names: readonly string[], kind: string): Record<string, string> =>
  Object.fromEntries(names.map((name) => [name, kind]))

const LINEAR = [
  'self_attn.q_proj',
  'self_attn.k_proj',
  'self_attn.v_proj',
  'self_attn.o_proj',
  'mlp.gate_proj',
  'mlp.up_proj',
  'mlp.down_proj',
]

interface Case {
  readonly base: string
  readonly config: Readonly<Record<string, unknown>>
  readonly modules: Readonly<Record<string, string>>
  readonly saved?: Readonly<Record<string, readonly number[]>>
  readonly bin?: boolean
  /** The adapter's name in those of its tensors. */
  readonly own?: string
  readonly dtype?: 'F32' | 'F16' | 'BF16'
  readonly magnitude?: string
  /** What a head of its own is made of. */
  readonly untied?: string
  readonly seed?: number
}

const CASES: Readonly<Record<string, Case>> = {
  'q and v of the main model': {
    base: 'main',
    config: { r: 8, lora_alpha: 16, target_modules: ['q_proj', 'v_proj'] },
    modules: all(blocks(6, ['self_attn.q_proj', 'self_attn.v_proj']), 'linear'),
  },
  'all linear, rank-stabilised, ranks and alphas by pattern, names with the adapter’s own, in bf16': {
    base: 'main',
    config: {
      r: 4,
      lora_alpha: 32,
      use_rslora: true,
      target_modules: 'all-linear',
      rank_pattern: { 'self_attn.k_proj': 3, '^model.layers.2.mlp.*': 16 },
      alpha_pattern: { down_proj: 5, '.*q_proj': 7.5 },
    },
    modules: all(blocks(6, LINEAR), 'linear'),
    own: '.default',
    dtype: 'BF16',
  },
  'DoRA in a file of torch.save': {
    base: 'main',
    config: { r: 8, lora_alpha: 16, use_dora: true, target_modules: ['q_proj', 'o_proj', 'down_proj'] },
    modules: all(blocks(6, ['self_attn.q_proj', 'self_attn.o_proj', 'mlp.down_proj']), 'dora'),
    bin: true,
    magnitude: '',
  },
  'embedding and head, a norm trained whole, some layers, an expression': {
    base: 'main',
    config: {
      r: 6,
      lora_alpha: 3,
      target_modules: String.raw`embed_tokens|lm_head|.*\.[13]\.mlp\.(up|gate)_proj`,
      modules_to_save: ['norm'],
    },
    modules: {
      'model.embed_tokens': 'embedding',
      lm_head: 'linear',
      ...all(
        [1, 3].flatMap((i) => [`model.layers.${i}.mlp.up_proj`, `model.layers.${i}.mlp.gate_proj`]),
        'linear',
      ),
    },
    saved: { 'model.norm.*weight': [256] },
    dtype: 'F16',
  },
  'a tied base whose embedding alone is adapted': {
    base: 'llama3-tied',
    config: { r: 2, lora_alpha: 4, target_modules: ['embed_tokens', 'q_proj'] },
    modules: { 'model.embed_tokens': 'embedding', ...all(blocks(2, ['self_attn.q_proj']), 'linear') },
    untied: 'model.embed_tokens.weight',
  },
  'biases: trained whole, and of B': {
    base: 'qwen2',
    config: { r: 2, lora_alpha: 8, bias: 'all', lora_bias: true, target_modules: ['k_proj'] },
    modules: all(blocks(2, ['self_attn.k_proj']), 'linear'),
    saved: { 'model.layers.0.self_attn.q_proj.bias': [64], 'model.layers.1.self_attn.v_proj.base_layer.bias': [32] },
  },
  'Conv1D of GPT-2': {
    base: 'gpt2',
    config: { r: 4, lora_alpha: 8, fan_in_fan_out: true, target_modules: ['c_attn', 'c_proj', 'c_fc'] },
    modules: all(
      [0, 1].flatMap((i) =>
        ['attn.c_attn', 'attn.c_proj', 'mlp.c_fc', 'mlp.c_proj'].map((name) => `transformer.h.${i}.${name}`),
      ),
      'conv1d',
    ),
  },
  'experts of Mixtral': {
    base: 'mixtral',
    config: { r: 4, lora_alpha: 4, target_modules: ['w1', 'w2', 'w3', 'gate'] },
    modules: all(
      blocks(2, [
        'block_sparse_moe.gate',
        ...[0, 1, 2, 3].flatMap((e) => ['w1', 'w2', 'w3'].map((w) => `block_sparse_moe.experts.${e}.${w}`)),
      ]),
      'linear',
    ),
  },
  'a second adapter for the main model': {
    base: 'main',
    config: { r: 3, lora_alpha: 9, target_modules: ['q_proj', 'k_proj'] },
    modules: all(blocks(6, ['self_attn.q_proj', 'self_attn.k_proj']), 'linear'),
    seed: 5,
  },
}

interface Expected {
  readonly values: Float64Array
  readonly changed: boolean
}

function expectedOf(folder: string): ReadonlyMap<string, Expected> {
  const index = JSON.parse(readFileSync(path.join(folder, 'expected.json'), 'utf8')) as Record<
    string,
    { shape: number[]; offset: number; changed: boolean }
  >
  const bytes = readFileSync(path.join(folder, 'expected.bin'))
  return new Map(
    Object.entries(index).map(([name, { shape, offset, changed }]) => {
      const count = shape.reduce((product, size) => product * size, 1)
      const values = new Float64Array(
        bytes.buffer.slice(bytes.byteOffset + offset, bytes.byteOffset + offset + count * 8),
      )
      return [name, { values, changed }]
    }),
  )
}

/** A file's tensors as numbers. */
function numbersOf(file: string): ReadonlyMap<string, { dtype: string; values: Float32Array }> {
  return new Map(
    rawTensors(readFileSync(file)).map(({ name, dtype, data }): [string, { dtype: string; values: Float32Array }] => {
      const copy = Uint8Array.from(data)
      if (dtype === 'f32') return [name, { dtype, values: new Float32Array(copy.buffer) }]
      expect(dtype, name).toBe('bf16')
      const halves = new Uint16Array(copy.buffer)
      const words = Uint32Array.from(halves, (half) => half << 16)
      return [name, { dtype, values: new Float32Array(words.buffer) }]
    }),
  )
}

describe.skipIf(reason !== null)(`LoRA adapters${reason === null ? '' : ` (${reason})`}`, () => {
  let folder: Awaited<ReturnType<typeof temporaryFolder>>
  let api: Api
  const adapterOf = (name: string): string => path.join(folder.path, `adapter-${Object.keys(CASES).indexOf(name)}`)
  const baseOf = (name: string): string => path.join(MODELS, CASES[name]!.base)
  const at = (place: string) => ({ kind: 'path', path: place }) as const

  beforeAll(async () => {
    folder = await temporaryFolder()
    api = productApi()
    const cases = Object.entries(CASES).map(([name, one]) => ({ ...one, base: baseOf(name), out: adapterOf(name) }))
    const list = path.join(folder.path, 'cases.json')
    writeFileSync(list, JSON.stringify(cases))
    const script = path.join(import.meta.dirname, 'make-lora.py')
    const { status, stderr } = spawnSync(PYTHON, [script, list], { encoding: 'utf8' })
    expect(stderr).toBe('')
    expect(status).toBe(0)
  }, 120_000)
  afterAll(async () => {
    await api.close()
    await folder.remove()
  })

  let count = 0
  async function convert(
    input: string,
    target: string,
    options: ConvertRequest['options'],
    transforms: Transforms,
  ): Promise<{ report: Report; output: string }> {
    const output = path.join(folder.path, `out-${count++}`)
    await mkdir(output)
    const request = { target, options, output: at(output), name: null, overwrite: false, transforms }
    const job = api.start({ input: at(input), ...request })
    for (;;) {
      for (const event of await job.next()) {
        if (event.type === 'failed') throw AppError.fromData(event.error)
        if (event.type === 'done') return { report: event.report, output }
      }
    }
  }

  const alone = (name: string, weight = 1): Transforms => ({ adapters: [{ place: at(adapterOf(name)), weight }] })

  /** Every tensor is torch's, to the rounding of f32 sums. */
  function expectMerged(name: string, output: string): void {
    const got = numbersOf(path.join(output, 'model.safetensors'))
    const want = expectedOf(adapterOf(name))
    expect([...got.keys()].sort()).toEqual([...want.keys()].sort())
    for (const [tensor, { values }] of want) {
      const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0)
      const found = got.get(tensor)!.values
      let worst = 0
      values.forEach((value, i) => (worst = Math.max(worst, Math.abs(found[i]! - value))))
      expect(worst / largest, tensor).toBeLessThan(5e-7)
    }
  }

  const SINGLE = Object.keys(CASES).filter((name) => !name.startsWith('a second'))

  test.each(SINGLE)('%s: W + scale B A', { timeout: 60_000 }, async (name) => {
    const { report, output } = await convert(baseOf(name), 'huggingface', { dtype: 'f32' }, alone(name))
    expect(report.findings.map(({ code }) => code)).toContain('lora-merged')
    expect(report.findings.map(({ code }) => code)).not.toContain('lora-incomplete')
    expectMerged(name, output)
    // not in vain: what is changed differs from the base
    const base = numbersOf(path.join(baseOf(name), 'model.safetensors'))
    for (const [tensor, { values, changed }] of expectedOf(adapterOf(name))) {
      const before = base.get(tensor)?.values
      if (before !== undefined)
        expect(
          values.some((value, i) => value !== before[i]),
          tensor,
        ).toBe(changed)
    }
  })

  test('types are kept: what was bf16 is bf16, rounded once; what no adapter touches is the same bit for bit', async () => {
    const [name] = SINGLE as [string]
    const { output } = await convert(baseOf(name), 'huggingface', {}, alone(name))
    const { output: wide } = await convert(baseOf(name), 'huggingface', { dtype: 'f32' }, alone(name))
    const exact = numbersOf(path.join(wide, 'model.safetensors'))
    for (const [tensor, { dtype, values }] of numbersOf(path.join(output, 'model.safetensors'))) {
      expect(dtype).toBe('bf16')
      const bits = new Uint32Array(exact.get(tensor)!.values.slice().buffer)
      const rounded = bits.map((word) => ((word + 0x7fff + ((word >>> 16) & 1)) >>> 16) << 16)
      expect(Buffer.compare(Buffer.from(values.buffer), Buffer.from(rounded.buffer)), tensor).toBe(0)
    }
  })

  test('an adapter converted with --base is the same as its base with --adapter', async () => {
    const [name] = SINGLE as [string]
    const one = await convert(baseOf(name), 'gguf', { quant: 'q8_0' }, alone(name))
    const two = await convert(adapterOf(name), 'gguf', { quant: 'q8_0' }, { base: at(baseOf(name)) })
    expect(two.report.files).toEqual(one.report.files)
  })

  test('an adapter alone is refused with the remedy, a model as an adapter too', async () => {
    const [name] = SINGLE as [string]
    const error = await convert(adapterOf(name), 'gguf', {}, {}).catch((caught: unknown) => AppError.from(caught))
    expect(error).toMatchObject({
      code: 'needs-base',
      message:
        'adapter-0 is a LoRA adapter (rank 8, alpha 16 on q_proj, v_proj) for somebody/base, and no model by itself',
      hint: 'Give its base model too: with --base PATH, or convert the base with --adapter PATH.',
    })
    await expect(convert(baseOf(name), 'gguf', {}, { base: at(baseOf(name)) })).rejects.toMatchObject({
      code: 'bad-option',
    })
    await expect(
      convert(baseOf(name), 'gguf', {}, { adapters: [{ place: at(baseOf(name)), weight: 1 }] }),
    ).rejects.toMatchObject({ code: 'bad-option' })
    // the wrong base
    await expect(convert(path.join(MODELS, 'qwen2'), 'gguf', {}, alone(name))).rejects.toMatchObject({
      code: expect.stringMatching(/bad-tensor|unsupported/) as string,
    })
  })

  test('several adapters with weights add up', async () => {
    const [first] = SINGLE as [string]
    const second = 'a second adapter for the main model'
    const adapters = [
      { place: at(adapterOf(first)), weight: 0.5 },
      { place: at(adapterOf(second)), weight: -2 },
    ]
    const { output } = await convert(baseOf(first), 'huggingface', { dtype: 'f32' }, { adapters })
    const got = numbersOf(path.join(output, 'model.safetensors'))
    const base = numbersOf(path.join(baseOf(first), 'model.safetensors'))
    const [one, two] = [expectedOf(adapterOf(first)), expectedOf(adapterOf(second))]
    for (const [tensor, { values }] of base) {
      const [a, b] = [one.get(tensor)!.values, two.get(tensor)!.values]
      const want = [...values].map((value, i) => value + 0.5 * (a[i]! - value) - 2 * (b[i]! - value))
      expect(relativeError(got.get(tensor)!.values, want), tensor).toBeLessThan(1e-6)
    }
    const dora = 'DoRA in a file of torch.save'
    await expect(
      convert(baseOf(dora), 'gguf', {}, { adapters: [...adapters, { place: at(adapterOf(dora)), weight: 1 }] }),
    ).rejects.toMatchObject({ code: 'bad-option' })
    await expect(convert(baseOf(dora), 'gguf', {}, alone(dora, 0.5))).rejects.toMatchObject({ code: 'bad-option' })
  })

  test(
    'every target: MLX and Megatron there and back, and GGUF quantised, then merged',
    { timeout: 120_000 },
    async () => {
      const [name] = SINGLE as [string]
      for (const target of ['mlx', 'megatron']) {
        const options = target === 'mlx' ? { quant: 'none', dtype: 'f32' } : { dtype: 'f32', tp: 2 }
        const { output } = await convert(baseOf(name), target, options, alone(name))
        const { output: back } = await convert(output, 'huggingface', { dtype: 'f32' }, {})
        expectMerged(name, back)
      }
      // a base of GGUF, dequantised exactly where it is F32 or BF16
      const { output } = await convert(baseOf(name), 'gguf', { quant: 'bf16' }, {})
      const { output: merged } = await convert(output, 'huggingface', { dtype: 'f32' }, alone(name))
      expectMerged(name, merged)
      const { output: small } = await convert(baseOf(name), 'gguf', { quant: 'q8_0' }, {})
      const { report } = await convert(small, 'huggingface', { dtype: 'f32' }, alone(name))
      expect(report.findings.map(({ code }) => code)).toContain('lora-dequantized')
    },
  )

  test.skipIf(noLlama !== null)(
    `llama.cpp runs the merged model as it runs what torch merged${noLlama === null ? '' : ` (${noLlama})`}`,
    { timeout: 120_000 },
    async () => {
      const [name] = SINGLE as [string]
      const ours = await convertFolder(api, baseOf(name), { quant: 'f32' }, folder.path, alone(name), 'merged')
      const plain = await convertFolder(api, baseOf(name), { quant: 'f32' }, folder.path, {}, 'plain')
      const ids = [0, 17, 42, 99, 7]
      const logits = async (file: string): Promise<Float32Array> => {
        const llama = await judge(file)
        try {
          return await llama.logits(ids)
        } finally {
          await llama.close()
        }
      }
      // the base with torch's tensors in the places of its own
      const { output } = await convert(baseOf(name), 'huggingface', { dtype: 'f32' }, {})
      const file = path.join(output, 'model.safetensors')
      const bytes = readFileSync(file)
      const header = JSON.parse(bytes.subarray(8, 8 + Number(bytes.readBigUInt64LE(0))).toString()) as Record<
        string,
        { data_offsets?: [number, number] }
      >
      for (const [tensor, { values }] of expectedOf(adapterOf(name))) {
        const [begin] = header[tensor]!.data_offsets!
        const start = 8 + Number(bytes.readBigUInt64LE(0)) + begin
        Buffer.from(Float32Array.from(values).buffer).copy(bytes, start)
      }
      writeFileSync(file, bytes)
      const torch = await convertFolder(api, output, { quant: 'f32' }, folder.path, {}, 'torch')
      const want = await logits(torch)
      expect(relativeError(await logits(ours), want)).toBeLessThan(1e-5)
      expect(relativeError(await logits(plain), want)).toBeGreaterThan(1e-2)
    },
  )
})
