import { describe, expect, test } from 'vitest'
import { noShared, sharedFiles, tinyLlama, type Files } from '../hf/folder.ts'
import { convert, madeUp, weightsOf } from './folder.ts'

const LAYOUTS: readonly (readonly [number, number])[] = [
  [1, 1],
  [2, 1],
  [1, 2],
  [2, 2],
  [4, 1],
  [1, 4],
  [4, 4],
]

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
  const { files: ranks } = await convert(files, 'megatron', { tp, pp })
  const parts = Object.keys(ranks).filter((path) => path.endsWith('model_optim_rng.pt'))
  expect(parts).toHaveLength(tp * pp)
  const given = keepConfig
    ? ranks
    : Object.fromEntries(Object.entries(ranks).filter(([path]) => path !== 'config.json'))
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

  test.each(['llama', 'tied', 'biased', 'qwen2', 'qwen3', 'mixtral', 'gpt2'])(
    '%s, by its arguments alone',
    { timeout: 60_000 },
    async (name) => {
      const files = await madeUp(MADE_UP[name]!)
      expect(weightsOf(await thereAndBack(files, 2, 2, false))).toEqual(weightsOf(files))
    },
  )

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

  test('what cannot be divided is refused', async () => {
    const files = await madeUp(MADE_UP['llama']!)
    await expect(convert(files, 'megatron', { tp: 8 })).rejects.toMatchObject({ code: 'bad-option' })
    await expect(convert(files, 'megatron', { pp: 3 })).rejects.toMatchObject({ code: 'bad-option' })
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
