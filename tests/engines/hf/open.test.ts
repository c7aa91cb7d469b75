import { beforeAll, describe, expect, it } from 'vitest'
import { NO_ARCHITECTURE, requireArchitecture, type Checkpoint } from '../../../src/core/checkpoint.ts'
import { tensorBytes, type Recipe } from '../../../src/core/tensor.ts'
import { huggingface } from '../../../src/engines/hf/engine.ts'
import { expectedTensors } from '../../../src/models/architecture.ts'
import { architectureFor } from '../../../src/models/index.ts'
import { memoryFolder } from '../../contracts/memory.ts'
import {
  codes,
  edit,
  editWeights,
  failure,
  jsonBytes,
  jsonOf,
  noShared,
  openFiles,
  openFolder,
  rawTensors,
  safetensors,
  SHARED_MODELS,
  sharded,
  sharedFiles,
  tinyLlama,
  utf8,
  without,
  type Files,
} from './folder.ts'

let tiny: Files
beforeAll(() => {
  tiny = tinyLlama()
})

function bytesOfRead(files: Files, recipe: Recipe): Uint8Array {
  if (recipe.op !== 'read') throw new Error(recipe.op)
  return files[recipe.file]!.subarray(recipe.offset, recipe.offset + tensorBytes(recipe))
}

/** Every role's recipe must yield the bytes that the file has under the name the architecture gives it. */
async function expectSameWeights(checkpoint: Checkpoint, files: Files, original: Uint8Array): Promise<void> {
  const raw = new Map(rawTensors(original).map((tensor) => [tensor.name, tensor]))
  const architecture = await architectureFor(checkpoint.architecture, 'config.json')
  const expected = expectedTensors(architecture, checkpoint.config)
  expect([...checkpoint.tensors.keys()]).toEqual(expected.map(({ role }) => role))
  expect(checkpoint.tensors.size).toBe(raw.size)
  for (const { role, hf } of expected) {
    const recipe = checkpoint.tensors.get(role)!
    const { dtype, shape, data } = raw.get(hf)!
    expect({ dtype: recipe.dtype, shape: recipe.shape }, role).toEqual({ dtype, shape })
    expect(Buffer.from(bytesOfRead(files, recipe)).equals(data), role).toBe(true)
  }
}

describe('the tiny Llama', () => {
  it('is recognised', async () => {
    expect(await huggingface.detect(memoryFolder(tiny))).toEqual({
      format: 'huggingface',
      confidence: 0.9,
      because: 'config.json with model.safetensors',
      entry: 'model.safetensors',
      kind: 'huggingface',
    })
  })

  it('opens without findings, with the weights by role', async () => {
    const checkpoint = await openFiles(tiny)
    expect(checkpoint).toMatchObject({ format: 'huggingface', name: 'tiny', architecture: 'llama', findings: [] })
    await expectSameWeights(checkpoint, tiny, tiny['model.safetensors']!)
  })

  it('reads headers and small files only', async () => {
    const folder = memoryFolder(tiny)
    await openFolder(folder)
    const length = Number(new DataView(tiny['model.safetensors']!.buffer).getBigUint64(0, true))
    const small = Object.entries(tiny).filter(([path]) => !path.endsWith('.safetensors'))
    const smallBytes = small.reduce((total, [, bytes]) => total + bytes.length, 0)
    // config.json is looked at for a quantisation as well: when the folder is detected, and before it is opened
    expect(folder.stats.readBytes).toBe(8 + length + smallBytes + 2 * tiny['config.json']!.length)
    expect(folder.stats.openSources).toBe(0)
  })

  it('carries other files over by reference, and names its sources', async () => {
    const files = {
      ...tiny,
      LICENSE: utf8('MIT'),
      'README.md': utf8('# tiny'),
      'train.py': utf8('x'),
      'merges.txt': utf8(''),
    }
    const folder = memoryFolder(files, { modified: 1234 })
    const { extras, sources } = await openFolder(folder)
    const names = [
      'LICENSE',
      'README.md',
      'generation_config.json',
      'merges.txt',
      'tokenizer.json',
      'tokenizer_config.json',
    ]
    expect([...extras.keys()]).toEqual(names)
    expect(extras.get('README.md')).toEqual({ op: 'read', dtype: 'u8', shape: [6], file: 'README.md', offset: 0 })
    expect(sources).toEqual(
      ['model.safetensors', 'config.json', ...names].map((path) => ({
        path,
        size: files[path as keyof typeof files]!.length,
        modified: 1234,
      })),
    )
  })
})

describe.skipIf(noShared)('the shared models (../shared)', () => {
  it.each([...SHARED_MODELS, 'opt', 'distilbert'])('%s opens, weights by role', async (name) => {
    const files = sharedFiles(name)
    const folder = memoryFolder(files, { name })
    const checkpoint = await openFolder(folder)
    expect(checkpoint.name).toBe(name)
    expect(checkpoint.findings).toEqual([])
    await expectSameWeights(checkpoint, files, files['model.safetensors']!)
    const weights = files['model.safetensors']!.length + files['reference.safetensors']!.length
    const rest = Object.values(files).reduce((total, bytes) => total + bytes.length, 0) - weights
    expect(folder.stats.readBytes).toBeLessThan(rest + 10_000)
  })

  it.each(['vit', 'resnet'])('%s, which is not described, opens as tensors under their own names', async (name) => {
    const files = sharedFiles(name)
    const checkpoint = await openFiles(files)
    const [className] = jsonOf(files, 'config.json')['architectures'] as string[]
    expect(checkpoint).toMatchObject({ architecture: NO_ARCHITECTURE, config: { className } })
    const stored = rawTensors(files['model.safetensors']!)
    expect([...checkpoint.tensors.keys()].toSorted()).toEqual(stored.map((tensor) => tensor.name).toSorted())
    expect(checkpoint.findings).toContainEqual(
      expect.objectContaining({ code: 'architecture-unknown', message: expect.stringContaining(className!) as string }),
    )
    expect(() => requireArchitecture(checkpoint, 'GGUF')).toThrow(className!)
  })

  it('quantised weights of an architecture that is not described are refused by name', async () => {
    const files = edit(tinyLlama(), 'config.json', {
      architectures: ['YodaForCausalLM'],
      model_type: 'yoda',
      quantization_config: { quant_method: 'gptq', bits: 4, group_size: 128 },
    })
    const error = await failure(files)
    expect(error.code).toBe('unsupported')
    expect(error.message).toContain('YodaForCausalLM')
  })
})

describe('finding the model', () => {
  const below = (files: Files, root: string): Files =>
    Object.fromEntries(Object.entries(files).map(([path, bytes]) => [root + path, bytes]))

  it('finds it in a folder below', async () => {
    const files = { ...below(tiny, 'models/snapshots/abc/'), 'models/refs/main': utf8('abc') }
    const checkpoint = await openFiles(files)
    expect(checkpoint.name).toBe('abc')
    expect(checkpoint.sources[0]!.path).toBe('models/snapshots/abc/model.safetensors')
    expect([...checkpoint.extras.keys()]).toContain('tokenizer.json')
    expect(checkpoint.tokenizer?.tokens).toHaveLength(300)
    await expectSameWeights(checkpoint, files, tiny['model.safetensors']!)
  })

  it('names the models where there are several', async () => {
    const files = { ...below(tiny, 'a/'), ...below(tiny, 'b/') }
    expect(await huggingface.detect(memoryFolder(files))).toMatchObject({ because: '2 models in folders of their own' })
    expect(await failure(files)).toMatchObject({ code: 'not-a-model', hint: 'Open one of them: a, b.' })
  })

  it('is not misled by a LoRA adapter in a folder below', async () => {
    const files = { ...tiny, 'lora/adapter_config.json': jsonBytes({}), 'lora/adapter_model.safetensors': utf8('x') }
    expect((await openFiles(files)).tensors.size).toBe(21)
  })

  it('is nothing that it knows without config or weights', async () => {
    expect(await huggingface.detect(memoryFolder({ 'a.txt': utf8('x'), 'model.gguf': utf8('GGUF') }))).toBeNull()
    const open = huggingface.open!
    const match = (await huggingface.detect(memoryFolder(tiny)))!
    await expect(open(memoryFolder({ 'a.txt': utf8('x') }), match)).rejects.toMatchObject({ code: 'not-a-model' })
  })

  it('asks for config.json where there are weights only', async () => {
    const error = await failure({ 'weights.safetensors': tiny['model.safetensors']! })
    expect(error).toMatchObject({ code: 'missing-file', where: { file: 'config.json' } })
    expect(error.hint).toContain('whole folder')
  })

  it('asks for weights where there is config.json only', async () => {
    const error = await failure(without(tiny, 'model.safetensors'))
    expect(error).toMatchObject({ code: 'missing-file', where: { file: 'model.safetensors' } })
  })

  it.each([
    ['adapter_model.safetensors', 'LoRA'],
    ['consolidated.safetensors', 'layout'],
    ['consolidated.00.pth', 'layout'],
    ['tf_model.h5', 'TensorFlow'],
    ['model-00001-of-00002.safetensors', 'without their index'],
  ])('refuses %s with what to do', async (path, says) => {
    const error = await failure({ ...without(tiny, 'model.safetensors'), [path]: utf8('x') })
    expect(error.code).toBe('unsupported')
    expect(error.message).toContain(says)
    expect(error.where.file).toBe(path)
    expect(error.hint).toMatch(/[a-z]{4}.*\.$/)
  })

  it('prefers safetensors to what it refuses', async () => {
    const files = { ...tiny, 'pytorch_model.bin': utf8('x'), 'consolidated.safetensors': utf8('x') }
    expect((await openFiles(files)).tensors.size).toBe(21)
  })

  it.each(['model.fp16.safetensors', 'model.bf16.safetensors'])('takes the variant %s', async (path) => {
    const files = { ...without(tiny, 'model.safetensors'), [path]: tiny['model.safetensors']! }
    expect((await openFiles(files)).sources[0]!.path).toBe(path)
  })

  it.each(['model.safetensors.index.fp16.json', 'model.fp16.safetensors.index.json'])(
    'takes the index %s',
    async (path) => {
      const files = sharded(tiny, 2)
      const renamed = {
        ...without(files, 'model.safetensors.index.json'),
        [path]: files['model.safetensors.index.json']!,
      }
      await expectSameWeights(await openFiles(renamed), renamed, tiny['model.safetensors']!)
    },
  )
})

describe('shards', () => {
  const INDEX = 'model.safetensors.index.json'
  const FIRST = 'model-00001-of-00003.safetensors'
  const SECOND = 'model-00002-of-00003.safetensors'
  let files: Files
  beforeAll(() => {
    files = sharded(tiny, 3)
  })

  it('open like one file', async () => {
    const checkpoint = await openFiles(files)
    expect(checkpoint.findings).toEqual([])
    expect(checkpoint.sources.filter(({ path }) => path.endsWith('.safetensors'))).toHaveLength(3)
    await expectSameWeights(checkpoint, files, tiny['model.safetensors']!)
  })

  it('need no total_size', async () => {
    expect((await openFiles(edit(files, INDEX, { metadata: undefined }))).findings).toEqual([])
  })

  it('that are missing are named, with their tensors', async () => {
    const error = await failure(without(files, SECOND))
    expect(error).toMatchObject({ code: 'missing-file', where: { file: SECOND } })
    expect(error.message).toMatch(/model\.layers\.\d\..* and \d+ more/)
  })

  it('that lie outside of the folder are not opened', async () => {
    const map = jsonOf(files, INDEX)['weight_map'] as object
    const error = await failure(
      edit(files, INDEX, { weight_map: { ...map, 'model.norm.weight': '../../secret.safetensors' } }),
    )
    expect(error).toMatchObject({ code: 'missing-file', where: { file: '../../secret.safetensors' } })
  })

  it('that lack a tensor of the index are refused', async () => {
    const map = jsonOf(files, INDEX)['weight_map'] as object
    const error = await failure(edit(files, INDEX, { weight_map: { ...map, 'model.extra': FIRST } }))
    expect(error).toMatchObject({ code: 'missing-tensor', where: { file: FIRST, tensor: 'model.extra' } })
  })

  it('that hold what the index does not list are taken with a warning', async () => {
    const { 'model.norm.weight': _, ...map } = jsonOf(files, INDEX)['weight_map'] as Record<string, string>
    const checkpoint = await openFiles(edit(files, INDEX, { weight_map: map }))
    expect(checkpoint.findings).toMatchObject([{ severity: 'warning', code: 'index-incomplete' }])
    expect(checkpoint.tensors.has('final_norm.weight')).toBe(true)
  })

  it('that share a tensor are refused', async () => {
    const first = rawTensors(files[FIRST]!)
    const second = [...rawTensors(files[SECOND]!), first[0]!]
    const error = await failure({ ...files, [SECOND]: safetensors(second) })
    expect(error).toMatchObject({ code: 'malformed', where: { file: SECOND, tensor: first[0]!.name } })
  })

  it.each([
    ['no weight_map', { weight_map: undefined }],
    ['an empty weight_map', { weight_map: {} }],
    ['a weight_map of numbers', { weight_map: { a: 1 } }],
  ])('with %s are refused', async (_, change) => {
    expect(await failure(edit(files, INDEX, change))).toMatchObject({ code: 'malformed', where: { file: INDEX } })
  })

  it('that are cut short are refused, naming the tensor', async () => {
    const error = await failure({ ...files, [FIRST]: files[FIRST]!.subarray(0, files[FIRST]!.length - 100) })
    expect(error.code).toBe('truncated')
    expect(error.message).toContain('100 bytes')
    expect(error.where.file).toBe(FIRST)
    expect(error.where.tensor).toBeTypeOf('string')
  })
})

describe('tensors', () => {
  it('that are missing are listed', async () => {
    const error = await failure(editWeights(tiny, (all) => all.filter(({ name }) => !name.includes('layers.1'))))
    expect(error).toMatchObject({ code: 'missing-tensor', where: { tensor: 'model.layers.1.input_layernorm.weight' } })
    expect(error.message).toContain('and 5 more')
  })

  it('of another shape are refused with both shapes', async () => {
    const error = await failure(edit(tiny, 'config.json', { intermediate_size: 128 }))
    expect(error).toMatchObject({ code: 'bad-tensor', where: { tensor: 'model.layers.0.mlp.gate_proj.weight' } })
    expect(error.message).toContain('[160, 64]')
    expect(error.message).toContain('[128, 64]')
  })

  it('of an embedding with other rows than vocab_size say what to set', async () => {
    const error = await failure(edit(tiny, 'config.json', { vocab_size: 320 }))
    expect(error).toMatchObject({ code: 'bad-tensor', where: { tensor: 'model.embed_tokens.weight' } })
    expect(error.hint).toContain('set vocab_size to 300')
  })

  it('that nobody expects are left out with a warning', async () => {
    const extra = { name: 'model.extra', dtype: 'f32', shape: [1], data: new Uint8Array(4) } as const
    const checkpoint = await openFiles(editWeights(tiny, (all) => [...all, extra]))
    expect(checkpoint.findings).toMatchObject([
      { severity: 'warning', code: 'tensor-ignored', where: { tensor: 'model.extra' } },
    ])
    expect(checkpoint.tensors.size).toBe(21)
  })

  it('that are buffers are left out silently', async () => {
    const buffer = {
      name: 'model.layers.0.self_attn.rotary_emb.inv_freq',
      dtype: 'f32',
      shape: [1],
      data: new Uint8Array(4),
    } as const
    expect((await openFiles(editWeights(tiny, (all) => [...all, buffer]))).findings).toEqual([])
  })

  it('of integers are no weights', async () => {
    const files = editWeights(tiny, (all) =>
      all.map((tensor) => (tensor.name === 'model.norm.weight' ? { ...tensor, dtype: 'i16' } : tensor)),
    )
    expect(await failure(files)).toMatchObject({ code: 'bad-tensor', where: { tensor: 'model.norm.weight' } })
  })

  it.each(['f64', 'f8_e4m3'] as const)('of %s are not read yet', async (dtype) => {
    const bytes = dtype === 'f64' ? 8 : 1
    const files = editWeights(tiny, (all) =>
      all.map((tensor) =>
        tensor.name === 'model.norm.weight' ? { ...tensor, dtype, data: new Uint8Array(64 * bytes) } : tensor,
      ),
    )
    expect(await failure(files)).toMatchObject({ code: 'unsupported', where: { tensor: 'model.norm.weight' } })
  })

  it('of float16 and float32 are read as they are', async () => {
    const files = editWeights(tiny, (all) =>
      all.map((tensor) => (tensor.name === 'model.norm.weight' ? { ...tensor, dtype: 'f16' } : tensor)),
    )
    expect((await openFiles(files)).tensors.get('final_norm.weight')?.dtype).toBe('f16')
  })

  it('without the prefix of the headless class are found', async () => {
    const files = editWeights(tiny, (all) =>
      all
        .filter(({ name }) => name !== 'lm_head.weight')
        .map(({ name, dtype, shape, data }) => ({ name: name.replace(/^model\./, ''), dtype, shape, data })),
    )
    const base = edit(files, 'config.json', { architectures: ['LlamaModel'], tie_word_embeddings: true })
    const checkpoint = await openFiles(base)
    expect(checkpoint.config.className).toBe('LlamaForCausalLM')
    expect(checkpoint.tensors.size).toBe(20)
    expect(bytesOfRead(base, checkpoint.tensors.get('blocks.1.attn.v.weight')!)).toEqual(
      rawTensors(tiny['model.safetensors']!).find(({ name }) => name === 'model.layers.1.self_attn.v_proj.weight')!
        .data,
    )
  })
})

describe('the tie of head and embedding', () => {
  it('of config.json is followed, though there is a head', async () => {
    const checkpoint = await openFiles(edit(tiny, 'config.json', { tie_word_embeddings: true }))
    expect(checkpoint.config.tied).toBe(true)
    expect(checkpoint.tensors.has('lm_head.weight')).toBe(false)
    expect(checkpoint.findings).toMatchObject([
      { severity: 'warning', code: 'tie-ignored', where: { tensor: 'lm_head.weight' } },
    ])
  })

  it('is missed where there is no head', async () => {
    const error = await failure(editWeights(tiny, (all) => all.filter(({ name }) => name !== 'lm_head.weight')))
    expect(error).toMatchObject({ code: 'missing-tensor', where: { tensor: 'lm_head.weight' } })
    expect(error.hint).toContain('"tie_word_embeddings": true')
  })

  it('is off by default for a Llama', async () => {
    const checkpoint = await openFiles(edit(tiny, 'config.json', { tie_word_embeddings: undefined }))
    expect(checkpoint.config.tied).toBe(false)
    expect(codes(checkpoint)).toEqual([])
  })
})
