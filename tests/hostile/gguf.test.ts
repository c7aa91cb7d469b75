import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import type { Folder, Source } from '../../src/core/bytes.ts'
import { AppError, type ErrorCode, type ErrorPlace } from '../../src/core/errors.ts'
import type { Finding } from '../../src/core/plan.ts'
import { readGguf } from '../../src/engines/containers/gguf/reader.ts'
import { gguf } from '../../src/engines/gguf/engine.ts'
import { memoryFolder } from '../contracts/memory.ts'
import { f32, file, info, kv, le, str, u32, u64, type Bytes, type FileParts } from '../engines/gguf/bytes.ts'

/**
 * Malformed GGUF files, each with the error that it must give: code, words and place. None may hang, take more than
 * {@link MAX_MEMORY}, or run anything. Most are after a fault that some reader of GGUF had: CVE-2025-53630 and
 * CVE-2026-27940 (products that overflow), llama.cpp#18674 and #27203 (axes), GHSA-96jg-mvhq-q7q7 and #26318 (alignment),
 * #27188 (a 43-byte file that hangs), CVE-2025-66960 and GHSA-7rxv-5jhh-j6xx (lengths in tokenizers),
 * huggingface.js#2020 and #2028 (nested arrays, counts).
 */

/** Bytes that reading any of them may take at any moment, beyond what the test itself holds. */
const MAX_MEMORY = 64 * 2 ** 20
/** A hang would be endless; a slow machine is not. */
const TIME_LIMIT = 10_000

/** A file that is right in every respect. */
const GOOD: FileParts = {
  kvs: [kv('general.architecture', 8, str('llama')), kv('n', 4, u32(1))],
  tensors: [info('a', [32, 2], 0, 0), info('b', [32], 8, 256)],
  data: 320,
}

const NESTED = (depth: number): number[] =>
  depth === 0 ? [...u32(0), ...u64(0)] : [...u32(9), ...u64(1), ...NESTED(depth - 1)]

const TOO_MUCH = 2n ** 62n
const ALIGNMENT = (type: number, ...value: readonly Bytes[]): Uint8Array =>
  file({ ...GOOD, kvs: [kv('general.alignment', type, ...value)] })
/** A file with one tensor `a`. */
const TENSOR = (axes: readonly (number | bigint)[], type = 0, offset: number | bigint = 0): Uint8Array =>
  file({ tensors: [info('a', axes, type, offset)], data: 128 })

type Case = readonly [what: string, bytes: Uint8Array, code: ErrorCode, says: RegExp, at: number, tensor?: string]

/** Where things lie in these files: the counts end at 24; a key `k` has its type at 33 and its value at 37. */
const headers: readonly Case[] = [
  ['an empty file', new Uint8Array(0), 'truncated', /the magic/, 0],
  ['three bytes', Uint8Array.of(0x47, 0x47, 0x55), 'truncated', /the magic/, 0],
  ['another magic', file({ ...GOOD, magic: [0x50, 0x4b, 3, 4] }), 'not-a-model', /does not start with "GGUF"/, 0],
  ['the magic of GGML', file({ ...GOOD, magic: [0x6c, 0x6d, 0x67, 0x67] }), 'not-a-model', /does not start/, 0],
  ['a magic alone', Uint8Array.of(0x47, 0x47, 0x55, 0x46), 'truncated', /the version/, 4],
  ['version 0', file({ ...GOOD, version: 0 }), 'unsupported', /version 0/, 4],
  ['version 1', file({ ...GOOD, version: 1 }), 'unsupported', /version 1/, 4],
  ['version 4', file({ ...GOOD, version: 4 }), 'unsupported', /version 4/, 4],
  ['big endian', file({ ...GOOD, version: 0x0300_0000 }), 'unsupported', /big-endian/, 4],
  ['no counts', file({ ...GOOD }).subarray(0, 20), 'truncated', /the counts/, 8],
  ['2^62 keys', file({ ...GOOD, kvCount: TOO_MUCH }), 'malformed', /number of metadata keys/, 16],
  ['2^64-1 tensors', file({ ...GOOD, tensorCount: 2n ** 64n - 1n }), 'malformed', /number of tensors/, 8],
  ['more keys than there are', file({ kvCount: 60_000 }), 'truncated', /ends within/, 24],
  ['more tensors than there are', file({ tensorCount: 200_000 }), 'truncated', /ends within/, 24],
  [
    'a key of 2^62 bytes',
    file({ kvs: [[...u64(TOO_MUCH)]], data: 32 }),
    'malformed',
    /length of the name of key 0/,
    24,
  ],
  ['a key beyond the file', file({ kvs: [[...u64(60_000)]], data: 32 }), 'truncated', /name of key 0/, 32],
  ['a key without a name', file({ kvs: [kv('', 4, u32(1))] }), 'malformed', /key 0 has no name/, 24],
  ['a key that is not UTF-8', file({ kvs: [[...u64(2), 0xff, 0xfe, ...u32(4), ...u32(0)]] }), 'malformed', /UTF-8/, 32],
  ['a key twice', file({ kvs: [kv('k', 4, u32(1)), kv('k', 4, u32(2))] }), 'malformed', /key k occurs twice/, 41],
  ['an unknown value type', file({ kvs: [kv('k', 13, u64(0))] }), 'malformed', /k has the unknown value type 13/, 33],
  ['a boolean of 2', file({ kvs: [kv('k', 7, [2])] }), 'malformed', /k is a boolean of value 2/, 37],
  ['a string of 1 GiB', file({ kvs: [kv('k', 8, u64(2 ** 30))] }), 'malformed', /length of k is 1073741824/, 37],
  ['a string beyond the file', file({ kvs: [kv('k', 8, u64(2 ** 20))] }), 'truncated', /ends within k/, 45],
  ['an array of 2^62', file({ kvs: [kv('k', 9, u32(4), u64(TOO_MUCH))] }), 'malformed', /length of k/, 41],
  ['an array beyond the file', file({ kvs: [kv('k', 9, u32(4), u64(2 ** 24))] }), 'truncated', /ends within k/, 49],
  ['strings beyond the file', file({ kvs: [kv('k', 9, u32(8), u64(2 ** 24))] }), 'truncated', /ends within k/, 49],
  ['arrays 40 deep', file({ kvs: [kv('k', 9, NESTED(40))] }), 'malformed', /nests arrays/, 85],
  ['2^24 arrays in one', file({ kvs: [kv('k', 9, u32(9), u64(2 ** 24))] }), 'malformed', /length of k/, 41],
  [
    'an alignment of 0',
    file({ ...GOOD, kvs: [kv('general.alignment', 4, u32(0))] }),
    'malformed',
    /general.alignment/,
    53,
  ],
  [
    'an alignment of 33',
    file({ ...GOOD, kvs: [kv('general.alignment', 4, u32(33))] }),
    'malformed',
    /general.alignment/,
    53,
  ],
  [
    'an alignment of 2 GiB',
    file({ ...GOOD, kvs: [kv('general.alignment', 4, u32(2 ** 31))] }),
    'malformed',
    /alignment/,
    53,
  ],
  [
    'an alignment in u64',
    file({ ...GOOD, kvs: [kv('general.alignment', 10, u64(32))] }),
    'malformed',
    /instead of u32/,
    53,
  ],
  ['a tensor without a name', file({ tensors: [info('', [32], 0, 0)], data: 128 }), 'malformed', /has no name/, 24],
  [
    'a tensor name of 64 bytes',
    file({ tensors: [info('x'.repeat(64), [1], 0, 0)], data: 32 }),
    'malformed',
    /name of tensor/,
    24,
  ],
  [
    'a tensor twice',
    file({ tensors: [info('a', [1], 0, 0), info('a', [1], 0, 32)], data: 64 }),
    'malformed',
    /a occurs twice/,
    57,
    'a',
  ],
  ['five axes', file({ tensors: [info('a', [1, 1, 1, 1, 1], 0, 0)], data: 32 }), 'malformed', /5 axes/, 33, 'a'],
  [
    '2^32-1 axes',
    file({ tensors: [[...str('a'), ...u32(0xffff_ffff)]], data: 64 }),
    'malformed',
    /4294967295 axes/,
    33,
    'a',
  ],
  ['an axis of 2^62', file({ tensors: [info('a', [TOO_MUCH], 0, 0)], data: 32 }), 'malformed', /axis of a/, 37, 'a'],
  [
    '2^100 elements',
    file({ tensors: [info('a', [2 ** 50, 2 ** 50], 0, 0)], data: 32 }),
    'malformed',
    /too many elements/,
    33,
    'a',
  ],
  [
    'an unknown type',
    file({ tensors: [info('a', [32], 999, 0)], data: 128 }),
    'malformed',
    /unknown type 999/,
    45,
    'a',
  ],
  ['a type that was removed', file({ tensors: [info('a', [32], 4, 0)], data: 128 }), 'unsupported', /q4_2/, 45, 'a'],
  ['half a block', file({ tensors: [info('a', [48], 8, 0)], data: 128 }), 'malformed', /not whole blocks/, 33, 'a'],
  ['an offset between', file({ tensors: [info('a', [1], 0, 4)], data: 64 }), 'malformed', /no multiple of 32/, 49, 'a'],
  [
    'an offset beyond the file',
    file({ tensors: [info('a', [1], 0, 2 ** 40)], data: 32 }),
    'truncated',
    /a ends at byte/,
    49,
    'a',
  ],
  [
    'an offset of 2^64-32',
    file({ tensors: [info('a', [1], 0, 2n ** 64n - 32n)], data: 32 }),
    'truncated',
    /a ends at byte/,
    49,
    'a',
  ],
  ['a tensor cut short', file(GOOD).subarray(0, -40), 'truncated', /b ends at byte/, 152, 'b'],
  [
    'overlapping tensors',
    file({ tensors: [info('a', [32], 0, 0), info('b', [32], 0, 96)], data: 256 }),
    'malformed',
    /b overlaps a/,
    192,
    'b',
  ],
  [
    'two tensors in one place',
    file({ tensors: [info('a', [8], 0, 0), info('b', [8], 0, 0)], data: 64 }),
    'malformed',
    /overlaps/,
    96,
    'b',
  ],
  ['the magic backwards', file({ ...GOOD, magic: [0x46, 0x55, 0x47, 0x47] }), 'not-a-model', /does not start/, 0],
  ['big endian, version 2', file({ ...GOOD, version: 0x0200_0000 }), 'unsupported', /big-endian/, 4],
  ['version 2^32-1', file({ ...GOOD, version: 0xffff_ffff }), 'unsupported', /version 4294967295/, 4],
  ['2^63 keys', file({ ...GOOD, kvCount: 2n ** 63n }), 'malformed', /number of metadata keys/, 16],
  ['2^63 tensors', file({ ...GOOD, tensorCount: 2n ** 63n }), 'malformed', /number of tensors/, 8],
  ['43 bytes that promise a key', file({ kvCount: 1 }).subarray(0, 31), 'truncated', /the header/, 24],
  ['a key of 2^64-1 bytes', file({ kvs: [[...u64(2n ** 64n - 1n)]], data: 32 }), 'malformed', /name of key 0/, 24],
  ['a string of 2^63 bytes', file({ kvs: [kv('k', 8, u64(2n ** 63n))], data: 32 }), 'malformed', /length of k/, 37],
  ['an array of 2^63', file({ kvs: [kv('k', 9, u32(4), u64(2n ** 63n))] }), 'malformed', /length of k/, 41],
  ['an array of unknown things', file({ kvs: [kv('k', 9, u32(13), u64(1))] }), 'malformed', /value type 13/, 37],
  [
    'an array in an array of unknown things',
    file({ kvs: [kv('k', 9, u32(9), u64(1), u32(99), u64(0))], data: 32 }),
    'malformed',
    /value type 99/,
    49,
  ],
  ['arrays 5 deep', file({ kvs: [kv('k', 9, NESTED(4))], data: 32 }), 'malformed', /nests arrays/, 85],
  [
    'an inner array of 2^62',
    file({ kvs: [kv('k', 9, u32(9), u64(1), u32(4), u64(TOO_MUCH))], data: 32 }),
    'malformed',
    /length of k/,
    53,
  ],
  [
    'an inner array beyond the file',
    file({ kvs: [kv('k', 9, u32(9), u64(1), u32(4), u64(2 ** 20))], data: 32 }),
    'truncated',
    /ends within k/,
    61,
  ],
  [
    'a boolean of 255 in an array',
    file({ kvs: [kv('k', 9, u32(7), u64(2), [1, 255])], data: 32 }),
    'malformed',
    /boolean of value 255/,
    50,
  ],
  [
    'a string in an array beyond the file',
    file({ kvs: [kv('k', 9, u32(8), u64(1), u64(2 ** 20))], data: 32 }),
    'truncated',
    /ends within k/,
    57,
  ],
  [
    'the type of a value beyond the file',
    file({ kvs: [[...str('kkkkkkkkkkkkkkkkkkkkkkkk')]] }).subarray(0, 58),
    'truncated',
    /ends within kk/,
    56,
  ],
  [
    'an alignment of 2 MiB',
    ALIGNMENT(4, u32(2 ** 21)),
    'malformed',
    /2097152, which is no power of two up to 1 MiB/,
    53,
  ],
  ['an alignment of 1 MiB in a small file', ALIGNMENT(4, u32(2 ** 20)), 'truncated', /a ends at byte 1048832/, 90, 'a'],
  ['an alignment in i32', ALIGNMENT(5, u32(32)), 'malformed', /type i32 instead of u32/, 53],
  ['an alignment in f32', ALIGNMENT(6, f32(32)), 'malformed', /type f32 instead of u32/, 53],
  ['an alignment as text', ALIGNMENT(8, str('32')), 'malformed', /type string instead of u32/, 53],
  ['an alignment as a list', ALIGNMENT(9, u32(4), u64(1), u32(32)), 'malformed', /type array instead of u32/, 53],
  ['an alignment of true', ALIGNMENT(7, [1]), 'malformed', /type bool instead of u32/, 53],
  ['an axis of 2^63-1', TENSOR([2n ** 63n - 1n]), 'malformed', /axis of a is 9223372036854775807/, 37, 'a'],
  ['an axis of 2^63-1 and one of 2', TENSOR([2n ** 63n - 1n, 2]), 'malformed', /axis of a/, 37, 'a'],
  ['an axis of -1', TENSOR([2n ** 64n - 1n]), 'malformed', /axis of a/, 37, 'a'],
  ['an axis of 2^53', TENSOR([2n ** 53n]), 'malformed', /axis of a/, 37, 'a'],
  ['axes of 2^42+1 and 2^22', TENSOR([2n ** 42n + 1n, 2 ** 22]), 'malformed', /too many elements/, 33, 'a'],
  ['axes whose product wraps to 0', TENSOR([2 ** 32, 2 ** 32]), 'malformed', /too many elements/, 33, 'a'],
  ['axes whose product wraps to 32', TENSOR([2 ** 32 + 1, 2 ** 32, 1, 1]), 'malformed', /too many elements/, 33, 'a'],
  ['an axis of 0 that hides the others', TENSOR([2 ** 50, 2 ** 50, 0]), 'malformed', /too many elements/, 33, 'a'],
  ['bytes beyond 2^53', TENSOR([2 ** 52], 28), 'malformed', /too many elements/, 33, 'a'],
  ['2^47 blocks', TENSOR([2 ** 52], 8), 'truncated', /a ends at byte/, 49, 'a'],
  ['2^40 elements in a small file', TENSOR([2 ** 40]), 'truncated', /a ends at byte 4398046511168/, 49, 'a'],
  ['half a superblock', TENSOR([128], 12), 'malformed', /whole blocks of q4_K/, 33, 'a'],
  ['the type -1', TENSOR([1], 0xffff_ffff), 'malformed', /unknown type 4294967295/, 45, 'a'],
  ['a type that was repacked', TENSOR([32], 31), 'unsupported', /q4_0_4_4/, 45, 'a'],
  ['an offset of 2^63', TENSOR([1], 0, 2n ** 63n), 'truncated', /a ends at byte/, 49, 'a'],
  ['an offset of 2^53', TENSOR([1], 0, 2n ** 53n), 'truncated', /a ends at byte/, 49, 'a'],
  [
    'a tensor name that is not UTF-8',
    file({ tensors: [[...u64(1), 0xff, ...u32(1), ...u64(1), ...u32(0), ...u64(0)]], data: 32 }),
    'malformed',
    /UTF-8/,
    32,
  ],
  [
    'a tensor within another',
    file({ tensors: [info('a', [64], 0, 0), info('b', [1], 0, 32)], data: 256 }),
    'malformed',
    /b overlaps a/,
    128,
    'b',
  ],
]

/** The keys of a small llama, and its tensors. */
const SIZES = { hidden: 32, heads: 2, inner: 32, vocab: 4 }
const MODEL_KEYS: ReadonlyMap<string, Bytes> = new Map([
  ['general.architecture', [...u32(8), ...str('llama')]],
  ['llama.block_count', [...u32(4), ...u32(1)]],
  ['llama.context_length', [...u32(4), ...u32(64)]],
  ['llama.embedding_length', [...u32(4), ...u32(SIZES.hidden)]],
  ['llama.feed_forward_length', [...u32(4), ...u32(SIZES.inner)]],
  ['llama.attention.head_count', [...u32(4), ...u32(SIZES.heads)]],
  ['llama.attention.layer_norm_rms_epsilon', [...u32(6), ...f32(1e-5)]],
  ['llama.rope.freq_base', [...u32(6), ...f32(10_000)]],
  ['tokenizer.ggml.model', [...u32(8), ...str('gpt2')]],
  ['tokenizer.ggml.pre', [...u32(8), ...str('llama-bpe')]],
  ['tokenizer.ggml.tokens', [...u32(9), ...u32(8), ...u64(4), ...str('a'), ...str('b'), ...str('ab'), ...str('<s>')]],
  ['tokenizer.ggml.token_type', [...u32(9), ...u32(5), ...u64(4), ...u32(1), ...u32(1), ...u32(1), ...u32(3)]],
  ['tokenizer.ggml.merges', [...u32(9), ...u32(8), ...u64(1), ...str('a b')]],
])
/** Fastest axis first. */
const MODEL_TENSORS: ReadonlyMap<string, readonly number[]> = new Map([
  ['token_embd.weight', [32, 4]],
  ['blk.0.attn_norm.weight', [32]],
  ['blk.0.attn_q.weight', [32, 32]],
  ['blk.0.attn_k.weight', [32, 32]],
  ['blk.0.attn_v.weight', [32, 32]],
  ['blk.0.attn_output.weight', [32, 32]],
  ['blk.0.ffn_norm.weight', [32]],
  ['blk.0.ffn_gate.weight', [32, 32]],
  ['blk.0.ffn_up.weight', [32, 32]],
  ['blk.0.ffn_down.weight', [32, 32]],
  ['output_norm.weight', [32]],
])

interface Changes {
  /** By key; null takes it away. */
  readonly keys?: Readonly<Record<string, Bytes | null>>
  /** Axes by tensor, fastest first; null takes it away. */
  readonly tensors?: Readonly<Record<string, readonly number[] | null>>
  /** ggml's number of every tensor's type. */
  readonly type?: number
  /** Values by tensor; the others are zeros. */
  readonly values?: Readonly<Record<string, readonly number[]>>
}

function changed<T>(from: ReadonlyMap<string, T>, changes: Readonly<Record<string, T | null>> = {}): [string, T][] {
  const result = new Map(from)
  for (const [key, value] of Object.entries(changes)) {
    if (value === null) result.delete(key)
    else result.set(key, value)
  }
  return [...result]
}

/** A model of F32 tensors, with some of it changed. */
function model(changes: Changes = {}): Uint8Array {
  const tensors = changed(MODEL_TENSORS, changes.tensors)
  const sizes = tensors.map(([, axes]) => 4 * axes.reduce((product, axis) => product * axis, 1))
  const offsets = sizes.map((_, index) =>
    sizes.slice(0, index).reduce((sum, size) => sum + Math.ceil(size / 32) * 32, 0),
  )
  const data = sizes.reduce((sum, size) => sum + Math.ceil(size / 32) * 32, 0)
  const bytes = file({
    kvs: changed(MODEL_KEYS, changes.keys).map(([key, value]) => [...str(key), ...value]),
    tensors: tensors.map(([name, axes], index) => info(name, axes, changes.type ?? 0, offsets[index]!)),
    data,
  })
  const values = new Float32Array(1)
  for (const [index, [name]] of tensors.entries()) {
    for (const [at, value] of (changes.values?.[name] ?? []).entries()) {
      values[0] = value
      bytes.set(new Uint8Array(values.buffer), bytes.length - data + offsets[index]! + 4 * at)
    }
  }
  return bytes
}

/** Keys of a part of a split model. */
function splitKeys(no: number, count: number, tensors?: number): Record<string, Bytes> {
  return {
    'split.no': [...u32(2), ...le(no, 2)],
    'split.count': [...u32(2), ...le(count, 2)],
    ...(tensors === undefined ? {} : { 'split.tensors.count': [...u32(5), ...u32(tensors)] }),
  }
}

/** A part of a split model with one tensor. */
function part(no: number, count: number, tensor = 'x'): Uint8Array {
  const kvs = Object.entries(splitKeys(no, count, 12)).map(([key, value]) => [...str(key), ...value])
  return file({ kvs, tensors: [info(tensor, [8], 0, 0)], data: 32 })
}

const first = (no = 0, count = 2, tensors = 12): Uint8Array => model({ keys: splitKeys(no, count, tensors) })
const A = 'm-00001-of-00002.gguf'
const B = 'm-00002-of-00002.gguf'
const strings = (...texts: readonly string[]): Bytes => [
  ...u32(9),
  ...u32(8),
  ...u64(texts.length),
  ...texts.flatMap((one) => str(one)),
]

type Files = Readonly<Record<string, Uint8Array>>
type ModelCase = readonly [what: string, files: Files, code: ErrorCode, says: RegExp, where: ErrorPlace]

const one = (changes: Changes): Files => ({ 'model.gguf': model(changes) })
const IN_MODEL = { file: 'model.gguf' }

/** Files that are well formed and yet no model: opening refuses them. */
const models: readonly ModelCase[] = [
  [
    'no architecture',
    one({ keys: { 'general.architecture': null } }),
    'malformed',
    /no general.architecture/,
    IN_MODEL,
  ],
  [
    'a number for an architecture',
    one({ keys: { 'general.architecture': [...u32(4), ...u32(7)] } }),
    'malformed',
    /no general.architecture/,
    IN_MODEL,
  ],
  [
    'an adapter',
    one({ keys: { 'general.type': [...u32(8), ...str('adapter')] } }),
    'unsupported',
    /"adapter"/,
    IN_MODEL,
  ],
  [
    'no tensors',
    { 'model.gguf': file({ kvs: [kv('general.architecture', 8, str('llama'))] }) },
    'not-a-model',
    /no tensors/,
    IN_MODEL,
  ],
  [
    'a type that nothing reads',
    one({ type: 9, tensors: Object.fromEntries([...MODEL_TENSORS.keys()].slice(1).map((name) => [name, null])) }),
    'unsupported',
    /token_embd.weight has the type Q8_1/,
    { file: 'model.gguf', tensor: 'token_embd.weight' },
  ],
  [
    'tokens that are numbers',
    one({ keys: { 'tokenizer.ggml.tokens': [...u32(9), ...u32(4), ...u64(1), ...u32(1)] } }),
    'malformed',
    /tokenizer.ggml.tokens/,
    IN_MODEL,
  ],
  ['no tokens', one({ keys: { 'tokenizer.ggml.tokens': null } }), 'malformed', /tokenizer.ggml.tokens/, IN_MODEL],
  [
    'too few token types',
    one({ keys: { 'tokenizer.ggml.token_type': [...u32(9), ...u32(5), ...u64(1), ...u32(1)] } }),
    'malformed',
    /token_type has 1 entries, not 4/,
    IN_MODEL,
  ],
  [
    'token types as text',
    one({ keys: { 'tokenizer.ggml.token_type': strings('1', '1', '1', '3') } }),
    'malformed',
    /token_type/,
    IN_MODEL,
  ],
  [
    'too many scores',
    one({ keys: { 'tokenizer.ggml.scores': [...u32(9), ...u32(6), ...u64(5), ...[1, 2, 3, 4, 5].flatMap(f32)] } }),
    'malformed',
    /scores has 5 entries, not 4/,
    IN_MODEL,
  ],
  [
    'a merge of one part',
    one({ keys: { 'tokenizer.ggml.merges': strings('a b', 'ab') } }),
    'malformed',
    /merge 1 is no pair/,
    IN_MODEL,
  ],
  [
    'a merge of nothing',
    one({ keys: { 'tokenizer.ggml.merges': strings('') } }),
    'malformed',
    /merge 0 is no pair/,
    IN_MODEL,
  ],
  ['no merges', one({ keys: { 'tokenizer.ggml.merges': null } }), 'malformed', /tokenizer.ggml.merges/, IN_MODEL],
  [
    'two models in a folder',
    { 'a.gguf': model(), 'b.gguf': model() },
    'not-a-model',
    /2 GGUF models: a.gguf, b.gguf/,
    { file: 'folder' },
  ],
  [
    'a part that its name hides',
    { 'model.gguf': first() },
    'malformed',
    /one of 2 parts, which its name does not say/,
    IN_MODEL,
  ],
  ['65535 parts that its name hides', { 'model.gguf': first(0, 65_535) }, 'malformed', /one of 65535 parts/, IN_MODEL],
  [
    '2^53 parts',
    { [A]: model({ keys: { ...splitKeys(0, 2), 'split.count': [...u32(10), ...u64(2n ** 53n - 1n)] } }) },
    'malformed',
    /part 1 of 9007199254740991|one of 9007199254740991 parts/,
    { file: A },
  ],
  [
    'one and a half parts',
    { [A]: model({ keys: { ...splitKeys(0, 2), 'split.count': [...u32(6), ...f32(1.5)] } }) },
    'malformed',
    /1.5 parts/,
    { file: A },
  ],
  [
    'a second part that is not there',
    { [A]: first() },
    'missing-file',
    /m-00002-of-00002.gguf is missing/,
    { file: B },
  ],
  [
    'a first part that is not there',
    { [B]: part(1, 2) },
    'missing-file',
    /m-00001-of-00002.gguf is missing/,
    { file: A },
  ],
  [
    'parts in each other’s place',
    { [A]: part(1, 2), [B]: first() },
    'malformed',
    /part 2 of 2, where part 1 of 2/,
    { file: A },
  ],
  [
    'a second part of another set',
    { [A]: first(), [B]: part(1, 3) },
    'malformed',
    /part 2 of 3, where part 2 of 2/,
    { file: B },
  ],
  [
    'a second part that is whole',
    { [A]: first(), [B]: model() },
    'malformed',
    /part 1 of 1, where part 2 of 2/,
    { file: B },
  ],
  [
    'a tensor in two parts',
    { [A]: first(), [B]: part(1, 2, 'output_norm.weight') },
    'malformed',
    /output_norm.weight is in m-00001/,
    { file: B, tensor: 'output_norm.weight' },
  ],
  [
    'fewer tensors than promised',
    { [A]: first(0, 2, 13), [B]: part(1, 2) },
    'malformed',
    /split.tensors.count is 13, but the parts hold 12/,
    { file: A },
  ],
  [
    'a second part cut short',
    { [A]: first(), [B]: part(1, 2).subarray(0, 100) },
    'truncated',
    /ends within/,
    { file: B },
  ],
  [
    'a second part that is a picture',
    { [A]: first(), [B]: Uint8Array.from({ length: 64 }, () => 0x89) },
    'not-a-model',
    /does not start with "GGUF"/,
    { file: B, offset: 0 },
  ],
]

type Claim = readonly [what: string, changes: Changes, because: RegExp, fault: string]

const number = (value: number): Bytes => [...u32(4), ...u32(value)]

/** Keys that claim what the tensors do not bear out: the file opens, as GGUF only, and validation names the fault. */
const claims: readonly Claim[] = [
  [
    '2^32-1 blocks',
    { keys: { 'llama.block_count': number(0xffff_ffff) } },
    /block_count is 4294967295/,
    'missing-tensor',
  ],
  [
    '2^53-1 blocks',
    { keys: { 'llama.block_count': [...u32(10), ...u64(2n ** 53n - 1n)] } },
    /block_count/,
    'missing-tensor',
  ],
  ['2^63 blocks', { keys: { 'llama.block_count': [...u32(10), ...u64(2n ** 63n)] } }, /block_count/, 'missing-key'],
  ['no blocks', { keys: { 'llama.block_count': number(0) } }, /block_count/, 'extra-tensor'],
  ['-1 blocks', { keys: { 'llama.block_count': [...u32(5), ...u32(0xffff_ffff)] } }, /block_count/, 'missing-tensor'],
  ['half a block more', { keys: { 'llama.block_count': [...u32(6), ...f32(1.5)] } }, /block_count/, 'missing-tensor'],
  ['NaN blocks', { keys: { 'llama.block_count': [...u32(6), ...f32(Number.NaN)] } }, /block_count/, 'missing-tensor'],
  ['blocks as text', { keys: { 'llama.block_count': [...u32(8), ...str('1')] } }, /block_count/, 'missing-key'],
  [
    'a width of 2^52',
    { keys: { 'llama.embedding_length': [...u32(10), ...u64(2n ** 52n)] } },
    /has the shape/,
    'bad-tensor',
  ],
  ['no heads', { keys: { 'llama.attention.head_count': number(0) } }, /head_count/, 'bad-tensor'],
  [
    'heads by layer',
    { keys: { 'llama.attention.head_count': [...u32(9), ...u32(4), ...u64(1), ...u32(2)] } },
    /head_count/,
    'missing-key',
  ],
  [
    'five heads of 32 channels',
    { keys: { 'llama.attention.head_count': number(5), 'llama.attention.key_length': number(32) } },
    /attn_q.weight has the shape/,
    'bad-tensor',
  ],
  [
    '2^32-1 experts',
    { keys: { 'llama.expert_count': number(0xffff_ffff) } },
    /expert_count is 4294967295/,
    'missing-tensor',
  ],
  [
    'a rotary base of NaN',
    { keys: { 'llama.rope.freq_base': [...u32(6), ...f32(Number.NaN)] } },
    /rope.freq_base/,
    'bad-key',
  ],
  ['a rotary base of 0', { keys: { 'llama.rope.freq_base': [...u32(6), ...f32(0)] } }, /rope.freq_base/, 'bad-key'],
  [
    'an infinite epsilon',
    { keys: { 'llama.attention.layer_norm_rms_epsilon': [...u32(6), ...f32(Number.POSITIVE_INFINITY)] } },
    /epsilon/,
    'bad-key',
  ],
  [
    'rotary factors that are NaN',
    { tensors: { 'rope_freqs.weight': [8] }, values: { 'rope_freqs.weight': [Number.NaN] } },
    /rope_freqs/,
    'bad-weights',
  ],
  [
    'too many rotary factors',
    { tensors: { 'rope_freqs.weight': [9] }, values: { 'rope_freqs.weight': [1, 2] } },
    /rope_freqs/,
    'bad-tensor',
  ],
  [
    'weights that are NaN',
    { values: { 'output_norm.weight': [Number.NaN] }, tensors: { 'extra.weight': [1] } },
    /extra.weight/,
    'bad-weights',
  ],
  [
    'a tensor too many',
    { tensors: { 'blk.0.attn_x.weight': [32] } },
    /1 tensors that .* do not have: blk.0.attn_x.weight/,
    'extra-tensor',
  ],
  ['a tensor too few', { tensors: { 'blk.0.ffn_up.weight': null } }, /no tensor blk.0.ffn_up.weight/, 'missing-tensor'],
  [
    'a vector for a matrix',
    { tensors: { 'blk.0.ffn_up.weight': [32] } },
    /ffn_up.weight has the shape \[32\]/,
    'bad-tensor',
  ],
  [
    'an architecture called __proto__',
    { keys: { 'general.architecture': [...u32(8), ...str('__proto__')] } },
    /__proto__ is an architecture that is not described/,
    'unknown-architecture',
  ],
  [
    'an architecture called constructor',
    { keys: { 'general.architecture': [...u32(8), ...str('constructor')] } },
    /constructor is an architecture/,
    'unknown-architecture',
  ],
]

/** What reading a folder took: the largest buffer that was filled, and the most memory at any read. */
class Meter {
  largest = 0
  peak = 0
  readonly #before = Meter.#now()

  static #now(): number {
    const { heapUsed, arrayBuffers } = process.memoryUsage()
    return heapUsed + arrayBuffers
  }

  measure(): void {
    this.peak = Math.max(this.peak, Meter.#now() - this.#before)
  }

  folder(files: Files): Folder {
    const inner = memoryFolder(files)
    const filled = (into: Uint8Array): void => {
      this.largest = Math.max(this.largest, into.length)
      this.measure()
    }
    return {
      name: 'folder',
      list: () => inner.list(),
      open: async (path): Promise<Source> => {
        const source = await inner.open(path)
        return {
          name: source.name,
          size: source.size,
          modified: source.modified,
          close: () => source.close(),
          async read(offset, into, signal) {
            filled(into)
            await source.read(offset, into, signal)
          },
        }
      },
    }
  }

  check(): void {
    this.measure()
    expect(this.largest).toBeLessThan(MAX_MEMORY)
    expect(this.peak).toBeLessThan(MAX_MEMORY)
  }
}

async function thrownBy(what: Promise<unknown>): Promise<AppError> {
  const error: unknown = await what.then(
    () => null,
    (thrown: unknown) => thrown,
  )
  expect(error).toBeInstanceOf(AppError)
  return error as AppError
}

function expectError(error: AppError, code: ErrorCode, says: RegExp): void {
  expect(error.code, error.message).toBe(code)
  expect(error.message).toMatch(says)
  expect(error.hint).not.toBeNull()
}

const match = (entry: string): Parameters<NonNullable<typeof gguf.open>>[1] => ({
  format: 'gguf',
  kind: 'gguf',
  confidence: 1,
  because: '',
  entry,
})

async function findingsOf(folder: Folder, entry: string): Promise<Finding[]> {
  const found: Finding[] = []
  for await (const finding of gguf.validate(folder, match(entry))) found.push(finding)
  return found
}

describe('hostile GGUF', { timeout: TIME_LIMIT }, () => {
  const evaluated = vi.fn()
  const RealFunction = globalThis.Function

  beforeAll(() => {
    vi.stubGlobal('eval', evaluated)
    vi.stubGlobal('Function', new Proxy(RealFunction, { apply: evaluated, construct: evaluated }))
  })

  afterAll(() => {
    vi.unstubAllGlobals()
    expect(evaluated).not.toHaveBeenCalled()
    expect(Object.keys(Object.prototype)).toEqual([])
  })

  test('the corpus has at least 60 files, each of another name', () => {
    const names = [...headers, ...models, ...claims].map(([what]) => what)
    expect(names.length).toBeGreaterThanOrEqual(60)
    expect(new Set(names).size).toBe(names.length)
  })

  test('the files that they are made from are good', async () => {
    const header = await readGguf(await memoryFolder({ 'model.gguf': file(GOOD) }).open('model.gguf'))
    expect(header.tensors.map(({ name, size }) => [name, size])).toEqual([
      ['a', 256],
      ['b', 34],
    ])
    const checkpoint = await gguf.open!(memoryFolder({ 'model.gguf': model() }), match('model.gguf'))
    expect(checkpoint).toMatchObject({ architecture: 'llama', findings: [] })
    const split = memoryFolder({ [A]: first(), [B]: part(1, 2) })
    expect((await gguf.open!(split, match(A))).sources.map(({ path }) => path)).toEqual([A, B])
    const errors = (await findingsOf(memoryFolder({ 'model.gguf': model() }), 'model.gguf')).filter(
      ({ severity }) => severity === 'error',
    )
    expect(errors).toEqual([])
  })

  test.each(headers.map((one) => [one[0], one] as const))('header: %s', async (_, one) => {
    const [, bytes, code, says, at, tensor] = one
    const meter = new Meter()
    const folder = meter.folder({ 'model.gguf': bytes })
    const error = await thrownBy(folder.open('model.gguf').then((source) => readGguf(source)))
    expectError(error, code, says)
    expect(error.where).toEqual({ file: 'model.gguf', offset: at, ...(tensor === undefined ? {} : { tensor }) })
    // opening and validating come to the same
    expect((await thrownBy(gguf.open!(folder, match('model.gguf')))).where).toEqual(error.where)
    expect(await findingsOf(folder, 'model.gguf')).toMatchObject([{ severity: 'error', code, where: error.where }])
    meter.check()
  })

  test.each<ModelCase>(models)('model: %s', async (_, files, code, says, where) => {
    const meter = new Meter()
    const folder = meter.folder(files)
    const error = await thrownBy(gguf.open!(folder, match(Object.keys(files)[0]!)))
    expectError(error, code, says)
    expect(error.where).toMatchObject(where)
    meter.check()
  })

  test.each<Claim>(claims)('claim: %s', async (_, changes, because, fault) => {
    const meter = new Meter()
    const folder = meter.folder({ 'model.gguf': model(changes) })
    const checkpoint = await gguf.open!(folder, match('model.gguf'))
    expect(checkpoint.architecture).toBe('none')
    expect(checkpoint.findings.find(({ code }) => code === 'gguf-only')?.message).toMatch(because)
    const found = await findingsOf(folder, 'model.gguf')
    expect(found.map(({ code }) => code)).toContain(fault)
    for (const finding of found) expect(finding.where).toMatchObject({ file: 'model.gguf' })
    meter.check()
  })

  test('every truncation of a good file is refused, naming a place within it', async () => {
    const bytes = file(GOOD)
    const needed = bytes.length - 30 // the last tensor's padding may lack
    for (let length = 0; length < needed; length++) {
      const folder = memoryFolder({ 'model.gguf': bytes.subarray(0, length) })
      const { code, where } = await thrownBy(readGguf(await folder.open('model.gguf')))
      expect(code, `${length} bytes`).toBe('truncated')
      expect(where.file).toBe('model.gguf')
      expect(where.offset, `${length} bytes`).toBeLessThanOrEqual(length)
    }
  })

  test('any byte of a header may be anything: an AppError or a header, never another error', async () => {
    const bytes = file(GOOD)
    for (let at = 0; at < bytes.length - 320; at++) {
      for (const value of [0, 1, 0x7f, 0x80, 0xff]) {
        const different = Uint8Array.from(bytes)
        different[at] = value
        const source = await memoryFolder({ 'model.gguf': different }).open('model.gguf')
        const result: unknown = await readGguf(source).catch((thrown: unknown) => thrown)
        if (result instanceof Error) expect(result).toBeInstanceOf(AppError)
      }
    }
  })

  test('any byte of a model’s header may be anything: opening and validating end, with nothing but an AppError', async () => {
    const bytes = model()
    const header =
      bytes.length - [...MODEL_TENSORS.values()].reduce((sum, axes) => sum + 4 * axes.reduce((a, b) => a * b, 1), 0)
    for (let at = 24; at < header; at += 3) {
      for (const value of [0, 0xff]) {
        const different = Uint8Array.from(bytes)
        different[at] = value
        const folder = memoryFolder({ 'model.gguf': different })
        const result: unknown = await gguf.open!(folder, match('model.gguf')).catch((thrown: unknown) => thrown)
        if (result instanceof Error) expect(result, `byte ${at}`).toBeInstanceOf(AppError)
        if (result instanceof Error) expect((result as AppError).code, `byte ${at}`).not.toBe('internal')
        await findingsOf(folder, 'model.gguf')
      }
    }
  })

  test('a chat template is carried as text, whatever it says', async () => {
    const template = "{{ ''.__class__.__mro__[1].__subclasses__() }}{{ constructor.constructor('return process')() }}"
    const keys = {
      'tokenizer.chat_template': [...u32(8), ...str(template)],
      __proto__: [...u32(8), ...str('polluted')],
    }
    const folder = memoryFolder({ 'model.gguf': model({ keys: Object.assign(Object.create(null) as object, keys) }) })
    const { tokenizer } = await gguf.open!(folder, match('model.gguf'))
    expect(tokenizer?.chatTemplates).toEqual([{ name: 'default', template }])
  })
})
