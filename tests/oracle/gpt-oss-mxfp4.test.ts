import { copyFile, mkdir, readFile, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Api } from '../../src/api/api.ts'
import type { OptionValues } from '../../src/core/option.ts'
import { rawTensors, safetensors, type RawTensor } from '../engines/hf/folder.ts'
import { convertFolder, productApi, relativeError, temporaryFolder } from './convert-folder.ts'
import { gptOss } from './experts.ts'
import { tensorsOf } from './gguf-files.ts'
import { judge, noLlama } from './llama.ts'
import { MODELS, noModels, readReference } from './models.ts'

const reason = noLlama ?? noModels

const VALUES = [0, 0.5, 1, 1.5, 2, 3, 4, 6]

/** Codes of 4 bits and exponents for each 32 of them, by a linear congruential generator; every code occurs, -0 too. */
function madeUp(count: number, seed: number): { codes: Uint8Array; exponents: Uint8Array } {
  let state = seed
  const next = (): number => (state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0) >>> 24
  return {
    codes: Uint8Array.from({ length: count }, () => next() >>> 4),
    exponents: Uint8Array.from({ length: count / 32 }, () => 119 + (next() >>> 7)),
  }
}

describe.skipIf(reason !== null)(`GPT-OSS as it is published, in MXFP4${reason === null ? '' : ` (${reason})`}`, () => {
  let folder: Awaited<ReturnType<typeof temporaryFolder>>
  let api: Api
  let input: string
  const blocks = new Map<string, { codes: Uint8Array; exponents: Uint8Array }>()
  let logits: readonly number[]
  const model = gptOss()

  async function convertTo(target: string, from: string, name: string, options: OptionValues): Promise<string> {
    const to = path.join(folder.path, name)
    await mkdir(to)
    const input = { kind: 'path', path: from } as const
    const job = api.start({ input, target, options, output: { kind: 'path', path: to }, name: null, overwrite: false })
    for (;;) {
      for (const event of await job.next()) {
        if (event.type === 'failed') throw new Error(event.error.message)
        if (event.type === 'done') return to
      }
    }
  }

  const ids = (): readonly number[] => readReference('qwen3')[0]!.ids
  beforeAll(async () => {
    folder = await temporaryFolder()
    api = productApi()
    input = path.join(folder.path, 'input')
    await mkdir(input)
    model.logits(ids())
    const packed: RawTensor[] = []
    for (const [name, { shape, values }] of model.weights) {
      if (!/\.(?:gate_up|down)_proj$/.test(name)) continue
      const [experts = 0, inputs = 0, outputs = 0] = shape
      const made = madeUp(values.length, packed.length + 1)
      blocks.set(name, made)
      // codes lie as [experts, outputs, inputs], the weights as [experts, inputs, outputs]
      for (const [at, code] of made.codes.entries()) {
        const value = VALUES[code & 7]! * 2 ** (made.exponents[Math.floor(at / 32)]! - 127)
        const [e, row, column] = [Math.floor(at / inputs / outputs), Math.floor(at / inputs) % outputs, at % inputs]
        values[(e * inputs + column) * outputs + row] = code > 7 ? -value : value
      }
      const pairs = Uint8Array.from(
        { length: values.length / 2 },
        (_, i) => made.codes[2 * i]! | (made.codes[2 * i + 1]! << 4),
      )
      packed.push({ name: `${name}_blocks`, dtype: 'u8', shape: [experts, outputs, inputs / 32, 16], data: pairs })
      packed.push({ name: `${name}_scales`, dtype: 'u8', shape: [experts, outputs, inputs / 32], data: made.exponents })
    }
    logits = model.logits(ids())
    await model.save(input)
    const file = path.join(input, 'model.safetensors')
    const rest = rawTensors(Uint8Array.from(await readFile(file))).filter(({ name }) => !blocks.has(name))
    await writeFile(file, safetensors([...rest, ...packed]))
    const config = path.join(input, 'config.json')
    const json = JSON.parse(await readFile(config, 'utf8')) as object
    await writeFile(config, JSON.stringify({ ...json, quantization_config: { quant_method: 'mxfp4' } }))
    for (const name of ['tokenizer.json', 'tokenizer_config.json'])
      await copyFile(path.join(MODELS, 'qwen3', name), path.join(input, name))
  })
  afterAll(async () => {
    await api.close()
    await folder.remove()
  })

  test('mxfp4_moe carries its blocks over as they are', async () => {
    const file = await convertFolder(api, input, { quant: 'mxfp4_moe' }, folder.path, {}, 'exact')
    const tensors = await tensorsOf(file)
    for (const [name, { codes, exponents }] of blocks) {
      const layer = /layers\.(\d+)\./.exec(name)![1]!
      const width = 256
      const fused = name.endsWith('gate_up_proj')
      for (const [which, part] of (fused ? ['gate', 'up'] : ['down']).entries()) {
        const { type, bytes } = tensors.get(`blk.${layer}.ffn_${part}_exps.weight`)!
        expect(type.toLowerCase()).toBe('mxfp4')
        const rows = exponents.length / (width / 32) / (fused ? 2 : 1)
        const wanted = Buffer.alloc(rows * (width / 32) * 17)
        for (let row = 0; row < rows; row++) {
          const from = fused ? 2 * row + which : row
          for (let block = 0; block < width / 32; block++) {
            const at = (row * (width / 32) + block) * 17
            const code = (i: number): number => codes[from * width + block * 32 + i]!
            wanted[at] = exponents[from * (width / 32) + block]!
            for (let j = 0; j < 16; j++) wanted[at + 1 + j] = code(j) | (code(j + 16) << 4)
          }
        }
        expect(bytes.equals(wanted), `${name}, ${part}`).toBe(true)
      }
    }
  })

  test('from the GGUF file back to HuggingFace: the values, bit for bit', async () => {
    const file = await convertFolder(api, input, { quant: 'mxfp4_moe' }, folder.path, {}, 'there')
    const back = await convertTo('huggingface', file, 'back', { dtype: 'f32' })
    const stored = rawTensors(Uint8Array.from(await readFile(path.join(back, 'model.safetensors'))))
    for (const name of blocks.keys()) {
      const { shape, data } = stored.find((tensor) => tensor.name === name)!
      const { shape: wanted, values } = model.weights.get(name)!
      expect(shape).toEqual(wanted)
      const found = new Float32Array(Uint8Array.from(data).buffer)
      // zeros may have lost their sign
      expect(
        found.findIndex((value, i) => value !== values[i]),
        name,
      ).toBe(-1)
    }
  })

  test('MLX gets its codes and scales as they are', async () => {
    const to = await convertTo('mlx', input, 'mlx', { quant: 'mxfp4' })
    const stored = rawTensors(Uint8Array.from(await readFile(path.join(to, 'model.safetensors'))))
    const bytesOf = (name: string): Buffer => Buffer.from(stored.find((tensor) => tensor.name === name)!.data)
    for (const [name, { codes, exponents }] of blocks) {
      const fused = name.endsWith('gate_up_proj')
      for (const [which, part] of (fused ? ['gate', 'up'] : ['down']).entries()) {
        const module = name.replace(/\w+$/, `${part}_proj`)
        const own = (row: number): boolean => !fused || row % 2 === which
        const pairs = Array.from({ length: codes.length / 2 }, (_, i) => codes[2 * i]! | (codes[2 * i + 1]! << 4))
        expect(bytesOf(`${module}.weight`)).toEqual(Buffer.from(pairs.filter((_, i) => own(Math.floor(i / 128)))))
        expect(bytesOf(`${module}.scales`)).toEqual(Buffer.from(exponents.filter((_, i) => own(Math.floor(i / 8)))))
      }
    }
  })

  test('llama.cpp computes what the class does from the dequantised weights', async () => {
    const llama = await judge(await convertFolder(api, input, { quant: 'f32' }, folder.path, {}, 'whole'))
    try {
      expect(relativeError(await llama.logits(ids()), logits)).toBeLessThan(1e-4)
    } finally {
      await llama.close()
    }
  })
})
