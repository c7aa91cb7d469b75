import { copyFile, mkdir } from 'node:fs/promises'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Api } from '../../src/api/api.ts'
import { convertFolder, productApi, relativeError, temporaryFolder } from './convert-folder.ts'
import { Decoder, type DecoderConfig } from './forward.ts'
import { judge, noLlama } from './llama.ts'
import { MODELS, noModels, readReference } from './models.ts'

/** Float32 against float64, through two blocks. */
const MAX_ERROR = 1e-4

const SIZES = {
  hidden_size: 64,
  intermediate_size: 96,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 16,
  vocab_size: 1024,
  rms_norm_eps: 1e-6,
  rope_theta: 10_000,
  max_position_embeddings: 512,
  tie_word_embeddings: false,
  hidden_act: 'silu',
}
const EXPERTS = { num_experts: 4, num_experts_per_tok: 2, moe_intermediate_size: 32 }

const CONFIGS: readonly (DecoderConfig & { readonly [key: string]: unknown })[] = [
  { ...SIZES, architectures: ['LlamaForCausalLM'], model_type: 'llama' },
  {
    ...SIZES,
    architectures: ['GraniteForCausalLM'],
    model_type: 'granite',
    embedding_multiplier: 12,
    residual_multiplier: 0.22,
    attention_multiplier: 0.15,
    logits_scaling: 8,
  },
  {
    ...SIZES,
    ...EXPERTS,
    architectures: ['Qwen2MoeForCausalLM'],
    model_type: 'qwen2_moe',
    norm_topk_prob: false,
    shared_expert_intermediate_size: 48,
  },
  { ...SIZES, ...EXPERTS, architectures: ['Qwen3MoeForCausalLM'], model_type: 'qwen3_moe', norm_topk_prob: true },
]

const reason = noLlama ?? noModels

describe.skipIf(reason !== null)(`architectures without a test model${reason === null ? '' : ` (${reason})`}`, () => {
  let folder: Awaited<ReturnType<typeof temporaryFolder>>
  let api: Api
  beforeAll(async () => {
    folder = await temporaryFolder()
    api = productApi()
  })
  afterAll(async () => {
    await api.close()
    await folder.remove()
  })

  test.each(CONFIGS)('$model_type: llama.cpp computes what the class does', async (config) => {
    const decoder = new Decoder(config)
    const [prompt] = readReference('qwen3')
    const expected = decoder.logits(prompt!.ids)
    const input = path.join(folder.path, config.model_type)
    await mkdir(input)
    await decoder.save(input)
    for (const file of ['tokenizer.json', 'tokenizer_config.json'])
      await copyFile(path.join(MODELS, 'qwen3', file), path.join(input, file))
    const llama = await judge(await convertFolder(api, input, { quant: 'f32' }, folder.path))
    try {
      expect(relativeError(await llama.logits(prompt!.ids), expected)).toBeLessThan(MAX_ERROR)
    } finally {
      await llama.close()
    }
  })
})
