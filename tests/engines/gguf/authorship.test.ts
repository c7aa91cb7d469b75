import { describe, expect, test } from 'vitest'
import type { Checkpoint } from '../../../src/core/checkpoint.ts'
import { parseJson, type Json, type JsonObject } from '../../../src/core/json.ts'
import { resolveOptions, type OptionValues } from '../../../src/core/option.ts'
import { authorship, cardOf, generationOf } from '../../../src/engines/gguf/metadata/authorship.ts'
import { gguf } from '../../../src/engines/gguf/engine.ts'
import { nameParts, shortCount, sizeLabelOf, titleOf } from '../../../src/engines/gguf/metadata/name-parts.ts'
import { parseYaml } from '../../../src/engines/containers/yaml.ts'
import { convert } from '../megatron/folder.ts'
import { edit, tinyLlama, utf8 } from '../hf/folder.ts'
import { openFiles } from './folder.ts'
import { madeUpCheckpoint } from './made-up.ts'

const B = 10 ** 9

/** What llama.cpp's own tests (gguf-py/tests/test_metadata.py, 2026) expect of names: all but those of adapters. */
const NAMES: readonly (readonly [
  id: string,
  parameters: number,
  name: string,
  organization: string | null,
  basename: string | null,
  finetune: string | null,
  version: string | null,
  sizeLabel: string | null,
])[] = [
  [
    'Mistral/Mixtral-8x7B-Instruct-v0.1',
    0,
    'Mixtral-8x7B-Instruct-v0.1',
    'Mistral',
    'Mixtral',
    'Instruct',
    'v0.1',
    '8x7B',
  ],
  ['Mixtral-8x7B-Instruct', 0, 'Mixtral-8x7B-Instruct', null, 'Mixtral', 'Instruct', null, '8x7B'],
  ['Mixtral-8x7B-v0.1', 0, 'Mixtral-8x7B-v0.1', null, 'Mixtral', null, 'v0.1', '8x7B'],
  ['Mixtral-8x7B', 0, 'Mixtral-8x7B', null, 'Mixtral', null, null, '8x7B'],
  ['Mixtral-v0.1', 0, 'Mixtral-v0.1', null, 'Mixtral', null, 'v0.1', null],
  ['Mixtral', 0, 'Mixtral', null, null, null, null, null],
  ['NousResearch/Meta-Llama-3-8B', 0, 'Meta-Llama-3-8B', 'NousResearch', 'Meta-Llama-3', null, null, '8B'],
  ['Qwen1.5-MoE-A2.7B-Chat', 0, 'Qwen1.5-MoE-A2.7B-Chat', null, 'Qwen1.5-MoE', 'Chat', null, 'A2.7B'],
  ['Qwen2-57B-A14B-Instruct', 0, 'Qwen2-57B-A14B-Instruct', null, 'Qwen2', 'Instruct', null, '57B-A14B'],
  ['google/gemma-4-26B-A4B-it', 4 * B, 'gemma-4-26B-A4B-it', 'google', 'gemma-4', 'it', null, '26B-A4B'],
  [
    'microsoft/Phi-3-mini-4k-instruct',
    4 * B,
    'Phi-3-mini-4k-instruct',
    'microsoft',
    'Phi-3',
    '4k-instruct',
    null,
    'mini',
  ],
  [
    'delphi-suite/stories-llama2-50k',
    50_000,
    'stories-llama2-50k',
    'delphi-suite',
    'stories-llama2',
    null,
    null,
    '50K',
  ],
  [
    'DeepSeek-Coder-V2-Lite-Instruct',
    0,
    'DeepSeek-Coder-V2-Lite-Instruct',
    null,
    'DeepSeek-Coder-V2-Lite',
    'Instruct',
    null,
    null,
  ],
  [
    'crestf411/daybreak-kunoichi-2dpo-7b',
    0,
    'daybreak-kunoichi-2dpo-7b',
    'crestf411',
    'daybreak-kunoichi',
    '2dpo',
    null,
    '7B',
  ],
  ['Qwen2-0.5B-Instruct', 0, 'Qwen2-0.5B-Instruct', null, 'Qwen2', 'Instruct', null, '0.5B'],
  ['smallcloudai/Refact-1_6B-fim', 0, 'Refact-1_6B-fim', 'smallcloudai', 'Refact', 'fim', null, '1.6B'],
  ['UCLA-AGI/Gemma-2-9B-It-SPPO-Iter3', 0, 'Gemma-2-9B-It-SPPO-Iter3', 'UCLA-AGI', 'Gemma-2', 'It-SPPO', 'Iter3', '9B'],
  [
    'NousResearch/Hermes-2-Theta-Llama-3-8B',
    0,
    'Hermes-2-Theta-Llama-3-8B',
    'NousResearch',
    'Hermes-2-Theta-Llama-3',
    null,
    null,
    '8B',
  ],
  ['SeaLLMs/SeaLLMs-v3-7B-Chat', 0, 'SeaLLMs-v3-7B-Chat', 'SeaLLMs', 'SeaLLMs-v3', 'Chat', null, '7B'],
  [
    'internlm/internlm2_5-7b-chat-1m',
    7 * B,
    'internlm2_5-7b-chat-1m',
    'internlm',
    'internlm2_5',
    'chat-1m',
    null,
    '7B',
  ],
  ['pszemraj/jamba-900M-v0.13-KIx2', 0, 'jamba-900M-v0.13-KIx2', 'pszemraj', 'jamba', 'KIx2', 'v0.13', '900M'],
  ['state-spaces/mamba-2.8b-hf', 0, 'mamba-2.8b-hf', 'state-spaces', 'mamba', 'hf', null, '2.8B'],
  ['abacaj/llama-161M-100B', 161e6, 'llama-161M-100B', 'abacaj', 'llama', '100b', null, '161M'],
  ['SparseLLM/relu-100B', 1340e6, 'relu-100B', 'SparseLLM', 'relu', '100b', null, null],
  ['bigscience/bloom-7b1-petals', 0, 'bloom-7b1-petals', 'bigscience', 'bloom', 'petals', null, '7.1B'],
  [
    'MaziyarPanahi/GreenNode-mini-7B-multilingual-v1olet-Mistral-7B-Instruct-v0.1',
    0,
    'GreenNode-mini-7B-multilingual-v1olet-Mistral-7B-Instruct-v0.1',
    'MaziyarPanahi',
    'GreenNode-mini',
    'multilingual-v1olet-Mistral-Instruct',
    'v0.1',
    '7B',
  ],
  [
    'mistralai/Mistral-Nemo-Instruct-2407',
    0,
    'Mistral-Nemo-Instruct-2407',
    'mistralai',
    'Mistral-Nemo',
    'Instruct',
    '2407',
    null,
  ],
  ['deepseek-ai/DeepSeek-V2-Chat-0628', 0, 'DeepSeek-V2-Chat-0628', 'deepseek-ai', 'DeepSeek-V2', 'Chat', '0628', null],
  [
    'OpenGVLab/Mini-InternVL-Chat-2B-V1-5',
    0,
    'Mini-InternVL-Chat-2B-V1-5',
    'OpenGVLab',
    'Mini-InternVL',
    'Chat',
    'V1-5',
    '2B',
  ],
  ['jondurbin/bagel-dpo-2.8b-v0.2', 0, 'bagel-dpo-2.8b-v0.2', 'jondurbin', 'bagel-dpo', null, 'v0.2', '2.8B'],
  [
    'voxmenthe/SFR-Iterative-DPO-LLaMA-3-8B-R-unquantized',
    0,
    'SFR-Iterative-DPO-LLaMA-3-8B-R-unquantized',
    'voxmenthe',
    'SFR-Iterative-DPO-LLaMA-3',
    'R-unquantized',
    null,
    '8B',
  ],
  ['microsoft/Florence-2-base', 0, 'Florence-2-base', 'microsoft', null, null, null, null],
  [
    'mistralai/-Mistral--Nemo-Base-2407-',
    0,
    '-Mistral--Nemo-Base-2407-',
    'mistralai',
    'Mistral-Nemo-Base',
    null,
    '2407',
    null,
  ],
  [
    'Llama-3-Instruct-abliteration-LoRA-8B',
    0,
    'Llama-3-Instruct-abliteration-LoRA-8B',
    null,
    'Llama-3',
    'Instruct-abliteration-LoRA',
    null,
    '8B',
  ],
  ['hermes-2-pro-llama-3-8b-DPO', 0, 'hermes-2-pro-llama-3-8b-DPO', null, 'hermes-2-pro-llama-3', 'DPO', null, '8B'],
]

describe('names of models', () => {
  test.each(NAMES)('%s', (id, parameters, name, organization, basename, finetune, version, sizeLabel) => {
    expect(nameParts(id, parameters)).toEqual({ name, organization, basename, finetune, version, sizeLabel })
  })

  test.each([
    ['Mixtral-8x7B-Instruct-v0.1', 'Mixtral 8x7B Instruct v0.1'],
    ['Meta-Llama-3-8B', 'Meta Llama 3 8B'],
    ['hermes-2-pro-llama-3-8b-DPO', 'Hermes 2 Pro Llama 3 8b DPO'],
    // Python's str.title begins anew after a digit
    ['stories-llama2b-x', 'Stories Llama2B X'],
  ])('the title of %s', (name, title) => {
    expect(titleOf(name)).toBe(title)
  })

  test.each([
    // what Python's format prints
    [8_030_261_248, '8.0B'],
    [1e9, '1.0B'],
    [999_999_999, '1000M'],
    [5_770_496, '5.8M'],
    [560_000_000, '560M'],
    [2_250_000, '2.2M'],
    [2_350_000, '2.4M'],
    [12_500_000, '12M'],
    [480, '0.48K'],
    [46_702_792_704, '47B'],
    [1.5e12, '1.5T'],
  ])('%d parameters are %s', (count, label) => {
    expect(shortCount(count)).toBe(label)
  })

  test('of stacked experts one is counted', () => {
    const tensors = [
      { name: 'token_embd.weight', shape: [1000, 100] },
      { name: 'blk.0.ffn_up_exps.weight', shape: [8, 1000, 1000] },
      { name: 'blk.0.ffn_down_exps.weight', shape: [8, 1000, 1000] },
    ]
    expect(sizeLabelOf(tensors)).toBe('8x2.1M')
  })
})

const CARD = `license: other
license_name: llama3
license_link: LICENSE
language:
- en
- no
tags: [Llama-3, "function calling"]
pipeline_tag: text-generation
author: Jane Doe
datasets:
- teknium/OpenHermes-2.5
base_model:
  - EmbeddedLLM/Mistral-7B-Merge-14-v0
  - https://huggingface.co/janai-hq/trinity-v1
  - https://example.com/other
`

/** What llama.cpp's tests expect of that card's base models and datasets. */
const EXPECTED: Record<string, Json> = {
  'general.author': 'Jane Doe',
  'general.license': 'other',
  'general.license.name': 'llama3',
  'general.license.link': 'LICENSE',
  'general.base_model.count': 3,
  'general.base_model.0.name': 'Mistral 7B Merge 14 v0',
  'general.base_model.0.version': '14-v0',
  'general.base_model.0.organization': 'EmbeddedLLM',
  'general.base_model.0.repo_url': 'https://huggingface.co/EmbeddedLLM/Mistral-7B-Merge-14-v0',
  'general.base_model.1.name': 'Trinity v1',
  'general.base_model.1.version': 'v1',
  'general.base_model.1.organization': 'Janai Hq',
  'general.base_model.1.repo_url': 'https://huggingface.co/janai-hq/trinity-v1',
  'general.base_model.2.repo_url': 'https://example.com/other',
  'general.dataset.count': 1,
  'general.dataset.0.name': 'OpenHermes 2.5',
  'general.dataset.0.version': '2.5',
  'general.dataset.0.organization': 'Teknium',
  'general.dataset.0.repo_url': 'https://huggingface.co/teknium/OpenHermes-2.5',
  'general.tags': ['Llama-3', 'function calling', 'text-generation'],
  'general.languages': ['en', 'no'],
}

function object(text: string): JsonObject {
  return parseJson(text, 'x') as JsonObject
}

function checkpointWith(more: Partial<Checkpoint>): Checkpoint {
  const { checkpoint } = madeUpCheckpoint({ layers: 1, hidden: 32, intermediate: 32, heads: 2, kvHeads: 1, tied: true })
  return { ...checkpoint, name: 'Llama-3-8B-Instruct', ...more }
}

function keysOf(more: Partial<Checkpoint>, options: OptionValues = {}): Record<string, unknown> {
  const found = authorship(checkpointWith(more), 8 * B, '8.0B', resolveOptions(gguf.options, options))
  return Object.fromEntries([...found].map(([key, { value }]) => [key, value]))
}

const card = (await parseYaml(CARD, 'README.md', { scalars: 'text' })) as JsonObject

describe('authorship', () => {
  test('comes from the name where there is nothing else', () => {
    expect(keysOf({})).toEqual({
      'general.name': 'Llama 3 8B Instruct',
      'general.finetune': 'Instruct',
      'general.basename': 'Llama-3',
      'general.size_label': '8B',
    })
    expect(keysOf({ name: 'mine' })).toEqual({ 'general.name': 'Mine', 'general.size_label': '8.0B' })
  })

  test('comes from the card', () => {
    expect(keysOf({ card })).toMatchObject(EXPECTED)
  })

  test('_name_or_path comes before the folder, unless it is a path', () => {
    const { config } = checkpointWith({})
    const saved = (path: string): Partial<Checkpoint> => ({
      config: { ...config, raw: new Map([['_name_or_path', path]]) },
    })
    expect(keysOf(saved('meta-llama/Llama-2-7b-hf'))).toMatchObject({
      'general.name': 'Llama 2 7b Hf',
      'general.organization': 'Meta Llama',
      'general.finetune': 'hf',
      'general.basename': 'Llama-2',
      'general.size_label': '7B',
    })
    expect(keysOf(saved('/data/models/x'))).toMatchObject({ 'general.name': 'Llama 3 8B Instruct' })
  })

  test('generation_config.json says how to sample, under the keys that the runtime reads', () => {
    const generation = object(
      '{"do_sample": true, "temperature": 0.6, "top_p": 0.9, "top_k": 20, "min_p": null, "repetition_penalty": 1.1, "mirostat": 1.5}',
    )
    const found = authorship(checkpointWith({ generation }), 8 * B, '8.0B', {})
    expect([...found].filter(([key]) => key.startsWith('general.sampling'))).toEqual([
      ['general.sampling.top_k', { type: 'i32', value: 20 }],
      ['general.sampling.top_p', { type: 'f32', value: 0.9 }],
      ['general.sampling.temp', { type: 'f32', value: 0.6 }],
    ])
  })

  test('what the user says comes first', () => {
    const metadata = JSON.stringify({
      'general.author': 'Me',
      'general.quantized_by': 'Me too',
      'general.base_models': [{ name: 'Base', repo_url: 'https://example.com/base' }],
      'general.tags': ['mine'],
      'general.sampling.temp': 0.5,
      'general.name': 'Not this',
    })
    const found = keysOf({ card }, { metadata, 'model-name': 'My model' })
    expect(found).toMatchObject({
      'general.name': 'My model',
      'general.author': 'Me',
      'general.quantized_by': 'Me too',
      'general.base_model.count': 1,
      'general.base_model.0.name': 'Base',
      'general.tags': ['mine'],
      'general.sampling.temp': 0.5,
      'general.license': 'other',
    })
    expect(found['general.base_model.1.name']).toBeUndefined()
  })

  test.each([
    ['{"general.architecture": "x"}', /general.architecture is no key of authorship/],
    ['{"general.base_models": "x"}', /general.base_models has a value of another kind/],
    ['{"general.author": {}}', /general.author has a value of another kind/],
    ['[1]', /no JSON object/],
    ['{', /--metadata/],
  ])('--metadata refuses %s', (metadata, says) => {
    expect(() => keysOf({}, { metadata })).toThrow(says)
  })

  test('from HuggingFace to GGUF and back nothing of it is lost', async () => {
    const source = {
      ...edit(tinyLlama(), 'generation_config.json', { temperature: 0.7, top_p: 0.95, top_k: 40 }),
      'README.md': utf8(`---\n${CARD}---\n# A model\n`),
    }
    const first = await convert(source, 'gguf', { quant: 'bf16' })
    const { checkpoint } = await openFiles(first.files as Record<string, Uint8Array<ArrayBuffer>>)
    const says = (one: Checkpoint): unknown => [one.card, one.generation]
    const back = await convert(first.files, 'huggingface')
    const text = new TextDecoder().decode(back.files['README.md'])
    const read = (await parseYaml(text.split('---\n')[1]!, 'README.md', { scalars: 'text' })) as JsonObject
    for (const key of ['license', 'license_name', 'license_link', 'language', 'datasets', 'author'])
      expect(read.get(key), key).toEqual(key === 'datasets' ? ['teknium/OpenHermes-2.5'] : card.get(key))
    expect(read.get('base_model')).toEqual([
      'EmbeddedLLM/Mistral-7B-Merge-14-v0',
      'janai-hq/trinity-v1',
      new Map([['repo_url', 'https://example.com/other']]),
    ])
    const generation = object(new TextDecoder().decode(back.files['generation_config.json']))
    expect(Object.fromEntries(generation)).toMatchObject({ do_sample: true, temperature: 0.7, top_p: 0.95, top_k: 40 })
    const second = await convert(back.files, 'gguf', { quant: 'bf16' })
    const again = (await openFiles(second.files as Record<string, Uint8Array<ArrayBuffer>>)).checkpoint
    expect(says(again)).toEqual(says(checkpoint))
  })

  test('a card that cannot be read is told of, and the model is converted', async () => {
    const { report, files } = await convert({ ...tinyLlama(), 'README.md': utf8('---\na: [1\n---\n') }, 'gguf', {
      quant: 'f16',
    })
    expect(report.findings).toContainEqual(
      expect.objectContaining({ code: 'model-card-ignored', where: { file: 'README.md' } }) as unknown,
    )
    expect(Object.keys(files)).toHaveLength(1)
  })

  test('GGUF to GGUF keeps what the file says but for what the options say', async () => {
    const { files } = await convert({ ...tinyLlama(), 'README.md': utf8(`---\n${CARD}---\n`) }, 'gguf', {
      quant: 'f16',
    })
    const metadata = '{"general.base_models": [{"name": "Base"}]}'
    const edited = await convert(files, 'gguf', { quant: 'copy', 'model-name': 'Other', metadata })
    const { checkpoint } = await openFiles(edited.files as Record<string, Uint8Array<ArrayBuffer>>)
    expect(checkpoint.card?.get('name')).toBe('Other')
    expect(checkpoint.card?.get('base_model')).toEqual([new Map([['name', 'Base']])])
    expect(checkpoint.card?.get('license')).toBe('other')
  })

  test('keys that promise more than there is cost nothing', () => {
    const many = cardOf(new Map([['general.base_model.count', { type: 'u32', value: 0xffff_ffff }]]))
    expect(many.size).toBe(0)
    expect(generationOf(new Map([['general.sampling.temp', { type: 'array', of: 'f32', value: [1] }]])).size).toBe(0)
  })
})
