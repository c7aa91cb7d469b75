import { describe, expect, test } from 'vitest'
import type { Checkpoint, ModelConfig } from '../../../src/core/checkpoint.ts'
import type { Json } from '../../../src/core/json.ts'
import { literalF32, type Recipe } from '../../../src/core/tensor.ts'
import { architectureIdOf, ggufArchitecture } from '../../../src/engines/gguf/arch/index.ts'
import { readFacts } from '../../../src/engines/gguf/read/facts.ts'
import { modelMetadata } from '../../../src/engines/gguf/metadata/keys.ts'
import { rebuildConfig } from '../../../src/engines/gguf/read/config.ts'
import { ropeTensors } from '../../../src/engines/gguf/rope.ts'
import { ggufTensors, packRow, unpackRow } from '../../../src/engines/gguf/tensors.ts'
import { normalizeConfig } from '../../../src/engines/transformers/config.ts'
import { configJson } from '../../../src/engines/transformers/write-config.ts'
import { parseJsonObject } from '../../../src/core/json.ts'
import { architectureFor } from '../../../src/models/index.ts'
import { dividedTensors } from '../../../src/models/parts.ts'

const F32 = { id: 'f32', title: 'F32', fileType: 0 } as Parameters<typeof modelMetadata>[2]

const SIZES = {
  hidden_size: 8,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  intermediate_size: 12,
  vocab_size: 10,
  max_position_embeddings: 16,
}
const GPT2 = { n_embd: 8, n_layer: 2, n_head: 2, n_positions: 16, vocab_size: 10 }
const T5 = { d_model: 8, num_layers: 2, num_decoder_layers: 3, num_heads: 2, d_kv: 4, d_ff: 12, vocab_size: 10 }

const CONFIGS: readonly (readonly [id: string, raw: Record<string, unknown>])[] = [
  ['llama', SIZES],
  ['mixtral', { ...SIZES, num_local_experts: 3, num_experts_per_tok: 2 }],
  [
    'qwen2moe',
    { ...SIZES, num_experts: 3, num_experts_per_tok: 2, moe_intermediate_size: 6, shared_expert_intermediate_size: 5 },
  ],
  [
    'qwen3moe',
    { ...SIZES, num_experts: 3, num_experts_per_tok: 2, moe_intermediate_size: 6, norm_topk_prob: true, head_dim: 4 },
  ],
  ['gemma2', { ...SIZES, head_dim: 4, query_pre_attn_scalar: 4 }],
  ['gemma', { ...SIZES, head_dim: 4 }],
  ['gemma3', { ...SIZES, head_dim: 4, query_pre_attn_scalar: 4 }],
  ['olmo2', SIZES],
  ['olmo3', SIZES],
  ['smollm3', SIZES],
  ['exaone4', { ...SIZES, sliding_window: null }],
  ['seed_oss', { ...SIZES, head_dim: 4 }],
  ['ernie4_5', { ...SIZES, head_dim: 4 }],
  ['glm', { ...SIZES, head_dim: 4 }],
  ['glm4', { ...SIZES, head_dim: 4 }],
  ['hunyuan', { ...SIZES, head_dim: 4 }],
  ['arcee', SIZES],
  ['cohere', { ...SIZES, logit_scale: 0.25 }],
  ['cohere2', { ...SIZES, logit_scale: 0.25 }],
  ['phi3', SIZES],
  ['gpt2', GPT2],
  ['bert', { ...SIZES, num_key_value_heads: 2, architectures: ['BertForSequenceClassification'] }],
  ['distilbert', { dim: 8, n_layers: 2, n_heads: 2, hidden_dim: 12, vocab_size: 10 }],
  ['t5', T5],
  ['t5', { ...T5, feed_forward_proj: 'gated-gelu', tie_word_embeddings: false }],
  ['minicpm', { ...SIZES, scale_emb: 12, scale_depth: 1.4, dim_model_base: 4 }],
  [
    'granite',
    { ...SIZES, embedding_multiplier: 12, residual_multiplier: 0.2, attention_multiplier: 0.1, logits_scaling: 8 },
  ],
  ['starcoder2', SIZES],
  ['phi', { ...SIZES, hidden_act: 'gelu_new' }],
  ['gpt_neox', { ...SIZES, num_key_value_heads: 2, num_attention_heads: 2, rotary_pct: 1 }],
  ['stablelm', { ...SIZES, partial_rotary_factor: 0.5, use_qkv_bias: true }],
  [
    'deepseek_v3',
    {
      ...SIZES,
      num_key_value_heads: 2,
      first_k_dense_replace: 1,
      q_lora_rank: 6,
      kv_lora_rank: 4,
      qk_nope_head_dim: 2,
      qk_rope_head_dim: 4,
      v_head_dim: 3,
      n_routed_experts: 4,
      num_experts_per_tok: 2,
      moe_intermediate_size: 6,
      n_shared_experts: 2,
      n_group: 2,
      topk_group: 1,
      rope_scaling: { type: 'yarn', factor: 4, mscale: 1, mscale_all_dim: 1 },
    },
  ],
  ['olmoe', { ...SIZES, num_experts: 3, num_experts_per_tok: 2 }],
  ['granitemoe', { ...SIZES, num_local_experts: 3, num_experts_per_tok: 2, logits_scaling: 8 }],
  ['gpt_oss', { ...SIZES, head_dim: 4, num_local_experts: 3, num_experts_per_tok: 2, rope_scaling: null }],
]

async function configOf(id: string, raw: Record<string, unknown>): Promise<ModelConfig> {
  const architecture = await architectureFor(id, 'x')
  const json = parseJsonObject(new TextEncoder().encode(JSON.stringify(raw)), 'config.json')
  return normalizeConfig(json, 'config.json', architecture).config
}

/** The values of a small recipe of literals, by the rules of NumPy. */
function evaluate(recipe: Recipe): number[] {
  switch (recipe.op) {
    case 'literal':
      return [...new Float32Array(recipe.bytes.slice().buffer)]
    case 'reshape':
      return evaluate(recipe.of)
    case 'concat':
      expect(recipe.axis).toBe(0)
      return recipe.of.flatMap((part) => evaluate(part))
    case 'affine':
      return evaluate(recipe.of).map((value) => Math.fround(value * (recipe.mul as number) + (recipe.add as number)))
    case 'slice': {
      expect(recipe.axis).toBe(0)
      const size = recipe.of.shape.slice(1).reduce((product, length) => product * length, 1)
      return evaluate(recipe.of).slice(recipe.start * size, (recipe.start + recipe.shape[0]!) * size)
    }
    case 'permute': {
      const { shape } = recipe.of
      const strides = shape.map((_, axis) => shape.slice(axis + 1).reduce((product, length) => product * length, 1))
      const values = evaluate(recipe.of)
      let offsets = [0]
      for (const axis of recipe.axes)
        offsets = offsets.flatMap((at) => Array.from({ length: shape[axis]! }, (_, i) => at + i * strides[axis]!))
      return offsets.map((at) => values[at]!)
    }
    default:
      throw new Error(recipe.op)
  }
}

describe.each(CONFIGS)('%s', (id, raw) => {
  test('every tensor has one name, and comes back from it as it was', async () => {
    const config = await configOf(id, raw)
    const architecture = await architectureFor(id, 'x')
    const rows = ggufTensors(ggufArchitecture(id), architecture, config)
    expect(new Set(rows.map(({ name }) => name)).size).toBe(rows.length)
    const expected = dividedTensors(architecture, config)
    const roles = rows.flatMap((row) => row.roles)
    expect(new Set(roles)).toEqual(new Set(expected.map(({ role }) => role)))
    let next = 1
    for (const row of rows) {
      const parts = row.roles.map((role) => {
        const { shape } = expected.find((tensor) => tensor.role === role)!
        const count = shape.reduce((product, length) => product * length, 1)
        return literalF32(
          shape,
          Array.from({ length: count }, () => next++ / 64),
        )
      })
      const packed = packRow(row, parts)
      expect(packed.shape).toEqual(row.shape)
      const back = unpackRow(row, packed)
      expect([...back.keys()]).toEqual(row.roles)
      for (const [index, role] of row.roles.entries()) {
        expect(back.get(role)!.shape).toEqual(parts[index]!.shape)
        const found = evaluate(back.get(role)!)
        for (const [at, value] of evaluate(parts[index]!).entries()) expect(found[at]).toBeCloseTo(value, 4)
      }
    }
  })

  test('its keys give its facts back', async () => {
    const config = await configOf(id, raw)
    const architecture = await architectureFor(id, 'x')
    const target = ggufArchitecture(id)
    const checkpoint = { name: 'x', config, tokenizer: null } as unknown as Checkpoint
    const metadata = modelMetadata(checkpoint, target, F32, new Map(), architecture.rotary !== 'none')
    for (const key of target.epsilonKeys) expect(metadata.has(`${target.name}.${key}`)).toBe(true)
    const tensors = ggufTensors(target, architecture, config).map(({ name, shape }) => ({ name, shape }))
    const { facts } = readFacts({ metadata, tensors: tensors as never }, target.name)
    for (const key of ['experts', 'decoder', 'relativePositions', 'labels', 'tokenTypes'] as const)
      expect(facts[key], key).toEqual(config[key])
    const scales = ['embeddingScale', 'residualScale', 'logitDivisor', 'logitScale'] as const
    for (const key of ['attentionSoftcap', 'logitSoftcap', ...scales] as const)
      expect(facts[key] ?? null, key).toEqual(config[key] ?? null)
    const experts = config.experts?.count ?? null
    const gating = config.experts?.scores === 'sigmoid' ? 2 : null
    const has = (name: string): boolean => tensors.some((tensor) => tensor.name === name)
    expect(architectureIdOf(target.name, { experts, window: config.slidingWindow, gating, has })).toBe(id)
  })
})

const LLAMA3 = {
  rope_type: 'llama3',
  factor: 8,
  low_freq_factor: 1,
  high_freq_factor: 4,
  original_max_position_embeddings: 8,
}

describe('what llama.cpp computes otherwise', () => {
  const refusal = async (id: string, changes: Record<string, unknown>): Promise<string | null> => {
    const base = CONFIGS.find(([name]) => name === id)![1]
    return ggufArchitecture(id).refuses?.(await configOf(id, { ...base, ...changes })) ?? null
  }

  test.each([
    ['gemma2', { query_pre_attn_scalar: 5 }, 'query_pre_attn_scalar'],
    ['gemma2', { attn_logit_softcapping: null }, 'capped'],
    ['gemma2', { tie_word_embeddings: false }, 'head'],
    ['gemma2', { sliding_window: null }, 'window'],
    ['gemma', { tie_word_embeddings: false }, 'head'],
    ['gemma', { rope_scaling: LLAMA3 }, 'llama3'],
    ['gemma3', { query_pre_attn_scalar: 5 }, 'query_pre_attn_scalar'],
    ['gemma3', { attn_logit_softcapping: 50 }, 'capped'],
    ['gemma3', { rope_scaling: { rope_type: 'yarn', factor: 2 } }, 'yarn'],
    // heads of 4 in 62 blocks: the scores of "27B" are divided by the root of 8 / 2
    ['gemma3', { num_hidden_layers: 62, head_dim: 2, query_pre_attn_scalar: 2 }, 'query_pre_attn_scalar other than 4'],
    ['olmo2', { tie_word_embeddings: true }, 'head'],
    ['olmo2', { head_dim: 2 }, 'wide'],
    ['olmo3', { layer_types: ['full_attention', 'full_attention'] }, 'window'],
    [
      'olmo3',
      { rope_parameters: { full_attention: { rope_theta: 500 }, sliding_attention: { rope_theta: 50 } } },
      'rotary base',
    ],
    ['smollm3', { no_rope_layers: [1, 0] }, 'three of 4'],
    ['smollm3', { rope_scaling: LLAMA3 }, 'llama3'],
    ['exaone4', { sliding_window: 8 }, 'sliding window in 2 blocks'],
    ['exaone4', { num_hidden_layers: 64 }, 'no sliding window in 64 blocks'],
    ['exaone4', { head_dim: 2 }, 'wide'],
    ['seed_oss', { rope_scaling: LLAMA3 }, 'llama3'],
    ['ernie4_5', { rope_scaling: LLAMA3 }, 'llama3'],
    ['glm', { head_dim: 8 }, 'wide'],
    ['glm4', { rope_scaling: LLAMA3 }, 'llama3'],
    ['hunyuan', { rope_scaling: LLAMA3 }, 'llama3'],
    ['cohere', { num_hidden_layers: 64 }, 'norms of queries'],
    ['cohere', { tie_word_embeddings: false }, 'head'],
    ['cohere2', { sliding_window: null }, 'window'],
    ['t5', { relative_attention_max_distance: 64 }, '128'],
    ['gpt_oss', { sliding_window: null }, 'window'],
    ['gpt_oss', { tie_word_embeddings: true }, 'head'],
    ['deepseek_v3', { rms_norm_eps: 1e-5 }, 'rms_norm_eps'],
    ['deepseek_v3', { n_shared_experts: null }, 'share'],
    ['deepseek_v3', { q_lora_rank: null }, 'queries without a latent in 2 blocks'],
    ['deepseek_v3', { num_hidden_layers: 27 }, 'expects none'],
    ['deepseek_v3', { rope_scaling: { type: 'yarn', factor: 4 } }, 'mscale'],
    ['deepseek_v3', { rope_scaling: { type: 'yarn', factor: 4, mscale: 1, mscale_all_dim: 0.5 } }, 'mscale'],
    ['phi', { tie_word_embeddings: true }, 'head'],
    ['gpt_neox', { head_dim: 2 }, 'heads of 2 channels'],
    ['stablelm', { rope_scaling: LLAMA3 }, 'llama3'],
    ['starcoder2', { rope_scaling: LLAMA3 }, 'llama3'],
  ])('%s with %o is refused', async (id, changes, says) => {
    expect(await refusal(id, changes)).toContain(says)
    expect(await refusal(id, {})).toBeNull()
  })
})

test('LongRoPE: both lists are tensors; the context and the factor are keys', async () => {
  const rope: Record<string, Json | Record<string, unknown>> = {
    rope_scaling: { type: 'longrope', short_factor: [1, 2], long_factor: [3, 4] },
    original_max_position_embeddings: 4,
  }
  const config = await configOf('phi3', { ...SIZES, ...rope })
  expect(ropeTensors(config).map(({ name, recipe }) => [name, evaluate(recipe)])).toEqual([
    ['rope_factors_long.weight', [3, 4]],
    ['rope_factors_short.weight', [1, 2]],
  ])
  const checkpoint = { name: 'x', config, tokenizer: null } as unknown as Checkpoint
  const metadata = modelMetadata(checkpoint, ggufArchitecture('phi3'), F32, new Map(), true)
  expect(metadata.get('phi3.rope.scaling.original_context_length')).toEqual({ type: 'u32', value: 4 })
  // sqrt(1 + ln(16 / 4) / ln(4))
  const factor = metadata.get('phi3.rope.scaling.attn_factor') as { value: number }
  expect(factor.value).toBeCloseTo(Math.SQRT2, 6)
})

test.each([
  [
    'LongRoPE',
    {
      rope_scaling: { type: 'longrope', short_factor: [1, 2], long_factor: [3.1, 4] },
      original_max_position_embeddings: 4,
    },
  ],
  ['part of a head turns', { num_attention_heads: 1, partial_rotary_factor: 0.5 }],
])('phi3, %s: the keys give a config.json that says the same', async (_, changes) => {
  const given = { ...SIZES, rope_theta: 10_000, ...changes }
  const architecture = await architectureFor('phi3', 'x')
  const config = await configOf('phi3', given)
  const target = ggufArchitecture('phi3')
  const metadata = modelMetadata(
    { name: 'x', config, tokenizer: null } as unknown as Checkpoint,
    target,
    F32,
    new Map(),
    true,
  )
  const tensors = ggufTensors(target, architecture, config).map(({ name, shape }) => ({
    name,
    shape,
    type: { dtype: 'f32' },
  }))
  const list = (name: string): Float32Array | null => {
    const found = ropeTensors(config).find((tensor) => tensor.name === name)
    return found === undefined ? null : Float32Array.from(evaluate(found.recipe))
  }
  const rebuilt = rebuildConfig({ metadata, tensors } as never, architecture, {
    freqs: null,
    long: list('rope_factors_long.weight'),
    short: list('rope_factors_short.weight'),
  })
  if ('because' in rebuilt) throw new Error(rebuilt.because)
  const json = configJson({ config: rebuilt.config } as Checkpoint, architecture, 'f32')
  const again = normalizeConfig(json, 'config.json', architecture).config
  expect(again.rope).toEqual(config.rope)
  for (const key of Object.keys(changes)) expect(json.has(key), key).toBe(true)
})

test('opt and vision models are refused by name', () => {
  for (const id of ['opt', 'vit', 'resnet']) expect(() => ggufArchitecture(id)).toThrow(id)
})
