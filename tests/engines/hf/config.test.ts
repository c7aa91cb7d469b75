import { beforeAll, describe, expect, it } from 'vitest'
import type { ModelConfig, RopeScaling } from '../../../src/core/checkpoint.ts'
import { AppError } from '../../../src/core/errors.ts'
import { parseJsonObject } from '../../../src/core/json.ts'
import type { Finding } from '../../../src/core/plan.ts'
import { architectureOf, normalizeConfig } from '../../../src/engines/transformers/config.ts'
import { architectureFor, supportedArchitectures, supportedClassNames } from '../../../src/models/index.ts'
import { edit, jsonBytes, jsonOf, noShared, openFiles, SHARED_MODELS, sharedFiles, tinyLlama } from './folder.ts'

/** What every config.json has; no defaulted key. */
const BASE = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  hidden_size: 64,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  intermediate_size: 160,
  vocab_size: 300,
}

type Changes = Record<string, unknown>

async function normalized(changes: Changes): Promise<{ config: ModelConfig; findings: readonly Finding[] }> {
  const raw = parseJsonObject(jsonBytes({ ...BASE, ...changes }), 'config.json')
  return normalizeConfig(raw, 'config.json', await architectureOf(raw, 'config.json'))
}

const configOf = async (changes: Changes): Promise<ModelConfig> => (await normalized(changes)).config

async function failure(changes: Changes): Promise<AppError> {
  const outcome: unknown = await normalized(changes).catch((error: unknown) => error)
  if (!(outcome instanceof AppError)) throw new Error(`no AppError, but ${JSON.stringify(outcome)}`)
  expect(outcome.where.file).toBe('config.json')
  expect(outcome.hint).not.toBeNull()
  return outcome
}

const mistral = { architectures: ['MistralForCausalLM'], model_type: 'mistral', num_attention_heads: 8 }
const qwen2 = { architectures: ['Qwen2ForCausalLM'], model_type: 'qwen2', num_key_value_heads: 2 }
const qwen3 = { architectures: ['Qwen3ForCausalLM'], model_type: 'qwen3', num_key_value_heads: 2 }

describe('defaults of the classes', () => {
  // configuration_*.py of transformers 4.57 and 5
  it('llama', async () => {
    expect(await configOf({})).toMatchObject({
      kvHeads: 4,
      headDim: 16,
      contextLength: 2048,
      normEpsilon: 1e-6,
      activation: 'silu',
      rope: { theta: 10_000, scaling: { kind: 'none' } },
      slidingWindow: null,
      tied: false,
      bosId: 1,
      eosIds: [2],
      padId: null,
    })
  })

  it('mistral', async () => {
    expect(await configOf(mistral)).toMatchObject({
      kvHeads: 8,
      contextLength: 131_072,
      slidingWindow: 4096,
      tied: false,
    })
    expect(await configOf({ ...mistral, sliding_window: null })).toMatchObject({ slidingWindow: null })
    expect(await configOf({ ...mistral, num_attention_heads: 4, num_key_value_heads: null })).toMatchObject({
      kvHeads: 4,
    })
    // 8 heads by default cannot be shared by 4
    expect(await failure({ ...mistral, num_attention_heads: 4 })).toMatchObject({ code: 'malformed' })
  })

  it('qwen2', async () => {
    expect(await configOf(qwen2)).toMatchObject({ contextLength: 32_768, slidingWindow: null, bosId: null, eosIds: [] })
    expect(await configOf({ ...qwen2, sliding_window: 4096 })).toMatchObject({ slidingWindow: null })
    const window = { ...qwen2, use_sliding_window: true, sliding_window: 128 }
    expect(await configOf(window)).toMatchObject({ slidingWindow: null })
    expect(await configOf({ ...window, max_window_layers: 0 })).toMatchObject({ slidingWindow: 128 })
    const mixed = await failure({ ...window, max_window_layers: 1 })
    expect(mixed.code).toBe('unsupported')
    expect(mixed.message).toContain('1 of the blocks')
    const typed = { ...window, layer_types: ['full_attention', 'full_attention'] }
    expect(await configOf(typed)).toMatchObject({ slidingWindow: null })
  })

  it('qwen3', async () => {
    expect(await configOf(qwen3)).toMatchObject({ headDim: 128, contextLength: 32_768 })
    expect(await failure({ ...qwen3, attention_bias: true })).toMatchObject({ code: 'unsupported' })
  })
})

describe.skipIf(noShared)('the shared models (../shared)', () => {
  it.each(SHARED_MODELS)('%s: every number is that of its config.json', async (name) => {
    const files = sharedFiles(name)
    const json = jsonOf(files, 'config.json')
    const rope = json['rope_parameters'] as Record<string, number>
    const { config } = await openFiles(files)
    expect(config).toMatchObject({
      modelType: json['model_type'],
      className: (json['architectures'] as string[])[0],
      hiddenSize: json['hidden_size'],
      layers: json['num_hidden_layers'],
      intermediateSize: json['intermediate_size'],
      heads: json['num_attention_heads'],
      kvHeads: json['num_key_value_heads'],
      headDim: json['head_dim'] ?? 16,
      vocabSize: json['vocab_size'],
      contextLength: json['max_position_embeddings'],
      normEpsilon: json['rms_norm_eps'],
      tied: json['tie_word_embeddings'],
      dtype: 'bf16',
      bosId: json['bos_token_id'],
      eosIds: [json['eos_token_id']],
      slidingWindow: json['sliding_window'] ?? null,
    })
    expect(config.rope.theta).toBe(rope['rope_theta'])
    expect(config.raw.get('hidden_size')).toBe(json['hidden_size'])
  })
})

describe('rotary positions', () => {
  const scalingOf = async (changes: Changes): Promise<RopeScaling> => (await configOf(changes)).rope.scaling
  const llama3 = {
    factor: 8,
    low_freq_factor: 1,
    high_freq_factor: 4,
    original_max_position_embeddings: 8192,
  }

  it('are the same in both styles', async () => {
    const four = await configOf({ rope_theta: 500_000, rope_scaling: { ...llama3, rope_type: 'llama3' } })
    const old = await configOf({ rope_theta: 500_000, rope_scaling: { ...llama3, type: 'llama3' } })
    const five = await configOf({ rope_parameters: { ...llama3, rope_type: 'llama3', rope_theta: 500_000 } })
    expect(four.rope).toEqual({
      theta: 500_000,
      scaling: { kind: 'llama3', factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalContext: 8192 },
    })
    expect(old.rope).toEqual(four.rope)
    expect(five.rope).toEqual(four.rope)
  })

  it('take theta from the top where rope_parameters has none', async () => {
    expect((await configOf({ rope_theta: 7, rope_parameters: { rope_type: 'default' } })).rope.theta).toBe(7)
  })

  it('may be linear, or YaRN', async () => {
    expect(await scalingOf({ rope_scaling: { type: 'linear', factor: 2.5 } })).toEqual({ kind: 'linear', factor: 2.5 })
    expect(await scalingOf({ rope_scaling: null })).toEqual({ kind: 'none' })
    const yarn = { rope_type: 'yarn', factor: 4, original_max_position_embeddings: 32_768 }
    const none = { betaFast: null, betaSlow: null, attentionFactor: null }
    expect(await scalingOf({ rope_scaling: yarn })).toEqual({
      kind: 'yarn',
      factor: 4,
      originalContext: 32_768,
      ...none,
    })
    const set = { ...yarn, beta_fast: 16, beta_slow: 2, attention_factor: 1.5 }
    expect(await scalingOf({ rope_scaling: set })).toMatchObject({ betaFast: 16, betaSlow: 2, attentionFactor: 1.5 })
    const inferred = { max_position_embeddings: 131_072, rope_scaling: { ...yarn, factor: null } }
    expect(await scalingOf(inferred)).toMatchObject({ factor: 4, originalContext: 32_768 })
    const unsaid = { max_position_embeddings: 1000, rope_scaling: { rope_type: 'yarn', factor: 2 } }
    expect(await scalingOf(unsaid)).toMatchObject({ factor: 2, originalContext: 1000 })
  })

  it.each([
    ['dynamic', { rope_scaling: { type: 'dynamic', factor: 2 } }, '"dynamic"'],
    ['YaRN with mscale', { rope_scaling: { type: 'yarn', factor: 2, mscale: 1 } }, 'mscale'],
    ['partial', { partial_rotary_factor: 0.5 }, 'partial_rotary_factor'],
    ['by kind of block', { rope_parameters: { full_attention: { rope_theta: 1 } } }, 'kind of block'],
  ])('that are %s are refused by name', async (_, changes, says) => {
    const error = await failure(changes)
    expect(error.code).toBe('unsupported')
    expect(error.message).toContain(says)
  })

  it.each([
    ['a list', { rope_scaling: [] }],
    ['text', { rope_parameters: 'llama3' }],
    ['llama3 without factor', { rope_scaling: { ...llama3, factor: undefined, rope_type: 'llama3' } }],
    ['a factor of zero', { rope_scaling: { type: 'linear', factor: 0 } }],
    ['theta of text', { rope_theta: '10000' }],
    ['theta below zero', { rope_theta: -1 }],
  ])('given as %s are malformed', async (_, changes) => {
    expect(await failure(changes)).toMatchObject({ code: 'malformed' })
  })
})

describe('numbers that no model has', () => {
  it.each([
    ['hidden_size', undefined],
    ['hidden_size', 0],
    ['hidden_size', -64],
    ['hidden_size', 64.5],
    ['hidden_size', '64'],
    ['hidden_size', null],
    ['hidden_size', 2 ** 40],
    ['num_hidden_layers', 10_001],
    ['num_hidden_layers', 2 ** 53],
    ['vocab_size', 2 ** 24 + 1],
    ['vocab_size', 0],
    ['intermediate_size', undefined],
    ['num_attention_heads', 0],
    ['num_attention_heads', 5],
    ['num_key_value_heads', 3],
    ['num_key_value_heads', 8],
    ['head_dim', 15],
    ['head_dim', 0],
    ['max_position_embeddings', 2 ** 32],
    ['rms_norm_eps', 0],
    ['rms_norm_eps', 'small'],
    ['tie_word_embeddings', 'yes'],
    ['eos_token_id', 1.5],
    ['eos_token_id', [2, 'x']],
    ['bos_token_id', 'first'],
    ['model_type', 7],
  ])('%s of %j', async (key, value) => {
    const error = await failure({ [key]: value })
    expect(error.code).toBe('malformed')
    expect(error.message).toMatch(/^config\.json/)
  })

  it('are refused before anything is listed', async () => {
    const before = performance.now()
    await failure({ num_hidden_layers: 1e9, vocab_size: 1e9 })
    expect(performance.now() - before).toBeLessThan(1000)
  })
})

describe('what is not described', () => {
  it.each([
    ['a class', { architectures: ['MambaForCausalLM'], model_type: 'mamba' }, 'MambaForCausalLM'],
    ['a head for classes', { architectures: ['LlamaForSequenceClassification'] }, 'LlamaForSequenceClassification'],
    ['a model type alone', { architectures: undefined, model_type: 'falcon' }, 'falcon'],
    ['text_config', { text_config: { model_type: 'llama' } }, 'text_config'],
    ['quantised weights', { quantization_config: { quant_method: 'gptq' } }, 'quantization_config'],
    ['MLX’s quantised weights', { quantization: { bits: 4 } }, 'quantization'],
    ['another activation', { hidden_act: 'gelu' }, '"gelu"'],
    ['experts', { num_local_experts: 8 }, 'num_local_experts'],
  ])('is refused by name: %s', async (_, changes, says) => {
    const error = await failure(changes)
    expect(error.code).toBe('unsupported')
    expect(error.message).toContain(says)
  })

  it('names all that is', async () => {
    const { hint } = await failure({ architectures: ['MambaForCausalLM'], model_type: 'mamba' })
    const heads: string[] = []
    for (const { id } of supportedArchitectures()) heads.push(...(await architectureFor(id, 'config.json')).classNames)
    const named = heads.filter((name) => /For|LMHead/.test(name))
    expect(supportedClassNames().toSorted()).toEqual(named.toSorted())
    for (const name of named) expect(hint).toContain(name)
    expect(named).toContain('LlamaForCausalLM')
  })

  it('is not what says null', async () => {
    expect(await configOf({ quantization_config: null, text_config: null })).toMatchObject({ layers: 2 })
  })
})

describe('the class', () => {
  it('may be told by model_type alone', async () => {
    expect(await configOf({ architectures: undefined })).toMatchObject({ className: 'LlamaForCausalLM' })
    expect(await configOf({ architectures: null, model_type: 'qwen2', num_key_value_heads: 2 })).toMatchObject({
      className: 'Qwen2ForCausalLM',
    })
  })

  it('may be headless, or of an old spelling', async () => {
    expect(await configOf({ architectures: ['LlamaModel'] })).toMatchObject({ className: 'LlamaForCausalLM' })
    expect(await configOf({ architectures: ['LLaMAForCausalLM'] })).toMatchObject({ className: 'LLaMAForCausalLM' })
  })

  it('may have a model_type of its own', async () => {
    expect(await configOf({ model_type: 'aquila' })).toMatchObject({ modelType: 'aquila' })
  })

  it('must not contradict a known model_type', async () => {
    expect(await failure({ model_type: 'mistral' })).toMatchObject({ code: 'malformed' })
  })

  it('must be told', async () => {
    expect(await failure({ architectures: undefined, model_type: undefined })).toMatchObject({ code: 'malformed' })
  })

  it('with code of its own is a warning', async () => {
    const { findings } = await normalized({ auto_map: { AutoModel: 'modeling.Foo' } })
    expect(findings).toMatchObject([{ severity: 'warning', code: 'custom-code' }])
  })
})

describe('ids and dtypes', () => {
  it('eos may be one or several', async () => {
    expect(await configOf({ eos_token_id: [5, 6] })).toMatchObject({ eosIds: [5, 6] })
    expect(await configOf({ eos_token_id: null, bos_token_id: null })).toMatchObject({ eosIds: [], bosId: null })
  })

  it('ids outside of the vocabulary are left out, -1 silently', async () => {
    const { config, findings } = await normalized({ eos_token_id: [2, 300], pad_token_id: -1, bos_token_id: 999 })
    expect(config).toMatchObject({ eosIds: [2], padId: null, bosId: null })
    expect(findings.map(({ code, message }) => `${code} ${message.split(' is')[0]!}`)).toEqual([
      'id-out-of-range bos_token_id 999',
      'id-out-of-range eos_token_id 300',
    ])
  })

  it('a class default outside of a small vocabulary is no finding', async () => {
    const { config, findings } = await normalized({ vocab_size: 2 })
    expect(config).toMatchObject({ bosId: 1, eosIds: [] })
    expect(findings).toEqual([])
  })

  it.each([
    [{ dtype: 'bfloat16' }, 'bf16'],
    [{ torch_dtype: 'float16' }, 'f16'],
    [{ torch_dtype: 'torch.float32' }, 'f32'],
    [{ dtype: 'float16', torch_dtype: 'float32' }, 'f16'],
  ])('%j', async (changes, dtype) => {
    expect(await configOf(changes)).toMatchObject({ dtype })
  })

  it('an unnamed dtype is that of most weights', async () => {
    expect((await openFiles(edit(tinyLlama(), 'config.json', { dtype: undefined }))).config.dtype).toBe('bf16')
    expect((await openFiles(edit(tinyLlama(), 'config.json', { dtype: 'auto' }))).config.dtype).toBe('bf16')
  })

  it('generation_config.json adds ends', async () => {
    expect((await openFiles(tinyLlama())).config.eosIds).toEqual([1, 3])
    const odd = edit(tinyLlama(), 'generation_config.json', { eos_token_id: ['x', 3, 5000, -1] })
    expect((await openFiles(odd)).config.eosIds).toEqual([1, 3])
  })
})

describe('a config.json that is no JSON', () => {
  let files: Record<string, Uint8Array>
  beforeAll(() => {
    files = tinyLlama()
  })
  const bad = ['', '[]', '{"a":1,"a":2}', '{', 'null']
  it.each(bad)('%j', async (text) => {
    const error: unknown = await openFiles({ ...files, 'config.json': new TextEncoder().encode(text) }).catch(
      (thrown: unknown) => thrown,
    )
    expect(error).toMatchObject({ code: 'malformed', where: { file: 'config.json' } })
  })
})

describe('lookup', () => {
  it('by class, model type and id', async () => {
    for (const name of ['LlamaForCausalLM', 'llama', 'LlamaModel']) {
      expect((await architectureFor(name, 'x')).id).toBe('llama')
    }
    await expect(architectureFor('Foo', 'x')).rejects.toMatchObject({ code: 'unsupported', where: { file: 'x' } })
  })
})
