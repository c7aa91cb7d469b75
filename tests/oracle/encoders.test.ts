import { cp, mkdir, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Api } from '../../src/api/api.ts'
import { formatJson } from '../../src/core/json.ts'
import { poolingFiles } from '../../src/engines/transformers/sentence-transformers.ts'
import { convertFolder } from './convert-folder.ts'
import { convertByProduct, productApi, temporaryFolder } from './gguf-files.ts'
import { judge, noLlama } from './llama.ts'
import { MODELS, noModels, readReferenceTensors, readTensors } from './models.ts'

const reason = noLlama ?? noModels

function largestDifference(found: ArrayLike<number>, expected: ArrayLike<number>): number {
  expect(found.length).toBe(expected.length)
  return Math.max(...Array.from(found, (value, index) => Math.abs(value - expected[index]!)))
}

/** A linear layer of the source, [out, in]. */
function project(weights: ReturnType<typeof readTensors>, name: string, input: ArrayLike<number>): number[] {
  const { values } = weights.get(`${name}.weight`)!
  return weights
    .get(`${name}.bias`)!
    .values.map((bias, row) =>
      Array.from(input).reduce((sum, value, column) => sum + value * values[row * input.length + column]!, bias),
    )
}

describe.skipIf(reason !== null)(`encoders as llama.cpp runs them${reason === null ? '' : ` (${reason})`}`, () => {
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

  test('bert: the classifier gives the logits of the class, through its pooler', async () => {
    const reference = readReferenceTensors('bert')
    const llama = await judge(await convertByProduct(api, 'bert', 'f32', folder.path), { embeddings: true })
    try {
      const found = await llama.classify(reference.get('in.input_ids')!.values)
      expect(largestDifference(found, reference.get('out.logits')!.values)).toBeLessThan(1e-3)
    } finally {
      await llama.close()
    }
  })

  test('distilbert: the hidden states of a BERT without token types; its classifier is left out, which is said', async () => {
    const reference = readReferenceTensors('distilbert')
    const llama = await judge(await convertByProduct(api, 'distilbert', 'f32', folder.path), { embeddings: true })
    try {
      const states = await llama.encode(reference.get('in.input_ids')!.values)
      const weights = readTensors(path.join(MODELS, 'distilbert/model.safetensors'))
      const dense = project(weights, 'pre_classifier', states.slice(0, weights.get('pre_classifier.bias')!.shape[0]))
      const logits = project(
        weights,
        'classifier',
        dense.map((value) => Math.max(0, value)),
      )
      expect(largestDifference(logits, reference.get('out.logits')!.values)).toBeLessThan(1e-3)
    } finally {
      await llama.close()
    }
  })

  test.each(['mean', 'cls'] as const)(
    'distilbert: the vector of a text is what 1_Pooling says, %s',
    async (pooling) => {
      const ids = readReferenceTensors('distilbert').get('in.input_ids')!.values
      const plain = await judge(await convertByProduct(api, 'distilbert', 'f32', folder.path), { embeddings: true })
      const states = await plain.encode(ids)
      await plain.close()
      const input = path.join(folder.path, pooling)
      await cp(path.join(MODELS, 'distilbert'), input, { recursive: true })
      for (const [name, json] of poolingFiles(pooling, 64)) {
        await mkdir(path.dirname(path.join(input, name)), { recursive: true })
        await writeFile(path.join(input, name), formatJson(json))
      }
      const llama = await judge(await convertFolder(api, input, { quant: 'f32' }, folder.path, {}, pooling), {
        embeddings: true,
      })
      try {
        const width = states.length / ids.length
        const rows = pooling === 'cls' ? 1 : ids.length
        const expected = Array.from({ length: width }, (_, column) => {
          let sum = 0
          for (let row = 0; row < rows; row++) sum += states[row * width + column]!
          return sum / rows
        })
        expect(largestDifference(await llama.pool(ids), expected)).toBeLessThan(1e-5)
      } finally {
        await llama.close()
      }
    },
  )

  test('t5: hidden states of the encoder, logits of the decoder', async () => {
    const reference = readReferenceTensors('t5')
    const file = await convertByProduct(api, 't5', 'f32', folder.path)
    const ids = reference.get('in.input_ids')!.values
    const llama = await judge(file)
    try {
      const found = await llama.translate(ids, reference.get('in.decoder_input_ids')!.values)
      expect(largestDifference(found, reference.get('out.logits')!.values)).toBeLessThan(1e-3)
    } finally {
      await llama.close()
    }
    const encoder = await judge(file, { embeddings: true })
    try {
      const states = await encoder.encode(ids)
      expect(largestDifference(states, reference.get('out.encoder_last_hidden_state')!.values)).toBeLessThan(1e-3)
    } finally {
      await encoder.close()
    }
  })
})
