import { beforeAll, describe, expect, test } from 'vitest'
import type { Finding } from '../../../src/core/plan.ts'
import { edit, jsonOf, tinyLlama, without, jsonBytes, type Files, type RawTensor } from '../hf/folder.ts'
import { convertFiles, editMlx, faultsOf, findingsOf } from './folder.ts'

const Q = 'model.layers.0.self_attn.q_proj'

/** Changes one tensor. */
function tensor(files: Files, name: string, change: (old: RawTensor) => RawTensor): Files {
  let seen = false
  const edited = editMlx(files, (tensors) =>
    tensors.map((one) => {
      if (one.name !== name) return one
      seen = true
      return change(one)
    }),
  )
  if (!seen) throw new Error(`no ${name}`)
  return edited
}

const patched = (data: Uint8Array, at: number, bytes: readonly number[]): Uint8Array => {
  const copy = Uint8Array.from(data)
  copy.set(bytes, at)
  return copy
}

/** Rewrites the header of the weights as text of the same length. */
function header(files: Files, change: (text: string) => string): Files {
  const bytes = Uint8Array.from(files['model.safetensors']!)
  const length = Number(new DataView(bytes.buffer).getBigUint64(0, true))
  const old = new TextDecoder().decode(bytes.subarray(8, 8 + length))
  const text = change(old)
  if (text === old || text.length !== old.length) throw new Error('nothing changed')
  bytes.set(new TextEncoder().encode(text), 8)
  return { ...files, 'model.safetensors': bytes }
}

let affine: Files
let nvfp4: Files
let mxfp4: Files
let tied: Files

beforeAll(async () => {
  affine = (await convertFiles(tinyLlama(), 'mlx', {})).files
  nvfp4 = (await convertFiles(tinyLlama(), 'mlx', { quant: 'nvfp4' })).files
  mxfp4 = (await convertFiles(tinyLlama(), 'mlx', { quant: 'mxfp4' })).files
  tied = edit(affine, 'config.json', { tie_word_embeddings: true })
})

test('what was written has no fault, and says nothing but of what is not quantised', async () => {
  for (const files of [affine, nvfp4, mxfp4]) expect(await findingsOf(files)).toEqual([])
})

const INDEX = 'model.safetensors.index.json'

/** A defect: how it is made, and the finding that must name it. */
const DEFECTS: readonly [
  string,
  () => Files,
  Partial<Finding> & { readonly tensor?: string; readonly says?: string },
][] = [
  ['scales that are missing', () => drop(affine, `${Q}.scales`), { code: 'bad-tensor', tensor: `${Q}.weight` }],
  ['biases that are missing', () => drop(affine, `${Q}.biases`), { code: 'missing-tensor', tensor: `${Q}.biases` }],
  ['codes that are missing', () => drop(affine, `${Q}.weight`), { code: 'missing-tensor', tensor: `${Q}.weight` }],
  ['a norm that is missing', () => drop(affine, 'model.norm.weight'), { code: 'missing-tensor', says: 'model.norm' }],
  ['a tensor too many', () => add(affine, 'model.rope', 'bf16'), { code: 'extra-tensor', tensor: 'model.rope' }],
  ['biases where the mode has none', () => add(nvfp4, `${Q}.biases`, 'bf16'), { code: 'extra-tensor', says: 'biases' }],
  [
    'codes of another shape',
    () => tensor(affine, `${Q}.weight`, (old) => ({ ...old, shape: [old.shape[1]!, old.shape[0]!] })),
    { code: 'bad-tensor', tensor: `${Q}.weight`, says: '[8, 64]' },
  ],
  [
    'scales of another shape',
    () => tensor(affine, `${Q}.scales`, (old) => ({ ...old, shape: [1, 64] })),
    { code: 'bad-tensor', tensor: `${Q}.scales` },
  ],
  [
    'codes of another type',
    () => tensor(affine, `${Q}.weight`, (old) => ({ ...old, dtype: 'i32' })),
    { code: 'bad-tensor', tensor: `${Q}.weight`, says: 'i32' },
  ],
  [
    'scales of another type',
    () => tensor(affine, `${Q}.scales`, (old) => ({ ...old, dtype: 'u16' })),
    { code: 'bad-tensor', tensor: `${Q}.scales`, says: 'u16' },
  ],
  [
    'scales of bytes as floats',
    () => tensor(nvfp4, `${Q}.scales`, (old) => ({ ...old, dtype: 'bf16', data: new Uint8Array(old.data.length * 2) })),
    { code: 'bad-tensor', tensor: `${Q}.scales`, says: 'bf16' },
  ],
  [
    'a NaN among the scales',
    () => tensor(affine, `${Q}.scales`, (old) => ({ ...old, data: patched(old.data, 10, [0xc0, 0x7f]) })),
    { code: 'bad-weights', tensor: `${Q}.scales` },
  ],
  [
    'an infinite bias',
    () => tensor(affine, `${Q}.biases`, (old) => ({ ...old, data: patched(old.data, 4, [0x80, 0x7f]) })),
    { code: 'bad-weights', tensor: `${Q}.biases` },
  ],
  [
    'a NaN among scales of powers of two',
    () => tensor(mxfp4, `${Q}.scales`, (old) => ({ ...old, data: patched(old.data, 7, [0xff]) })),
    { code: 'bad-weights', tensor: `${Q}.scales` },
  ],
  [
    'a NaN among scales of E4M3, with its sign',
    () => tensor(nvfp4, `${Q}.scales`, (old) => ({ ...old, data: patched(old.data, 7, [0xff]) })),
    { code: 'bad-weights', tensor: `${Q}.scales` },
  ],
  [
    'an offset that is wrong',
    () =>
      header(affine, (text) =>
        text.replace(/("data_offsets":\[\d*)(\d),/, (_, a: string, b: string) => `${a}${(Number(b) + 1) % 10},`),
      ),
    { code: 'malformed' },
  ],
  [
    'a file cut short',
    () => ({ ...affine, 'model.safetensors': affine['model.safetensors']!.slice(0, -7) }),
    { code: 'truncated' },
  ],
  [
    'a head where the config ties it',
    () => tied,
    { code: 'tie-contradicts', tensor: 'lm_head.weight', says: 'ties the head' },
  ],
  [
    'no head where the config does not tie it',
    () => drop(affine, 'lm_head.weight', 'lm_head.scales', 'lm_head.biases'),
    { code: 'missing-tensor', tensor: 'lm_head.weight' },
  ],
  ['a group size that the shapes contradict', () => quantization({ group_size: 32, bits: 4 }), { code: 'bad-tensor' }],
  [
    'a group size that rows are no multiple of',
    () => quantization({ group_size: 64, bits: 4, 'model.layers.0.mlp.down_proj': { group_size: 64, bits: 4 } }),
    { code: 'bad-tensor', says: 'rows of 160' },
  ],
  ['bits that the shapes contradict', () => quantization({ group_size: 64, bits: 6 }), { code: 'bad-tensor' }],
  [
    'a module said to be whole that is not',
    () => quantization({ group_size: 64, bits: 4, [Q]: false }),
    { code: 'bad-tensor', tensor: `${Q}.weight` },
  ],
  [
    'an index that names another file',
    () => index((map) => ({ ...map, [`${Q}.weight`]: 'model-00002-of-00002.safetensors' })),
    { code: 'bad-index', tensor: `${Q}.weight` },
  ],
  [
    'an index that names a tensor that is nowhere',
    () => index((map) => ({ ...map, 'model.rope': 'model.safetensors' })),
    { code: 'bad-index', tensor: 'model.rope' },
  ],
  [
    'an index that leaves one out',
    () => index((map) => Object.fromEntries(Object.entries(map).filter(([name]) => name !== `${Q}.scales`))),
    { code: 'bad-index', tensor: `${Q}.scales` },
  ],
  ['an index that is no JSON', () => ({ ...affine, [INDEX]: new Uint8Array([1, 2, 3]) }), { code: 'bad-index' }],
  [
    'an index with another size',
    () => edit(affine, INDEX, { metadata: { total_size: 12 } }),
    { code: 'total-size', says: '12' },
  ],
]

function drop(files: Files, ...names: readonly string[]): Files {
  return editMlx(files, (tensors) => tensors.filter(({ name }) => !names.includes(name)))
}

function add(files: Files, name: string, dtype: RawTensor['dtype']): Files {
  return editMlx(files, (tensors) => [...tensors, { name, dtype, shape: [1], data: new Uint8Array(2) }])
}

function quantization(value: object): Files {
  return edit(affine, 'config.json', { quantization: value, quantization_config: value })
}

function index(change: (map: Record<string, string>) => Record<string, string>): Files {
  const json = jsonOf(affine, INDEX) as { metadata: object; weight_map: Record<string, string> }
  return { ...affine, [INDEX]: jsonBytes({ ...json, weight_map: change(json.weight_map) }) }
}

describe('names every defect that is planted', () => {
  test.each(DEFECTS)('%s', async (_, plant, { code, tensor: name, says }) => {
    const faults = await faultsOf(plant())
    const found = faults.find(
      (fault) =>
        fault.code === code &&
        (name === undefined || fault.where?.tensor === name) &&
        (says === undefined || fault.message.includes(says)),
    )
    expect(found, JSON.stringify(faults, null, 1)).toBeDefined()
  })
})

test('warns of what loads but is not as it should be', async () => {
  const codes = async (files: Files): Promise<string[]> => (await findingsOf(files)).map(({ code }) => code)
  const wide = tensor(affine, 'model.norm.weight', (old) => ({
    ...old,
    dtype: 'f32',
    data: new Uint8Array(Float32Array.from({ length: 64 }, () => 1).buffer),
  }))
  expect(await codes(without(wide, INDEX))).toEqual(['dtype-mismatch'])
  const zero = tensor(affine, `${Q}.weight`, (old) => ({ ...old, data: new Uint8Array(old.data.length) }))
  expect(await codes(zero)).toEqual(['zero-weights'])
})
