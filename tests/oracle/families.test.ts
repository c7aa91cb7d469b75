import { copyFile, mkdir } from 'node:fs/promises'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { openPath } from '../../companion/bytes.ts'
import type { Api } from '../../src/api/api.ts'
import type { Checkpoint } from '../../src/core/checkpoint.ts'
import { gguf } from '../../src/engines/gguf/engine.ts'
import { isOffered } from '../../src/engines/gguf/weights/mix.ts'
import { MIXES } from '../../src/engines/gguf/weights/mixes.ts'
import { huggingface } from '../../src/engines/hf/engine.ts'
import { convertFolder, productApi, relativeError, temporaryFolder } from './convert-folder.ts'
import { FamilyDecoder, MADE_UP } from './forward-families.ts'
import { judge, llamaTypes, noLlama } from './llama.ts'
import { storedIn } from './matrix-models.ts'
import { MODELS, noModels, readReference } from './models.ts'

/** Float32 against float64. */
const MAX_ERROR = 1e-4
/** With GELU, which llama.cpp looks up in a table of f16. */
const GELU_ERROR = 2e-3

const reason = noLlama ?? noModels

describe.skipIf(reason !== null)(`families of made-up weights${reason === null ? '' : ` (${reason})`}`, () => {
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

  async function open(at: string): Promise<Checkpoint> {
    const inside = await openPath(at)
    return huggingface.open!(inside, (await huggingface.detect(inside))!)
  }

  async function toHuggingFace(from: string, to: string): Promise<void> {
    const input = { kind: 'path', path: from } as const
    const output = { kind: 'path', path: to } as const
    const control = api.start({ input, target: 'huggingface', options: {}, output, name: null, overwrite: true })
    for (;;) {
      for (const event of await control.next()) {
        if (event.type === 'failed') throw new Error(event.error.message)
        if (event.type === 'done') return
      }
    }
  }

  test.each(Object.entries(MADE_UP))('%s', async (name, config) => {
    const decoder = new FamilyDecoder(config)
    const [prompt] = readReference('qwen3')
    const expected = decoder.logits(prompt!.ids)
    const input = path.join(folder.path, name)
    await mkdir(input)
    await decoder.save(input)
    for (const file of ['tokenizer.json', 'tokenizer_config.json'])
      await copyFile(path.join(MODELS, 'qwen3', file), path.join(input, file))

    const file = await convertFolder(api, input, { quant: 'f32' }, folder.path, {}, `${config.model_type}`)
    const llama = await judge(file)
    try {
      const tolerance = config.model_type.startsWith('gemma') ? GELU_ERROR : MAX_ERROR
      expect(relativeError(await llama.logits(prompt!.ids), expected)).toBeLessThan(tolerance)
    } finally {
      await llama.close()
    }

    const back = `${input}-back`
    await mkdir(back)
    await toHuggingFace(file, back)
    expect(outline(back)).toEqual(outline(input))
    const [before, after] = [await open(input), await open(back)]
    expect(facts(after.config)).toEqual(facts(before.config))

    // variants of a family have its tensors
    if (name !== config.model_type) return
    const mixes = MIXES.filter((mix) => isOffered(mix))
    const theirs = await llamaTypes(
      file,
      mixes.map(({ fileType }) => fileType),
    )
    for (const mix of mixes) {
      const wanted = theirs.get(mix.fileType)
      const planning = gguf.convert!(before, { quant: mix.id }, new Map())
      // what both refuse: rows that are not whole blocks, types that need importances
      if (wanted === null) {
        await expect(planning, mix.id).rejects.toThrow()
        continue
      }
      const types = await planning.then(
        ({ files }) =>
          files[0]!.segments.flatMap((segment) =>
            segment.kind === 'tensor' ? [[segment.name, segment.recipe.dtype] as const] : [],
          ),
        (error: Error) => error.message,
      )
      if (typeof types === 'string') expect(types, mix.id).toContain('importance matrix')
      else expect(new Map(types), mix.id).toEqual(wanted)
    }
  })
})

/** What a configuration says, under the one set of names; a raised rotary base comes back as what it was raised to. */
function facts(config: Checkpoint['config']): object {
  const { theta, scaling } = config.rope
  const base = scaling.kind === 'alpha' ? theta * scaling.alpha ** (config.headDim / (config.headDim - 2)) : theta
  const rope = {
    ...config.rope,
    theta: Math.fround(base),
    scaling: scaling.kind === 'alpha' ? { kind: 'none' } : scaling,
  }
  return { ...config, rope, raw: null, dtype: null }
}

/** A folder's weights, with their bytes. */
function outline(at: string): readonly string[] {
  return storedIn(at)
    .map(
      ({ name, dtype, shape, data }) => `${name} ${dtype} ${shape.join('x')} ${Buffer.from(data).toString('base64')}`,
    )
    .sort()
}
