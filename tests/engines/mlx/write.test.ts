import { describe, expect, test } from 'vitest'
import { formatIds, loadEngine } from '../../../src/engines/index.ts'
import { detect } from '../../../src/api/api.ts'
import { memoryFolder } from '../../contracts/memory.ts'
import { CONFIGS } from '../../models/configs.ts'
import { edit, jsonOf, noShared, rawTensors, sharedFiles, tinyLlama, without, type Files } from '../hf/folder.ts'
import { configOf, convertFiles, faultsOf, madeUp } from './folder.ts'
import { strictNames } from './modules.ts'
import { floats, storedTensors, unpack, weightOf, type Config, type Quant, type Stored } from './naive.ts'

const SHARED = ['llama-spm', 'llama3-tied', 'mistral', 'qwen2', 'qwen3', 'mixtral', 'gemma2', 'phi3', 'gpt2', 'minicpm']

/** The tensors of a HuggingFace folder as numbers, [out, in] throughout. */
function source(files: Files): Map<string, { values: Float64Array; shape: readonly number[] }> {
  return new Map(
    rawTensors(files['model.safetensors']!).map(({ name, dtype, shape, data }) => {
      const values = floats({ dtype: dtype.toUpperCase(), bytes: Uint8Array.from(data) })
      return [name, { values, shape }]
    }),
  )
}

/** What HuggingFace calls the weight of an MLX module: one name, or one an expert. */
function originals(module: string, config: Config, all: ReadonlyMap<string, unknown>): string[] {
  const expert = /^(.*)\.switch_mlp\.(\w+)$/.exec(module)
  if (expert !== null) {
    const part = { gate_proj: 'w1', down_proj: 'w2', up_proj: 'w3' }[expert[2]!]!
    const count = Number(config['num_local_experts'])
    return Array.from({ length: count }, (_, e) => `${expert[1]}.experts.${e}.${part}.weight`)
  }
  const name = config['model_type'] === 'gpt2' ? module.replace(/^model/, 'transformer') : module
  return [module === 'lm_head' && !all.has('lm_head.weight') ? 'model.embed_tokens.weight' : `${name}.weight`]
}

/** The same, transposed where HuggingFace's GPT-2 has it the other way round. */
function original(module: string, config: Config, all: ReturnType<typeof source>): Float64Array {
  const parts = originals(module, config, all).map((name) => {
    const { values, shape } = all.get(name)!
    if (!/\.c_(attn|proj|fc)\.weight$/.test(name)) return values
    const [rows = 0, columns = 0] = shape
    return Float64Array.from({ length: values.length }, (_, i) => values[(i % rows) * columns + Math.floor(i / rows)]!)
  })
  return Float64Array.from(parts.flatMap((part) => [...part]))
}

/**
 * What quantising may cost: half a step, and what casting scales and biases to 8 bits of significand does. Moving zero to
 * a code of its own can cut the extreme on the other side short by up to a step: that is the last code.
 */
function bound(quant: Quant, scale: number, value: number, code: number, exact: boolean): number {
  const { bits, mode = 'affine' } = quant
  if (mode === 'affine') {
    const last = 2 ** bits - 1
    return Math.abs(scale) * ((code === last ? 1 : 0.5) + 1e-3 + (exact ? 0 : last * 2 ** -8))
  }
  // half the gap between neighbours, or what lies beyond the largest element
  const x = Math.abs(value / scale)
  if (bits === 4) return Math.abs(scale) * Math.max(0.25, x > 6 ? x - 6 : x > 4 ? 1 : x > 2 ? 0.5 : 0.25) * (1 + 1e-6)
  return Math.abs(scale) * Math.max(2 ** -10, x > 448 ? x - 448 : x / 16) * (1 + 1e-6)
}

/** Every module within the bound of its own quantisation. Returns how many are quantised. */
function compare(files: Files, tensors: Map<string, Stored>, from: Files): number {
  const config = configOf(files)
  const all = source(from)
  let quantised = 0
  for (const name of tensors.keys()) {
    if (!name.endsWith('.weight')) continue
    const module = name.slice(0, -'.weight'.length)
    const { values, quant, scales, codes } = weightOf(config, module, tensors)
    const expected = original(module, config, all)
    expect(values.length, module).toBe(expected.length)
    if (quant === null) {
      expect(values, module).toEqual(expected)
      continue
    }
    quantised++
    const exact = tensors.get(`${module}.scales`)!.dtype === 'F32'
    for (const [i, value] of values.entries()) {
      const scale = scales[Math.floor(i / quant.group_size)]!
      const limit = bound(quant, scale, expected[i]!, codes[i]!, exact)
      if (Math.abs(value - expected[i]!) > limit) {
        throw new Error(`${module} at ${i}: ${value} for ${expected[i]}, scale ${scale}`)
      }
    }
  }
  return quantised
}

describe.skipIf(noShared)('every family that mlx-lm has a class for (../shared/models)', () => {
  for (const model of SHARED) {
    for (const options of [{ 'group-size': '32' }, { quant: 'nvfp4' }, { quant: '8bit' }, { quant: 'none' }]) {
      test(`${model} ${JSON.stringify(options)}: the names and shapes of a strict loader, values within bounds`, async () => {
        const from = sharedFiles(model)
        const { files, report, stats } = await convertFiles(from, 'mlx', options, model)
        expect(report.findings.filter(({ severity }) => severity === 'error')).toEqual([])
        const tensors = storedTensors(files)
        const config = configOf(files)
        const expected = strictNames(config, tensors)
        expect([...tensors].map(([name, { shape }]) => [name, shape]).sort()).toEqual([...expected].sort())
        const quantised = compare(files, tensors, from)
        expect(quantised > 0).toBe(options.quant !== 'none')
        expect(await faultsOf(files)).toEqual([])
        // once for the weights, once for samples: never once a part
        const weights = from['model.safetensors']!.length
        expect(stats.readBytes).toBeLessThan(3 * weights + 4e6)
      })
    }
  }
})

const SMALL = {
  vocab_size: 300,
  hidden_size: 64,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  rms_norm_eps: 1e-6,
  hidden_act: 'silu',
  torch_dtype: 'bfloat16',
}
const MOE = { num_experts: 3, num_experts_per_tok: 2, moe_intermediate_size: 32, intermediate_size: 96 }

/** Families of which there is no model at hand, and what their keys say otherwise. */
const MADE_UP: readonly [string, Readonly<Record<string, unknown>>, Record<string, unknown>][] = [
  [
    'Qwen 2 MoE',
    { architectures: ['Qwen2MoeForCausalLM'], model_type: 'qwen2_moe', ...MOE, shared_expert_intermediate_size: 96 },
    {},
  ],
  [
    'Qwen 2 MoE with a tied head, which mlx-lm has no class for',
    {
      architectures: ['Qwen2MoeForCausalLM'],
      model_type: 'qwen2_moe',
      ...MOE,
      shared_expert_intermediate_size: 96,
      tie_word_embeddings: true,
    },
    { tie_word_embeddings: false },
  ],
  [
    'Qwen 3 MoE',
    { architectures: ['Qwen3MoeForCausalLM'], model_type: 'qwen3_moe', ...MOE, head_dim: 32, norm_topk_prob: true },
    { decoder_sparse_step: 1, mlp_only_layers: [], tie_word_embeddings: false },
  ],
  [
    'Granite',
    { architectures: ['GraniteForCausalLM'], model_type: 'granite', intermediate_size: 96, logits_scaling: 8 },
    { logits_scaling: 8, attention_multiplier: 1, embedding_multiplier: 1, attention_bias: false, mlp_bias: false },
  ],
  [
    'Granite with experts',
    {
      architectures: ['GraniteMoeForCausalLM'],
      model_type: 'granitemoe',
      intermediate_size: 96,
      num_local_experts: 3,
      num_experts_per_tok: 2,
    },
    { attention_bias: false, logits_scaling: 1 },
  ],
  [
    'DeepSeek V3',
    {
      architectures: ['DeepseekV3ForCausalLM'],
      model_type: 'deepseek_v3',
      intermediate_size: 96,
      first_k_dense_replace: 1,
      q_lora_rank: 32,
      kv_lora_rank: 32,
      qk_nope_head_dim: 32,
      qk_rope_head_dim: 16,
      v_head_dim: 32,
      n_routed_experts: 3,
      num_experts_per_tok: 2,
      moe_intermediate_size: 32,
      n_shared_experts: 2,
      n_group: 1,
      topk_group: 1,
    },
    { n_shared_experts: 2, routed_scaling_factor: 2.5, norm_topk_prob: true },
  ],
  [
    'GPT-OSS',
    {
      architectures: ['GptOssForCausalLM'],
      model_type: 'gpt_oss',
      intermediate_size: 96,
      head_dim: 32,
      num_local_experts: 3,
      num_experts_per_tok: 2,
      rope_scaling: null,
    },
    { layer_types: ['sliding_attention', 'full_attention'] },
  ],
  [
    'MiniCPM with a tied head, which mlx-lm fails to load',
    {
      architectures: ['MiniCPMForCausalLM'],
      model_type: 'minicpm',
      intermediate_size: 96,
      scale_emb: 12,
      scale_depth: 1.4,
      dim_model_base: 32,
    },
    { tie_word_embeddings: false },
  ],
  ['Gemma', CONFIGS['gemma']!, { head_dim: 16, num_key_value_heads: 2 }],
  ['Gemma 3', CONFIGS['gemma3']!, { sliding_window_pattern: 2, rope_local_base_freq: 10_000 }],
  [
    'Gemma 3 as transformers 5 says it',
    {
      ...CONFIGS['gemma3'],
      sliding_window_pattern: undefined,
      rope_theta: undefined,
      layer_types: ['sliding_attention', 'full_attention'],
      rope_parameters: {
        full_attention: { rope_type: 'linear', factor: 8, rope_theta: 500_000 },
        sliding_attention: { rope_type: 'default', rope_theta: 20_000 },
      },
    },
    {
      sliding_window_pattern: 2,
      rope_theta: 500_000,
      rope_local_base_freq: 20_000,
      rope_scaling: { rope_type: 'linear', type: 'linear', factor: 8 },
    },
  ],
  ['SmolLM 3', CONFIGS['smollm3']!, { no_rope_layer_interval: 4 }],
  ['EXAONE 4', CONFIGS['exaone4']!, { rope_scaling: null, sliding_window: null, sliding_window_pattern: null }],
  [
    'EXAONE 4 with windows, whose pattern is a word there',
    { ...CONFIGS['exaone4']!, sliding_window: 32, sliding_window_pattern: 2 },
    { sliding_window: 32, sliding_window_pattern: 'LG' },
  ],
  ['Seed-OSS', CONFIGS['seed_oss']!, { attention_bias: true }],
  ['ERNIE 4.5', CONFIGS['ernie4_5']!, { use_bias: false }],
  ['GLM 4 of 2024, all channels of whose heads turn', CONFIGS['glm']!, { attention_bias: true }],
  ['GLM 4', CONFIGS['glm4']!, { attention_bias: true, partial_rotary_factor: 0.5 }],
  [
    'GLM 4 with a tied head, which mlx-lm has no class for',
    { ...CONFIGS['glm4']!, tie_word_embeddings: true },
    { tie_word_embeddings: false },
  ],
  ['Hunyuan', CONFIGS['hunyuan']!, {}],
  [
    'Hunyuan with a raised base, as transformers 5 says it',
    {
      ...CONFIGS['hunyuan']!,
      rope_theta: undefined,
      rope_parameters: { rope_theta: 10_000, rope_type: 'dynamic', alpha: 1000, factor: 1 },
    },
    { rope_theta: 10_000, rope_scaling: { type: 'dynamic', rope_type: 'dynamic', alpha: 1000, factor: 1 } },
  ],
  ['Command R', CONFIGS['cohere']!, { logit_scale: 0.0625, layer_norm_eps: 1e-5 }],
  ['Command R7B', CONFIGS['cohere2']!, { logit_scale: 0.0625, sliding_window_pattern: 2 }],
  ['OLMo 2', CONFIGS['olmo2']!, { tie_word_embeddings: false }],
  ['OLMo 3', CONFIGS['olmo3']!, { layer_types: ['sliding_attention', 'full_attention'], sliding_window: 32 }],
]

describe('families made up', () => {
  for (const quant of ['4bit', 'mxfp8', 'none']) {
    test.each(MADE_UP)(`%s, ${quant}: the names of a strict loader, and back`, async (_, config, keys) => {
      const from = await madeUp({ ...SMALL, ...config })
      const options = { quant, 'group-size': quant === '4bit' ? '32' : 'auto' }
      const { files } = await convertFiles(from, 'mlx', options)
      const tensors = storedTensors(files)
      const expected = strictNames(configOf(files), tensors)
      expect([...tensors].map(([name, { shape }]) => [name, shape]).sort()).toEqual([...expected].sort())
      expect(configOf(files)).toMatchObject(keys)
      expect(await faultsOf(files)).toEqual([])
      const again = await convertFiles(files, 'mlx', options)
      expect(storedTensors(again.files)).toEqual(tensors)
    })
  }

  test('the router of Qwen 3 MoE has 8 bits in groups of 64, as its class wants', async () => {
    const from = await madeUp({ ...SMALL, ...MADE_UP[2]![1] })
    const { files } = await convertFiles(from, 'mlx', {})
    expect(configOf(files)['quantization']).toMatchObject({
      bits: 4,
      'model.layers.1.mlp.gate': { group_size: 64, bits: 8 },
    })
    expect(storedTensors(files).get('model.layers.1.mlp.gate.weight')?.shape).toEqual([3, 16])
    // rows of 32 are no group of 64
    expect(storedTensors(files).has('model.layers.0.mlp.switch_mlp.down_proj.scales')).toBe(false)
  })
})

describe('values', () => {
  for (const quant of ['2bit', '3bit', '4bit', '5bit', '6bit', '8bit', 'mxfp4', 'mxfp8', 'nvfp4']) {
    for (const group of quant.endsWith('bit') ? ['32', '64'] : ['auto']) {
      for (const dtype of ['f32', 'bf16']) {
        test(`${quant} in groups of ${group}, scales as ${dtype}`, async () => {
          const from = tinyLlama()
          const { files } = await convertFiles(from, 'mlx', { quant, 'group-size': group, dtype })
          const tensors = storedTensors(files)
          // rows of 160 are no whole groups of 64
          const modules = group === '64' ? 14 : 16
          expect(compare(files, tensors, from)).toBe(modules)
          expect(await faultsOf(files)).toEqual([])
        })
      }
    }
  }

  test('the example of the documentation: 0 to 63 in one group', async () => {
    const from = tinyLlama()
    const name = 'model.layers.0.self_attn.q_proj.weight'
    const tensors = rawTensors(from['model.safetensors']!)
    const { safetensors } = await import('../hf/folder.ts')
    const ramp = new Uint8Array(Float32Array.from({ length: 64 * 64 }, (_, i) => i % 64).buffer)
    const changed = tensors.map((tensor) =>
      tensor.name === name ? { ...tensor, dtype: 'f32' as const, data: ramp } : tensor,
    )
    const { files } = await convertFiles({ ...from, 'model.safetensors': safetensors(changed) }, 'mlx', {
      dtype: 'f32',
    })
    const stored = storedTensors(files)
    const module = name.slice(0, -'.weight'.length)
    expect(floats(stored.get(`${module}.scales`)!)[5]).toBeCloseTo(-4.2, 6)
    expect(floats(stored.get(`${module}.biases`)!)[5]).toBe(63)
    const codes = unpack(stored.get(`${module}.weight`)!.bytes.subarray(0, 32), 4, 64)
    expect(codes[63]).toBe(0)
    expect(codes[0]).toBe(15)
    expect(weightOf(configOf(files), module, stored).values[0]).toBeCloseTo(0, 5)
  })

  test('scales, biases and what is not quantised have the type asked for', async () => {
    for (const [dtype, stored] of [
      ['f16', 'F16'],
      ['f32', 'F32'],
      ['bf16', 'BF16'],
    ] as const) {
      const { files } = await convertFiles(tinyLlama(), 'mlx', { dtype })
      const types = new Set([...storedTensors(files).values()].map((tensor) => tensor.dtype))
      expect(types).toEqual(new Set(['U32', stored]))
      expect(configOf(files)['dtype']).toBe({ f16: 'float16', f32: 'float32', bf16: 'bfloat16' }[dtype])
    }
  })

  test('a NaN in weights stored as F32 is refused, though scales stay F32', async () => {
    const from = tinyLlama()
    const { safetensors } = await import('../hf/folder.ts')
    const bad = rawTensors(from['model.safetensors']!).map((tensor) => {
      if (tensor.name !== 'lm_head.weight') return tensor
      const data = new Float32Array(300 * 64).fill(0.5)
      data[777] = Number.NaN
      return { ...tensor, dtype: 'f32' as const, data: new Uint8Array(data.buffer) }
    })
    const files = { ...from, 'model.safetensors': safetensors(bad) }
    await expect(convertFiles(files, 'mlx', { dtype: 'f32' })).rejects.toMatchObject({
      code: 'bad-weights',
      message: expect.stringContaining('row 12, column 9'),
    })
  })
})

describe('what stands beside the weights', () => {
  test('config.json: keys sorted, an indent of 4, both keys of the quantisation', async () => {
    const { files } = await convertFiles(tinyLlama(), 'mlx', {})
    const text = new TextDecoder().decode(files['config.json'])
    const config = configOf(files)
    expect(Object.keys(config)).toEqual(Object.keys(config).toSorted())
    expect(text).toBe(
      JSON.stringify(config, null, 4)
        .replace('"rope_theta": 10000,\n    "tie', '"rope_theta": 10000.0,\n    "tie')
        .replace('1e-6', '0.000001'),
    )
    expect(config['quantization']).toEqual({ group_size: 64, bits: 4, mode: 'affine' })
    expect(config['quantization_config']).toEqual(config['quantization'])
    expect(config['tie_word_embeddings']).toBe(false)
    expect(config['rope_theta']).toBe(10000)
    expect(config['rope_scaling']).toBeUndefined()
  })

  test('no quantisation, no key of it; numbers keep their spelling', async () => {
    const from = tinyLlama()
    const text = new TextDecoder().decode(from['config.json']).replace('0.000001', '1e-06')
    const { files } = await convertFiles({ ...from, 'config.json': new TextEncoder().encode(text) }, 'mlx', {
      quant: 'none',
    })
    const written = new TextDecoder().decode(files['config.json'])
    expect(written).not.toContain('quantization')
    expect(written).toContain('\n    "rms_norm_eps": 1e-06,')
    expect(written.endsWith('}')).toBe(true)
  })

  test('rope_parameters of transformers 5 become what mlx-lm reads', async () => {
    const from = edit(tinyLlama(), 'config.json', {
      rope_parameters: {
        rope_type: 'llama3',
        rope_theta: 5e5,
        factor: 8,
        low_freq_factor: 1,
        high_freq_factor: 4,
        original_max_position_embeddings: 128,
      },
    })
    const { files } = await convertFiles(from, 'mlx', {})
    const config = configOf(files)
    expect(config['rope_theta']).toBe(500000)
    expect(config['rope_scaling']).toEqual({
      rope_type: 'llama3',
      type: 'llama3',
      factor: 8,
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: 128,
    })
  })

  test('an index even of one file, with sizes and parameters', async () => {
    const { files } = await convertFiles(tinyLlama(), 'mlx', {})
    const tensors = storedTensors(files)
    const index = jsonOf(files, 'model.safetensors.index.json') as {
      metadata: Record<string, number>
      weight_map: Record<string, string>
    }
    const bytes = [...tensors.values()].reduce((sum, tensor) => sum + tensor.bytes.length, 0)
    const parameters = rawTensors(tinyLlama()['model.safetensors']!).reduce((sum, { data }) => sum + data.length / 2, 0)
    expect(index.metadata).toEqual({ total_size: bytes, total_parameters: parameters })
    expect(Object.keys(index.weight_map)).toEqual([...tensors.keys()].toSorted())
    expect(new Set(Object.values(index.weight_map))).toEqual(new Set(['model.safetensors']))
  })

  test('shards hold whole modules in the order of the tree, and read back the same', async () => {
    const { files } = await convertFiles(tinyLlama(), 'mlx', { 'max-shard-size': '20KB' })
    const shards = Object.keys(files)
      .filter((path) => path.endsWith('.safetensors'))
      .sort()
    expect(shards.length).toBeGreaterThan(2)
    expect(shards[0]).toBe(`model-00001-of-0000${shards.length}.safetensors`)
    const tensors = storedTensors(files)
    for (const [name, { file }] of tensors) {
      const weight = tensors.get(`${name.replace(/\.\w+$/, '')}.weight`)!
      expect(weight.file, name).toBe(file)
    }
    const order = ['model.embed_tokens', 'model.layers.0.self_attn.q_proj', 'model.layers.0.mlp.gate_proj', 'lm_head']
    const at = order.map((module) => shards.indexOf(tensors.get(`${module}.weight`)!.file))
    expect(at).toEqual(at.toSorted((a, b) => a - b))
    expect(await faultsOf(files)).toEqual([])
    const one = await convertFiles(tinyLlama(), 'mlx', {})
    for (const [name, { bytes }] of storedTensors(one.files)) expect(tensors.get(name)?.bytes, name).toEqual(bytes)
  })

  test('each tensor starts on a multiple of its elements', async () => {
    const { files } = await convertFiles(tinyLlama(), 'mlx', { quant: '5bit', 'group-size': '32' })
    const bytes = files['model.safetensors']!
    const length = Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true))
    const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length))) as Record<
      string,
      { dtype: string; data_offsets: [number, number] }
    >
    for (const [name, { dtype, data_offsets: offsets }] of Object.entries(header)) {
      if (name === '__metadata__') continue
      expect(offsets[0] % (dtype === 'U32' ? 4 : 2), name).toBe(0)
    }
  })

  test('tokenizer and other files come along, and a card for the Hub', async () => {
    const from = tinyLlama()
    const { files } = await convertFiles(from, 'mlx', {})
    expect(files['tokenizer.json']).toEqual(from['tokenizer.json'])
    expect(files['tokenizer_config.json']).toEqual(from['tokenizer_config.json'])
    expect(files['generation_config.json']).toEqual(from['generation_config.json'])
    expect(new TextDecoder().decode(files['README.md'])).toContain('library_name: mlx')
  })
})

describe('recipes and overrides', () => {
  test('mixed_2_6 gives 6 bits to the layers that mlx-lm does', async () => {
    const from = edit(tinyLlama(), 'config.json', { num_hidden_layers: 2 })
    const { files } = await convertFiles(from, 'mlx', { quant: 'mixed_2_6', 'group-size': '32' })
    const quantization = configOf(files)['quantization'] as Record<string, Quant>
    expect(quantization).toMatchObject({ group_size: 32, bits: 4, mode: 'affine' })
    const bits = (module: string): number => quantization[module]!.bits
    // two layers: 0 // 8 and 7 * 2 // 8 = 1, so the second one has more
    expect(bits('model.layers.0.self_attn.v_proj')).toBe(2)
    expect(bits('model.layers.1.self_attn.v_proj')).toBe(6)
    expect(bits('model.layers.1.mlp.down_proj')).toBe(6)
    expect(bits('model.layers.1.mlp.up_proj')).toBe(2)
    expect(bits('model.embed_tokens')).toBe(2)
    expect(bits('lm_head')).toBe(6)
    expect(compare(files, storedTensors(files), from)).toBe(16)
    expect(await faultsOf(files)).toEqual([])
  })

  test('single modules by name', async () => {
    const own = {
      group_size: 32,
      bits: 3,
      'model.layers.1.self_attn.v_proj': { group_size: 64, bits: 8 },
      'model.layers.0.mlp.down_proj': { mode: 'mxfp8' },
      lm_head: false,
    }
    const from = tinyLlama()
    const { files } = await convertFiles(from, 'mlx', { 'quant-config': JSON.stringify(own) })
    const tensors = storedTensors(files)
    expect(tensors.has('lm_head.scales')).toBe(false)
    expect(tensors.get('model.layers.0.mlp.down_proj.scales')?.dtype).toBe('U8')
    expect(configOf(files)['quantization']).toMatchObject({
      bits: 3,
      lm_head: false,
      'model.layers.1.self_attn.v_proj': { group_size: 64, bits: 8, mode: 'affine' },
      'model.layers.0.mlp.down_proj': { group_size: 32, bits: 8, mode: 'mxfp8' },
    })
    expect(compare(files, tensors, from)).toBe(15)
    expect(await faultsOf(files)).toEqual([])
  })

  test.each([
    ['a group size that the mode has not', { quant: 'mxfp4', 'group-size': '64' }, 'mxfp4'],
    ['a module that is not there', { 'quant-config': '{"model.layers.9.mlp.up_proj": {"bits": 8}}' }, 'layers.9'],
    ['a norm', { 'quant-config': '{"model.norm": {"bits": 8}}' }, 'model.norm'],
    ['bits that do not exist', { 'quant-config': '{"lm_head": {"bits": 7}}' }, '7'],
    ['rows that are no groups', { 'quant-config': '{"model.layers.0.mlp.down_proj": {"group_size": 64}}' }, '160'],
    ['no JSON object', { 'quant-config': '[]' }, 'object'],
    ['a mode of nobody', { 'quant-config': '{"mode": "q4_k"}' }, 'q4_k'],
  ])('refuses %s', async (_, options, named) => {
    await expect(convertFiles(tinyLlama(), 'mlx', options)).rejects.toMatchObject({
      code: 'bad-option',
      message: expect.stringContaining(named),
    })
  })

  test.skipIf(noShared)(
    'refuses a mix for a model without down projections, and a class that mlx-lm lacks',
    async () => {
      await expect(convertFiles(sharedFiles('gpt2'), 'mlx', { quant: 'mixed_3_6' })).rejects.toMatchObject({
        code: 'unsupported',
        message: expect.stringContaining('down_proj'),
      })
      await expect(convertFiles(sharedFiles('bert'), 'mlx', {})).rejects.toMatchObject({
        code: 'unsupported',
        message: expect.stringContaining('mlx-lm'),
      })
    },
  )
})

describe('which engine takes a folder', () => {
  test('an MLX folder is MLX by its config or by its files; a HuggingFace folder is not', async () => {
    const formatOf = async (files: Files): Promise<string> => (await detect(memoryFolder(files))).match.format
    const quantised = (await convertFiles(tinyLlama(), 'mlx', {})).files
    const plain = (await convertFiles(tinyLlama(), 'mlx', { quant: 'none' })).files
    expect(await formatOf(quantised)).toBe('mlx')
    expect(await formatOf(plain)).toBe('mlx')
    expect(await formatOf(tinyLlama())).toBe('huggingface')
    // AWQ and GPTQ have a quantization_config with a method, and no "quantization"
    const awq = edit(tinyLlama(), 'config.json', {
      quantization_config: { quant_method: 'awq', bits: 4, group_size: 64 },
    })
    expect(await formatOf(awq)).toBe('huggingface')
    // without the index, which mlx-lm does not need
    expect(await formatOf(without(quantised, 'model.safetensors.index.json'))).toBe('mlx')
    expect(formatIds()).toContain('mlx')
    expect((await loadEngine('mlx')).options[0]?.name).toBe('quant')
  })
})
