import { describe, expect, test } from 'vitest'
import { elementCount, type DType } from '../../../src/core/dtype.ts'
import { cast } from '../../../src/core/tensor.ts'
import { huggingface } from '../../../src/engines/hf/engine.ts'
import { ArrayInputs, evaluate } from '../../api/run.ts'
import { memoryFolder } from '../../contracts/memory.ts'
import {
  codes,
  edit,
  editWeights,
  failure,
  jsonBytes,
  openFiles,
  rawTensors,
  tinyLlama,
  type Files,
  type RawTensor,
} from '../hf/folder.ts'
import { convertFiles } from '../mlx/folder.ts'
import {
  packAwq,
  packCompressed,
  packGptq,
  packMicroscaled,
  packScaled,
  vector,
  type GptqOptions,
  type Packed,
} from './naive-quantized.ts'

type Pack = (module: string, n: number, k: number, seed: number) => Packed

interface Quantized {
  readonly files: Files
  /** By the weight's name. */
  readonly values: Map<string, Float32Array>
}

/** The tiny Llama with its blocks' matrices packed. */
function quantized(config: Record<string, unknown>, pack: Pack): Quantized {
  const values = new Map<string, Float32Array>()
  const packed = editWeights(tinyLlama(), (tensors) =>
    tensors.flatMap((tensor, seed) => {
      if (!tensor.name.endsWith('_proj.weight')) return [tensor]
      const [n, k] = tensor.shape
      const made = pack(tensor.name.replace(/\.weight$/, ''), n!, k!, seed)
      values.set(tensor.name, made.values)
      return made.parts
    }),
  )
  return { files: edit(packed, 'config.json', { quantization_config: config }), values }
}

const ROLES: Readonly<Record<string, string>> = {
  'self_attn.q_proj': 'attn.q',
  'self_attn.k_proj': 'attn.k',
  'self_attn.v_proj': 'attn.v',
  'self_attn.o_proj': 'attn.o',
  'mlp.gate_proj': 'mlp.gate',
  'mlp.up_proj': 'mlp.up',
  'mlp.down_proj': 'mlp.down',
}

function roleOf(name: string): string {
  const [, block, module = ''] = /^model\.layers\.(\d+)\.(.*)\.weight$/.exec(name) ?? []
  return `blocks.${block}.${ROLES[module]}.weight`
}

const f32 = (bytes: Uint8Array): Float32Array => new Float32Array(Uint8Array.from(bytes).buffer)

async function expectValues({ files, values }: Quantized): Promise<void> {
  const { tensors } = await openFiles(files)
  expect(values.size).toBe(14)
  for (const [name, expected] of values) {
    const recipe = tensors.get(roleOf(name))!
    expect(recipe.op, name).toBe('dequantize')
    const { bytes } = await evaluate(cast(recipe, 'f32'), new ArrayInputs(files))
    // -0 is 0: the sign of nothing is nobody's
    expect(
      f32(bytes).every((value, i) => value === expected[i]),
      name,
    ).toBe(true)
    expect(elementCount(recipe.shape)).toBe(expected.length)
  }
}

const gptqConfig = ({ bits, group, version, sym, actOrder = false }: GptqOptions): Record<string, unknown> => ({
  quant_method: 'gptq',
  bits,
  group_size: group,
  desc_act: actOrder,
  sym,
  checkpoint_format: version === 1 ? 'gptq' : 'gptq_v2',
})

function gptq(options: GptqOptions): Quantized {
  return quantized(gptqConfig(options), (module, n, k, seed) => packGptq(module, n, k, options, seed))
}

const compressed = (bits: number, group: number, symmetric: boolean, format = 'pack-quantized'): object => ({
  quant_method: 'compressed-tensors',
  format,
  config_groups: {
    group_0: {
      targets: ['Linear'],
      weights: {
        num_bits: bits,
        symmetric,
        strategy: group === -1 ? 'channel' : 'group',
        group_size: group === -1 ? null : group,
      },
    },
  },
})

const because = async (files: Files): Promise<string> => (await huggingface.detect(memoryFolder(files)))!.because

describe('GPTQ', () => {
  for (const bits of [2, 3, 4, 8]) {
    for (const version of [1, 2] as const) {
      test(`${bits} bits, version ${version}, asymmetric`, () =>
        expectValues(gptq({ bits, group: 32, version, sym: false })))
      test(`${bits} bits, version ${version}, symmetric, act-order`, () =>
        expectValues(gptq({ bits, group: 32, version, sym: true, actOrder: true })))
    }
  }
  for (const group of [-1, 20, 48, 128]) {
    test(`groups of ${group}, with and without g_idx`, async () => {
      await expectValues(gptq({ bits: 4, group, version: 1, sym: false, withoutOrder: true }))
      await expectValues(gptq({ bits: 4, group, version: 1, sym: false, actOrder: group !== -1 }))
    })
  }
  test('is told by inspection', async () => {
    const { files } = gptq({ bits: 4, group: 32, version: 1, sym: true, actOrder: true })
    expect(await because(files)).toBe('config.json with model.safetensors, GPTQ 4-bit, group 32, act-order')
    expect(codes(await openFiles(files))).toEqual(['quantized-source'])
  })
  test('symmetric zeros tell the version, whatever the config says', async () => {
    for (const version of [1, 2] as const) {
      const { files, values } = gptq({ bits: 4, group: 32, version, sym: true })
      const lying = gptqConfig({ bits: 4, group: 32, version: version === 1 ? 2 : 1, sym: true })
      const changed = edit(files, 'config.json', { quantization_config: lying })
      await expectValues({ files: changed, values })
      expect(codes(await openFiles(changed))).toContain('zeros-version')
    }
  })
  test('the first version’s zero of 15 is 16: fields are shifted one by one', async () => {
    const { files, values } = gptq({ bits: 4, group: 32, version: 2, sym: false })
    const first = edit(files, 'config.json', {
      quantization_config: gptqConfig({ bits: 4, group: 32, version: 1, sym: false }),
    })
    const [name] = [...values.keys()]
    const get = async (of: Files): Promise<Float32Array> => {
      const recipe = (await openFiles(of)).tensors.get(roleOf(name!))!
      return f32((await evaluate(recipe, new ArrayInputs(of))).bytes)
    }
    const [v1, v2] = [await get(first), await get(files)]
    const k = rawTensors(tinyLlama()['model.safetensors']!).find((tensor) => tensor.name === name)!.shape[1]!
    // every value of a group is one scale lower
    for (let start = 0; start < v1.length; start += k) {
      const steps = new Set(Array.from(v1.subarray(start, start + 32), (value, i) => v2[start + i]! - value))
      expect(steps.size).toBe(1)
    }
  })
  test('settings beside config.json, as old tools left them', async () => {
    const { files, values } = gptq({ bits: 4, group: 32, version: 1, sym: false })
    const { quant_method: _, ...old } = gptqConfig({ bits: 4, group: 32, version: 1, sym: false })
    const moved = edit(files, 'config.json', { quantization_config: undefined })
    await expectValues({ files: { ...moved, 'quantize_config.json': jsonBytes(old) }, values })
  })
})

describe('AWQ', () => {
  for (const group of [16, 32, 64]) {
    for (const layout of ['gemm', 'gemv']) {
      test(`${layout}, groups of ${group}`, async () => {
        const config = { quant_method: 'awq', bits: 4, group_size: group, zero_point: true, version: layout }
        await expectValues(quantized(config, (module, n, k, seed) => packAwq(module, n, k, group, layout, seed)))
      })
    }
  }
  test('what calls itself AWQ and has GPTQ’s shapes is read as GPTQ, with a warning', async () => {
    const { files, values } = gptq({ bits: 4, group: 32, version: 1, sym: false })
    const config = { quant_method: 'awq', bits: 4, group_size: 32, zero_point: true, version: 'gemm' }
    const lying = edit(files, 'config.json', { quantization_config: config })
    await expectValues({ files: lying, values })
    expect(codes(await openFiles(lying))).toContain('quantization-mislabelled')
  })
})

describe('compressed-tensors', () => {
  for (const bits of [4, 8]) {
    for (const symmetric of [true, false]) {
      for (const group of [32, -1]) {
        test(`pack-quantized ${bits} bits, groups of ${group}, symmetric ${symmetric}`, () =>
          expectValues(
            quantized({ ...compressed(bits, group, symmetric) }, (module, n, k, seed) =>
              packCompressed(module, n, k, { bits, group, symmetric, actOrder: group === 32 }, seed),
            ),
          ))
      }
    }
  }
  for (const [format, type] of [
    ['float-quantized', 'f8_e4m3'],
    ['int-quantized', 'i8'],
  ] as const) {
    test(`${format}: a scale for each row`, () =>
      expectValues(
        quantized({ ...compressed(8, -1, true, format) }, (module, n, k, seed) =>
          packScaled(module, n, k, { type, rows: 1, columns: k, name: 'weight_scale' }, seed),
        ),
      ))
  }
  test('mxfp4-pack-quantized', () =>
    expectValues(
      quantized({ ...compressed(4, 32, true, 'mxfp4-pack-quantized') }, (module, n, k, seed) =>
        packMicroscaled(`${module}.weight_packed`, `${module}.weight_scale`, n, k, seed),
      ),
    ))
})

describe('small floats', () => {
  for (const block of [
    [128, 128],
    [48, 20],
    [16, 64],
  ] as const) {
    test(`FP8 in blocks of ${block.join('x')}`, async () => {
      const config = { quant_method: 'fp8', fmt: 'e4m3', weight_block_size: block }
      const [rows, columns] = block
      const made = quantized(config, (module, n, k, seed) =>
        packScaled(module, n, k, { type: 'f8_e4m3', rows, columns, name: 'weight_scale_inv' }, seed),
      )
      await expectValues(made)
      expect(await because(made.files)).toContain(`FP8 in blocks of ${block.join('x')}`)
    })
  }
  test('the types of an FP8 folder are no fault', async () => {
    const { files } = quantized({ quant_method: 'fp8' }, (module, n, k, seed) =>
      packScaled(module, n, k, { type: 'f8_e4m3', rows: n, columns: k, name: 'weight_scale' }, seed),
    )
    const folder = memoryFolder(edit(files, 'config.json', { dtype: 'float16' }))
    const match = (await huggingface.detect(folder))!
    const found: string[] = []
    for await (const { code } of huggingface.validate(folder, match)) found.push(code)
    expect(found).toEqual(['quantized-source'])
  })
  test('what was quantised is told where it is written', async () => {
    const { files } = gptq({ bits: 4, group: 32, version: 1, sym: true })
    const { findings } = await huggingface.convert!(await openFiles(files), { dtype: 'keep' }, new Map())
    expect(findings).toMatchObject([{ severity: 'warning', code: 'dequantized' }])
    expect(findings[0]!.message).toMatch(/^14 tensors are quantised in the source: they are written as F32/)
  })
  test('FP8 with a scale for a matrix, a scalar', () =>
    expectValues(
      quantized({ quant_method: 'fp8' }, (module, n, k, seed) =>
        packScaled(module, n, k, { type: 'f8_e4m3', rows: n, columns: k, name: 'weight_scale', shape: [] }, seed),
      ),
    ))
  test('MXFP4 in _blocks and _scales', () =>
    expectValues(
      quantized({ quant_method: 'mxfp4' }, (module, n, k, seed) =>
        packMicroscaled(`${module}.weight_blocks`, `${module}.weight_scales`, n, k, seed),
      ),
    ))
})

describe('reaches other formats', () => {
  test('HuggingFace in F32: the naive values, and no trace of the quantisation', async () => {
    const { files, values } = gptq({ bits: 4, group: 32, version: 1, sym: false, actOrder: true })
    const converted = await convertFiles(files, 'huggingface', { dtype: 'f32' })
    const tensors = new Map(rawTensors(converted.files['model.safetensors']!).map((tensor) => [tensor.name, tensor]))
    for (const [name, expected] of values) {
      expect(
        f32(tensors.get(name)!.data).every((value, i) => value === expected[i]),
        name,
      ).toBe(true)
    }
    expect([...tensors.keys()].filter((name) => /qweight|qzeros|g_idx|scales/.test(name))).toEqual([])
    expect(new TextDecoder().decode(converted.files['config.json'])).not.toContain('quant')
  })
  test('GGUF: the same bytes as from the naive values', async () => {
    const config = { quant_method: 'awq', bits: 4, group_size: 32, zero_point: true, version: 'gemm' }
    const { files, values } = quantized(config, (module, n, k, seed) => packAwq(module, n, k, 32, 'gemm', seed))
    const plain = editWeights(tinyLlama(), (tensors) =>
      tensors.map((tensor) => {
        const own = values.get(tensor.name)
        return own === undefined ? tensor : { ...tensor, dtype: 'f32', data: new Uint8Array(own.buffer) }
      }),
    )
    for (const quant of ['f32', 'q8_0']) {
      const [ours, theirs] = [
        await convertFiles(files, 'gguf', { quant }),
        await convertFiles(plain, 'gguf', { quant }),
      ]
      const bytesOf = (all: Files): Buffer => Buffer.concat(Object.values(all))
      expect(bytesOf(ours.files).length).toBeGreaterThan(100_000)
      expect(bytesOf(ours.files).equals(bytesOf(theirs.files)), quant).toBe(true)
    }
  })
})

describe('faults', () => {
  const base = gptq({ bits: 4, group: 32, version: 1, sym: false, actOrder: true }).files
  const module = 'model.layers.0.self_attn.q_proj'
  const change = (part: string, to: (tensor: RawTensor) => RawTensor[]): Files =>
    editWeights(base, (tensors) =>
      tensors.flatMap((tensor) => (tensor.name === `${module}.${part}` ? to(tensor) : [tensor])),
    )
  const half = (tensor: RawTensor): RawTensor[] => [
    {
      ...tensor,
      shape: [tensor.shape[0]! / 2, ...tensor.shape.slice(1)],
      data: tensor.data.subarray(tensor.data.length / 2),
    },
  ]
  const retyped = (dtype: DType) => (tensor: RawTensor) => [{ ...tensor, dtype }]
  for (const part of ['qzeros', 'scales', 'g_idx']) {
    test(`${part} missing`, async () => {
      expect(await failure(change(part, () => []))).toMatchObject({
        code: 'missing-tensor',
        where: { tensor: `${module}.${part}` },
      })
    })
  }
  for (const part of ['qweight', 'qzeros', 'scales', 'g_idx']) {
    test(`${part} of half the size`, async () => {
      expect(await failure(change(part, half))).toMatchObject({
        code: 'bad-tensor',
        where: { tensor: `${module}.${part}` },
      })
    })
    test(`${part} of another type`, async () => {
      const other = part === 'scales' ? 'i16' : 'f32'
      expect(await failure(change(part, retyped(other)))).toMatchObject({
        code: 'bad-tensor',
        where: { tensor: `${module}.${part}` },
      })
    })
  }
  test('g_idx out of range', async () => {
    for (const group of [2, -1, 2 ** 31 - 1]) {
      const files = change('g_idx', ({ name }) => [
        vector(
          name,
          Array.from({ length: 64 }, (_, i) => (i === 9 ? group : 0)),
        ),
      ])
      await expect(convertFiles(files, 'huggingface', { dtype: 'f32' })).rejects.toMatchObject({
        code: 'bad-tensor',
        message: `g_idx puts input 9 in group ${group}; there are 2`,
        where: { tensor: `${module}.weight` },
      })
    }
  })
  test('bits and groups that lie', async () => {
    const lying = (changes: object): Files =>
      edit(base, 'config.json', {
        quantization_config: { ...gptqConfig({ bits: 4, group: 32, version: 1, sym: false }), ...changes },
      })
    expect(await failure(lying({ bits: 8 }))).toMatchObject({ code: 'bad-tensor' })
    expect(await failure(lying({ group_size: 16 }))).toMatchObject({ code: 'bad-tensor' })
    expect(await failure(lying({ group_size: 0 }))).toMatchObject({ code: 'malformed' })
    expect(await failure(lying({ group_size: '32' }))).toMatchObject({ code: 'malformed' })
  })
  test('what cannot be read is refused by name', async () => {
    const cases: [object, string][] = [
      [{ quant_method: 'bitsandbytes' }, 'bitsandbytes'],
      [{ quant_method: 'gptq', bits: 5 }, 'GPTQ of 5 bits'],
      [{ quant_method: 'gptq', bits: 4, checkpoint_format: 'marlin' }, 'marlin'],
      [{ quant_method: 'gptq', bits: 4, pack_dtype: 'int8' }, 'int8'],
      [{ quant_method: 'awq', bits: 4, version: 'gemv_fast' }, 'gemv_fast'],
      [{ quant_method: 'awq', bits: 3 }, 'AWQ of 3 bits'],
      [compressed(4, 16, true, 'nvfp4-pack-quantized'), 'nvfp4-pack-quantized'],
      [compressed(3, 32, true), 'compressed-tensors of 3 bits'],
    ]
    for (const [quantization_config, name] of cases) {
      const refused = await failure(edit(base, 'config.json', { quantization_config }))
      expect(refused.code).toBe('unsupported')
      expect(refused.message).toContain(name)
    }
  })
  test('FP8 scales that do not fit', async () => {
    const config = { quant_method: 'fp8', weight_block_size: [64, 64] }
    const { files } = quantized(config, (own, n, k, seed) =>
      packScaled(own, n, k, { type: 'f8_e4m3', rows: 16, columns: 16, name: 'weight_scale_inv' }, seed),
    )
    expect(await failure(files)).toMatchObject({ code: 'bad-tensor' })
  })
})
