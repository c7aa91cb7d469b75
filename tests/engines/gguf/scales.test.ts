import { describe, expect, test } from 'vitest'
import type { GgufValue } from '../../../src/engines/containers/gguf/types.ts'
import { readGguf } from '../../../src/engines/containers/gguf/reader.ts'
import { ggufLayout } from '../../../src/engines/containers/gguf/writer.ts'
import { memoryFolder } from '../../contracts/memory.ts'
import { jsonOf, tinyLlama, type Files } from '../hf/folder.ts'
import { convert, madeUp, weightsOf } from '../megatron/folder.ts'

const SIZES = {
  hidden_size: 32,
  intermediate_size: 48,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  num_hidden_layers: 3,
  vocab_size: Number(jsonOf(tinyLlama(), 'config.json')['vocab_size']),
  max_position_embeddings: 128,
  rms_norm_eps: 1e-5,
  torch_dtype: 'bfloat16',
  tie_word_embeddings: false,
}
const MINICPM = {
  ...SIZES,
  architectures: ['MiniCPMForCausalLM'],
  model_type: 'minicpm',
  scale_emb: 11,
  scale_depth: 1.3,
  dim_model_base: 16,
}
const GRANITE = {
  ...SIZES,
  architectures: ['GraniteForCausalLM'],
  model_type: 'granite',
  embedding_multiplier: 12,
  residual_multiplier: 0.22,
  attention_multiplier: 0.4,
  logits_scaling: 8,
}

/** The file without some of its keys. */
async function withoutKeys(file: Uint8Array, dropped: RegExp): Promise<Uint8Array> {
  const source = await memoryFolder({ 'model.gguf': file }).open('model.gguf')
  const { metadata, tensors } = await readGguf(source)
  const kept = new Map<string, GgufValue>([...metadata].filter(([key]) => !dropped.test(key)))
  const layout = ggufLayout(
    kept,
    tensors.map(({ name, shape, type }) => ({ name, shape, dtype: type.dtype! })),
  )
  const out = new Uint8Array(layout.size)
  out.set(layout.header)
  for (const [index, { offset, size }] of tensors.entries())
    out.set(file.subarray(offset, offset + size), layout.tensors[index]!.offset)
  return out
}

async function throughGguf(files: Files, change = async (file: Uint8Array) => file): Promise<Files> {
  const { files: made } = await convert(files, 'gguf', { quant: 'bf16' })
  const path = Object.keys(made).find((name) => name.endsWith('.gguf'))
  return (await convert({ 'model.gguf': await change(made[path!]!) }, 'huggingface', { dtype: 'bf16' })).files
}

describe('models with scales, to GGUF and back', () => {
  test.each([
    ['MiniCPM', MINICPM],
    ['MiniCPM, tied', { ...MINICPM, tie_word_embeddings: true }],
    ['MiniCPM with biases in attention', { ...MINICPM, attention_bias: true }],
    ['Granite', GRANITE],
    ['Granite with all biases', { ...GRANITE, attention_bias: true, mlp_bias: true }],
  ])('%s: every weight bit for bit, and every scale', async (_, config: Record<string, unknown>) => {
    const files = await madeUp(config)
    const back = await throughGguf(files)
    expect(weightsOf(back)).toEqual(weightsOf(files))
    const json = jsonOf(back, 'config.json')
    const said = /^(?:scale_|dim_model|.*_multiplier|logits_scaling|architectures|tie_)/
    for (const key of Object.keys(config).filter((name) => said.test(name))) expect(json[key], key).toEqual(config[key])
    for (const key of ['attention_bias', 'mlp_bias']) expect(json[key] ?? false, key).toBe(config[key] ?? false)
  })

  test('a MiniCPM whose file does not say them has those of the first one, as llama.cpp takes them', async () => {
    const back = await throughGguf(await madeUp(MINICPM), (file) =>
      withoutKeys(file, /\.(?:embedding|residual|logit)_scale$/),
    )
    expect(jsonOf(back, 'config.json')).toMatchObject({
      architectures: ['MiniCPMForCausalLM'],
      scale_emb: 12,
      scale_depth: 1.4,
      dim_model_base: 256,
    })
  })

  test('a Granite whose file says no scale of attention has the usual one, not its class’s 1', async () => {
    const back = await throughGguf(await madeUp(GRANITE), (file) => withoutKeys(file, /attention\.scale$/))
    expect(Number(jsonOf(back, 'config.json')['attention_multiplier'])).toBeCloseTo(1 / Math.sqrt(8), 6)
  })
})
