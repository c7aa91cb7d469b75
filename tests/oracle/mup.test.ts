import { cp, readFile, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { openPath } from '../../companion/bytes.ts'
import type { Api } from '../../src/api/api.ts'
import type { Checkpoint } from '../../src/core/checkpoint.ts'
import { affine } from '../../src/core/tensor.ts'
import type { FakeTensor } from '../../src/core/transform.ts'
import { gguf } from '../../src/engines/gguf/engine.ts'
import { DEFAULT_FAKE } from '../../src/models/fake.ts'
import { foldMup } from '../../src/models/mup.ts'
import { convertFolder, productApi, relativeError, temporaryFolder } from './convert-folder.ts'
import { openModel, readFileAndHeader } from './gguf-files.ts'
import { judge, noLlama } from './llama.ts'
import { MODELS, noModels, readReference } from './models.ts'
import { tensorPlanBytes } from './plan-bytes.ts'

const MODEL = 'minicpm'
const MAX_ERROR = 1e-4

const reason = noLlama ?? noModels

describe.skipIf(reason !== null)(`MiniCPM folded into a Llama${reason === null ? '' : ` (${reason})`}`, () => {
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

  async function errorOf(file: string): Promise<number> {
    const llama = await judge(file)
    try {
      let worst = 0
      for (const { ids, logits } of readReference(MODEL)) {
        worst = Math.max(worst, relativeError(await llama.logits(ids), logits))
      }
      return worst
    } finally {
      await llama.close()
    }
  }

  test('by the product: a llama with the reference logits', async () => {
    const input = path.join(MODELS, MODEL)
    const file = await convertFolder(api, input, { quant: 'f32' }, folder.path, { mup2llama: true })
    const { header } = await readFileAndHeader(file)
    expect(header.metadata.get('general.architecture')?.value).toBe('llama')
    expect([...header.metadata.keys()].filter((key) => /scale/.test(key))).toEqual([])
    expect(await errorOf(file)).toBeLessThan(MAX_ERROR)
  })

  test('unfolded, as a minicpm, it has them too', async () => {
    const file = await convertFolder(api, path.join(MODELS, MODEL), { quant: 'f32' }, folder.path, {}, 'plain')
    expect(await errorOf(file)).toBeLessThan(MAX_ERROR)
  })

  test('biases in attention: the same logits as a minicpm and as a llama', async () => {
    const input = path.join(folder.path, 'biased')
    await cp(path.join(MODELS, MODEL), input, { recursive: true })
    const config = path.join(input, 'config.json')
    const json = JSON.parse(await readFile(config, 'utf8')) as Record<string, unknown>
    await writeFile(config, JSON.stringify({ ...json, attention_bias: true }))
    const biases = ['q', 'k', 'v', 'o'].map((part) => [`model.layers.*.self_attn.${part}_proj.bias`, { std: 0.5 }])
    const fakeWeights = { ...DEFAULT_FAKE, std: 0.1, tensors: Object.fromEntries(biases) as Record<string, FakeTensor> }
    const logits: Float32Array[] = []
    const [{ ids } = { ids: [] }] = readReference(MODEL)
    for (const mup2llama of [false, true]) {
      const name = mup2llama ? 'as-llama' : 'as-minicpm'
      const file = await convertFolder(api, input, { quant: 'f32' }, folder.path, { fakeWeights, mup2llama }, name)
      const llama = await judge(file)
      logits.push(Float32Array.from(await llama.logits(ids)))
      await llama.close()
    }
    expect(relativeError(logits[1]!, logits[0]!)).toBeLessThan(MAX_ERROR)
    expect(Math.max(...logits[0]!)).toBeGreaterThan(0.01)
  })

  test('a model that is not of muP is an error', async () => {
    const conversion = convertFolder(api, path.join(MODELS, 'llama-spm'), {}, folder.path, { mup2llama: true })
    await expect(conversion).rejects.toThrow('bad-option: LlamaForCausalLM is not a muP model')
  })

  const divisor = 64 / 32
  const residual = 1.4 / Math.sqrt(4)
  const mistakes: readonly (readonly [string, RegExp, number])[] = [
    ['logits multiplied, not divided', /^lm_head/, divisor * divisor],
    ['gate and up scaled as well', /mlp\.(?:gate|up)/, residual],
    ['the output projection overlooked', /attn\.o/, 1 / residual],
    ['no layer found', /attn\.o|mlp\.down/, 1 / residual],
    ['the head made of the scaled embedding', /^lm_head/, 12],
  ]

  test.each(mistakes)('with a mistake it has not: %s', async (name, role, factor) => {
    const folded = foldMup(await openModel(MODEL))
    const wrong: Checkpoint = {
      ...folded,
      tensors: new Map([...folded.tensors].map(([key, of]) => [key, role.test(key) ? affine(of, factor) : of])),
    }
    const plan = await gguf.convert!(wrong, { quant: 'f32', pre: null }, new Map())
    const file = path.join(folder.path, `${name.replaceAll(/\W/g, '-')}.gguf`)
    await writeFile(file, await tensorPlanBytes(plan, await openPath(path.join(MODELS, MODEL))))
    expect(await errorOf(file)).toBeGreaterThan(10 * MAX_ERROR)
  })
})
