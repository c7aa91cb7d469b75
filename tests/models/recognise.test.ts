import { expect, test } from 'vitest'
import { parseJsonObject } from '../../src/core/json.ts'
import { normalizeConfig } from '../../src/engines/transformers/config.ts'
import { expectedTensors } from '../../src/models/architecture.ts'
import { architectureFor } from '../../src/models/index.ts'
import { recogniseModel } from '../../src/models/recognise.ts'
import { CONFIGS } from './configs.ts'

test.each([
  ['gemma3', 'gemma3', []],
  ['olmo2', 'olmo2', ['olmo3']],
  ['exaone4', 'exaone4', []],
  ['glm4', 'glm4', []],
  ['hunyuan', 'hunyuan', []],
  ['arcee', 'arcee', []],
  ['cohere2', 'cohere', ['cohere2']],
  ['starcoder2', 'starcoder2', []],
  ['phi', 'phi', []],
  ['gpt_neox', 'gpt_neox', []],
  ['stablelm', 'stablelm', []],
])('tensors of %s are taken for %s, or %j', async (id, taken, alike) => {
  const architecture = await architectureFor(id, 'config.json')
  const raw = parseJsonObject(new TextEncoder().encode(JSON.stringify(CONFIGS[id])), 'config.json')
  const { config } = normalizeConfig(raw, 'config.json', architecture)
  const tensors = new Map(
    expectedTensors(architecture, config).map(({ hf, shape }) => [hf, { shape, dtype: 'bf16' as const }]),
  )
  const found = (await recogniseModel(tensors))!
  expect(found.architecture.id).toBe(taken)
  expect(found.alike).toEqual(alike)
  const { hiddenSize, layers, heads, headDim, intermediateSize } = config
  expect(found.config).toMatchObject({ hiddenSize, layers, intermediateSize })
  expect(found.config.heads * found.config.headDim).toBe(heads * headDim)
  expect(found.names.size).toBe(tensors.size)
})

test.each([
  ['phi', 8],
  ['gpt_neox', 4],
  ['stablelm', 4],
])('of %s the part of each head turns that its class has turn, %i channels of 16', async (id, turning) => {
  const architecture = await architectureFor(id, 'config.json')
  const raw = parseJsonObject(new TextEncoder().encode(JSON.stringify(CONFIGS[id])), 'config.json')
  const rows = expectedTensors(architecture, normalizeConfig(raw, 'config.json', architecture).config)
  const found = await recogniseModel(new Map(rows.map(({ hf, shape }) => [hf, { shape, dtype: 'bf16' as const }])))
  expect(found?.config.rope.dim).toBe(turning)
  expect(found?.assumed.join()).toContain(`the first ${turning} channels of each head turn`)
})
