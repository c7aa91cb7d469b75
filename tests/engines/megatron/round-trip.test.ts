import { describe, expect, test } from 'vitest'
import { loadMegatron } from '../../../src/engines/megatron/open.ts'
import { DEFAULT_FAKE } from '../../../src/models/fake.ts'
import { memoryFolder } from '../../contracts/memory.ts'
import {
  jsonBytes,
  noShared,
  rawTensors,
  safetensors,
  sharedFiles,
  tinyLlama,
  without,
  type Files,
  type RawTensor,
} from '../hf/folder.ts'
import { convert, madeUp, weightsOf } from './folder.ts'

const SIZES = [1, 2, 4]
const LAYOUTS = SIZES.flatMap((tp) => SIZES.map((pp) => [tp, pp] as const))

const base = {
  hidden_size: 64,
  intermediate_size: 96,
  num_attention_heads: 8,
  num_key_value_heads: 4,
  num_hidden_layers: 4,
  vocab_size: 300,
  max_position_embeddings: 128,
  rms_norm_eps: 1e-5,
  torch_dtype: 'bfloat16',
  tie_word_embeddings: false,
}

/** All families, with four groups of heads and four layers, so that every layout divides them. */
const MADE_UP: Record<string, Record<string, unknown>> = {
  llama: { ...base, architectures: ['LlamaForCausalLM'], model_type: 'llama', head_dim: 24 },
  tied: { ...base, architectures: ['LlamaForCausalLM'], model_type: 'llama', tie_word_embeddings: true },
  biased: { ...base, architectures: ['LlamaForCausalLM'], model_type: 'llama', attention_bias: true, mlp_bias: true },
  mistral: { ...base, architectures: ['MistralForCausalLM'], model_type: 'mistral', sliding_window: 32 },
  qwen2: { ...base, architectures: ['Qwen2ForCausalLM'], model_type: 'qwen2' },
  qwen3: { ...base, architectures: ['Qwen3ForCausalLM'], model_type: 'qwen3', head_dim: 16 },
  mixtral: {
    ...base,
    architectures: ['MixtralForCausalLM'],
    model_type: 'mixtral',
    num_local_experts: 4,
    num_experts_per_tok: 2,
  },
  qwen3moe: {
    ...base,
    architectures: ['Qwen3MoeForCausalLM'],
    model_type: 'qwen3_moe',
    head_dim: 16,
    moe_intermediate_size: 32,
    num_experts: 8,
    num_experts_per_tok: 2,
    norm_topk_prob: true,
    decoder_sparse_step: 1,
    mlp_only_layers: [],
  },
  qwen2moe: {
    ...base,
    architectures: ['Qwen2MoeForCausalLM'],
    model_type: 'qwen2_moe',
    moe_intermediate_size: 32,
    shared_expert_intermediate_size: 48,
    num_experts: 8,
    num_experts_per_tok: 2,
    norm_topk_prob: false,
    decoder_sparse_step: 1,
    mlp_only_layers: [],
  },
  gpt2: {
    architectures: ['GPT2LMHeadModel'],
    model_type: 'gpt2',
    n_embd: 64,
    n_layer: 4,
    n_head: 8,
    n_positions: 32,
    vocab_size: 300,
    torch_dtype: 'bfloat16',
  },
  minicpm: {
    ...base,
    architectures: ['MiniCPMForCausalLM'],
    model_type: 'minicpm',
    scale_emb: 12,
    scale_depth: 1.4,
    dim_model_base: 32,
  },
}

async function thereAndBack(files: Files, tp: number, pp: number, keepConfig: boolean): Promise<Files> {
  const { files: ranks } = await convert(files, 'megatron', { tp, pp, 'checkpoint-format': 'torch' })
  const parts = Object.keys(ranks).filter((path) => path.endsWith('model_optim_rng.pt'))
  expect(parts).toHaveLength(tp * pp)
  const given = keepConfig ? ranks : without(ranks, 'config.json')
  return (await convert(given, 'huggingface')).files
}

describe('HuggingFace to Megatron and back', () => {
  test.each(Object.keys(MADE_UP))('%s, bit for bit', { timeout: 120_000 }, async (name) => {
    const files = await madeUp(MADE_UP[name]!)
    for (const [tp, pp] of LAYOUTS) {
      const back = await thereAndBack(files, tp, pp, true)
      expect(weightsOf(back), `tp ${tp} pp ${pp}`).toEqual(weightsOf(files))
    }
  })

  test.each(['llama', 'tied', 'biased', 'qwen2', 'qwen3', 'mixtral', 'qwen2moe', 'qwen3moe', 'gpt2'])(
    '%s, by its arguments alone',
    { timeout: 60_000 },
    async (name) => {
      const files = await madeUp(MADE_UP[name]!)
      expect(weightsOf(await thereAndBack(files, 2, 2, false))).toEqual(weightsOf(files))
    },
  )

  test.each(Object.keys(MADE_UP))('%s as torch_dist, bit for bit', { timeout: 60_000 }, async (name) => {
    const files = await madeUp(MADE_UP[name]!)
    for (const keys of ['stacked', 'numbered']) {
      const { files: dist } = await convert(files, 'megatron', { 'layer-keys': keys })
      expect(Object.keys(dist).filter((path) => path.startsWith('iter_'))).toEqual([
        'iter_0000001/__0_0.distcp',
        'iter_0000001/common.pt',
        'iter_0000001/.metadata',
        'iter_0000001/metadata.json',
      ])
      expect(weightsOf((await convert(dist, 'huggingface')).files), keys).toEqual(weightsOf(files))
      if (name === 'mistral' || name === 'minicpm') continue
      const alone = await convert(without(dist, 'config.json'), 'huggingface')
      expect(weightsOf(alone.files), `${keys}, by its arguments`).toEqual(weightsOf(files))
    }
  })

  test('without a layout it is a distributed checkpoint; with one it is, if asked for, the same', async () => {
    const files = await madeUp(MADE_UP['tied']!)
    const whole = await convert(files, 'megatron', {})
    const noted = await convert(files, 'megatron', { 'checkpoint-format': 'torch_dist', tp: 2, pp: 4 })
    const part = 'iter_0000001/__0_0.distcp'
    expect(weightsOf((await convert(noted.files, 'huggingface')).files)).toEqual(weightsOf(files))
    // but for the rows of the vocabulary, which two ranks divide
    expect(noted.files[part]!.length - whole.files[part]!.length).toBe((512 - 384) * 64 * 2)
    expect(noted.report.findings.map(({ code }) => code)).toContain('not-divided')
    expect(whole.report.findings.map(({ code }) => code)).not.toContain('not-divided')
  })

  test('layers of different types, in one tensor, have the widest', async () => {
    const files = await madeUp(MADE_UP['llama']!)
    const tensors = rawTensors(files['model.safetensors']!).map((tensor): RawTensor => {
      if (tensor.name !== 'model.layers.2.mlp.down_proj.weight') return tensor
      const wide = new Uint32Array(tensor.data.length / 2)
      new Uint16Array(tensor.data.slice().buffer).forEach((half, index) => (wide[index] = half << 16))
      return { ...tensor, dtype: 'f32', data: new Uint8Array(wide.buffer) }
    })
    const mixed = { ...files, 'model.safetensors': safetensors(tensors) }
    const { files: dist } = await convert(mixed, 'megatron', {})
    const back = weightsOf((await convert(dist, 'huggingface')).files)
    const wanted = weightsOf(mixed)
    const same = (name: string): boolean => back.get(name) === wanted.get(name)
    expect(same('model.layers.2.mlp.down_proj.weight')).toBe(true)
    expect(back.get('model.layers.1.mlp.down_proj.weight')!.slice(0, 9)).toBe('f32 64x96')
    expect(same('model.layers.1.mlp.up_proj.weight')).toBe(true)
  })

  test('the tiny Llama', async () => {
    expect(weightsOf(await thereAndBack(tinyLlama(), 1, 1, true))).toEqual(weightsOf(tinyLlama()))
  })

  test.skipIf(noShared).each(['llama-spm', 'llama3-tied', 'mistral', 'qwen2', 'qwen3', 'mixtral', 'gpt2', 'minicpm'])(
    'the shared model %s (../shared/models)',
    { timeout: 60_000 },
    async (name) => {
      const files = sharedFiles(name)
      const back = weightsOf(await thereAndBack(files, 2, 2, true))
      const wanted = [...weightsOf(files)].filter(([tensor]) => back.has(tensor))
      expect(back).toEqual(new Map(wanted))
      expect(back.size).toBeGreaterThan(10)
    },
  )

  test.each([
    ['llama', { tp: 8 }, '--tp 8 does not divide the 4 groups of attention heads'],
    ['llama', { pp: 3 }, '--pp 3 does not divide the 4 layers'],
    ['llama', { ep: 2 }, '--ep 2 divides experts, and LlamaForCausalLM has none'],
    ['qwen2moe', { tp: 3, pp: 1 }, '--tp 3 does not divide the 4 groups of attention heads'],
    ['mixtral', { ep: 3 }, '--ep 3 does not divide the 4 experts'],
    ['mixtral', { ep: 8, tp: 2 }, '--ep 8 does not divide the 4 experts'],
    ['mixtral', { ep: 3, 'checkpoint-format': 'torch_dist' }, '--ep 3 does not divide the 4 experts'],
  ])('what cannot be divided is refused: %s, %j', async (name, options, message) => {
    const files = await madeUp(MADE_UP[name]!)
    await expect(convert(files, 'megatron', options)).rejects.toMatchObject({
      code: 'bad-option',
      message: expect.stringContaining(message),
    })
  })

  test('rows that pad a vocabulary are as many as Megatron expects', async () => {
    const files = await madeUp(MADE_UP['llama']!)
    const { files: ranks } = await convert(files, 'megatron', { tp: 4 })
    // 300 rows for four ranks of 128: one file is 128 rows of the embedding and of the head, and a quarter of the rest
    const sizes = Object.keys(ranks)
      .filter((path) => path.endsWith('.pt'))
      .map((path) => ranks[path]!.length)
    expect(new Set(sizes).size).toBe(1)
    expect(sizes[0]).toBeGreaterThan(2 * 128 * 64 * 2)
  })
})

describe('experts over ranks', () => {
  /** The folders that Megatron looks for. */
  function folders(tp: number, pp: number, ep: number): readonly string[] {
    const paths: string[] = []
    for (let t = 0; t < tp; t++) {
      for (let p = 0; p < pp; p++) {
        for (let e = 0; e < ep; e++) {
          const parts = [`0${t}`, ...(pp > 1 ? [`00${p}`] : []), ...(ep > 1 ? [`00${e}`] : [])]
          paths.push(`iter_0000001/mp_rank_${parts.join('_')}/model_optim_rng.pt`)
        }
      }
    }
    return paths.sort()
  }

  async function expectSame(files: Files, tp: number, pp: number, ep: number, source = files): Promise<void> {
    const { files: ranks } = await convert(source, 'megatron', { tp, pp, ep, 'checkpoint-format': 'torch' })
    expect(
      Object.keys(ranks)
        .filter((path) => path.endsWith('.pt'))
        .sort(),
    ).toEqual(folders(tp, pp, ep))
    const back = weightsOf((await convert(without(ranks, 'config.json'), 'huggingface')).files)
    const differ = [...weightsOf(files)].filter(([name, value]) => back.get(name) !== value).map(([name]) => name)
    expect(differ, `tp ${tp} pp ${pp} ep ${ep}`).toEqual([])
  }

  test.each(SIZES)('Mixtral over %i ranks of tensors, bit for bit', { timeout: 120_000 }, async (tp) => {
    const files = await madeUp(MADE_UP['mixtral']!)
    for (const pp of SIZES) for (const ep of SIZES) await expectSame(files, tp, pp, ep)
  })

  test.each(['qwen2moe', 'qwen3moe'])('%s over two ranks, bit for bit', { timeout: 120_000 }, async (name) => {
    const files = await madeUp(MADE_UP[name]!)
    for (const [tp, pp] of LAYOUTS) await expectSame(files, tp, pp, 2)
    await expectSame(files, 4, 1, 8)
  })

  test('Qwen3-MoE with fake weights, bit for bit', { timeout: 120_000 }, async () => {
    const config = { 'config.json': jsonBytes(MADE_UP['qwen3moe']) }
    const { files } = await convert(config, 'huggingface', {}, { fakeWeights: { ...DEFAULT_FAKE, seed: 7 } })
    await expectSame(files, 1, 2, 2)
  })

  test('shared experts are whole in each rank of the experts, and divided like an MLP by the others', async () => {
    const files = await madeUp(MADE_UP['qwen2moe']!)
    const { files: ranks } = await convert(files, 'megatron', { tp: 2, ep: 2, 'checkpoint-format': 'torch' })
    const folder = memoryFolder(ranks)
    const { weights } = await loadMegatron(folder)
    const shapes = (name: string): string[] =>
      weights.parts.filter((part) => part.name === name).map(({ recipe }) => recipe.shape.join('x'))
    const layer = 'decoder.layers.3.mlp.shared_experts'
    expect(shapes(`${layer}.linear_fc1.weight`)).toEqual(Array(4).fill('48x64'))
    expect(shapes(`${layer}.linear_fc2.weight`)).toEqual(Array(4).fill('64x24'))
    expect(shapes(`${layer}.gate_weight`)).toEqual(Array(4).fill('1x64'))
    expect(weights.args.get('moe_shared_expert_intermediate_size')).toBe(48)
    expect(weights.args.get('moe_shared_expert_gate')).toBe(true)
    expect(weights.args.get('moe_router_pre_softmax')).toBe(true)
    expect(weights.args.get('add_qkv_bias')).toBe(true)
  })

  test.skipIf(noShared)('the shared Mixtral (../shared/models)', { timeout: 60_000 }, async () => {
    await expectSame(sharedFiles('mixtral'), 2, 2, 2)
  })
})
