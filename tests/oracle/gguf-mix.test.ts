import { execFile } from 'node:child_process'
import { rename, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Api } from '../../src/api/api.ts'
import { ggmlTypes } from '../../src/engines/containers/gguf/types.ts'
import {
  importanceOf,
  readImatrix,
  writeImatrix,
  type Imatrix,
  type ImatrixEntry,
} from '../../src/engines/containers/imatrix.ts'
import type { OptionValues } from '../../src/core/option.ts'
import { isOffered } from '../../src/engines/gguf/weights/mix.ts'
import { MIXES } from '../../src/engines/gguf/weights/mixes.ts'
import { convertByProduct, expectSameTensors, productApi, readFileAndHeader, temporaryFolder } from './gguf-files.ts'
import { judge, llamaQuantize, noLlama } from './llama.ts'
import { MODELS, noModels } from './models.ts'

/** Importances of every matrix of a file: some columns count a thousand times as much as others, some not at all. */
async function importancesFor(file: string): Promise<Imatrix> {
  const entries = new Map<string, ImatrixEntry>()
  let state = 1
  const random = () => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) / 2 ** 32
  for (const { name, shape } of (await readFileAndHeader(file)).header.tensors) {
    if (shape.length < 2 || name === 'token_embd.weight' || name === 'output.weight') continue
    const experts = shape.length === 3 ? shape[0]! : 1
    const sums = Float32Array.from({ length: shape.at(-1)! * experts }, () =>
      random() < 0.02 ? 0 : 10 ** (3 * random()) * 100,
    )
    entries.set(name, { sums, counts: Array.from({ length: experts }, (_, i) => 512 * (i + 3)) })
  }
  return { form: 'gguf', entries, datasets: ['made up'], chunkCount: 7, chunkSize: 512 }
}

const QUANTISED = MIXES.filter((mix) => mix.id !== 'f32' && isOffered(mix))
/** Those that may need importances: the rules decide by the tensors that a model has. */
const SMALLEST = /^(iq[123]|q2_k_s$)/

/** The one type that gives way to none where rows are not whole blocks, and what llama.cpp says then. */
const LARGE_BLOCKS = /^q1_0$/
const NO_FALLBACK = 'no tensor type fallback is defined'
/** In each process ggml makes its tables for their grids anew: 2 to 15 s. */
const SLOW_TABLES = /^iq[12]/
const TABLES_MS = 900_000

const title = `Mixtures against llama_model_quantize${noLlama === null ? '' : ` (${noLlama})`}`

describe.skipIf(noLlama !== null)(title, () => {
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

  describe.skipIf(noModels !== null)(`bytes${noModels === null ? '' : ` (${noModels})`}`, () => {
    test.each(['main', 'llama-spm', 'llama3-tied', 'qwen2', 'qwen3', 'mixtral'])(
      '%s: every type, byte by byte',
      async (model) => {
        const source = await convertByProduct(api, model, 'f32', folder.path)
        for (const { id, fileType } of QUANTISED) {
          const theirs = path.join(folder.path, 'theirs.gguf')
          const refusal = await llamaQuantize(source, theirs, fileType).then(
            () => null,
            (error: { stderr: string }) => error.stderr,
          )
          const converting = convertByProduct(api, model, id, folder.path)
          if (refusal === null) await expectSameTensors(await converting, theirs)
          else {
            const rows = refusal.includes(NO_FALLBACK)
            expect(id).toMatch(rows ? LARGE_BLOCKS : SMALLEST)
            if (!rows) expect(refusal).toContain('requires an imatrix')
            const why = rows ? 'are not whole blocks' : 'worthless without an importance matrix'
            await expect(converting, id).rejects.toThrow(why)
          }
        }
      },
    )

    test.each([
      ['main', 'gguf'],
      ['main', 'legacy'],
      ['mixtral', 'gguf'],
    ] as const)(
      '%s: every type with the importances of a %s file, byte by byte',
      { timeout: TABLES_MS },
      async (model, form) => {
        const source = await convertByProduct(api, model, 'f32', folder.path)
        const made = await importancesFor(source)
        const bytes = writeImatrix(made, form)
        const imatrix = path.join(folder.path, 'importances.json')
        const read = await readImatrix(bytes, 'made-up')
        const floats = [...read.entries].map(([name, { sums, counts }]) => {
          const columns = sums.length / counts.length
          return [
            name,
            Array.from(sums, (sum, i) => Math.fround(sum / (counts[Math.floor(i / columns)] || 1))),
          ] as const
        })
        await writeFile(imatrix, JSON.stringify(Object.fromEntries(floats)))
        // the form changes the importances, not how a type takes them
        for (const { id, fileType } of form === 'gguf'
          ? QUANTISED
          : QUANTISED.filter((mix) => !SLOW_TABLES.test(mix.id))) {
          const converting = convertByProduct(api, model, id, folder.path, { imatrix: { name: 'made-up', bytes } })
          // it may be refused before llama.cpp, beside which it runs, has said whether it should be
          converting.catch(() => undefined)
          const theirs = path.join(folder.path, 'theirs.gguf')
          const refusal = await llamaQuantize(source, theirs, fileType, 1, { imatrix }).then(
            () => null,
            (error: { stderr: string }) => error.stderr,
          )
          if (refusal === null) await expectSameTensors(await converting, theirs)
          else {
            expect(refusal).toContain(NO_FALLBACK)
            expect(id).toMatch(LARGE_BLOCKS)
            await expect(converting, id).rejects.toThrow('are not whole blocks')
          }
        }
      },
    )

    test('types by pattern, of output and embedding, byte by byte', async () => {
      const source = await convertByProduct(api, 'main', 'f32', folder.path)
      const ours = await convertByProduct(api, 'main', 'q4_k_s', folder.path, {
        'tensor-type': ['blk\\.[0-2]\\.attn_v=Q8_0', 'ffn_(up|gate)=q3_k'],
        'output-tensor-type': 'q5_k',
        'token-embedding-type': 'Q4_1',
      })
      const theirs = path.join(folder.path, 'theirs.gguf')
      const overrides = [
        ['blk\\.[0-2]\\.attn_v', 8],
        ['ffn_(up|gate)', 11],
      ] as const
      await llamaQuantize(source, theirs, 14, 1, { overrides, output: 13, embedding: 3 })
      await expectSameTensors(ours, theirs)
    })
  })

  describe.skipIf(noModels !== null)(
    `llama-quantize's other options${noModels === null ? '' : ` (${noModels})`}`,
    () => {
      const ours = async (source: string, quant: string, options: OptionValues): Promise<readonly string[]> => {
        const control = api.start({
          input: { kind: 'path', path: source },
          target: 'gguf',
          options: { quant, ...options },
          output: { kind: 'path', path: folder.path },
          name: 'ours',
          overwrite: true,
        })
        for (;;) {
          for (const event of await control.next()) {
            if (event.type === 'failed') throw new Error(`${event.error.code}: ${event.error.message}`)
            if (event.type === 'done') return event.report.files.map((file) => path.join(folder.path, file.path))
          }
        }
      }

      test.each([
        ['main', 'q4_k_m', 15, [0]],
        ['main', 'q3_k_m', 12, [1, 2, 5]],
        ['main', 'q4_k_s', 14, [4, 5]],
        ['mixtral', 'q4_k_m', 15, [0]],
      ] as const)('%s, %s without layers: bytes, names and keys', async (model, quant, fileType, prune) => {
        const source = await convertByProduct(api, model, 'f32', folder.path)
        const made = await importancesFor(source)
        const imatrix = path.join(folder.path, 'importances.json')
        const bytes = writeImatrix(made, 'gguf')
        const read = await readImatrix(bytes, 'made-up')
        const floats = [...read.entries].map(
          ([name, entry]) => [name, Array.from(importanceOf(entry, 'gguf'))] as const,
        )
        await writeFile(imatrix, JSON.stringify(Object.fromEntries(floats)))
        const theirs = path.join(folder.path, 'theirs.gguf')
        await llamaQuantize(source, theirs, fileType, 1, { prune, imatrix })
        const options = { 'prune-layers': prune.join(','), imatrix: { name: 'made-up', bytes } }
        for (const from of [source, path.join(MODELS, model)]) {
          const [file = ''] = await ours(from, quant, options)
          await expectSameTensors(file, theirs)
          const layers = async (one: string) => (await readFileAndHeader(one)).header.metadata.get('llama.block_count')
          expect(await layers(file)).toEqual(await layers(theirs))
        }
      })

      test('kept files: the tensors of each, their bytes, and the keys of splitting', async () => {
        const source = await convertByProduct(api, 'main', 'f32', folder.path)
        const parts = await ours(source, 'copy', { 'split-max-tensors': 20 })
        const from = path.join(folder.path, 'split-00001-of-00003.gguf')
        for (const [no, part] of parts.entries()) await rename(part, from.replace('00001-of', `0000${no + 1}-of`))
        const kept = await ours(from, 'q4_k_m', { 'keep-split': true })
        await llamaQuantize(from, path.join(folder.path, 'theirs'), 15, 1, { keepSplit: true })
        expect(kept).toHaveLength(3)
        for (const [no, part] of kept.entries()) {
          const other = path.join(folder.path, `theirs-0000${no + 1}-of-00003.gguf`)
          await expectSameTensors(part, other)
          const keys = async (one: string) =>
            [...(await readFileAndHeader(one)).header.metadata].filter(([key]) => key.startsWith('split.')).sort()
          expect(await keys(part)).toEqual(await keys(other))
        }
      })

      test('a first file without tensors is loaded', async () => {
        const source = path.join(MODELS, 'main')
        const parts = await ours(source, 'q8_0', { 'split-max-tensors': 20, 'no-tensor-first-split': true })
        expect((await readFileAndHeader(parts[0]!)).header.tensors).toEqual([])
        const judged = await judge(parts[0]!)
        expect(judged.vocabSize).toBe(2048)
        await judged.close()
      })

      test('a vocabulary alone tokenises as the whole model does', async () => {
        const source = path.join(MODELS, 'main')
        const [alone = ''] = await ours(source, 'q8_0', { 'vocab-only': true })
        const [small, whole] = [
          await judge(alone, { vocabularyOnly: true }),
          await judge(await convertByProduct(api, 'main', 'q8_0', folder.path)),
        ]
        for (const text of ['Once upon a time', '  12345 tabs\t\tand\n\nlines', 'grüße 你好 🙂'])
          expect(await small.tokenize(text)).toEqual(await whole.tokenize(text))
        await Promise.all([small.close(), whole.close()])
      })
    },
  )

  test('the table of element types is that of ggml', async () => {
    const script = path.join(import.meta.dirname, 'ggml-types.mjs')
    const { stdout } = await promisify(execFile)(process.execPath, [script])
    const ours = ggmlTypes().map(({ id, name, block, bytes }) => ({ id, name, block, bytes }))
    expect(ours).toEqual(JSON.parse(stdout))
  })
})
