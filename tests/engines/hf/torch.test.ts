import { describe, expect, test } from 'vitest'
import { collect } from './collect.ts'
import { huggingface } from '../../../src/engines/hf/engine.ts'
import type { Recipe } from '../../../src/core/tensor.ts'
import { memoryFolder } from '../../contracts/memory.ts'
import {
  call,
  EMPTY_DICT,
  global,
  int,
  pickle,
  SETITEM,
  text,
  tuple,
  zip,
  type Bytes,
} from '../../hostile/pickle-bytes.ts'
import {
  codes,
  edit,
  failure,
  jsonBytes,
  openFiles,
  rawTensors,
  tinyLlama,
  without,
  type Files,
  type RawTensor,
} from './folder.ts'

const STORAGES: Record<string, string> = { f32: 'FloatStorage', f16: 'HalfStorage', bf16: 'BFloat16Storage' }

/** The weights as a file of torch.save. `ties` are further names of a storage; `transposed` are stored the other way. */
function torchFile(
  tensors: readonly RawTensor[],
  options: { ties?: Record<string, string>; prefix?: string; transposed?: string } = {},
): Uint8Array {
  const { ties = {}, prefix = '', transposed } = options
  const keys = new Map(tensors.map(({ name }, index) => [name, String(index)]))
  const entry = (name: string, { name: of, dtype, shape, data }: RawTensor): Bytes => {
    const count = shape.reduce((product, size) => product * size, 1)
    const id = tuple(text('storage'), global('torch', STORAGES[dtype]!), text(keys.get(of)!), text('cpu'), int(count))
    expect(data.length % count).toBe(0)
    const strides = shape.map((_, axis) => shape.slice(axis + 1).reduce((product, size) => product * size, 1))
    const turned = of === transposed
    return [
      ...text(prefix + name),
      ...call(
        global('torch._utils', '_rebuild_tensor_v2'),
        [...id, 0x51],
        int(0),
        tuple(...shape.map(int)),
        tuple(...(turned ? [1, shape[0]!] : strides).map(int)),
        [0x89],
        call(global('collections', 'OrderedDict')),
      ),
      ...SETITEM,
    ]
  }
  const byName = new Map(tensors.map((tensor) => [tensor.name, tensor]))
  const body = [
    ...tensors.map((tensor) => entry(tensor.name, tensor)),
    ...Object.entries(ties).map(([name, of]) => entry(name, byName.get(of)!)),
  ]
  return zip([
    { name: 'm/data.pkl', data: pickle(EMPTY_DICT, ...body) },
    ...tensors.map(({ name, data }) => ({ name: `m/data/${keys.get(name)}`, data })),
  ])
}

const tensors = (): RawTensor[] => rawTensors(tinyLlama()['model.safetensors']!)
const bare = (): Files => without(tinyLlama(), 'model.safetensors')

/** Where each tensor lies and its bytes. */
function bytesAt(files: Files, recipe: Recipe): string {
  if (recipe.op !== 'read') throw new Error(recipe.op)
  const size = recipe.shape.reduce((product, axis) => product * axis, recipe.dtype === 'f32' ? 4 : 2)
  return Buffer.from(files[recipe.file]!.subarray(recipe.offset, recipe.offset + size)).toString('hex')
}

describe('pytorch_model.bin', () => {
  test('holds the same model as model.safetensors', async () => {
    const files = { ...bare(), 'pytorch_model.bin': torchFile(tensors()) }
    const [ours, theirs] = [await openFiles(files), await openFiles(tinyLlama())]
    expect([...ours.tensors.keys()]).toEqual([...theirs.tensors.keys()])
    for (const [role, recipe] of ours.tensors) {
      expect(bytesAt(files, recipe), role).toBe(bytesAt(tinyLlama(), theirs.tensors.get(role)!))
    }
    expect(ours.sources.map(({ path }) => path)).toContain('pytorch_model.bin')
    expect({ ...ours.config, raw: null }).toEqual({ ...theirs.config, raw: null })
    const match = await huggingface.detect(memoryFolder(files))
    expect(match).toMatchObject({ confidence: 0.9, because: 'config.json with pytorch_model.bin' })
  })

  test('safetensors go before it', async () => {
    const files = { ...tinyLlama(), 'pytorch_model.bin': Uint8Array.from([1, 2, 3]) }
    const { sources } = await openFiles(files)
    expect(sources.map(({ path }) => path)).not.toContain('pytorch_model.bin')
  })

  test('in shards, and without their index', async () => {
    const all = tensors()
    const names = ['pytorch_model-00001-of-00002.bin', 'pytorch_model-00002-of-00002.bin']
    const parts = [all.slice(0, 5), all.slice(5)]
    const weight_map = Object.fromEntries(parts.flatMap((part, i) => part.map(({ name }) => [name, names[i]])))
    const shards = Object.fromEntries(parts.map((part, i) => [names[i]!, torchFile(part)]))
    const index = jsonBytes({ metadata: { total_size: 1 }, weight_map })
    const { tensors: found } = await openFiles({ ...bare(), ...shards, 'pytorch_model.bin.index.json': index })
    expect(found.size).toBe(all.length)
    expect(await failure({ ...bare(), ...shards })).toMatchObject({
      code: 'unsupported',
      message: 'tiny holds 2 shards without their index (pytorch_model.bin.index.json), which cannot be read',
    })
    const swapped = { ...shards, [names[0]!]: shards[names[1]!]! }
    expect((await failure({ ...bare(), ...swapped, 'pytorch_model.bin.index.json': index })).code).toBe(
      'missing-tensor',
    )
  })

  test('names of DistributedDataParallel lose their prefix', async () => {
    const { tensors: found } = await openFiles({
      ...bare(),
      'pytorch_model.bin': torchFile(tensors(), { prefix: 'module.' }),
    })
    expect(found.size).toBe(tensors().length)
  })

  test('a tied head that is the embedding is no contradiction; another one is', async () => {
    const untied = tensors().filter(({ name }) => name !== 'lm_head.weight')
    const tied = (file: Uint8Array): Files =>
      edit({ ...bare(), 'pytorch_model.bin': file }, 'config.json', { tie_word_embeddings: true })
    const same = await openFiles(tied(torchFile(untied, { ties: { 'lm_head.weight': 'model.embed_tokens.weight' } })))
    expect(codes(same)).not.toContain('tie-ignored')
    expect(codes(await openFiles(tied(torchFile(tensors()))))).toContain('tie-ignored')
    const faults = await collect(
      huggingface.validate(
        memoryFolder(tied(torchFile(untied, { ties: { 'lm_head.weight': 'model.embed_tokens.weight' } }))),
        { format: 'huggingface', kind: 'pytorch', confidence: 1, because: '', entry: 'config.json' },
      ),
    )
    expect(faults.filter(({ severity }) => severity === 'error')).toEqual([])
  })

  test('a tensor stored transposed is permuted', async () => {
    const transposed = 'model.layers.0.self_attn.q_proj.weight'
    const { tensors: found } = await openFiles({ ...bare(), 'pytorch_model.bin': torchFile(tensors(), { transposed }) })
    expect(found.get('blocks.0.attn.q.weight')).toMatchObject({ op: 'permute', axes: [1, 0], of: { op: 'read' } })
  })

  test('a hostile one is refused by what it wants', async () => {
    const hostile = zip([{ name: 'm/data.pkl', data: pickle(call(global('os', 'system'), text('x'))) }])
    expect(await failure({ ...bare(), 'pytorch_model.bin': hostile })).toMatchObject({
      code: 'unsupported',
      message: 'The pickle in pytorch_model.bin wants to use os.system, which no checkpoint needs',
    })
  })
})
