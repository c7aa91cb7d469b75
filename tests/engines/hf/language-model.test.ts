import { describe, expect, test } from 'vitest'
import { parseJsonObject } from '../../../src/core/json.ts'
import { architectureOf, normalizeConfig } from '../../../src/engines/transformers/config.ts'
import { languageConfig } from '../../../src/engines/transformers/language-model.ts'
import { CONFIGS } from '../../models/configs.ts'
import { convert, madeUp, weightsOf } from '../megatron/folder.ts'
import { codes, edit, editWeights, jsonBytes, jsonOf, openFiles, type Files, type RawTensor } from './folder.ts'

const VISION = ['vision_tower.vision_model.post_layernorm.weight', 'multi_modal_projector.mm_soft_emb_norm.weight']

/** How transformers names the parts of such a model: before 4.52, and since. */
const SPELLINGS = {
  'of transformers 4.51': (name: string) => (VISION.includes(name) ? name : `language_model.${name}`),
  'of transformers 4.52': (name: string) => {
    if (VISION.includes(name)) return `model.${name}`
    return name.startsWith('model.') ? `model.language_model.${name.slice('model.'.length)}` : name
  },
} as const

/** A model of text, and the same one in a model that sees images. */
async function pair(
  id: keyof typeof CONFIGS,
  wrapper: string,
  spell: (name: string) => string,
): Promise<{ readonly text: Files; readonly whole: Files }> {
  const text = await madeUp(CONFIGS[id]!)
  const { architectures: _, dtype, torch_dtype: __, ...rest } = jsonOf(text, 'config.json')
  const config = {
    architectures: [wrapper],
    model_type: wrapper.toLowerCase(),
    text_config: rest,
    vision_config: { hidden_size: 8 },
    dtype: dtype ?? 'bfloat16',
  }
  const seen = VISION.map((name): RawTensor => ({ name, dtype: 'bf16', shape: [8], data: new Uint8Array(16).fill(60) }))
  const whole = editWeights({ ...text, 'config.json': jsonBytes(config) }, (tensors) =>
    [...tensors, ...seen].map((tensor) => ({ ...tensor, name: spell(tensor.name) })),
  )
  return { text: edit(text, 'config.json', { dtype: dtype ?? 'bfloat16' }), whole }
}

describe.each(Object.entries(SPELLINGS))('the language model of a model that sees images, %s', (_, spell) => {
  test.each([
    ['gemma3', 'Gemma3ForConditionalGeneration'],
    ['mistral', 'Mistral3ForConditionalGeneration'],
    ['llama', 'LlavaForConditionalGeneration'],
  ] as const)('%s is what it is alone, to the byte', async (id, wrapper) => {
    const { text, whole } = await pair(id, wrapper, spell)
    const checkpoint = await openFiles(whole)
    expect(codes(checkpoint)).toContain('vision-left-out')
    expect(checkpoint.findings.find(({ code }) => code === 'vision-left-out')?.message).toMatch(
      /^2 tensors \(0\.0 MiB\), (?:model\.)?multi_modal_projector.* are of no language model/,
    )
    for (const [target, options] of [
      ['gguf', { quant: 'f32' }],
      ['mlx', { quant: 'none' }],
    ] as const) {
      const [ours, alone] = [await convert(whole, target, options), await convert(text, target, options)]
      expect(ours.report.findings.map(({ code }) => code)).toContain('vision-left-out')
      const weights = Object.keys(alone.files).filter((path) => /\.(?:gguf|safetensors)$/.test(path))
      expect(weights.length).toBeGreaterThan(0)
      for (const path of weights) expect(ours.files[path], path).toEqual(alone.files[path])
    }
  })

  test('as HuggingFace and safetensors it stays whole', async () => {
    const { whole } = await pair('gemma3', 'Gemma3ForConditionalGeneration', spell)
    const { files } = await convert(whole, 'huggingface')
    expect(weightsOf(files)).toEqual(weightsOf(whole))
    expect(jsonOf(files, 'config.json')['text_config']).toEqual(jsonOf(whole, 'config.json')['text_config'])
    expect(weightsOf((await convert(whole, 'safetensors')).files)).toEqual(weightsOf(whole))
  })
})

describe('configurations', () => {
  const published = {
    architectures: ['Gemma3ForConditionalGeneration'],
    eos_token_id: [1, 106],
    model_type: 'gemma3',
    text_config: {
      hidden_size: 2560,
      intermediate_size: 10_240,
      model_type: 'gemma3_text',
      num_hidden_layers: 34,
      rope_scaling: { factor: 8.0, rope_type: 'linear' },
      sliding_window: 1024,
    },
    torch_dtype: 'bfloat16',
    vision_config: { hidden_size: 1152 },
  }

  test('what Gemma 3 leaves out is its class’s', async () => {
    const raw = languageConfig(parseJsonObject(jsonBytes(published), 'config.json'))
    const { config } = normalizeConfig(raw, 'config.json', await architectureOf(raw, 'config.json'))
    expect(config).toMatchObject({
      className: 'Gemma3ForCausalLM',
      vocabSize: 262_208,
      heads: 8,
      kvHeads: 4,
      headDim: 256,
      contextLength: 131_072,
      slidingWindow: 1024,
      windowPeriod: 6,
      tied: true,
      dtype: 'bf16',
      eosIds: [1, 106],
      rope: { theta: 1_000_000, windowTheta: 10_000, scaling: { kind: 'linear', factor: 8 } },
    })
  })

  test.each([
    ['a model of text', { architectures: ['LlamaForCausalLM'], model_type: 'llama' }],
    ['a language model of another kind', { ...published, text_config: { model_type: 'mamba' } }],
    ['a class that is not known', { ...published, architectures: ['Qwen2_5_VLForConditionalGeneration'] }],
  ])('%s stays as it is', (_, config) => {
    const raw = parseJsonObject(jsonBytes(config), 'config.json')
    expect(languageConfig(raw)).toBe(raw)
  })
})
