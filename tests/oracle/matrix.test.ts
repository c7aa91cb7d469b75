import { mkdirSync, readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Api } from '../../src/api/api.ts'
import { matrix } from '../../src/api/matrix.ts'
import { AppError } from '../../src/core/errors.ts'
import type { OptionValues } from '../../src/core/option.ts'
import { productApi, temporaryFolder } from './convert-folder.ts'
import { noLlama } from './llama.ts'
import { ARCHITECTURES, ggufIn } from './matrix-architectures.ts'
import { expectSame, OUTPUTS } from './matrix-judges.ts'
import { storedIn, truthOf } from './matrix-models.ts'
import { SOURCES, VARIANTS, type Kit, type SourceModel } from './matrix-sources.ts'
import { megatronReader, noTorch, type MegatronReader } from './megatron-torch.ts'
import { MODELS, noModels } from './models.ts'

/**
 * Every cell of the product's own matrix, on a real model, without loss, judged by others' programs. What is offered and
 * has no source or no judge here fails.
 */
const reason = noLlama ?? noModels
const { inputs, outputs, cells, architectures } = await matrix()

/** How a model goes through a format and comes back bit for bit; `back` for the way back to HuggingFace. */
const WAYS: Readonly<Record<string, { readonly there: OptionValues; readonly back?: OptionValues }>> = {
  huggingface: { there: { dtype: 'keep', 'max-shard-size': '100KB' } },
  safetensors: { there: { dtype: 'keep' } },
  mlx: { there: { quant: 'none' } },
  megatron: { there: { dtype: 'keep', tp: 2, pp: 2 } },
  // norms and the like are F32 in GGUF, whatever the model's type
  gguf: { there: { quant: 'f32' }, back: { dtype: 'as the source' } },
}

/** Files of a tokenizer, and what else goes along untouched. */
const KEPT = /^(?:tokenizer.*\.json|tokenizer\.model|spiece\.model|chat_template\.jinja)$/

describe.skipIf(reason !== null)(`what becomes what${reason === null ? '' : ` (${reason})`}`, () => {
  let folder: Awaited<ReturnType<typeof temporaryFolder>>
  let api: Api
  let megatron: MegatronReader
  let kit: Kit
  /** What was converted so far: the same is not converted twice. */
  const made = new Map<string, Promise<string>>()
  beforeAll(async () => {
    folder = await temporaryFolder()
    api = productApi()
    megatron = megatronReader()
    kit = {
      folder(name) {
        const inside = path.join(folder.path, name)
        mkdirSync(inside)
        return inside
      },
      convert(input, target, options, name) {
        const key = JSON.stringify([input, target, options])
        const known = made.get(key)
        if (known !== undefined) return known
        const output = convert(input, target, options, kit.folder(name))
        made.set(key, output)
        return output
      },
    }
  })
  afterAll(async () => {
    megatron.close()
    await api.close()
    await folder.remove()
  })

  async function convert(from: string, target: string, options: OptionValues, to: string): Promise<string> {
    const input = { kind: 'path', path: from } as const
    const output = { kind: 'path', path: to } as const
    const job = api.start({ input, target, options, output, name: null, overwrite: false })
    for (;;) {
      for (const event of await job.next()) {
        if (event.type === 'failed') throw AppError.fromData(event.error)
        if (event.type === 'done') return to
      }
    }
  }

  describe.each(inputs)('$title', ({ id, title }) => {
    let source: SourceModel
    beforeAll(async () => {
      const make = SOURCES[id]
      if (make === undefined) throw new Error(`Nothing in matrix-sources.ts makes a real ${title}: add it there`)
      source = await make(kit)
    })

    test('is known for what it is', async () => {
      expect((await api.inspect({ kind: 'path', path: source.path })).kind).toBe(id)
    })

    const offered = cells.filter((cell) => cell.input === id && cell.architectures.length > 0)
    test.for(offered)('to $output', async ({ output, architectures: ids }, { skip }) => {
      const judged = OUTPUTS[output]
      if (judged === undefined) throw new Error(`Nothing in matrix-judges.ts judges ${output}: add it there`)
      expect(ids).toContain('llama')
      const to = await kit.convert(source.path, output, judged.options, `${id}-${output}`)
      if (output === 'megatron') skip(noTorch !== null, noTorch ?? '')
      await judged.expectWeights(to, source.truth, megatron)
    })

    for (const [form, makeForm] of Object.entries(VARIANTS[id] ?? {})) {
      test(`${form}, to huggingface`, async () => {
        const variant = await makeForm(kit)
        expect((await api.inspect({ kind: 'path', path: variant.path })).kind).toBe(id)
        const to = await kit.convert(variant.path, 'huggingface', { dtype: 'keep' }, `${id}-${form}`)
        expectSame(truthOf(to).tensors, variant.truth.tensors)
      })
    }
  })

  describe.each(architectures)('$id', ({ id, refused }) => {
    const model = ARCHITECTURES[id]
    let source: SourceModel
    beforeAll(async () => {
      if (model === undefined) throw new Error(`Nothing in matrix-architectures.ts is a real ${id}: add it there`)
      source = await model.source(kit)
      expect((await api.inspect({ kind: 'path', path: source.path })).architecture).toBe(id)
    })

    const held = outputs.filter((output) => !refused.some(({ format }) => format === output.id))
    test.for(held)('to $id', async ({ id: output }, { skip }) => {
      const { options, expectWeights } = OUTPUTS[output]!
      const to = await kit.convert(source.path, output, options, `${id}-to-${output}`)
      if (output === 'megatron') skip(noTorch !== null, noTorch ?? '')
      if (output === 'gguf') await model!.expectRun!(ggufIn(to))
      else await expectWeights(to, source.truth, megatron)
    })

    test.for(held)('to $id and back, bit for bit, with its tokenizer', async ({ id: output }) => {
      const { there, back } = WAYS[output]!
      const original = storedIn(source.path)
      const halfway = await kit.convert(source.path, output, there, `${id}-by-${output}`)
      const options: Record<string, string> = {}
      if (back !== undefined) options['dtype'] = original[0]!.dtype
      if (output === 'safetensors') options['config'] = readFileSync(path.join(source.path, 'config.json'), 'utf8')
      const again = await kit.convert(halfway, 'huggingface', options, `${id}-from-${output}`)
      const leftOut = output === 'gguf' ? model!.leftOut : undefined
      const wanted = original.filter(({ name }) => leftOut?.test(name) !== true)
      expect(outline(again)).toEqual(wanted.map(line).sort())
      if (output === 'safetensors') return
      const kept = readdirSync(source.path).filter((file) => KEPT.test(file))
      // from GGUF a tokenizer is rebuilt, which gguf-read.test.ts judges by the ids that it gives
      if (output === 'gguf') expect(readdirSync(again)).toContain('tokenizer.json')
      else for (const file of kept) expect(read(again, file).equals(read(source.path, file)), file).toBe(true)
    })
  })

  test.each(['huggingface', 'safetensors'])('of no architecture known here: to %s', async (output) => {
    const from = path.join(MODELS, 'vit')
    const to = await kit.convert(from, output, { dtype: 'keep' }, `vit-${output}`)
    expect(outline(to)).toEqual(outline(from))
  })

  test('through all of them in a row, bit for bit', async () => {
    const { path: first } = await ARCHITECTURES['qwen3']!.source(kit)
    const steps: readonly (readonly [string, OptionValues])[] = [
      ['mlx', { quant: 'none' }],
      ['megatron', { dtype: 'keep', tp: 2, pp: 2 }],
      ['gguf', { quant: 'f32' }],
      ['mlx', { quant: 'none', dtype: 'bf16' }],
      ['huggingface', { dtype: 'keep' }],
    ]
    let at = first
    for (const [step, [target, options]] of steps.entries()) at = await kit.convert(at, target, options, `row-${step}`)
    expect(outline(at)).toEqual(outline(first))
  })
})

function read(folder: string, file: string): Buffer {
  return readFileSync(path.join(folder, file))
}

function line({ name, dtype, shape, data }: ReturnType<typeof storedIn>[number]): string {
  return `${name} ${dtype} ${shape.join('x')} ${Buffer.from(data).toString('base64')}`
}

/** A folder's weights, type, shape and bytes each, sorted. */
function outline(folder: string): readonly string[] {
  return storedIn(folder).map(line).sort()
}
