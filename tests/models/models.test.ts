import { describe, expect, it } from 'vitest'
import type { ModelConfig } from '../../src/core/checkpoint.ts'
import type { Json } from '../../src/core/json.ts'
import { expectedTensors } from '../../src/models/architecture.ts'
import { architectureFor, isKnownArchitecture, supportedClassNames } from '../../src/models/index.ts'

const IDS = ['llama', 'mistral', 'qwen2', 'qwen3']

// No two sizes alike, so that an axis in the wrong place shows.
function config(id: string, changes: Partial<ModelConfig> = {}, raw: Record<string, Json> = {}): ModelConfig {
  return {
    modelType: id,
    className: id,
    hiddenSize: 7,
    layers: 2,
    intermediateSize: 11,
    heads: 6,
    kvHeads: 2,
    headDim: 4,
    vocabSize: 13,
    contextLength: 17,
    normEpsilon: 1e-6,
    activation: 'silu',
    rope: { theta: 10_000, scaling: { kind: 'none' } },
    slidingWindow: null,
    tied: false,
    dtype: 'bf16',
    bosId: null,
    eosIds: [],
    padId: null,
    raw: new Map(Object.entries(raw)),
    ...changes,
  }
}

async function shapes(id: string, changes: Partial<ModelConfig> = {}, raw: Record<string, Json> = {}) {
  const architecture = await architectureFor(id, 'config.json')
  return Object.fromEntries(expectedTensors(architecture, config(id, changes, raw)).map(({ hf, shape }) => [hf, shape]))
}

const block = (index: number) => ({
  [`model.layers.${index}.input_layernorm.weight`]: [7],
  [`model.layers.${index}.self_attn.q_proj.weight`]: [24, 7],
  [`model.layers.${index}.self_attn.k_proj.weight`]: [8, 7],
  [`model.layers.${index}.self_attn.v_proj.weight`]: [8, 7],
  [`model.layers.${index}.self_attn.o_proj.weight`]: [7, 24],
  [`model.layers.${index}.post_attention_layernorm.weight`]: [7],
  [`model.layers.${index}.mlp.gate_proj.weight`]: [11, 7],
  [`model.layers.${index}.mlp.up_proj.weight`]: [11, 7],
  [`model.layers.${index}.mlp.down_proj.weight`]: [7, 11],
})
const DENSE = {
  'model.embed_tokens.weight': [13, 7],
  ...block(0),
  ...block(1),
  'model.norm.weight': [7],
  'lm_head.weight': [13, 7],
}
const perBlock = (make: (prefix: string) => Record<string, number[]>): Record<string, number[]> => ({
  ...make('model.layers.0.'),
  ...make('model.layers.1.'),
})
const qkv = perBlock((prefix) => ({
  [`${prefix}self_attn.q_proj.bias`]: [24],
  [`${prefix}self_attn.k_proj.bias`]: [8],
  [`${prefix}self_attn.v_proj.bias`]: [8],
}))

describe('the tensors that a checkpoint must have', () => {
  it('llama', async () => {
    expect(await shapes('llama')).toEqual(DENSE)
  })

  it('llama with biases', async () => {
    const output = perBlock((prefix) => ({ [`${prefix}self_attn.o_proj.bias`]: [7] }))
    expect(await shapes('llama', {}, { attention_bias: true })).toEqual({ ...DENSE, ...qkv, ...output })
    const mlp = perBlock((prefix) => ({
      [`${prefix}mlp.gate_proj.bias`]: [11],
      [`${prefix}mlp.up_proj.bias`]: [11],
      [`${prefix}mlp.down_proj.bias`]: [7],
    }))
    expect(await shapes('llama', {}, { mlp_bias: true })).toEqual({ ...DENSE, ...mlp })
  })

  it('llama with a tied head', async () => {
    const { 'lm_head.weight': _, ...rest } = DENSE
    expect(await shapes('llama', { tied: true })).toEqual(rest)
  })

  it('mistral, which knows no biases', async () => {
    expect(await shapes('mistral', {}, { attention_bias: true })).toEqual(DENSE)
  })

  it('qwen2, which always has three', async () => {
    expect(await shapes('qwen2')).toEqual({ ...DENSE, ...qkv })
    expect(await shapes('qwen2', {}, { attention_bias: false })).toEqual({ ...DENSE, ...qkv })
  })

  it('qwen3, with norms of queries and keys', async () => {
    const norms = perBlock((prefix) => ({
      [`${prefix}self_attn.q_norm.weight`]: [4],
      [`${prefix}self_attn.k_norm.weight`]: [4],
    }))
    expect(await shapes('qwen3')).toEqual({ ...DENSE, ...norms })
  })
})

describe.each(IDS)('the description of %s', (id) => {
  it('has each role and name once, in the order of the model', async () => {
    const architecture = await architectureFor(id, 'x')
    const rows = expectedTensors(architecture, config(id))
    expect(new Set(rows.map(({ role }) => role)).size).toBe(rows.length)
    expect(new Set(rows.map(({ hf }) => hf)).size).toBe(rows.length)
    expect(rows[0]!.role).toBe('embed.weight')
    expect(rows.at(-1)!.role).toBe('lm_head.weight')
    const blocks = rows.map(({ block: index }) => index)
    expect(blocks).toEqual([null, ...blocks.slice(1, -2).toSorted((a, b) => a! - b!), null, null])
    expect(rows.every(({ role, hf }) => !`${role}${hf}`.includes('{'))).toBe(true)
  })

  it('is found by all its names', async () => {
    const architecture = await architectureFor(id, 'x')
    expect(architecture.id).toBe(id)
    for (const name of [...architecture.classNames, ...architecture.modelTypes, architecture.baseClassName]) {
      expect(isKnownArchitecture(name)).toBe(true)
      expect(await architectureFor(name, 'x')).toBe(architecture)
    }
    for (const name of architecture.classNames) expect(supportedClassNames()).toContain(name)
  })

  it('ignores rotary buffers, and no weight', async () => {
    const architecture = await architectureFor(id, 'x')
    const ignored = (name: string): boolean => architecture.ignored.some((pattern) => pattern.test(name))
    expect(ignored('model.layers.0.self_attn.rotary_emb.inv_freq')).toBe(true)
    expect(expectedTensors(architecture, config(id)).filter(({ hf }) => ignored(hf))).toEqual([])
  })
})

describe.each([
  ['mixtral', 'MixtralForCausalLM'],
  ['qwen2moe', 'Qwen2MoeForCausalLM'],
  ['qwen3moe', 'Qwen3MoeForCausalLM'],
  ['gemma2', 'Gemma2ForCausalLM'],
  ['gemma', 'GemmaForCausalLM'],
  ['gemma3', 'Gemma3ForCausalLM'],
  ['olmo2', 'Olmo2ForCausalLM'],
  ['olmo3', 'Olmo3ForCausalLM'],
  ['smollm3', 'SmolLM3ForCausalLM'],
  ['exaone4', 'Exaone4ForCausalLM'],
  ['seed_oss', 'SeedOssForCausalLM'],
  ['ernie4_5', 'Ernie4_5_ForCausalLM'],
  ['glm', 'GlmForCausalLM'],
  ['glm4', 'Glm4ForCausalLM'],
  ['hunyuan', 'HunYuanDenseV1ForCausalLM'],
  ['arcee', 'ArceeForCausalLM'],
  ['cohere', 'CohereForCausalLM'],
  ['cohere2', 'Cohere2ForCausalLM'],
  ['phi3', 'Phi3ForCausalLM'],
  ['gpt2', 'GPT2LMHeadModel'],
  ['bert', 'BertForSequenceClassification'],
  ['bert', 'BertForMaskedLM'],
  ['distilbert', 'DistilBertForSequenceClassification'],
  ['distilbert', 'DistilBertForMaskedLM'],
  ['opt', 'OPTForCausalLM'],
  ['t5', 'T5ForConditionalGeneration'],
  ['minicpm', 'MiniCPMForCausalLM'],
  ['granite', 'GraniteForCausalLM'],
  ['gpt_oss', 'GptOssForCausalLM'],
  ['olmoe', 'OlmoeForCausalLM'],
  ['starcoder2', 'Starcoder2ForCausalLM'],
  ['phi', 'PhiForCausalLM'],
  ['gpt_neox', 'GPTNeoXForCausalLM'],
  ['stablelm', 'StableLmForCausalLM'],
  ['deepseek_v2', 'DeepseekV2ForCausalLM'],
  ['deepseek_v3', 'DeepseekV3ForCausalLM'],
  ['granitemoe', 'GraniteMoeForCausalLM'],
])('%s as %s', (id, className) => {
  it('is found by class, has each role and name once, and no empty axis', async () => {
    const architecture = await architectureFor(className, 'x')
    expect(architecture.id).toBe(id)
    const facts = {
      className,
      experts: { count: 3, used: 2, intermediateSize: 5, sharedIntermediateSize: 9 },
      decoder: { layers: 3, startId: 0 },
      labels: ['a', 'b', 'c'],
    }
    const rows = expectedTensors(architecture, config(id, facts))
    expect(new Set(rows.map(({ role }) => role)).size).toBe(rows.length)
    expect(new Set(rows.map(({ hf }) => hf)).size).toBe(rows.length)
    expect(rows.every(({ role, hf, aliases }) => ![role, hf, ...aliases].join('').includes('{'))).toBe(true)
    expect(rows.every(({ shape }) => shape.length > 0 && shape.every((size) => size > 0))).toBe(true)
  })
})

describe('what only some families have', () => {
  it('experts, one set of rows each', async () => {
    const experts = { count: 2, used: 1, intermediateSize: 11 }
    const found = await shapes('mixtral', { experts, layers: 1 })
    expect(found).toMatchObject({
      'model.layers.0.block_sparse_moe.gate.weight': [2, 7],
      'model.layers.0.block_sparse_moe.experts.0.w1.weight': [11, 7],
      'model.layers.0.block_sparse_moe.experts.1.w2.weight': [7, 11],
      'model.layers.0.block_sparse_moe.experts.1.w3.weight': [11, 7],
    })
    expect(Object.keys(found)).not.toContain('model.layers.0.mlp.gate_proj.weight')
  })

  it('fused projections: queries, keys and values in one matrix, gate and up in another', async () => {
    expect(await shapes('phi3', { layers: 1 })).toMatchObject({
      'model.layers.0.self_attn.qkv_proj.weight': [40, 7],
      'model.layers.0.mlp.gate_up_proj.weight': [22, 7],
    })
  })

  it('GPT-2 stores the transpose of what a role is', async () => {
    const architecture = await architectureFor('gpt2', 'x')
    const rows = expectedTensors(architecture, config('gpt2', { layers: 1, tied: true }))
    const up = rows.find(({ role }) => role === 'blocks.0.mlp.up.weight')
    expect(up).toMatchObject({ hf: 'transformer.h.0.mlp.c_fc.weight', shape: [11, 7], transposed: true })
    expect(rows.filter(({ transposed }) => transposed)).toHaveLength(4)
    expect(rows.some(({ role }) => role === 'lm_head.weight')).toBe(false)
  })

  it('T5: two stacks of their own depth, position biases in the first block of each, a gate if it is gated', async () => {
    const decoder = { layers: 3, startId: 0 }
    const plain = Object.keys(await shapes('t5', { decoder }))
    expect(plain.filter((name) => name.includes('relative_attention_bias'))).toEqual([
      'encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight',
      'decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight',
    ])
    expect(plain).toContain('decoder.block.2.layer.2.DenseReluDense.wi.weight')
    expect(plain).not.toContain('encoder.block.2.layer.0.layer_norm.weight')
    const gated = Object.keys(await shapes('t5', { decoder }, { feed_forward_proj: 'gated-gelu' }))
    expect(gated).toContain('encoder.block.0.layer.1.DenseReluDense.wi_0.weight')
    expect(gated).not.toContain('encoder.block.0.layer.1.DenseReluDense.wi.weight')
  })

  it('BERT: a bare model may lack its pooler, a classifier may not', async () => {
    const architecture = await architectureFor('bert', 'x')
    const pooler = (className: string) =>
      expectedTensors(architecture, config('bert', { className, labels: ['a'] })).find(
        ({ role }) => role === 'pooler.weight',
      )
    expect(pooler('BertModel')).toMatchObject({ optional: true })
    expect(pooler('BertForSequenceClassification')).toMatchObject({ optional: false })
    expect(pooler('BertForMaskedLM')).toBeUndefined()
  })
})
