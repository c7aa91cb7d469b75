import { describe, expect, test } from 'vitest'
import { createApi } from '../../../src/api/api.ts'
import { evaluate } from '../../api/run.ts'
import { ArrayInputs } from '../../api/run.ts'
import type { Checkpoint } from '../../../src/core/checkpoint.ts'
import { elementCount } from '../../../src/core/dtype.ts'
import { AppError } from '../../../src/core/errors.ts'
import { cast } from '../../../src/core/tensor.ts'
import { mlx } from '../../../src/engines/mlx/engine.ts'
import { ANYWHERE, testHost } from '../../api/host.ts'
import { memoryFolder, MemoryOutput } from '../../contracts/memory.ts'
import { edit, editWeights, noShared, rawTensors, sharedFiles, tinyLlama, without, type Files } from '../hf/folder.ts'
import { configOf, convertFiles, editMlx } from './folder.ts'
import { storedTensors, weightOf } from './naive.ts'

async function openFiles(files: Files): Promise<Checkpoint> {
  const folder = memoryFolder(files, { name: 'tiny' })
  const match = await mlx.detect(folder)
  if (match === null) throw new Error('not detected')
  return mlx.open!(folder, match)
}

async function failure(files: Files): Promise<AppError> {
  const outcome: unknown = await openFiles(files).catch((error: unknown) => error)
  if (!(outcome instanceof AppError)) throw new Error(`no AppError, but ${String(outcome)}`)
  return outcome
}

/** Bytes of every tensor, by name. */
const bytesOf = (files: Files): Map<string, string> =>
  new Map(
    rawTensors(files['model.safetensors']!).map(({ name, dtype, shape, data }) => [
      name,
      `${dtype} ${shape.join()} ${Buffer.from(data).toString('base64')}`,
    ]),
  )

const KINDS = ['2bit', '3bit', '4bit', '5bit', '6bit', '8bit', 'mxfp4', 'mxfp8', 'nvfp4', 'mixed_3_6']

describe('values', () => {
  for (const quant of KINDS) {
    test(`${quant}: the roles have the values of the naive reader`, async () => {
      const { files } = await convertFiles(tinyLlama(), 'mlx', { quant })
      const checkpoint = await openFiles(files)
      const tensors = storedTensors(files)
      const inputs = new ArrayInputs(files)
      const roles: [string, string][] = [
        ['embed.weight', 'model.embed_tokens'],
        ['blocks.1.attn.v.weight', 'model.layers.1.self_attn.v_proj'],
        ['blocks.0.mlp.down.weight', 'model.layers.0.mlp.down_proj'],
        ['final_norm.weight', 'model.norm'],
        ['lm_head.weight', 'lm_head'],
      ]
      for (const [role, module] of roles) {
        const recipe = cast(checkpoint.tensors.get(role)!, 'f32')
        const { bytes } = await evaluate(recipe, inputs)
        const values = new Float32Array(bytes.buffer, bytes.byteOffset, elementCount(recipe.shape))
        // in f32: the product is rounded, then the sum
        const { values: expected } = weightOf(configOf(files), module, tensors)
        for (const [i, value] of values.entries()) {
          expect(Math.abs(value - expected[i]!)).toBeLessThanOrEqual(Math.abs(expected[i]!) * 2 ** -23 + 2 ** -26)
        }
      }
    })
  }
})

describe('there and back', () => {
  const models = noShared ? [] : ['llama-spm', 'llama3-tied', 'mistral', 'qwen2', 'qwen3', 'mixtral']
  const others = noShared ? [] : ['gemma2', 'phi3', 'gpt2', 'minicpm']
  const all: [string, () => Files][] = [
    ['the committed tiny Llama', tinyLlama],
    ...[...models, ...others].map((model): [string, () => Files] => [model, () => sharedFiles(model)]),
  ]
  test.each(all)('unquantised HF -> MLX -> HF is bit-identical: %s', async (_, load) => {
    const from = load()
    const there = await convertFiles(from, 'mlx', { quant: 'none' })
    const back = await convertFiles(there.files, 'huggingface')
    expect(bytesOf(back.files)).toEqual(bytesOf(from))
    const config = configOf(back.files)
    expect(config['quantization']).toBeUndefined()
    for (const [key, value] of Object.entries(configOf(from))) {
      // mlx-lm puts the ends of generation_config.json into config.json
      if (!['_name_or_path', 'transformers_version', 'eos_token_id'].includes(key))
        expect(config[key], key).toEqual(value)
    }
    expect(new TextDecoder().decode(back.files['model.safetensors']!.subarray(8, 80))).toContain('"format":"pt"')
  })

  test.each(KINDS)('MLX -> MLX with the same quantisation copies codes and scales: %s', async (quant) => {
    const first = await convertFiles(tinyLlama(), 'mlx', { quant })
    const second = await convertFiles(first.files, 'mlx', { quant })
    expect(bytesOf(second.files)).toEqual(bytesOf(first.files))
    expect(second.files['config.json']).toEqual(first.files['config.json'])
  })

  test.skipIf(noShared)('experts are stacked and taken apart again, quantised as well', async () => {
    const first = await convertFiles(sharedFiles('mixtral'), 'mlx', { 'group-size': '32' })
    const second = await convertFiles(first.files, 'mlx', { 'group-size': '32' })
    expect(bytesOf(second.files)).toEqual(bytesOf(first.files))
    const back = await convertFiles(first.files, 'huggingface', { dtype: 'f32' })
    const whole = weightOf(
      configOf(first.files),
      'model.layers.1.block_sparse_moe.switch_mlp.down_proj',
      storedTensors(first.files),
    ).values
    const expert = rawTensors(back.files['model.safetensors']!).find(
      ({ name }) => name === 'model.layers.1.block_sparse_moe.experts.2.w2.weight',
    )!
    const values = new Float32Array(Uint8Array.from(expert.data).buffer)
    const size = values.length
    for (const [i, value] of values.entries()) expect(value).toBeCloseTo(whole[2 * size + i]!, 6)
  })

  test('dequantised to HuggingFace: the naive values in F32, and no trace of the quantisation', async () => {
    const { files } = await convertFiles(tinyLlama(), 'mlx', { quant: 'mixed_2_6', 'group-size': '32' })
    const back = await convertFiles(files, 'huggingface')
    const config = configOf(back.files)
    expect([config['quantization'], config['quantization_config']]).toEqual([undefined, undefined])
    const tensors = storedTensors(files)
    for (const { name, dtype, data } of rawTensors(back.files['model.safetensors']!)) {
      if (!/_proj|embed|head/.test(name)) continue
      expect(dtype).toBe('f32')
      const values = new Float32Array(Uint8Array.from(data).buffer)
      const { values: expected } = weightOf(configOf(files), name.replace(/\.weight$/, ''), tensors)
      for (const [i, value] of values.entries()) {
        expect(Math.abs(value - expected[i]!)).toBeLessThanOrEqual(Math.abs(expected[i]!) * 2 ** -23 + 2 ** -26)
      }
    }
  })
})

describe('opening', () => {
  test('inspecting tells what it is', async () => {
    const { files } = await convertFiles(tinyLlama(), 'mlx', {})
    const api = createApi(testHost({ input: memoryFolder(files, { name: 'tiny' }), output: new MemoryOutput() }))
    const found = await api.inspect(ANYWHERE)
    expect(found).toMatchObject({ format: 'mlx', architecture: 'llama', layers: 2, className: 'LlamaForCausalLM' })
    expect(found.parameters).toBe(
      rawTensors(tinyLlama()['model.safetensors']!).reduce((sum, { data }) => sum + data.length / 2, 0),
    )
    expect(found.tokenizer).toContain('300 tokens')
    expect(found.because).toBe('config.json says 4 bits in groups of 64 (affine)')
    // of the files, not of what they unpack to
    const stored = [...storedTensors(files).values()].reduce((sum, { bytes }) => sum + bytes.length, 0)
    expect(found.weightBytes).toBe(stored)
    expect(found.dtypes.map(({ dtype }) => dtype)).toEqual(['u32', 'bf16'])
  })

  test('shards without an index, which mlx-lm does not need', async () => {
    const { files } = await convertFiles(tinyLlama(), 'mlx', { 'max-shard-size': '20KB' })
    const checkpoint = await openFiles(without(files, 'model.safetensors.index.json'))
    expect(checkpoint.tensors.size).toBe(21)
    const shard = Object.keys(files).find((path) => path.startsWith('model-00002'))!
    const error = await failure(without(files, shard))
    expect(error.code).toBe('missing-file')
    expect(error.where.file).toBe(shard)
  })

  test('a quantization_config without a method will do, one key for a module too', async () => {
    const { files } = await convertFiles(tinyLlama(), 'mlx', {})
    const legacy = edit(files, 'config.json', { quantization: undefined })
    expect((await openFiles(legacy)).tensors.get('lm_head.weight')?.op).toBe('dequantize')
    const off = edit(files, 'config.json', { quantization: { group_size: 64, bits: 4, lm_head: false } })
    expect((await failure(off)).message).toContain('lm_head.weight')
  })

  test.each([
    ['bits that MLX has not', { group_size: 64, bits: 7 }, 'malformed', '7 bits'],
    ['a mode that MLX has not', { group_size: 64, bits: 4, mode: 'q4_k' }, 'malformed', 'q4_k'],
    ['other bits than the weights have', { group_size: 64, bits: 8 }, 'bad-tensor', 'embed_tokens'],
    ['another group than the weights have', { group_size: 32, bits: 4 }, 'bad-tensor', 'embed_tokens'],
  ])('refuses %s', async (_, quantization, code, named) => {
    const { files } = await convertFiles(tinyLlama(), 'mlx', {})
    const error = await failure(edit(files, 'config.json', { quantization, quantization_config: quantization }))
    expect(error.code).toBe(code)
    expect(error.message).toContain(named)
    expect(error.hint).not.toBeNull()
  })

  test('refuses quantised weights of which the config says nothing', async () => {
    const { files } = await convertFiles(tinyLlama(), 'mlx', {})
    const error = await failure(edit(files, 'config.json', { quantization: undefined, quantization_config: undefined }))
    expect(error.code).toBe('malformed')
    expect(error.hint).toContain('config.json')
  })

  test('a tensor that nobody needs is left out with a warning', async () => {
    const { files } = await convertFiles(tinyLlama(), 'mlx', { quant: 'none' })
    const extra = { name: 'model.rope', dtype: 'f32' as const, shape: [1], data: new Uint8Array(4) }
    const checkpoint = await openFiles(editMlx(files, (tensors) => [...tensors, extra]))
    expect(checkpoint.findings.map(({ code }) => code)).toContain('tensor-ignored')
    // and a HuggingFace folder stays one
    expect(await mlx.detect(memoryFolder(editWeights(tinyLlama(), (tensors) => tensors)))).toBeNull()
  })
})
