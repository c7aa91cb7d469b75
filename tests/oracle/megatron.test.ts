import { existsSync } from 'node:fs'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Api } from '../../src/api/api.ts'
import { convertFolder, productApi, relativeError, temporaryFolder } from './convert-folder.ts'
import { judge, noLlama } from './llama.ts'
import { MODELS, noModels, readReference } from './models.ts'

const MEGATRON = path.resolve(MODELS, '../megatron')
const reason =
  noLlama ?? noModels ?? (existsSync(MEGATRON) ? null : 'the checkpoints (../shared/megatron) are not here')

/** Files of f32, computed by llama.cpp in f32: PyTorch's float64 is as near as that. */
const TOLERANCE = 1e-4

describe.skipIf(reason !== null)(`Megatron to GGUF${reason === null ? '' : ` (${reason})`}`, () => {
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

  test.each(['llama-tp2-pp2', 'llama-dist', 'llama-single'])('%s', { timeout: 120_000 }, async (name) => {
    const file = await convertFolder(api, path.join(MEGATRON, name), { quant: 'f32' }, folder.path, {}, name)
    const llama = await judge(file)
    try {
      // of the model that the checkpoints were made from
      for (const { ids, logits } of readReference('llama-spm'))
        expect(relativeError(await llama.logits(ids), logits)).toBeLessThan(TOLERANCE)
    } finally {
      await llama.close()
    }
  })
})
