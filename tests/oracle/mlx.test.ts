import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Api } from '../../src/api/api.ts'
import { AppError } from '../../src/core/errors.ts'
import type { OptionValues } from '../../src/core/option.ts'
import { rawTensors, safetensors } from '../engines/hf/folder.ts'
import { storedTensors, weightOf, type Config } from '../engines/mlx/naive.ts'
import { productApi, temporaryFolder } from './gguf-files.ts'
import { judge, noLlama } from './llama.ts'
import { evaluationText, MODELS, noModels, readReference } from './models.ts'

const reason = noLlama ?? noModels

/** Tokens that the loss is measured on. */
const WINDOWS = 6
const WINDOW = 256

describe.skipIf(reason !== null)(`MLX by way of llama.cpp${reason === null ? '' : ` (${reason})`}`, () => {
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

  /** Converts a folder; returns where the output is. */
  async function convert(from: string, target: string, options: OptionValues, name: string): Promise<string> {
    const to = path.join(folder.path, name)
    await mkdir(to)
    const job = api.start({
      input: { kind: 'path', path: from },
      output: { kind: 'path', path: to },
      target,
      options,
      name: null,
      overwrite: false,
    })
    for (;;) {
      for (const event of await job.next()) {
        if (event.type === 'failed') throw AppError.fromData(event.error)
        if (event.type === 'done') return to
      }
    }
  }

  async function ggufOf(from: string, name: string): Promise<string> {
    const to = await convert(from, 'gguf', { quant: 'f32' }, name)
    return path.join(
      to,
      (await readdir(to)).find((file) => file.endsWith('.gguf'))!,
    )
  }

  async function logitsOf(file: string, prompts: readonly (readonly number[])[]): Promise<Float32Array[]> {
    const llama = await judge(file)
    try {
      const all: Float32Array[] = []
      for (const ids of prompts) all.push(await llama.logits(ids))
      return all
    } finally {
      await llama.close()
    }
  }

  /** The HuggingFace model whose weights are those that the naive reader finds in an MLX folder. */
  async function writeTwin(mlx: string, original: string, name: string): Promise<string> {
    const to = path.join(folder.path, name)
    await mkdir(to)
    const files: Record<string, Uint8Array> = {}
    for (const file of await readdir(mlx)) files[file] = Uint8Array.from(await readFile(path.join(mlx, file)))
    const config = JSON.parse(new TextDecoder().decode(files['config.json'])) as Config
    const stored = storedTensors(files)
    for (const file of await readdir(original)) {
      if (!file.endsWith('.safetensors'))
        await writeFile(path.join(to, file), await readFile(path.join(original, file)))
    }
    const weights = rawTensors(Uint8Array.from(await readFile(path.join(original, 'model.safetensors'))))
    const dequantised = weights.map(({ name: tensor, shape }) => {
      const { values } = weightOf(config, tensor.replace(/\.weight$/, ''), stored)
      return { name: tensor, shape, dtype: 'f32' as const, data: new Uint8Array(Float32Array.from(values).buffer) }
    })
    await writeFile(path.join(to, 'model.safetensors'), safetensors(dequantised))
    return to
  }

  test.each(['8bit', '4bit', 'mxfp8', 'nvfp4'])(
    'main, %s: MLX -> GGUF has the logits of the naive values',
    async (quant) => {
      const original = path.join(MODELS, 'main')
      const mlx = await convert(original, 'mlx', { quant }, `mlx-${quant}`)
      const twin = await writeTwin(mlx, original, `twin-${quant}`)
      const prompts = readReference('main').map(({ ids }) => ids)
      const own = await logitsOf(await ggufOf(mlx, `gguf-${quant}`), prompts)
      const expected = await logitsOf(await ggufOf(twin, `gguf-twin-${quant}`), prompts)
      for (const [index, logits] of own.entries()) {
        const other = expected[index]!
        let most = 0
        for (const [i, logit] of logits.entries()) most = Math.max(most, Math.abs(logit - other[i]!))
        expect(most).toBeLessThan(1e-4)
      }
    },
  )

  test('main: the loss grows as bits become fewer, as rounding to nearest does it', async () => {
    const text = evaluationText()
    const losses = new Map<string, number>()
    for (const quant of ['none', '8bit', '4bit', 'mxfp4', '2bit']) {
      const mlx = await convert(path.join(MODELS, 'main'), 'mlx', { quant }, `loss-mlx-${quant}`)
      const llama = await judge(await ggufOf(mlx, `loss-${quant}`))
      try {
        const ids = (await llama.tokenize(text.slice(0, 16_000))).slice(0, WINDOWS * WINDOW)
        expect(ids.length).toBe(WINDOWS * WINDOW)
        let loss = 0
        for (let start = 0; start < ids.length; start += WINDOW) {
          const window = ids.slice(start, start + WINDOW)
          loss += meanLoss(await llama.logits(window), window, llama.vocabSize) / WINDOWS
        }
        losses.set(quant, loss)
      } finally {
        await llama.close()
      }
    }
    const above = (quant: string): number => losses.get(quant)! - losses.get('none')!
    // quality.json: 4 bits in groups of 64 raise the log of the perplexity from 3.248 to 3.271
    expect(Math.abs(above('8bit'))).toBeLessThan(0.005)
    expect(above('4bit')).toBeGreaterThan(0.005)
    expect(above('4bit')).toBeLessThan(0.06)
    expect(above('mxfp4')).toBeGreaterThan(above('4bit'))
    expect(above('2bit')).toBeGreaterThan(0.3)
  })
})

/** Mean of -log p(next token). */
function meanLoss(logits: Float32Array, ids: readonly number[], columns: number): number {
  let sum = 0
  for (let row = 0; row + 1 < ids.length; row++) {
    const own = logits.subarray(row * columns, (row + 1) * columns)
    const max = own.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY)
    const total = own.reduce((all, logit) => all + Math.exp(logit - max), 0)
    sum += Math.log(total) + max - own[ids[row + 1]!]!
  }
  return sum / (ids.length - 1)
}
