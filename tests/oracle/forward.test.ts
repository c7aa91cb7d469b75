import { copyFile, mkdir } from 'node:fs/promises'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Api } from '../../src/api/api.ts'
import { convertFolder, productApi, relativeError, temporaryFolder } from './convert-folder.ts'
import { Decoder, UNTRAINED } from './forward.ts'
import { judge, noLlama } from './llama.ts'
import { MODELS, noModels, readReference } from './models.ts'

/** Float32 against float64, through two blocks. */
const MAX_ERROR = 1e-4

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

  test.each(UNTRAINED)('$model_type: llama.cpp computes what the class does', async (config) => {
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
