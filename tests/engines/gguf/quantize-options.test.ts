/** Options of llama-quantize and of the converter besides types; that they do the same is tests/oracle/gguf-mix.test.ts. */
import { describe, expect, test } from 'vitest'
import type { OptionValues } from '../../../src/core/option.ts'
import { writeImatrix } from '../../../src/engines/containers/imatrix.ts'
import { pruneMetadata } from '../../../src/engines/gguf/prune.ts'
import { filesOf, findingsOf, openFiles, planOf, type Files } from './folder.ts'
import { madeUpCheckpoint } from './made-up.ts'

const SHAPE = { layers: 3, hidden: 256, intermediate: 256, heads: 4, kvHeads: 2, tied: true } as const

async function typesOf(options: OptionValues): Promise<Record<string, string>> {
  const plan = await planOf(madeUpCheckpoint(SHAPE).checkpoint, { quant: 'q4_k_s', ...options })
  const segments = plan.files.flatMap(({ segments }) => segments)
  return Object.fromEntries(
    segments.flatMap((one) => (one.kind === 'tensor' ? [[one.name, one.recipe.dtype] as const] : [])),
  )
}

function imatrix(...names: readonly string[]): { name: string; bytes: Uint8Array } {
  const entries = new Map(names.map((name) => [name, { sums: new Float32Array(256).fill(2), counts: [2] }]))
  return {
    name: 'x.dat',
    bytes: writeImatrix({ form: 'legacy', entries, datasets: [], chunkCount: 1, chunkSize: 0 }, 'legacy'),
  }
}

const Q = 'blk.0.attn_q.weight'
const DOWN = 'blk.1.ffn_down.weight'

describe('types from a file', () => {
  test('items stand on lines or with spaces between; those given singly come first', async () => {
    const types = await typesOf({
      'tensor-type': ['attn_q=q8_0'],
      'tensor-type-file': 'attn_q=q6_k ffn_down=Q5_K\n\n  blk\\.2\\.attn_v=q3_k\n',
    })
    expect(types).toMatchObject({ [Q]: 'q8_0', [DOWN]: 'q5_k', 'blk.2.attn_v.weight': 'q3_k' })
  })

  test.each(['attn_q', 'attn_q=', 'attn_q=q99', '=q8_0'])('%s is refused', async (text) => {
    await expect(typesOf({ 'tensor-type-file': text })).rejects.toMatchObject({ code: 'bad-option' })
  })
})

describe('importances of some matrices only', () => {
  const counted = async (options: OptionValues): Promise<unknown> => {
    const plan = await planOf(madeUpCheckpoint(SHAPE).checkpoint, {
      quant: 'q4_k_s',
      imatrix: imatrix(Q, DOWN),
      ...options,
    })
    const weighted = plan.files
      .flatMap(({ segments }) => segments)
      .flatMap((one) =>
        one.kind === 'tensor' && one.recipe.op === 'cast' && one.recipe.importance !== undefined ? [one.name] : [],
      )
    const entries = plan.metadata?.find(({ key }) => key === 'quantize.imatrix.entries_count')?.value
    return [weighted, entries]
  }

  test('are included or excluded by a part of their names', async () => {
    expect(await counted({})).toEqual([[Q, DOWN], '2'])
    expect(await counted({ 'include-weights': ['attn_q'] })).toEqual([[Q], '1'])
    expect(await counted({ 'exclude-weights': ['attn_q'] })).toEqual([[DOWN], '1'])
    expect(await counted({ 'include-weights': ['attn_q', 'blk.1'] })).toEqual([[Q, DOWN], '2'])
  })

  test.each([
    [{ 'include-weights': ['a'], 'exclude-weights': ['b'] }, /both given/],
    [{ 'include-weights': ['nothing'] }, /no name in x\.dat has "nothing" in it/],
    [{ 'include-weights': ['a'], imatrix: null }, /for an importance matrix/],
  ])('%o is refused', async (options, says) => {
    await expect(counted(options)).rejects.toThrow(says)
  })
})

describe('layers left out', () => {
  test.each([
    ['3', /there is no layer 3; the model has 3, from 0 to 2/],
    ['0,1,2', /no layer would be left/],
    ['1-2', /cannot be "1-2"/],
    ['-1', /cannot be/],
  ])('%s is refused', async (text, says) => {
    await expect(typesOf({ 'prune-layers': text })).rejects.toThrow(says)
  })

  test('lists that have an entry for each layer lose theirs', () => {
    const pruned = pruneMetadata(
      new Map([
        ['x.block_count', { type: 'u32', value: 4 }],
        ['x.attention.head_count_kv', { type: 'array', of: 'i32', value: Int32Array.of(1, 2, 3, 4) }],
        ['x.rope.dimension_sections', { type: 'array', of: 'i32', value: Int32Array.of(1, 2, 3, 4) }],
        ['tokenizer.ggml.token_type', { type: 'array', of: 'i32', value: Int32Array.of(1, 2, 3, 4) }],
        ['x.swa', { type: 'array', of: 'bool', value: [true, false, true, false] }],
      ]),
      'x',
      4,
      [1, 2],
    )
    expect(
      Object.fromEntries(
        [...pruned].map(([key, { value }]) => [key, typeof value === 'object' ? Array.from(value as number[]) : value]),
      ),
    ).toEqual({
      'x.block_count': 2,
      'x.attention.head_count_kv': [1, 4],
      'x.rope.dimension_sections': [1, 2, 3, 4],
      'tokenizer.ggml.token_type': [1, 2, 3, 4],
      'x.swa': [true, false],
    })
  })
})

describe('files', () => {
  const { checkpoint, folder } = madeUpCheckpoint(SHAPE)
  const errors = async (files: Files): Promise<unknown[]> =>
    (await findingsOf(files)).filter(({ severity }) => severity === 'error')

  test.each([
    [{ 'keep-split': true }, /for a GGUF model that is split already/],
    [{ 'no-tensor-first-split': true }, /for a model that is split/],
  ])('%o is refused', async (options, says) => {
    await expect(planOf(checkpoint, options)).rejects.toThrow(says)
  })

  test('the first of several may have the keys alone', async () => {
    const options = { quant: 'bf16', 'split-max-tensors': 20, 'no-tensor-first-split': true }
    const files = await filesOf(checkpoint, folder, options)
    expect(Object.keys(files)).toEqual([1, 2, 3].map((no) => `Made-Up-1B-Instruct-BF16-0000${no}-of-00003.gguf`))
    expect(await errors(files)).toEqual([])
    const opened = await openFiles(files)
    expect([...opened.checkpoint.tensors.keys()]).toEqual([...checkpoint.tensors.keys()])
    const kept = await filesOf(opened.checkpoint, opened.folder, { quant: 'copy', 'keep-split': true })
    expect(Object.values(kept).map(({ length }) => length)).toEqual(Object.values(files).map(({ length }) => length))
    await expect(
      planOf(opened.checkpoint, { quant: 'copy', 'keep-split': true, 'split-max-tensors': 3 }),
    ).rejects.toThrow(/keeps the files/)
  })

  test('a vocabulary alone is written, validated, opened, edited, and becomes nothing else', async () => {
    const files = await filesOf(checkpoint, folder, { quant: 'q4_k_m', 'vocab-only': true })
    expect(Object.keys(files)).toEqual(['Made-Up-1B-Instruct-vocab.gguf'])
    expect((await findingsOf(files)).map(({ code, severity }) => `${severity} ${code}`)).toEqual([
      'warning vocabulary-only',
    ])
    const opened = await openFiles(files)
    expect(opened.checkpoint).toMatchObject({ undescribed: 'it holds a vocabulary and no weights' })
    expect(opened.checkpoint.tokenizer?.tokens).toHaveLength(16)
    const edited = await filesOf(opened.checkpoint, opened.folder, { 'model-name': 'Other' })
    expect(Object.keys(edited)).toEqual(['Made-Up-1B-Instruct-vocab.gguf'])
    expect((await openFiles(edited)).checkpoint.card?.get('name')).toBe('Other')
  })
})
