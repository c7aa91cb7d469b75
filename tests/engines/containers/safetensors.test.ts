import { existsSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { DType } from '../../../src/core/dtype.ts'
import { AppError, type ErrorCode } from '../../../src/core/errors.ts'
import {
  MAX_HEADER_BYTES,
  readSafetensorsHeader,
  safetensorsHeader,
  type SafetensorsHeader,
} from '../../../src/engines/containers/safetensors.ts'
import { memoryFolder } from '../../contracts/memory.ts'

const FILE = 'model.safetensors'
const utf8 = (text: string): Uint8Array => new TextEncoder().encode(text)

function fileOf(header: string | Uint8Array, data: number | Uint8Array, claimed?: bigint): Uint8Array {
  const json = typeof header === 'string' ? utf8(header) : header
  const buffer = typeof data === 'number' ? new Uint8Array(data) : data
  const bytes = new Uint8Array(8 + json.length + buffer.length)
  new DataView(bytes.buffer).setBigUint64(0, claimed ?? BigInt(json.length), true)
  bytes.set(json, 8)
  bytes.set(buffer, 8 + json.length)
  return bytes
}

async function parse(bytes: Uint8Array): Promise<SafetensorsHeader> {
  const source = await memoryFolder({ [FILE]: bytes }).open(FILE)
  return readSafetensorsHeader(source)
}

async function failure(bytes: Uint8Array): Promise<AppError> {
  const error: unknown = await parse(bytes).then(
    () => null,
    (thrown: unknown) => thrown,
  )
  expect(error).toBeInstanceOf(AppError)
  return error as AppError
}

const entry = (dtype: unknown, shape: unknown, offsets: unknown): string =>
  JSON.stringify({ dtype, shape, data_offsets: offsets })
const one = (dtype: unknown, shape: unknown, offsets: unknown): string => `{"a":${entry(dtype, shape, offsets)}}`
const two = (a: string, b: string): string => `{"a":${a},"b":${b}}`
const f32 = (shape: number[], begin: number, end: number): string => entry('F32', shape, [begin, end])

interface Hostile {
  readonly name: string
  readonly bytes: Uint8Array
  readonly code: ErrorCode
  /** What the message must say. */
  readonly says: RegExp
  readonly tensor?: string
}

const HOSTILE: readonly Hostile[] = [
  { name: 'empty file', bytes: new Uint8Array(0), code: 'truncated', says: /ends 8 bytes before/ },
  { name: 'half a length', bytes: new Uint8Array(5), code: 'truncated', says: /ends 3 bytes before/ },
  {
    name: 'length beyond 2^53',
    bytes: fileOf('{}', 0, 2n ** 63n),
    code: 'malformed',
    says: /9223372036854775808 bytes/,
  },
  { name: 'length of all ones', bytes: fileOf('{}', 0, 2n ** 64n - 1n), code: 'malformed', says: /at most 100000000/ },
  { name: 'length beyond 100 MB', bytes: fileOf('{}', 0, 100_000_001n), code: 'malformed', says: /100000001/ },
  {
    name: 'length beyond the file',
    bytes: fileOf('{}', 0, 20n),
    code: 'truncated',
    says: /ends 18 bytes before its header/,
  },
  { name: 'no header at all', bytes: fileOf('', 0), code: 'malformed', says: /does not start with/ },
  { name: 'leading space', bytes: fileOf(' {}', 0), code: 'malformed', says: /does not start with/ },
  { name: 'a list', bytes: fileOf('[]', 0), code: 'malformed', says: /does not start with/ },
  { name: 'a byte order mark', bytes: fileOf('\ufeff{}', 0), code: 'malformed', says: /does not start with/ },
  { name: 'cut JSON', bytes: fileOf('{"a":', 0), code: 'malformed', says: /not valid JSON/ },
  { name: 'text after the JSON', bytes: fileOf('{} x', 0), code: 'malformed', says: /text after the end/ },
  { name: 'NUL padding', bytes: fileOf('{}\0\0', 0), code: 'malformed', says: /text after the end/ },
  { name: 'not UTF-8', bytes: fileOf(Uint8Array.of(0x7b, 0xff, 0x7d), 0), code: 'malformed', says: /not UTF-8/ },
  {
    name: 'a tensor twice',
    bytes: fileOf(`{"a":${f32([1], 0, 4)},"a":${f32([1], 4, 8)}}`, 8),
    code: 'malformed',
    says: /"a" occurs twice/,
  },
  {
    name: 'a key twice in an entry',
    bytes: fileOf('{"a":{"dtype":"F32","dtype":"F16","shape":[1],"data_offsets":[0,4]}}', 4),
    code: 'malformed',
    says: /"dtype" occurs twice/,
  },
  {
    name: 'metadata twice',
    bytes: fileOf('{"__metadata__":{},"__metadata__":{}}', 0),
    code: 'malformed',
    says: /twice/,
  },
  { name: 'metadata a list', bytes: fileOf('{"__metadata__":[]}', 0), code: 'malformed', says: /must be an object/ },
  {
    name: 'metadata of numbers',
    bytes: fileOf('{"__metadata__":{"n":1}}', 0),
    code: 'malformed',
    says: /holds n, which is not text/,
  },
  { name: 'an entry of text', bytes: fileOf('{"a":"F32"}', 0), code: 'malformed', says: /not described by an object/ },
  {
    name: 'no dtype',
    bytes: fileOf('{"a":{"shape":[],"data_offsets":[0,4]}}', 4),
    code: 'malformed',
    says: /type none/,
  },
  { name: 'unknown dtype', bytes: fileOf(one('F33', [1], [0, 4]), 4), code: 'malformed', says: /F33/, tensor: 'a' },
  { name: 'dtype in lower case', bytes: fileOf(one('f32', [1], [0, 4]), 4), code: 'malformed', says: /f32/ },
  {
    name: 'no shape',
    bytes: fileOf('{"a":{"dtype":"F32","data_offsets":[0,4]}}', 4),
    code: 'malformed',
    says: /shape/,
  },
  { name: 'negative size', bytes: fileOf(one('F32', [-1], [0, 4]), 4), code: 'malformed', says: /whole numbers/ },
  { name: 'fractional size', bytes: fileOf(one('F32', [1.5], [0, 6]), 6), code: 'malformed', says: /whole numbers/ },
  { name: 'size of text', bytes: fileOf(one('F32', ['1'], [0, 4]), 4), code: 'malformed', says: /whole numbers/ },
  { name: 'size of 2^53', bytes: fileOf(one('F32', [2 ** 53], [0, 4]), 4), code: 'malformed', says: /whole numbers/ },
  {
    name: 'size infinite',
    bytes: fileOf('{"a":{"dtype":"F32","shape":[Infinity],"data_offsets":[0,4]}}', 4),
    code: 'malformed',
    says: /whole/,
  },
  {
    name: 'shape that overflows',
    bytes: fileOf(one('F32', [2 ** 32, 2 ** 32], [0, 4]), 4),
    code: 'malformed',
    says: /too many elements/,
  },
  {
    // 2^62 elements of 4 bytes are 0 modulo 2^64: a C reader would take it for empty
    name: 'size that wraps to zero',
    bytes: fileOf(one('F32', [2 ** 31, 2 ** 31], [0, 0]), 0),
    code: 'malformed',
    says: /too many elements/,
  },
  {
    name: 'bytes beyond 2^53 in elements below it',
    bytes: fileOf(one('F64', [2 ** 52], [0, 8]), 8),
    code: 'malformed',
    says: /needs 36028797018963968 bytes, but has 8/,
  },
  {
    name: 'too many axes',
    bytes: fileOf(
      one(
        'F32',
        Array.from({ length: 65 }, () => 1),
        [0, 4],
      ),
      4,
    ),
    code: 'malformed',
    says: /at most 64/,
  },
  {
    name: 'no offsets',
    bytes: fileOf('{"a":{"dtype":"F32","shape":[1]}}', 4),
    code: 'malformed',
    says: /data_offsets/,
  },
  { name: 'three offsets', bytes: fileOf(one('F32', [1], [0, 4, 8]), 8), code: 'malformed', says: /data_offsets/ },
  { name: 'offsets that descend', bytes: fileOf(one('F32', [1], [4, 0]), 4), code: 'malformed', says: /ascending/ },
  { name: 'negative offset', bytes: fileOf(one('F32', [1], [-4, 0]), 4), code: 'malformed', says: /data_offsets/ },
  { name: 'fractional offset', bytes: fileOf(one('F32', [1], [0.5, 4.5]), 8), code: 'malformed', says: /data_offsets/ },
  {
    name: 'offset beyond 2^53',
    bytes: fileOf('{"a":{"dtype":"F32","shape":[1],"data_offsets":[9007199254740993,9007199254740997]}}', 4),
    code: 'malformed',
    says: /below 2\^53/,
  },
  {
    name: 'offset that passes 2^53 with the header',
    bytes: fileOf(one('U8', [1], [2 ** 53 - 2, 2 ** 53 - 1]), 1),
    code: 'malformed',
    says: /beyond 2\^53/,
  },
  {
    name: 'size and shape disagree',
    bytes: fileOf(one('F32', [2], [0, 4]), 4),
    code: 'malformed',
    says: /needs 8 bytes, but has 4/,
    tensor: 'a',
  },
  { name: 'a scalar of no bytes', bytes: fileOf(one('F32', [], [0, 0]), 0), code: 'malformed', says: /needs 4 bytes/ },
  {
    name: 'bytes for an empty shape',
    bytes: fileOf(one('F32', [0, 5], [0, 4]), 4),
    code: 'malformed',
    says: /needs 0 bytes/,
  },
  {
    name: 'half bytes',
    bytes: fileOf(one('F4', [3], [0, 2]), 2),
    code: 'malformed',
    says: /12 bits, which are not whole/,
  },
  {
    name: 'overlap',
    bytes: fileOf(two(f32([2], 0, 8), f32([2], 4, 12)), 12),
    code: 'malformed',
    says: /b in model.safetensors overlaps a by 4 bytes/,
    tensor: 'b',
  },
  {
    name: 'the same bytes twice',
    bytes: fileOf(two(f32([1], 0, 4), f32([1], 0, 4)), 4),
    code: 'malformed',
    says: /overlaps/,
    tensor: 'b',
  },
  {
    name: 'a hole',
    bytes: fileOf(two(f32([1], 0, 4), f32([1], 8, 12)), 12),
    code: 'malformed',
    says: /leaves a hole of 4 bytes after a/,
    tensor: 'b',
  },
  {
    name: 'a hole before the first',
    bytes: fileOf(one('F32', [1], [4, 8]), 8),
    code: 'malformed',
    says: /hole of 4 bytes after the header/,
  },
  {
    name: 'bytes after the last',
    bytes: fileOf(one('F32', [1], [0, 4]), 7),
    code: 'malformed',
    says: /3 bytes after its last/,
  },
  { name: 'bytes without tensors', bytes: fileOf('{}', 1), code: 'malformed', says: /1 bytes after its last/ },
  {
    name: 'data cut short',
    bytes: fileOf(one('F32', [4], [0, 16]), 11),
    code: 'truncated',
    says: /ends 5 bytes before/,
    tensor: 'a',
  },
  {
    name: 'a type that is not converted',
    bytes: fileOf(one('C64', [1], [0, 8]), 8),
    code: 'unsupported',
    says: /stored as C64/,
    tensor: 'a',
  },
  { name: 'F4', bytes: fileOf(one('F4', [4], [0, 2]), 2), code: 'unsupported', says: /stored as F4/ },
  {
    name: 'a Git LFS pointer',
    bytes: utf8('version https://git-lfs.github.com/spec/v1\n'),
    code: 'malformed',
    says: /Git LFS/,
  },
  {
    name: 'deep nesting',
    bytes: fileOf(`{"a":${'['.repeat(5000)}${']'.repeat(5000)}}`, 0),
    code: 'malformed',
    says: /levels/,
  },
]

describe('a header that breaks the rules', () => {
  it.each(HOSTILE)('is refused: $name', async ({ bytes, code, says, tensor }) => {
    const error = await failure(bytes)
    expect(error.code).toBe(code)
    expect(error.message).toMatch(says)
    expect(error.where.file).toBe(FILE)
    expect(error.where.offset).toBeTypeOf('number')
    if (tensor !== undefined) expect(error.where.tensor).toBe(tensor)
    expect(error.hint).not.toBeNull()
  })

  it('allocates nothing for a claim that the file cannot keep', async () => {
    const folder = memoryFolder({ [FILE]: fileOf('{}', 0, BigInt(MAX_HEADER_BYTES)) })
    await expect(readSafetensorsHeader(await folder.open(FILE))).rejects.toMatchObject({ code: 'truncated' })
    expect(folder.stats.readBytes).toBe(8)
  })

  it('keeps messages short for names of megabytes', async () => {
    const error = await failure(fileOf(`{"${'x'.repeat(1 << 20)}":1}`, 0))
    expect(error.message.length).toBeLessThan(1000)
    expect(error.where.tensor?.length).toBeLessThan(1000)
  })

  it('throws nothing but AppErrors, whatever byte is changed', async () => {
    const good = fileOf(two(f32([2], 0, 8), entry('BF16', [3], [8, 14])), 14)
    await fc.assert(
      fc.asyncProperty(fc.nat(good.length - 1), fc.nat(255), async (at, value) => {
        const bytes = good.slice()
        bytes[at] = value
        const outcome: unknown = await parse(bytes).catch((error: unknown) => error)
        if (outcome instanceof Error) expect(outcome).toBeInstanceOf(AppError)
        else expect((outcome as SafetensorsHeader).entries).toHaveLength(2)
      }),
      { numRuns: 500 },
    )
  })
})

describe('a legal header', () => {
  it('may be empty', async () => {
    expect(await parse(fileOf('{}', 0))).toEqual({ entries: [], metadata: new Map(), length: 10 })
  })

  it('may end with spaces', async () => {
    expect((await parse(fileOf('{}      ', 0))).length).toBe(16)
  })

  it('gives absolute offsets by position, with metadata', async () => {
    const json = `{"__metadata__":{"format":"pt"},"b":${f32([1], 6, 10)},"a":${entry('BF16', [3, 1], [0, 6])}}`
    const header = await parse(fileOf(json, 10))
    const start = 8 + json.length
    expect(header.metadata).toEqual(new Map([['format', 'pt']]))
    expect(header.entries).toEqual([
      { name: 'a', dtype: 'bf16', shape: [3, 1], offset: start, bytes: 6 },
      { name: 'b', dtype: 'f32', shape: [1], offset: start + 6, bytes: 4 },
    ])
  })

  it('may have scalars, empty tensors, and __proto__ for a name', async () => {
    const json = `{"__proto__":${f32([], 0, 4)},"empty":${entry('F16', [3, 0, 2 ** 40], [4, 4])},"":${entry('BOOL', [1], [4, 5])}}`
    const { entries } = await parse(fileOf(json, 5))
    expect(entries.map(({ name, bytes }) => [name, bytes])).toEqual([
      ['__proto__', 4],
      ['empty', 0],
      ['', 1],
    ])
  })

  it('reads the header and nothing else', async () => {
    const bytes = fileOf(one('U8', [1000], [0, 1000]), 1000)
    const folder = memoryFolder({ [FILE]: bytes })
    await readSafetensorsHeader(await folder.open(FILE))
    expect(folder.stats.readBytes).toBe(bytes.length - 1000)
  })
})

describe('the header writer', () => {
  const DTYPES: readonly DType[] = [
    'bool',
    'u8',
    'i8',
    'f8_e4m3',
    'f8_e5m2',
    'u16',
    'i16',
    'f16',
    'bf16',
    'u32',
    'i32',
    'f32',
    'u64',
    'i64',
    'f64',
  ]

  it('is read back as it was meant', async () => {
    const tensor = fc.record({
      dtype: fc.constantFrom(...DTYPES),
      shape: fc.array(fc.nat(5), { maxLength: 4 }),
    })
    const names = fc.uniqueArray(fc.string({ unit: 'grapheme' }), { maxLength: 8 })
    await fc.assert(
      fc.asyncProperty(names, fc.array(tensor, { minLength: 8, maxLength: 8 }), async (keys, infos) => {
        const tensors = keys
          .filter((name) => name !== '__metadata__')
          .map((name, index) => Object.assign({ name }, infos[index]!))
        const { bytes, entries } = safetensorsHeader(tensors, new Map([['format', 'pt']]))
        const last = entries.at(-1)
        const file = new Uint8Array(last === undefined ? bytes.length : last.offset + last.bytes)
        file.set(bytes)
        const header = await parse(file)
        expect(bytes.length % 8).toBe(0)
        expect(header.metadata.get('format')).toBe('pt')
        const byName = (list: readonly { name: string }[]): unknown[] =>
          [...list].sort((a, b) => (a.name < b.name ? -1 : 1))
        expect(byName(header.entries)).toEqual(byName(entries))
        for (const { dtype, offset, bytes: size, shape } of header.entries) {
          const count = shape.reduce((product, axis) => product * axis, 1)
          if (count > 0) expect(offset % (size / count), dtype).toBe(0)
        }
      }),
    )
  })

  it('orders by type, widest first, then by UTF-8 name', () => {
    const info = (name: string, dtype: DType) => ({ name, dtype, shape: [1] })
    const tensors = [
      info('b', 'bf16'),
      info('\u{1f600}', 'f32'),
      info('\uffff', 'f32'),
      info('a', 'bf16'),
      info('z', 'i64'),
    ]
    const { entries } = safetensorsHeader(tensors, new Map())
    expect(entries.map(({ name }) => name)).toEqual(['z', '\uffff', '\u{1f600}', 'a', 'b'])
  })

  it('refuses block types', () => {
    expect(() => safetensorsHeader([{ name: 'a', dtype: 'q4_k', shape: [256] }], new Map())).toThrow(RangeError)
  })

  const shared = fileURLToPath(new URL('../../../../shared/models/', import.meta.url))
  const models = ['main', 'llama-spm', 'llama3-tied', 'mistral', 'qwen2', 'qwen3', 'gpt2', 'bert', 't5', 'resnet']
  it.skipIf(!existsSync(shared))('writes the bytes that the reference wrote (needs the shared models)', async () => {
    for (const model of models) {
      for (const name of ['model.safetensors', 'reference.safetensors']) {
        const path = `${shared}${model}/${name}`
        if (!existsSync(path)) continue
        const bytes = Uint8Array.from(readFileSync(path))
        const header = await parse(bytes)
        const written = safetensorsHeader(header.entries.toReversed(), header.metadata)
        expect(Buffer.from(written.bytes).equals(bytes.subarray(0, header.length)), path).toBe(true)
        expect(written.entries).toEqual(header.entries)
      }
    }
  })
})
