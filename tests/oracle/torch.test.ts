import { cp, mkdir } from 'node:fs/promises'
import { existsSync } from 'node:fs'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Api } from '../../src/api/api.ts'
import { convertFolder, productApi, relativeError, temporaryFolder } from './convert-folder.ts'
import { judge, noLlama } from './llama.ts'
import { MODELS, noModels, readReference, readReferenceAt } from './models.ts'

const FOREIGN = path.join(MODELS, '../foreign')
const reason =
  noLlama ?? noModels ?? (existsSync(FOREIGN) ? null : 'the foreign files (../shared/foreign) are not here')

describe.skipIf(reason !== null)(`pytorch_model.bin to GGUF${reason === null ? '' : ` (${reason})`}`, () => {
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

  async function expectReference(input: string): Promise<void> {
    const file = await convertFolder(api, input, { quant: 'f32' }, folder.path)
    const llama = await judge(file)
    try {
      // the same model, whose logits were computed in doubles; those beside the files are less exact than llama.cpp
      const exact = readReference('llama-spm')
      for (const [index, { text, ids, logits, greedy }] of readReferenceAt(path.join(FOREIGN, 'llama-bin')).entries()) {
        const found = await llama.logits(ids)
        expect(relativeError(found, logits)).toBeLessThan(1e-3)
        expect(relativeError(found, exact[index]!.logits)).toBeLessThan(1e-5)
        expect(await llama.greedy(ids, greedy.length)).toEqual(greedy)
        expect(await llama.tokenize(text)).toEqual(ids)
      }
    } finally {
      await llama.close()
    }
  }

  test('in shards with an index', () => expectReference(path.join(FOREIGN, 'llama-bin')))

  test('in the format before zip', async () => {
    const input = path.join(folder.path, 'legacy')
    await mkdir(input)
    for (const name of [
      'config.json',
      'generation_config.json',
      'tokenizer.json',
      'tokenizer.model',
      'tokenizer_config.json',
    ])
      await cp(path.join(FOREIGN, 'llama-bin', name), path.join(input, name))
    await cp(path.join(FOREIGN, 'legacy-tar/pytorch_model.bin'), path.join(input, 'pytorch_model.bin'))
    await expectReference(input)
  })
})
