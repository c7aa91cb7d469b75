import { execFile, spawnSync } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Api } from '../../src/api/api.ts'
import {
  convertByProduct,
  convertNaively,
  expectSameTensors,
  productApi,
  temporaryFolder,
  writeTwin,
} from './gguf-files.ts'
import { judge, llamaQuantize, noLlama, type Judge } from './llama.ts'
import { evaluationText, MODELS, noModels, readReference } from './models.ts'

const NAMES = [
  'main',
  'llama-spm',
  'llama3-tied',
  'mistral',
  'qwen2',
  'qwen3',
  'mixtral',
  'gemma2',
  'phi3',
  'gpt2',
  'minicpm',
]

/**
 * How far log-probabilities of an F32 file may be from PyTorch's. On the CPU llama.cpp looks GELU up in a table of f16
 * (ggml_table_gelu_f16): models with it are off by up to 1.7e-3, where those with SiLU are within 1e-5. That it is the
 * table and nothing else, gelu-f16.py shows: the same computation with such a table is as far from PyTorch.
 */
const EXACT = new Map([
  ['gemma2', 2e-3],
  ['gpt2', 2e-3],
])

/** What llama.cpp may differ by from the computation with its table: of inputs between two entries some go to the other. */
const TABLE_ERROR = 6e-4

const PYTHON = '/usr/bin/python3'
const noNumpy = spawnSync(PYTHON, ['-c', 'import numpy']).status === 0 ? null : 'python3-numpy is not installed'

/** Text that quantised files are measured on, beyond the prompts: as many windows of as many tokens. */
const WINDOWS = 4
const WINDOW = 128

const reason = noLlama ?? noModels

/** Log-probabilities of each row of `columns` logits. */
function logSoftmax(logits: Float32Array, columns: number): Float64Array {
  const result = new Float64Array(logits.length)
  for (let start = 0; start < logits.length; start += columns) {
    let max = Number.NEGATIVE_INFINITY
    for (let i = start; i < start + columns; i++) max = Math.max(max, logits[i]!)
    let sum = 0
    for (let i = start; i < start + columns; i++) sum += Math.exp(logits[i]! - max)
    for (let i = start; i < start + columns; i++) result[i] = logits[i]! - max - Math.log(sum)
  }
  return result
}

function largestDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  expect(a.length).toBe(b.length)
  let largest = 0
  for (let i = 0; i < a.length; i++) largest = Math.max(largest, Math.abs(a[i]! - b[i]!))
  return largest
}

/** Mean over the rows of KL(p || q), and the share of rows with the same most likely token. */
function divergence(p: Float64Array, q: Float64Array, columns: number): { kl: number; agreement: number } {
  const rows = p.length / columns
  let kl = 0
  let same = 0
  for (let row = 0; row < rows; row++) {
    let [bestP, bestQ] = [row * columns, row * columns]
    for (let i = row * columns; i < (row + 1) * columns; i++) {
      kl += Math.exp(p[i]!) * (p[i]! - q[i]!)
      if (p[i]! > p[bestP]!) bestP = i
      if (q[i]! > q[bestQ]!) bestQ = i
    }
    if (bestP === bestQ) same++
  }
  return { kl: kl / rows, agreement: same / rows }
}

describe.skipIf(reason !== null)(`GGUF files as llama.cpp reads them${reason === null ? '' : ` (${reason})`}`, () => {
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

  const convert = (model: string, quant: string): Promise<string> => convertByProduct(api, model, quant, folder.path)

  async function withJudge<T>(file: string, use: (llama: Judge) => Promise<T>): Promise<T> {
    const llama = await judge(file)
    try {
      return await use(llama)
    } finally {
      await llama.close()
    }
  }

  describe.each(NAMES)('%s', (model) => {
    test('F32: the same tokens, log-probabilities within 1e-3, the same continuation', async () => {
      const file = await convert(model, 'f32')
      await withJudge(file, async (llama) => {
        for (const { text, ids, logits, greedy } of readReference(model)) {
          const found = logSoftmax(await llama.logits(ids), llama.vocabSize)
          expect(largestDifference(found, logSoftmax(logits, llama.vocabSize))).toBeLessThan(EXACT.get(model) ?? 1e-3)
          expect(await llama.greedy(ids, greedy.length)).toEqual(greedy)
          expect(await llama.tokenize(text)).toEqual(ids)
        }
      })
    })

    test('F16: the same tokens, log-probabilities within 1e-2', async () => {
      const file = await convert(model, 'f16')
      await withJudge(file, async (llama) => {
        for (const { text, ids, logits } of readReference(model)) {
          const found = logSoftmax(await llama.logits(ids), llama.vocabSize)
          expect(largestDifference(found, logSoftmax(logits, llama.vocabSize))).toBeLessThan(1e-2)
          expect(await llama.tokenize(text)).toEqual(ids)
        }
      })
    })

    test.each(['q8_0', 'q4_k_m'])(
      '%s: read as llama.cpp reads it, and close to its dequantised twin',
      async (quant) => {
        const file = await convert(model, quant)
        const twin = await writeTwin(file)
        const theirs = file.replace(/\.gguf$/, '-theirs.gguf')
        await llamaQuantize(file, theirs, 0)
        await expectSameTensors(twin, theirs)
        const references = readReference(model)
        const read = (one: string): Promise<{ columns: number; rows: Float64Array[] }> =>
          withJudge(one, async (llama) => {
            const rows: Float64Array[] = []
            for (const { text, ids } of references) {
              rows.push(logSoftmax(await llama.logits(ids), llama.vocabSize))
              expect(await llama.tokenize(text)).toEqual(ids)
            }
            const ids = await llama.tokenize(evaluationText().slice(0, WINDOWS * WINDOW * 8))
            for (let i = 0; i < WINDOWS; i++)
              rows.push(logSoftmax(await llama.logits(ids.slice(i * WINDOW, (i + 1) * WINDOW)), llama.vocabSize))
            return { columns: llama.vocabSize, rows }
          })
        const [quantised, exact] = [await read(file), await read(twin)]
        const join = (parts: Float64Array[]): Float64Array => Float64Array.from(parts.flatMap((part) => [...part]))
        const { kl, agreement } = divergence(join(exact.rows), join(quantised.rows), exact.columns)
        expect(kl).toBeLessThanOrEqual(3e-3)
        expect(agreement).toBeGreaterThanOrEqual(0.95)
      },
    )
  })

  test.skipIf(noNumpy !== null).each([...EXACT.keys()])(
    `%s: what is off is the table of GELU${noNumpy === null ? '' : ` (${noNumpy})`}`,
    async (model) => {
      const references = readReference(model)
      const computed = async (...how: readonly string[]): Promise<readonly Float64Array[]> => {
        const out = path.join(folder.path, 'logits.bin')
        const script = path.join(import.meta.dirname, 'gelu-f16.py')
        await promisify(execFile)(PYTHON, [script, path.join(MODELS, model), out, ...how])
        const all = new Float32Array(Uint8Array.from(await readFile(out)).buffer)
        let at = 0
        return references.map(({ ids, logits }) => {
          const own = all.slice(at, (at += logits.length))
          return logSoftmax(own, logits.length / ids.length)
        })
      }
      const [exact, byTable] = [await computed('exact'), await computed()]
      let [toTable, tableToPyTorch] = [0, 0]
      await withJudge(await convert(model, 'f32'), async (llama) => {
        for (const [index, { ids, logits }] of references.entries()) {
          const pyTorch = logSoftmax(logits, llama.vocabSize)
          expect(largestDifference(exact[index]!, pyTorch)).toBeLessThan(1e-5)
          const found = logSoftmax(await llama.logits(ids), llama.vocabSize)
          toTable = Math.max(toTable, largestDifference(found, byTable[index]!))
          tableToPyTorch = Math.max(tableToPyTorch, largestDifference(byTable[index]!, pyTorch))
        }
      })
      expect(toTable).toBeLessThan(TABLE_ERROR)
      expect(tableToPyTorch).toBeGreaterThan(2 * toTable)
    },
  )

  test.each(['llama-spm', 'llama3-tied', 'qwen2', 'qwen3'])('%s: the loop writes what the plan says', async (model) => {
    for (const quant of ['f32', 'f16', 'bf16', 'q8_0', 'q4_0', 'q4_k_m']) {
      const plainly = await readFile(await convertNaively(model, quant, folder.path))
      expect((await readFile(await convert(model, quant))).equals(plainly), quant).toBe(true)
    }
  })
})
