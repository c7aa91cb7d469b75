import fc from 'fast-check'
import { existsSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { openPath } from '../../../companion/bytes.ts'
import { readGguf, type GgufHeader } from '../../../src/engines/containers/gguf/reader.ts'
import { ggmlTypeOf, ggmlTypes, type GgufArray, type GgufValue } from '../../../src/engines/containers/gguf/types.ts'
import { ggufLayout, type GgufTensorSpec } from '../../../src/engines/containers/gguf/writer.ts'
import { memoryFolder } from '../../contracts/memory.ts'
import { f32, file, info, kv, sourceOf, str, u32, u64 } from './bytes.ts'

async function read(bytes: Uint8Array): Promise<GgufHeader> {
  return readGguf(await sourceOf(bytes))
}

const VALUES = new Map<string, GgufValue>([
  ['a.u8', { type: 'u8', value: 200 }],
  ['a.i8', { type: 'i8', value: -3 }],
  ['a.u16', { type: 'u16', value: 65_535 }],
  ['a.i16', { type: 'i16', value: -2 }],
  ['a.u32', { type: 'u32', value: 4_000_000_000 }],
  ['a.i32', { type: 'i32', value: -1 }],
  ['a.f32', { type: 'f32', value: 0.5 }],
  ['a.bool', { type: 'bool', value: true }],
  ['a.string', { type: 'string', value: 'Ġ\u{1f600}' }],
  ['a.u64', { type: 'u64', value: 2n ** 63n }],
  ['a.i64', { type: 'i64', value: -5n }],
  ['a.f64', { type: 'f64', value: 0.1 }],
  ['a.strings', { type: 'array', of: 'string', value: ['x', ''] }],
  ['__proto__', { type: 'array', of: 'i32', value: Int32Array.of(1, 3) }],
])

describe('the writer', () => {
  test('golden bytes: every value type, two tensors, padding', () => {
    const layout = ggufLayout(VALUES, [
      { name: 'n', dtype: 'f32', shape: [3] },
      { name: 'token_embd.weight', dtype: 'q8_0', shape: [2, 64] },
    ])
    const expected = file({
      kvs: [
        kv('a.u8', 0, [200]),
        kv('a.i8', 1, [0xfd]),
        kv('a.u16', 2, [0xff, 0xff]),
        kv('a.i16', 3, [0xfe, 0xff]),
        kv('a.u32', 4, u32(4_000_000_000)),
        kv('a.i32', 5, [0xff, 0xff, 0xff, 0xff]),
        kv('a.f32', 6, f32(0.5)),
        kv('a.bool', 7, [1]),
        kv('a.string', 8, u64(6), [0xc4, 0xa0, 0xf0, 0x9f, 0x98, 0x80]),
        kv('a.u64', 10, u64(2n ** 63n)),
        kv('a.i64', 11, u64(2n ** 64n - 5n)),
        kv('a.f64', 12, [0x9a, 0x99, 0x99, 0x99, 0x99, 0x99, 0xb9, 0x3f]),
        kv('a.strings', 9, u32(8), u64(2), str('x'), str('')),
        kv('__proto__', 9, u32(5), u64(2), u32(1), u32(3)),
      ],
      tensors: [info('n', [3], 0, 0), info('token_embd.weight', [64, 2], 8, 32)],
    })
    expect(layout.header).toEqual(expected)
    // 2 rows of 2 blocks of 34 bytes
    expect(layout.tensors).toEqual([
      { offset: expected.length, size: 12 },
      { offset: expected.length + 32, size: 136 },
    ])
    expect(layout.size).toBe(expected.length + 32 + 160)
  })

  test.each<[string, () => unknown]>([
    ['a name of 64 bytes', () => ggufLayout(new Map(), [{ name: 'x'.repeat(64), dtype: 'f32', shape: [1] }])],
    ['five axes', () => ggufLayout(new Map(), [{ name: 'x', dtype: 'f32', shape: [1, 1, 1, 1, 1] }])],
    ['a type that ggml lacks', () => ggufLayout(new Map(), [{ name: 'x', dtype: 'f8_e4m3', shape: [1] }])],
    ['broken blocks', () => ggufLayout(new Map(), [{ name: 'x', dtype: 'q8_0', shape: [2, 48] }])],
    ['a number out of range', () => ggufLayout(new Map([['x', { type: 'u8', value: 256 } as const]]), [])],
    ['an alignment that the keys do not state', () => ggufLayout(new Map(), [], 64)],
    [
      'a repeated name',
      () =>
        ggufLayout(new Map(), [
          { name: 'x', dtype: 'f32', shape: [1] },
          { name: 'x', dtype: 'f32', shape: [1] },
        ]),
    ],
  ])('refuses %s', (_, make) => {
    expect(make).toThrow(RangeError)
  })
})

describe('the reader', () => {
  test('reads what the writer wrote', async () => {
    const tensors: readonly GgufTensorSpec[] = [
      { name: 'a', dtype: 'f32', shape: [3] },
      { name: 'b', dtype: 'q4_k', shape: [2, 3, 256] },
      { name: 'scalar', dtype: 'bf16', shape: [] },
    ]
    const layout = ggufLayout(VALUES, tensors)
    const bytes = new Uint8Array(layout.size)
    bytes.set(layout.header)
    const header = await read(bytes)
    expect(header.metadata).toEqual(VALUES)
    expect(header.version).toBe(3)
    expect(header.alignment).toBe(32)
    expect(header.dataOffset).toBe(layout.header.length)
    expect(
      header.tensors.map(({ name, shape, type, offset, size }) => ({ name, shape, dtype: type.dtype, offset, size })),
    ).toEqual(tensors.map((tensor, index) => ({ ...tensor, ...layout.tensors[index] })))
  })

  test('round trip: any metadata', async () => {
    const text = fc.string({ unit: 'grapheme', maxLength: 20 })
    const array: fc.Arbitrary<GgufArray> = fc.oneof(
      fc.array(text).map((value): GgufArray => ({ type: 'array', of: 'string', value })),
      fc.array(fc.boolean()).map((value): GgufArray => ({ type: 'array', of: 'bool', value })),
      fc.array(fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n })).map((value): GgufArray => ({
        type: 'array',
        of: 'i64',
        value,
      })),
      fc.uint8Array().map((value): GgufArray => ({ type: 'array', of: 'u8', value })),
      fc.float32Array({ noNaN: true }).map((value): GgufArray => ({ type: 'array', of: 'f32', value })),
    )
    const value: fc.Arbitrary<GgufValue> = fc.oneof(
      array,
      fc.array(array, { maxLength: 3 }).map((value): GgufValue => ({ type: 'array', of: 'array', value })),
      text.map((value): GgufValue => ({ type: 'string', value })),
      fc.double().map((value): GgufValue => ({ type: 'f64', value })),
      fc.nat({ max: 0xffff_ffff }).map((value): GgufValue => ({ type: 'u32', value })),
    )
    const keys = fc.string({ minLength: 1, maxLength: 30 })
    await fc.assert(
      fc.asyncProperty(fc.array(fc.tuple(keys, value)), async (pairs) => {
        const metadata = new Map(pairs)
        metadata.delete('general.alignment')
        expect((await read(ggufLayout(metadata, []).header)).metadata).toEqual(metadata)
      }),
    )
  })

  test('reads version 2 and another alignment', async () => {
    const header = await read(
      file({
        version: 2,
        kvs: [kv('general.alignment', 4, u32(64))],
        tensors: [info('a', [3], 0, 64)],
        alignment: 64,
        data: 128,
      }),
    )
    expect(header.version).toBe(2)
    expect(header.tensors[0]!.offset % 64).toBe(0)
    expect(header.tensors[0]!.offset).toBe(header.dataOffset + 64)
  })

  test('reads tensors of types that no kernel here knows, by name', async () => {
    const header = await read(file({ tensors: [info('a', [256], 40, 0)], data: 160 }))
    expect(header.tensors[0]!.type).toEqual({ id: 40, name: 'nvfp4', block: 64, bytes: 36, dtype: null })
    expect(header.tensors[0]!.size).toBe(144)
  })

  test('keeps a byte order mark: it is a token', async () => {
    const metadata = new Map<string, GgufValue>([
      ['t', { type: 'array', of: 'string', value: ['\ufeff', '\ufeff\ufeff'] }],
    ])
    expect((await read(ggufLayout(metadata, []).header)).metadata).toEqual(metadata)
  })

  test('a large vocabulary is read in windows, not whole', async () => {
    const value = Array.from({ length: 200_000 }, (_, i) => `token number ${i}`)
    const template = 'x'.repeat(600_000)
    const layout = ggufLayout(
      new Map<string, GgufValue>([
        ['tokens', { type: 'array', of: 'string', value }],
        ['template', { type: 'string', value: template }],
        ['scores', { type: 'array', of: 'f32', value: new Float32Array(200_000).fill(0.5) }],
      ]),
      [{ name: 'a', dtype: 'f32', shape: [2_000_000] }],
    )
    const bytes = new Uint8Array(layout.size)
    bytes.set(layout.header)
    const folder = memoryFolder({ 'model.gguf': bytes })
    const header = await readGguf(await folder.open('model.gguf'))
    expect(header.metadata.get('tokens')).toEqual({ type: 'array', of: 'string', value })
    expect(header.metadata.get('template')?.value).toBe(template)
    expect(folder.stats.largestRead).toBeLessThanOrEqual(600_000)
    expect(folder.stats.readBytes).toBeLessThan(layout.header.length + 2 * 256 * 1024)
  })
})

describe('types', () => {
  test('every type of ours that ggml has, both ways, with the same block', async () => {
    const { DTYPES } = await import('../../../src/core/dtype.ts')
    for (const type of ggmlTypes()) {
      if (type.dtype === null) continue
      expect(ggmlTypeOf(type.dtype)).toBe(type)
      expect(DTYPES[type.dtype]).toMatchObject({ block: type.block, bytes: type.bytes })
    }
    expect(ggmlTypeOf('u32')).toBeNull()
  })
})

const VOCABULARIES = path.resolve(import.meta.dirname, '../../../../shared/vocab')

describe.skipIf(!existsSync(VOCABULARIES))('files of llama.cpp itself (skipped without ../shared/vocab)', () => {
  test.each([
    ['ggml-vocab-llama-spm.gguf', 'llama', 32_000],
    ['ggml-vocab-gpt-2.gguf', 'gpt2', 50_257],
    ['ggml-vocab-bert-bge.gguf', 'bert', 30_522],
  ])('%s', async (name, model, count) => {
    const folder = await openPath(path.join(VOCABULARIES, name))
    const source = await folder.open(name)
    const header = await readGguf(source)
    await source.close()
    expect(header.metadata.get('tokenizer.ggml.model')).toEqual({ type: 'string', value: model })
    expect(header.metadata.get('tokenizer.ggml.tokens')?.value).toHaveLength(count)
  })
})
