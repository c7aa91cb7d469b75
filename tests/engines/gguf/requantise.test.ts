import { describe, expect, test } from 'vitest'
import type { Folder } from '../../../src/core/bytes.ts'
import type { Checkpoint } from '../../../src/core/checkpoint.ts'
import type { OptionValues } from '../../../src/core/option.ts'
import { cast, read } from '../../../src/core/tensor.ts'
import { readGguf, type GgufHeader } from '../../../src/engines/containers/gguf/reader.ts'
import type { GgufValue } from '../../../src/engines/containers/gguf/types.ts'
import { ggufLayout } from '../../../src/engines/containers/gguf/writer.ts'
import { gguf } from '../../../src/engines/gguf/engine.ts'
import { memoryFolder } from '../../contracts/memory.ts'
import { evaluateNaively } from '../../oracle/naive.ts'
import { filesOf, openFiles, planOf } from './folder.ts'
import { madeUpCheckpoint, type MadeUp } from './made-up.ts'

const SHAPE: MadeUp = { layers: 3, hidden: 256, intermediate: 256, heads: 4, kvHeads: 2, tied: false }

interface Made {
  readonly checkpoint: Checkpoint
  readonly folder: Folder
  readonly bytes: Uint8Array<ArrayBuffer>
}

async function make(quant: string, shape: MadeUp = SHAPE): Promise<Made> {
  const { checkpoint, folder } = madeUpCheckpoint(shape)
  const bytes = Object.values(await filesOf(checkpoint, folder, { quant }))[0]!
  return { bytes, ...(await openFiles({ 'model.gguf': bytes })) }
}

async function only({ checkpoint, folder }: Made, options: OptionValues): Promise<Uint8Array<ArrayBuffer>> {
  return Object.values(await filesOf(checkpoint, folder, options))[0]!
}

async function header(bytes: Uint8Array): Promise<GgufHeader> {
  return readGguf(await memoryFolder({ 'model.gguf': bytes }).open('model.gguf'))
}

function tensorBytes(bytes: Uint8Array, { tensors }: GgufHeader, name: string): Uint8Array {
  const { offset, size } = tensors.find((tensor) => tensor.name === name)!
  return bytes.subarray(offset, offset + size)
}

describe('GGUF to GGUF', () => {
  test.each(['f32', 'bf16', 'q8_0', 'q4_k_m'])('copying %s changes no byte', async (quant) => {
    const made = await make(quant)
    expect(Buffer.compare(await only(made, { quant: 'copy' }), made.bytes)).toBe(0)
  })

  test('f32 to any type is what the original gives, but for the note of how it was made', async () => {
    const exact = await make('f32')
    for (const quant of ['bf16', 'q8_0', 'q4_k_m']) {
      const [direct, after] = [(await make(quant)).bytes, await only(exact, { quant })]
      const [left, right] = [await header(direct), await header(after)]
      expect(right.tensors.map(({ name, type }) => [name, type.name])).toEqual(
        left.tensors.map(({ name, type }) => [name, type.name]),
      )
      for (const { name } of left.tensors)
        expect(Buffer.compare(tensorBytes(after, right, name), tensorBytes(direct, left, name)), name).toBe(0)
      const strip = ({ metadata }: GgufHeader): [string, GgufValue][] =>
        [...metadata].filter(([key]) => key !== 'modelconvert.recipe')
      expect(strip(right)).toEqual(strip(left))
    }
  })

  test('q8_0 to q4_k_m quantises the dequantised values, copies what stays, and says what is lost', async () => {
    const made = await make('q8_0')
    const plan = await planOf(made.checkpoint, { quant: 'q4_k_m' })
    expect(plan.findings).toMatchObject([{ severity: 'warning', code: 'quantised-twice' }])
    expect(plan.findings[0]!.message).toContain('Q8_0')
    const after = await only(made, { quant: 'q4_k_m' })
    const [before, now] = [await header(made.bytes), await header(after)]
    for (const { name, type, shape, offset } of before.tensors) {
      const stored = read({ dtype: type.dtype!, shape }, 'model.gguf', offset)
      const target = now.tensors.find((tensor) => tensor.name === name)!.type.dtype!
      const expected = await evaluateNaively(cast(cast(stored, 'f32'), target), made.folder)
      expect(Buffer.compare(tensorBytes(after, now, name), expected), name).toBe(0)
    }
    expect(now.metadata.get('general.file_type')).toEqual({ type: 'u32', value: 15 })
    const recipe = now.metadata.get('modelconvert.recipe')
    expect(JSON.parse(String(recipe!.value))).toMatchObject({
      from: 'gguf',
      quant: 'q4_k_m',
      before: expect.any(String),
    })
  })

  test('q4_k_m to q4_k_m copies every block', async () => {
    const made = await make('q4_k_m')
    const plan = await planOf(made.checkpoint, { quant: 'q4_k_m' })
    expect(plan.findings).toEqual([])
    const tensors = plan.files[0]!.segments.filter((segment) => segment.kind === 'tensor')
    expect(tensors.every(({ recipe }) => recipe.op === 'read')).toBe(true)
  })

  test('to f32 everything is dequantised and nothing is lost again', async () => {
    const made = await make('q4_k_m')
    expect((await planOf(made.checkpoint, { quant: 'f32' })).findings).toEqual([])
    const after = await header(await only(made, { quant: 'f32' }))
    expect(new Set(after.tensors.map(({ type }) => type.name))).toEqual(new Set(['f32']))
  })

  test('an architecture that nobody described passes, with keys and tensors that nobody knows', async () => {
    const metadata = new Map<string, GgufValue>([
      ['general.architecture', { type: 'string', value: 'quux' }],
      ['general.alignment', { type: 'u32', value: 64 }],
      ['quux.secret', { type: 'array', of: 'u64', value: [1n, 2n ** 60n] }],
      [
        'quux.nested',
        { type: 'array', of: 'array', value: [{ type: 'array', of: 'f64', value: Float64Array.of(0.5) }] },
      ],
      ['tokenizer.ggml.model', { type: 'string', value: 'no_vocab' }],
    ])
    const tensors = [
      { name: 'blk.0.flux.weight', shape: [2, 64], dtype: 'f32' },
      { name: 'ids', shape: [3], dtype: 'i32' },
      { name: 'blk.0.some_norm.weight', shape: [4, 4], dtype: 'f16' },
    ] as const
    const layout = ggufLayout(metadata, tensors, 64)
    const bytes = new Uint8Array(layout.size)
    bytes.set(layout.header)
    const { checkpoint, folder } = await openFiles({ 'quux-F32.gguf': bytes })
    expect(checkpoint).toMatchObject({ architecture: 'none', name: 'quux' })
    expect(checkpoint.findings.map(({ code }) => code)).toContain('gguf-only')
    const copied = Object.values(await filesOf(checkpoint, folder, { quant: 'copy' }))[0]!
    expect(Buffer.compare(copied, bytes)).toBe(0)
    const files = await filesOf(checkpoint, folder, { quant: 'q8_0' })
    expect(Object.keys(files)).toEqual(['quux-Q8_0.gguf'])
    const after = await header(Object.values(files)[0]!)
    expect(after.alignment).toBe(64)
    expect(after.tensors.map(({ type }) => type.name)).toEqual(['q8_0', 'i32', 'f16'])
    for (const [key, value] of metadata) expect(after.metadata.get(key)).toEqual(value)
  })

  test('a checkpoint that was changed on the way is written anew, not copied', async () => {
    const { checkpoint } = await make('f32')
    const changed: Checkpoint = { ...checkpoint, name: 'other' }
    const plan = await planOf(changed, { quant: 'copy' })
    expect(plan.files[0]!.path).toBe('other-F32.gguf')
  })

  test('copying from another format takes the mixture of its own type', async () => {
    const { checkpoint } = madeUpCheckpoint(SHAPE)
    expect((await planOf(checkpoint, { quant: 'copy' })).files[0]!.path).toBe('Made-Up-1B-Instruct-BF16.gguf')
  })
})

describe('editing metadata', () => {
  async function edited(options: OptionValues): Promise<ReadonlyMap<string, GgufValue>> {
    const made = await make('q8_0')
    const bytes = await only(made, { quant: 'copy', ...options })
    const [before, after] = [await header(made.bytes), await header(bytes)]
    for (const { name } of before.tensors)
      expect(Buffer.compare(tensorBytes(bytes, after, name), tensorBytes(made.bytes, before, name)), name).toBe(0)
    return after.metadata
  }

  const good: readonly (readonly [string, string, GgufValue])[] = [
    ['general.name=A name = with signs', 'general.name', { type: 'string', value: 'A name = with signs' }],
    ['general.name=12', 'general.name', { type: 'string', value: '12' }],
    ['llama.context_length=256', 'llama.context_length', { type: 'u32', value: 256 }],
    ['llama.rope.freq_base=1e6', 'llama.rope.freq_base', { type: 'f32', value: 1e6 }],
    ['my.flag=true', 'my.flag', { type: 'bool', value: true }],
    ['my.count=-3', 'my.count', { type: 'i32', value: -3 }],
    ['my.big=5000000000', 'my.big', { type: 'u64', value: 5_000_000_000n }],
    ['my.huge:u64=18446744073709551615', 'my.huge', { type: 'u64', value: 2n ** 64n - 1n }],
    ['my.half=0.5', 'my.half', { type: 'f32', value: 0.5 }],
    ['my.text:string=0.5', 'my.text', { type: 'string', value: '0.5' }],
    ['my.byte:u8=255', 'my.byte', { type: 'u8', value: 255 }],
    ['{"general.tags": ["a", "b"]}', 'general.tags', { type: 'array', of: 'string', value: ['a', 'b'] }],
    ['{"__proto__": "a name like any other"}', '__proto__', { type: 'string', value: 'a name like any other' }],
    ['my.list:array=[1, 2]', 'my.list', { type: 'array', of: 'i32', value: Int32Array.of(1, 2) }],
  ]

  test.each(good)('%s', async (set, key, value) => {
    expect((await edited({ 'set-metadata': set })).get(key)).toEqual(value)
  })

  test('several at once, in place; new keys come last; removed ones go', async () => {
    const before = [...(await edited({})).keys()]
    const after = await edited({
      'set-metadata': ['my.first=1', 'general.name=x', '{"my.second:u8": 2}', 'my.text=two\nlines=2'],
      'remove-metadata': ['modelconvert.recipe', 'general.basename'],
    })
    const kept = before.filter((key) => key !== 'modelconvert.recipe' && key !== 'general.basename')
    expect([...after.keys()]).toEqual([...kept, 'my.first', 'my.second', 'my.text'])
    expect(after.get('my.text')).toEqual({ type: 'string', value: 'two\nlines=2' })
  })

  const bad: readonly (readonly [OptionValues, RegExp])[] = [
    [{ 'set-metadata': 'no sign' }, /cannot be "no sign"/],
    [{ 'set-metadata': '=1' }, /cannot be/],
    [{ 'set-metadata': '{"a": 1' }, /JSON/],
    [{ 'set-metadata': '{"a": {"b": 1}}' }, /is not/],
    [{ 'set-metadata': 'llama.block_count=three' }, /llama.block_count is of the type u32/],
    [{ 'set-metadata': 'llama.block_count=-1' }, /type u32/],
    [{ 'set-metadata': 'my.byte:u8=256' }, /type u8/],
    [{ 'set-metadata': 'my.huge:u64=18446744073709551616' }, /type u64/],
    [{ 'set-metadata': 'my.small:f32=1e39' }, /type f32/],
    [{ 'set-metadata': 'general.alignment=64' }, /general.alignment cannot be edited/],
    [{ 'remove-metadata': 'general.architecture' }, /general.architecture cannot be edited/],
    [{ 'set-metadata': 'split.count=2' }, /split.count cannot be edited/],
    [{ 'remove-metadata': 'not.there' }, /there is no key not.there/],
    [{ 'remove-metadata': 'tokenizer.ggml.tokens' }, /llama.cpp would refuse/],
    [{ 'set-metadata': 'llama.block_count=4' }, /llama.cpp would refuse/],
    [{ 'set-metadata': 'tokenizer.ggml.bos_token_id=99' }, /llama.cpp would refuse/],
  ]

  test.each(bad)('%j is refused', async (options, says) => {
    const { checkpoint } = await make('q8_0')
    const error: unknown = await planOf(checkpoint, { quant: 'copy', ...options }).catch((thrown: unknown) => thrown)
    expect(error).toMatchObject({ code: 'bad-option', message: expect.stringMatching(says) })
  })

  test('a model whose own header is faulty is refused as such', async () => {
    const { bytes } = await make('f32')
    const { metadata, tensors } = await header(bytes)
    const without = new Map([...metadata].filter(([key]) => key !== 'tokenizer.ggml.merges'))
    const layout = ggufLayout(
      new Map([
        ...without,
        ['tokenizer.ggml.bos_token_id', { type: 'u32', value: 99 }],
        ['tokenizer.ggml.model', { type: 'string', value: 'llama' }],
        ['tokenizer.ggml.scores', { type: 'array', of: 'f32', value: new Float32Array(16) }],
      ]),
      tensors.map(({ name, shape }) => ({ name, shape, dtype: 'f32' })),
    )
    const file = new Uint8Array(layout.size)
    file.set(layout.header)
    const { checkpoint } = await openFiles({ 'model.gguf': file })
    await expect(gguf.convert!(checkpoint, { quant: 'copy' }, new Map())).rejects.toMatchObject({
      code: 'malformed',
      message: expect.stringContaining('bos_token_id is 99'),
    })
  })
})
