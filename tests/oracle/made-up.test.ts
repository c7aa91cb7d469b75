import { copyFile, mkdir, readFile } from 'node:fs/promises'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { openPath } from '../../companion/bytes.ts'
import type { Api } from '../../src/api/api.ts'
import { AppError } from '../../src/core/errors.ts'
import { parseJsonObject } from '../../src/core/json.ts'
import { gguf } from '../../src/engines/gguf/engine.ts'
import { MIXES } from '../../src/engines/gguf/weights/mixes.ts'
import { huggingface } from '../../src/engines/hf/engine.ts'
import { architectureOf, normalizeConfig } from '../../src/engines/transformers/config.ts'
import { convertFolder, productApi, relativeError, temporaryFolder } from './convert-folder.ts'
import { FAMILIES } from './made-up.ts'
import { judge, llamaTypes, noLlama } from './llama.ts'
import { storedIn, truthOf } from './matrix-models.ts'
import { MODELS, noModels, readReference } from './models.ts'

/** Float32 against float64, through two blocks. */
const MAX_ERROR = 1e-4

const reason = noLlama ?? noModels

describe.skipIf(reason !== null)(
  `families with experts, or LayerNorms, of made-up weights${reason === null ? '' : ` (${reason})`}`,
  () => {
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

    /** Longer than any window. */
    const ids = (): readonly number[] =>
      readReference('qwen3')
        .flatMap((prompt) => prompt.ids)
        .slice(0, 16)

    describe.each(FAMILIES)('$name', ({ name, model, tolerance = MAX_ERROR }) => {
      let input: string
      let plain: string
      let logits: readonly number[]
      beforeAll(async () => {
        logits = model.logits(ids())
        input = path.join(folder.path, name)
        await mkdir(input)
        await model.save(input)
        for (const file of ['tokenizer.json', 'tokenizer_config.json'])
          await copyFile(path.join(MODELS, 'qwen3', file), path.join(input, file))
        plain = await convertFolder(api, input, { quant: 'f32' }, folder.path, {}, name)
      })

      test('llama.cpp computes what the class does', async () => {
        const llama = await judge(plain)
        try {
          expect(relativeError(await llama.logits(ids()), logits)).toBeLessThan(tolerance)
        } finally {
          await llama.close()
        }
      })

      test('from GGUF back to HuggingFace: the same bytes, and a configuration that means the same', async () => {
        const back = path.join(folder.path, `${name}-back`)
        await mkdir(back)
        await toHuggingFace(plain, back)
        expect(outline(back)).toEqual(outline(input))
        expect(await meaning(back)).toEqual(await meaning(input))
      })

      const parted = /^(?:gpt_oss|deepseek_v3|gpt_neox)$/.test(name)
      for (const what of parted ? ['from quantised GGUF, too, about the same'] : [])
        test(what, async () => {
          const back = path.join(folder.path, `${name}-rounded`)
          await mkdir(back)
          await toHuggingFace(await convertFolder(api, input, { quant: 'q4_k_m' }, folder.path, {}, `${name}-q4`), back)
          const found = truthOf(back).tensors
          expect([...found.keys()].sort()).toEqual([...truthOf(input).tensors.keys()].sort())
          for (const [tensor, { values }] of truthOf(input).tensors) {
            const other = found.get(tensor)!.values
            const norm = (of: (value: number, at: number) => number): number =>
              values.reduce((sum, value, at) => sum + of(value, at) ** 2, 0)
            expect(Math.sqrt(norm((value, at) => value - other[at]!) / norm((value) => value)), tensor).toBeLessThan(
              0.12,
            )
          }
        })

      test('each mixture gives each tensor the type that llama.cpp gives it', async () => {
        const source = await openPath(input)
        const checkpoint = await huggingface.open!(source, (await huggingface.detect(source))!)
        const theirs = await llamaTypes(
          plain,
          MIXES.map(({ fileType }) => fileType),
        )
        let compared = 0
        for (const { id, fileType } of MIXES) {
          const wanted = theirs.get(fileType)
          const plan = await gguf.convert!(checkpoint, { quant: id }, new Map()).catch((error: unknown) => error)
          if (plan instanceof AppError) {
            // a dry run of theirs does not ask for importances
            expect(plan.message, id).toMatch(wanted === null ? /whole blocks/ : /importance matrix|written yet/)
            continue
          }
          const segments = (plan as Awaited<ReturnType<NonNullable<typeof gguf.convert>>>).files[0]!.segments
          const ours = segments.flatMap((segment) =>
            segment.kind === 'tensor' ? [`${segment.name} ${segment.recipe.dtype}`] : [],
          )
          expect(ours.sort(), id).toEqual([...wanted!].map(([tensor, type]) => `${tensor} ${type}`).sort())
          compared++
        }
        expect(compared).toBeGreaterThan(20)
      })
    })

    async function toHuggingFace(from: string, to: string): Promise<void> {
      const job = api.start({
        input: { kind: 'path', path: from },
        target: 'huggingface',
        options: { dtype: 'keep' },
        output: { kind: 'path', path: to },
        name: null,
        overwrite: true,
      })
      for (;;) {
        for (const event of await job.next()) {
          if (event.type === 'failed') throw AppError.fromData(event.error)
          if (event.type === 'done') return
        }
      }
    }
  },
)

function outline(folder: string): readonly string[] {
  return storedIn(folder)
    .map(
      ({ name, dtype, shape, data }) => `${name} ${dtype} ${shape.join('x')} ${Buffer.from(data).toString('base64')}`,
    )
    .sort()
}

/** What a folder's config.json says, under the one set of names; ids of tokens are the tokenizer's matter. */
async function meaning(folder: string): Promise<object> {
  const json = parseJsonObject(await readFile(path.join(folder, 'config.json')), 'config.json')
  const architecture = await architectureOf(json, 'config.json')
  const {
    raw: _,
    bosId: _bos,
    eosIds: _eos,
    padId: _pad,
    ...rest
  } = normalizeConfig(json, 'config.json', architecture).config
  return rest
}
