import { describe, expect, test } from 'vitest'
import { AppError, type ErrorCode } from '../../../src/core/errors.ts'
import { readGguf } from '../../../src/engines/containers/gguf/reader.ts'
import { file, info, kv, sourceOf, str, u32, u64, type FileParts } from './bytes.ts'

/** A file that is right in every respect. */
const GOOD: FileParts = {
  kvs: [kv('general.architecture', 8, str('llama')), kv('n', 4, u32(1))],
  tensors: [info('a', [32, 2], 0, 0), info('b', [32], 8, 256)],
  data: 320,
}

const NESTED = (depth: number): number[] =>
  depth === 0 ? [...u32(0), ...u64(0)] : [...u32(9), ...u64(1), ...NESTED(depth - 1)]

const TOO_MUCH = 2n ** 62n

type Case = readonly [what: string, bytes: Uint8Array, code: ErrorCode, says: RegExp]

const cases: readonly Case[] = [
  ['an empty file', new Uint8Array(0), 'truncated', /the magic/],
  ['three bytes', Uint8Array.of(0x47, 0x47, 0x55), 'truncated', /the magic/],
  ['another magic', file({ ...GOOD, magic: [0x50, 0x4b, 3, 4] }), 'not-a-model', /does not start with "GGUF"/],
  ['the magic of GGML', file({ ...GOOD, magic: [0x6c, 0x6d, 0x67, 0x67] }), 'not-a-model', /does not start/],
  ['a magic alone', Uint8Array.of(0x47, 0x47, 0x55, 0x46), 'truncated', /the version/],
  ['version 0', file({ ...GOOD, version: 0 }), 'unsupported', /version 0/],
  ['version 1', file({ ...GOOD, version: 1 }), 'unsupported', /version 1/],
  ['version 4', file({ ...GOOD, version: 4 }), 'unsupported', /version 4/],
  ['big endian', file({ ...GOOD, version: 0x0300_0000 }), 'unsupported', /big-endian/],
  ['no counts', file({ ...GOOD }).subarray(0, 20), 'truncated', /the counts/],
  ['2^62 keys', file({ ...GOOD, kvCount: TOO_MUCH }), 'malformed', /number of metadata keys/],
  ['2^64-1 tensors', file({ ...GOOD, tensorCount: 2n ** 64n - 1n }), 'malformed', /number of tensors/],
  ['more keys than there are', file({ kvCount: 60_000 }), 'truncated', /ends within/],
  ['more tensors than there are', file({ tensorCount: 200_000 }), 'truncated', /ends within/],
  ['a key of 2^62 bytes', file({ kvs: [[...u64(TOO_MUCH)]], data: 32 }), 'malformed', /length of the name of key 0/],
  ['a key beyond the file', file({ kvs: [[...u64(60_000)]], data: 32 }), 'truncated', /name of key 0/],
  ['a key without a name', file({ kvs: [kv('', 4, u32(1))] }), 'malformed', /key 0 has no name/],
  ['a key that is not UTF-8', file({ kvs: [[...u64(2), 0xff, 0xfe, ...u32(4), ...u32(0)]] }), 'malformed', /UTF-8/],
  ['a key twice', file({ kvs: [kv('k', 4, u32(1)), kv('k', 4, u32(2))] }), 'malformed', /key k occurs twice/],
  ['an unknown value type', file({ kvs: [kv('k', 13, u64(0))] }), 'malformed', /k has the unknown value type 13/],
  ['a boolean of 2', file({ kvs: [kv('k', 7, [2])] }), 'malformed', /k is a boolean of value 2/],
  ['a string of 1 GiB', file({ kvs: [kv('k', 8, u64(2 ** 30))] }), 'malformed', /length of k is 1073741824/],
  ['a string beyond the file', file({ kvs: [kv('k', 8, u64(2 ** 20))] }), 'truncated', /ends within k/],
  ['an array of 2^62', file({ kvs: [kv('k', 9, u32(4), u64(TOO_MUCH))] }), 'malformed', /length of k/],
  ['an array beyond the file', file({ kvs: [kv('k', 9, u32(4), u64(2 ** 24))] }), 'truncated', /ends within k/],
  ['strings beyond the file', file({ kvs: [kv('k', 9, u32(8), u64(2 ** 24))] }), 'truncated', /ends within k/],
  ['arrays 40 deep', file({ kvs: [kv('k', 9, NESTED(40))] }), 'malformed', /nests arrays/],
  ['2^24 arrays in one', file({ kvs: [kv('k', 9, u32(9), u64(2 ** 24))] }), 'malformed', /length of k/],
  ['an alignment of 0', file({ ...GOOD, kvs: [kv('general.alignment', 4, u32(0))] }), 'malformed', /general.alignment/],
  [
    'an alignment of 33',
    file({ ...GOOD, kvs: [kv('general.alignment', 4, u32(33))] }),
    'malformed',
    /general.alignment/,
  ],
  [
    'an alignment of 2 GiB',
    file({ ...GOOD, kvs: [kv('general.alignment', 4, u32(2 ** 31))] }),
    'malformed',
    /alignment/,
  ],
  [
    'an alignment in u64',
    file({ ...GOOD, kvs: [kv('general.alignment', 10, u64(32))] }),
    'malformed',
    /instead of u32/,
  ],
  ['a tensor without a name', file({ tensors: [info('', [32], 0, 0)], data: 128 }), 'malformed', /has no name/],
  [
    'a tensor name of 64 bytes',
    file({ tensors: [info('x'.repeat(64), [1], 0, 0)], data: 32 }),
    'malformed',
    /name of tensor/,
  ],
  [
    'a tensor twice',
    file({ tensors: [info('a', [1], 0, 0), info('a', [1], 0, 32)], data: 64 }),
    'malformed',
    /a occurs twice/,
  ],
  ['five axes', file({ tensors: [info('a', [1, 1, 1, 1, 1], 0, 0)], data: 32 }), 'malformed', /5 axes/],
  ['2^32-1 axes', file({ tensors: [[...str('a'), ...u32(0xffff_ffff)]], data: 64 }), 'malformed', /4294967295 axes/],
  ['an axis of 2^62', file({ tensors: [info('a', [TOO_MUCH], 0, 0)], data: 32 }), 'malformed', /axis of a/],
  [
    '2^100 elements',
    file({ tensors: [info('a', [2 ** 50, 2 ** 50], 0, 0)], data: 32 }),
    'malformed',
    /too many elements/,
  ],
  ['an unknown type', file({ tensors: [info('a', [32], 999, 0)], data: 128 }), 'malformed', /unknown type 999/],
  ['a type that was removed', file({ tensors: [info('a', [32], 4, 0)], data: 128 }), 'unsupported', /q4_2/],
  ['half a block', file({ tensors: [info('a', [48], 8, 0)], data: 128 }), 'malformed', /not whole blocks/],
  ['an offset between', file({ tensors: [info('a', [1], 0, 4)], data: 64 }), 'malformed', /no multiple of 32/],
  [
    'an offset beyond the file',
    file({ tensors: [info('a', [1], 0, 2 ** 40)], data: 32 }),
    'truncated',
    /a ends at byte/,
  ],
  [
    'an offset of 2^64-32',
    file({ tensors: [info('a', [1], 0, 2n ** 64n - 32n)], data: 32 }),
    'truncated',
    /a ends at byte/,
  ],
  ['a tensor cut short', file(GOOD).subarray(0, -40), 'truncated', /b ends at byte/],
  [
    'overlapping tensors',
    file({ tensors: [info('a', [32], 0, 0), info('b', [32], 0, 96)], data: 256 }),
    'malformed',
    /b overlaps a/,
  ],
  [
    'two tensors in one place',
    file({ tensors: [info('a', [8], 0, 0), info('b', [8], 0, 0)], data: 64 }),
    'malformed',
    /overlaps/,
  ],
]

describe('hostile GGUF headers', () => {
  test('the file that they are made from is good', async () => {
    const header = await readGguf(await sourceOf(file(GOOD)))
    expect(header.tensors.map(({ name, size }) => [name, size])).toEqual([
      ['a', 256],
      ['b', 34],
    ])
  })

  test.each(cases)('%s', async (_, bytes, code, says) => {
    const before = process.memoryUsage().heapUsed
    const error: unknown = await readGguf(await sourceOf(bytes)).then(
      () => null,
      (thrown: unknown) => thrown,
    )
    expect(error).toBeInstanceOf(AppError)
    const { code: found, message, where, hint } = error as AppError
    expect(found, message).toBe(code)
    expect(message).toMatch(says)
    expect(where.file ?? where.tensor).toBeDefined()
    expect(where.offset).toBeTypeOf('number')
    expect(hint).not.toBeNull()
    expect(process.memoryUsage().heapUsed - before).toBeLessThan(64 * 2 ** 20)
  })

  test('every truncation of a good file is refused, and nothing but an AppError is thrown', async () => {
    const bytes = file(GOOD)
    const needed = bytes.length - 30 // the last tensor's padding may lack
    for (let length = 0; length < needed; length++) {
      const error: unknown = await readGguf(await sourceOf(bytes.subarray(0, length))).then(
        () => null,
        (thrown: unknown) => thrown,
      )
      expect(error, `${length} bytes`).toBeInstanceOf(AppError)
      expect((error as AppError).code).toBe('truncated')
    }
  })

  test('any byte may be anything: an AppError or a header, never another error', async () => {
    const bytes = file(GOOD)
    for (let at = 0; at < bytes.length - 320; at++) {
      for (const value of [0, 1, 0x7f, 0x80, 0xff]) {
        const changed = Uint8Array.from(bytes)
        changed[at] = value
        const result: unknown = await readGguf(await sourceOf(changed)).catch((thrown: unknown) => thrown)
        if (result instanceof Error) expect(result).toBeInstanceOf(AppError)
      }
    }
  })
})
