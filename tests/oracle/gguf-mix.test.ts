import { execFile } from 'node:child_process'
import { writeFile } from 'node:fs/promises'
import path from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Api } from '../../src/api/api.ts'
import { ggmlTypes } from '../../src/engines/containers/gguf/types.ts'
import { gguf } from '../../src/engines/gguf/engine.ts'
import { MIXES } from '../../src/engines/gguf/mix.ts'
import { madeUpCheckpoint, type MadeUp } from '../engines/gguf/made-up.ts'
import { convertByProduct, expectSameTensors, productApi, temporaryFolder, tensorsOf } from './gguf-files.ts'
import { llamaQuantize, noLlama } from './llama.ts'
import { noModels } from './models.ts'
import { executeNaively } from './naive.ts'

const QUANTISED = MIXES.filter((mix) => mix.id !== 'f32')

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
    test.each(['main', 'llama-spm', 'llama3-tied', 'qwen2', 'qwen3'])('%s: every type, byte by byte', async (model) => {
      const source = await convertByProduct(api, model, 'f32', folder.path)
      for (const { id, fileType } of QUANTISED) {
        const ours = await convertByProduct(api, model, id, folder.path)
        const theirs = path.join(folder.path, 'theirs.gguf')
        await llamaQuantize(source, theirs, fileType)
        await expectSameTensors(ours, theirs)
      }
    })
  })

  const shapes: readonly (readonly [string, MadeUp])[] = [
    ['32 layers', { layers: 32, hidden: 256, intermediate: 256, heads: 4, kvHeads: 4, tied: false }],
    ['24 layers, tied', { layers: 24, hidden: 256, intermediate: 512, heads: 4, kvHeads: 2, tied: true }],
    ['7 layers, rows of 192', { layers: 7, hidden: 192, intermediate: 256, heads: 6, kvHeads: 1, tied: false }],
    ['rows of 192, tied', { layers: 2, hidden: 192, intermediate: 176, heads: 6, kvHeads: 1, tied: true }],
    ['rows of 272 and 176', { layers: 9, hidden: 272, intermediate: 176, heads: 2, kvHeads: 2, tied: false }],
    ['1 layer', { layers: 1, hidden: 256, intermediate: 256, heads: 4, kvHeads: 1, tied: false }],
  ]
  test.each(shapes)('types: %s', async (_, shape) => {
    const { checkpoint, folder: inputs } = madeUpCheckpoint(shape)
    const plan = async (quant: string) => gguf.convert!(checkpoint, { quant, pre: null }, new Map())
    const source = path.join(folder.path, 'made-up.gguf')
    await writeFile(source, await executeNaively(await plan('f32'), inputs))
    for (const { id, fileType } of QUANTISED) {
      const theirs = path.join(folder.path, 'made-up-theirs.gguf')
      await llamaQuantize(source, theirs, fileType)
      const wanted = [...(await tensorsOf(theirs))].map(([name, { type }]) => `${name} ${type.toLowerCase()}`)
      const planned = (await plan(id)).files[0]!.segments.flatMap((segment) =>
        segment.kind === 'tensor' ? [`${segment.name} ${segment.recipe.dtype}`] : [],
      )
      expect(planned.sort(), id).toEqual(wanted.sort())
    }
  })

  test('types of a "70B": Q6_K where llama.cpp has Q5_K', async () => {
    const shape = { layers: 80, hidden: 256, intermediate: 256, heads: 4, kvHeads: 1, tied: false }
    const { checkpoint, folder: inputs } = madeUpCheckpoint(shape)
    const source = path.join(folder.path, 'seventy.gguf')
    await writeFile(
      source,
      await executeNaively(await gguf.convert!(checkpoint, { quant: 'bf16', pre: null }, new Map()), inputs),
    )
    const theirs = path.join(folder.path, 'seventy-theirs.gguf')
    await llamaQuantize(source, theirs, 15)
    const plan = await gguf.convert!(checkpoint, { quant: 'q4_k_m', pre: null }, new Map())
    const tensors = await tensorsOf(theirs)
    const different = plan.files[0]!.segments.flatMap((segment) => {
      if (segment.kind !== 'tensor') return []
      const wanted = tensors.get(segment.name)!.type.toLowerCase()
      return segment.recipe.dtype === wanted
        ? []
        : [`${segment.name.replace(/\d+/, 'N')} ${segment.recipe.dtype} ${wanted}`]
    })
    expect(new Set(different)).toEqual(new Set(['blk.N.attn_v.weight q6_k q5_k']))
    const noted = plan.findings.filter(({ code }) => code === 'type-substituted')
    expect(noted).toHaveLength(different.length)
  })

  test('the table of element types is that of ggml', async () => {
    const script = path.join(import.meta.dirname, 'ggml-types.mjs')
    const { stdout } = await promisify(execFile)(process.execPath, [script])
    const ours = ggmlTypes().map(({ id, name, block, bytes }) => ({ id, name, block, bytes }))
    expect(ours).toEqual(JSON.parse(stdout))
  })
})
