import { readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import type { Checkpoint } from '../../src/core/checkpoint.ts'
import { AppError } from '../../src/core/errors.ts'
import { elementCount } from '../../src/core/dtype.ts'
import { parseJson } from '../../src/core/json.ts'
import type { Recipe } from '../../src/core/tensor.ts'
import type { FakeWeights } from '../../src/core/transform.ts'
import { normalQuantile } from '../../src/api/evaluate/generate.ts'
import { openOutline } from '../../src/engines/hf/open.ts'
import { expectedTensors } from '../../src/models/architecture.ts'
import { parseFakeConfig } from '../../src/models/fake-config.ts'
import { DEFAULT_FAKE, fakeWeights } from '../../src/models/fake.ts'
import { architectureFor, supportedClassNames } from '../../src/models/index.ts'
import { memoryFolder } from '../contracts/memory.ts'
import { MODELS, noModels } from '../oracle/models.ts'
import { sha256 } from '../api/host.ts'
import { ArrayInputs, evaluate } from '../api/run.ts'

const LLAMA = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  hidden_size: 64,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  intermediate_size: 128,
  vocab_size: 512,
  pad_token_id: 7,
  attention_bias: true,
  torch_dtype: 'bfloat16',
}

async function outline(config: object = LLAMA): Promise<Checkpoint> {
  return openOutline(memoryFolder({ 'config.json': new TextEncoder().encode(JSON.stringify(config)) }))
}

const make = async (fake: Partial<FakeWeights> = {}, config: object = LLAMA): Promise<Checkpoint> =>
  fakeWeights(await outline(config), { ...DEFAULT_FAKE, ...fake })

const nothing = new ArrayInputs({})

async function f32(recipe: Recipe, start = 0, count = elementCount(recipe.shape)): Promise<Float32Array> {
  const { bytes } = await evaluate(recipe, nothing, start, count)
  return new Float32Array(bytes.buffer, bytes.byteOffset, count)
}

function moments(values: Float32Array): { mean: number; std: number; kurtosis: number } {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length
  const power = (n: number): number => values.reduce((sum, value) => sum + (value - mean) ** n, 0) / values.length
  return { mean, std: Math.sqrt(power(2)), kurtosis: power(4) / power(2) ** 2 }
}

describe('made-up weights', () => {
  test('every tensor of the architecture, in its shape and type, and marked as made up', async () => {
    const { config, tensors, findings, name } = await make()
    const architecture = await architectureFor('LlamaForCausalLM', 'c')
    expect([...tensors].map(([role, { shape, dtype }]) => [role, shape, dtype])).toEqual(
      expectedTensors(architecture, config).map(({ role, shape }) => [role, shape, 'bf16']),
    )
    expect(findings.map(({ code }) => code)).toContain('fake-weights')
    expect(name).toMatch(/-fake$/)
    expect(config.raw.has('fake_weights')).toBe(true)
  })

  test.skipIf(noModels !== null)(`every model that is here${noModels === null ? '' : ` (${noModels})`}`, async () => {
    let seen = 0
    for (const name of readdirSync(MODELS)) {
      const config = JSON.parse(readFileSync(path.join(MODELS, name, 'config.json'), 'utf8')) as {
        architectures: string[]
      }
      if (!supportedClassNames().includes(config.architectures[0]!)) continue
      const { tensors, config: normalized, architecture: id } = await make({}, config)
      const rows = expectedTensors(await architectureFor(id, 'c'), normalized).filter(({ optional }) => !optional)
      expect([...tensors.keys()], name).toEqual(rows.map(({ role }) => role))
      for (const [role, { shape }] of tensors) expect(shape, role).toEqual(rows.find((row) => row.role === role)!.shape)
      seen++
    }
    expect(seen).toBeGreaterThan(5)
  })

  test('matrices are normal with the deviation of the config, residual ones with less', async () => {
    const { tensors } = await make({ dtype: 'f32' })
    const gate = moments(await f32(tensors.get('blocks.0.mlp.gate.weight')!))
    expect(Math.abs(gate.mean)).toBeLessThan(0.001)
    expect(gate.std / 0.02).toBeCloseTo(1, 1)
    const embed = tensors.get('embed.weight')!
    const many = moments(await f32(embed, 64 * 8))
    expect(Math.abs(many.std / 0.02 - 1)).toBeLessThan(0.01)
    expect(Math.abs(many.kurtosis - 3)).toBeLessThan(0.1)
    const down = moments(await f32(tensors.get('blocks.0.mlp.down.weight')!))
    expect(Math.abs((down.std / 0.02) * Math.sqrt(2 * 2) - 1)).toBeLessThan(0.03)
  })

  test('norms are one, biases zero, and the padding token’s row is zero', async () => {
    const { tensors } = await make({ dtype: 'f32' })
    expect(new Set(await f32(tensors.get('blocks.1.attn_norm.weight')!))).toEqual(new Set([1]))
    expect(new Set(await f32(tensors.get('blocks.1.attn.q.bias')!))).toEqual(new Set([0]))
    const embed = tensors.get('embed.weight')!
    expect(new Set(await f32(embed, 7 * 64, 64))).toEqual(new Set([0]))
    expect((await f32(embed, 6 * 64, 64)).some((value) => value === 0)).toBe(false)
    expect((await f32(embed, 8 * 64, 64)).some((value) => value === 0)).toBe(false)
  })

  test('a gemma’s norms are zero: it adds one', async () => {
    const gemma = {
      ...LLAMA,
      architectures: ['Gemma2ForCausalLM'],
      model_type: 'gemma2',
      attention_bias: false,
      head_dim: 16,
    }
    const { tensors } = await make(
      { dtype: 'f32' },
      { ...gemma, hidden_activation: 'gelu_pytorch_tanh', sliding_window: 64 },
    )
    expect(new Set(await f32(tensors.get('blocks.1.attn_norm.weight')!))).toEqual(new Set([0]))
  })

  test('golden bytes: the same seed gives these everywhere', async () => {
    const digests: Record<string, string> = {}
    for (const dtype of ['f32', 'f16', 'bf16'] as const) {
      const { tensors } = await make({ dtype, seed: 42 })
      const { bytes } = await evaluate(tensors.get('blocks.1.mlp.up.weight')!, nothing)
      digests[dtype] = sha256(bytes).slice(0, 16)
    }
    const { tensors } = await make({ distribution: 'uniform', dtype: 'f32', seed: 42 })
    const { bytes } = await evaluate(tensors.get('blocks.1.mlp.up.weight')!, nothing)
    digests['uniform'] = sha256(bytes).slice(0, 16)
    expect(digests).toMatchInlineSnapshot(`
      {
        "bf16": "8bdc143146ab4f09",
        "f16": "f8f5eaf034018b8b",
        "f32": "50220f1ae7801341",
        "uniform": "cc5a9eb9e65d681d",
      }
    `)
  })

  test.each(['f32', 'bf16'] as const)('%s: any range alone is the same as part of the whole', async (dtype) => {
    for (const distribution of ['normal', 'uniform'] as const) {
      const { tensors } = await make({ dtype, distribution })
      const recipe = tensors.get('blocks.0.mlp.up.weight')!
      const { bytes: whole } = await evaluate(recipe, nothing)
      const size = whole.length / elementCount(recipe.shape)
      for (const [start, count] of [
        [0, 1],
        [1, 1],
        [1, 2],
        [3, 8],
        [8, 3],
        [999, 1001],
        [8191, 1],
      ] as const) {
        const { bytes } = await evaluate(recipe, nothing, start, count)
        expect(Buffer.from(bytes).equals(Buffer.from(whole.subarray(start * size, (start + count) * size)))).toBe(true)
      }
    }
  })

  test('the counter passes 2^32 without repeating itself', async () => {
    const { tensors } = await make({ dtype: 'f32' }, { ...LLAMA, hidden_size: 4096, intermediate_size: 1 << 22 })
    const recipe = tensors.get('blocks.0.mlp.up.weight')!
    const far = await f32(recipe, 2 ** 33 + 2, 64)
    expect([...far]).not.toEqual([...(await f32(recipe, 2, 64))])
    const edge = await f32(recipe, 2 ** 33 - 32, 64)
    expect(edge.slice(34)).toEqual(far.slice(0, 30))
  })

  test('seeds and tensors have streams of their own', async () => {
    const of = async (seed: number, role: string): Promise<string> =>
      sha256((await evaluate((await make({ seed })).tensors.get(role)!, nothing)).bytes)
    const digests = await Promise.all([
      of(0, 'blocks.0.mlp.up.weight'),
      of(1, 'blocks.0.mlp.up.weight'),
      of(0, 'blocks.1.mlp.up.weight'),
      of(0, 'blocks.0.mlp.gate.weight'),
    ])
    expect(new Set(digests).size).toBe(4)
    expect(await of(0, 'blocks.0.mlp.up.weight')).toBe(digests[0])
  })

  test('zeros are zeros, norms among them', async () => {
    const { tensors } = await make({ distribution: 'zeros', dtype: 'f16' })
    for (const recipe of tensors.values()) {
      expect((await evaluate(recipe, nothing)).bytes.every((byte) => byte === 0)).toBe(true)
    }
  })

  test('a model of 70 billion weights is described in about a second', async () => {
    const large = {
      ...LLAMA,
      hidden_size: 8192,
      num_hidden_layers: 80,
      num_attention_heads: 64,
      num_key_value_heads: 8,
      intermediate_size: 28_672,
      vocab_size: 128_256,
    }
    const started = performance.now()
    const { tensors } = await make({}, large)
    const weights = [...tensors.values()].reduce((sum, { shape }) => sum + elementCount(shape), 0)
    expect(weights).toBeGreaterThan(70e9)
    expect(performance.now() - started).toBeLessThan(1500)
  })

  test('without a tokenizer there is one of bytes, where the vocabulary has room', async () => {
    expect((await make()).tokenizer?.tokens).toHaveLength(512)
    expect((await make({}, { ...LLAMA, vocab_size: 100 })).tokenizer).toBeNull()
  })

  test('single tensors as asked for', async () => {
    const fake = parseFakeConfig(
      parseJson(
        JSON.stringify({
          seed: 3,
          dtype: 'f32',
          tensors: {
            'model.layers.*.mlp.up_proj.weight': { std: 0.5 },
            'model.layers.1.mlp.up_proj.weight': { dist: 'uniform' },
            'lm_head.weight': { value: 0.25 },
            'model.norm.weight': [32],
          },
        }),
        'fake.json',
      ),
      'fake.json',
    )
    const { tensors, findings } = await make(fake)
    expect(moments(await f32(tensors.get('blocks.0.mlp.up.weight')!)).std).toBeCloseTo(0.5, 1)
    const uniform = moments(await f32(tensors.get('blocks.1.mlp.up.weight')!))
    expect(uniform.std).toBeCloseTo(0.5, 1)
    expect(uniform.kurtosis).toBeCloseTo(1.8, 1)
    expect(new Set(await f32(tensors.get('lm_head.weight')!))).toEqual(new Set([0.25]))
    expect(tensors.get('final_norm.weight')?.shape).toEqual([32])
    expect(findings.find(({ code }) => code === 'fake-shapes')?.message).toContain('model.norm.weight')
  })

  test('a wish for a tensor that there is none of is an error', async () => {
    const error = await make({ tensors: { 'model.layers.9.mlp.up_proj.weight': {} } }).catch(
      (thrown: unknown) => thrown,
    )
    expect((error as AppError).message).toBe('The model has no tensor model.layers.9.mlp.up_proj.weight')
  })

  test.each([
    ['[]', /fake\.json: it must be an object/],
    ['{"sed": 1}', /it has the key "sed"; it takes seed, dist, std, dtype, tensors/],
    ['{"seed": "x"}', /"seed" must be a whole number/],
    ['{"dist": "cauchy"}', /"dist" must be one of normal, uniform, zeros/],
    ['{"std": 0}', /"std" must be a number above 0/],
    ['{"dtype": "q4"}', /"dtype" must be one of f32, f16, bf16/],
    ['{"tensors": []}', /"tensors" must be an object of names/],
    ['{"tensors": {"a": [0]}}', /a: a shape is a list of up to 8 whole numbers above 0/],
    ['{"tensors": {"a": {"value": "x"}}}', /a: "value" must be a number/],
    ['{"tensors": {"a": 3}}', /a must be an object/],
  ])('%s is refused', (text, message) => {
    expect(() => parseFakeConfig(parseJson(text, 'fake.json'), 'fake.json')).toThrow(message)
    expect(() => parseFakeConfig(parseJson(text, 'fake.json'), 'fake.json')).toThrow(AppError)
  })

  test.each([-1, 1.5, 2 ** 32, Number.NaN])('the seed %s is refused', async (seed) => {
    await expect(make({ seed })).rejects.toThrow(/The seed .* is not from 0 to 4294967295/)
  })

  test('the quantiles are those of the normal distribution', () => {
    // by the midpoint rule on the density, which has nothing in common with the rational functions
    let mass = 0
    const step = 1e-5
    let x = 0
    for (const q of [0.1, 0.25, 0.4, 0.425, 0.43, 0.475, 0.499, 0.49999]) {
      while (mass < q) {
        mass += (Math.exp(-((x + step / 2) ** 2) / 2) / Math.sqrt(2 * Math.PI)) * step
        x += step
      }
      const density = Math.exp(-(x ** 2) / 2) / Math.sqrt(2 * Math.PI)
      expect(normalQuantile(q)).toBeCloseTo(x - (mass - q) / density, 6)
    }
  })
})
