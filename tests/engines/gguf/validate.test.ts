import { describe, expect, test } from 'vitest'
import type { Finding } from '../../../src/core/plan.ts'
import { readGguf, type GgufHeader } from '../../../src/engines/containers/gguf/reader.ts'
import type { GgufValue } from '../../../src/engines/containers/gguf/types.ts'
import { ggufLayout } from '../../../src/engines/containers/gguf/writer.ts'
import { gguf } from '../../../src/engines/gguf/engine.ts'
import type { Thorough } from '../../../src/engines/engine.ts'
import { qwen3 } from '../../../src/models/qwen3.ts'
import { memoryFolder } from '../../contracts/memory.ts'
import { executeNaively } from '../../oracle/naive.ts'
import { sourceOf } from './bytes.ts'
import { madeUpCheckpoint, madeUpTokenizer, type MadeUp } from './made-up.ts'

const SHAPE: MadeUp = { layers: 3, hidden: 256, intermediate: 512, heads: 4, kvHeads: 2, tied: false }

const made = new Map<string, Uint8Array<ArrayBuffer>>()

/** A fresh copy of the file of a made-up model, made once. */
async function make(quant: string, shape: MadeUp = SHAPE): Promise<Uint8Array<ArrayBuffer>> {
  const known = shape === SHAPE ? made.get(quant) : undefined
  if (known !== undefined) return Uint8Array.from(known)
  const { checkpoint, folder } = madeUpCheckpoint(shape)
  const bytes = await executeNaively(await gguf.convert!(checkpoint, { quant, pre: null }, new Map()), folder)
  if (shape === SHAPE) made.set(quant, Uint8Array.from(bytes))
  return bytes
}

async function findings(bytes: Uint8Array, thorough?: Thorough): Promise<Finding[]> {
  const folder = memoryFolder({ 'model.gguf': bytes })
  const match = { format: 'gguf', kind: 'gguf', confidence: 1, because: '', entry: 'model.gguf' } as const
  const found: Finding[] = []
  for await (const finding of gguf.validate(folder, match, thorough)) found.push(finding)
  expect(folder.stats.openSources).toBe(0)
  return found
}

/** The same file with other keys or tensor infos; its data follow as they were. */
async function remade(
  bytes: Uint8Array,
  change: (header: {
    metadata: Map<string, GgufValue>
    tensors: GgufHeader['tensors']
  }) => GgufHeader['tensors'] | void,
): Promise<Uint8Array> {
  const header = await readGguf(await sourceOf(bytes))
  const metadata = new Map(header.metadata)
  const tensors = change({ metadata, tensors: header.tensors }) ?? header.tensors
  const layout = ggufLayout(
    metadata,
    tensors.map(({ name, shape, type }) => ({ name, shape, dtype: type.dtype! })),
  )
  const result = new Uint8Array(layout.size)
  result.set(layout.header)
  tensors.forEach(({ offset, size }, index) =>
    result.set(bytes.subarray(offset, offset + size), layout.tensors[index]!.offset),
  )
  return result
}

describe('a file of ours', () => {
  test.each(['f32', 'f16', 'bf16', 'q8_0', 'q4_0', 'q4_k_m'])('%s has nothing wrong with it', async (quant) => {
    expect(await findings(await make(quant))).toEqual([])
  })

  test('a tied qwen3, a llama with biases and rope factors: nothing wrong', async () => {
    expect(await findings(await make('q8_0', { ...SHAPE, tied: true, architecture: qwen3 }))).toEqual([])
    const scaling = { kind: 'llama3', factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalContext: 64 } as const
    const config = { raw: new Map([['attention_bias', true]]), rope: { theta: 10_000, scaling } }
    expect(await findings(await make('q8_0', { ...SHAPE, config }))).toEqual([])
  })

  test('reads little of it', async () => {
    const bytes = await make('f32', { ...SHAPE, intermediate: 8192 })
    const folder = memoryFolder({ 'model.gguf': bytes })
    const match = { format: 'gguf', kind: 'gguf', confidence: 1, because: '', entry: 'model.gguf' } as const
    for await (const finding of gguf.validate(folder, match)) expect(finding).toBeNull()
    expect(folder.stats.largestRead).toBeLessThanOrEqual(256 * 1024)
    expect(folder.stats.readBytes).toBeLessThan(bytes.length / 8)
  })
})

describe('planted defects', () => {
  const only = (found: readonly Finding[], code: string): Finding => {
    expect(found.map((finding) => finding.code)).toEqual([code])
    return found[0]!
  }

  test('cut short', async () => {
    const bytes = await make('q4_k_m')
    const finding = only(await findings(bytes.subarray(0, -1000)), 'truncated')
    expect(finding).toMatchObject({ severity: 'error', where: { file: 'model.gguf', tensor: 'output.weight' } })
  })

  test('bytes at the end', async () => {
    const bytes = await make('q8_0')
    const longer = new Uint8Array(bytes.length + 7)
    longer.set(bytes)
    expect(only(await findings(longer), 'trailing-bytes')).toMatchObject({
      severity: 'warning',
      where: { offset: bytes.length },
    })
  })

  test('a missing tensor', async () => {
    const bytes = await remade(await make('q8_0'), ({ tensors }) =>
      tensors.filter(({ name }) => name !== 'blk.1.ffn_up.weight'),
    )
    expect(only(await findings(bytes), 'missing-tensor').where?.tensor).toBe('blk.1.ffn_up.weight')
  })

  test('a tensor too many', async () => {
    const bytes = await remade(await make('q8_0'), ({ tensors }) => [
      ...tensors,
      { ...tensors[1]!, name: 'blk.9.x.weight' },
    ])
    expect(only(await findings(bytes), 'extra-tensor').where?.tensor).toBe('blk.9.x.weight')
  })

  test('a tensor of another shape', async () => {
    const bytes = await remade(await make('q8_0'), ({ tensors }) =>
      tensors.map((tensor) => (tensor.name === 'blk.0.ffn_up.weight' ? { ...tensor, shape: [256, 512] } : tensor)),
    )
    const finding = only(await findings(bytes), 'bad-tensor')
    expect(finding.message).toContain('[256, 512] instead of [512, 256]')
    expect(finding.where?.offset).toBeTypeOf('number')
  })

  test('a gap before a tensor', async () => {
    const good = await make('q8_0')
    const header = await readGguf(await sourceOf(good))
    const last = header.tensors.at(-1)!
    // its offset is the last eight bytes of the infos: move it and its data by one alignment
    const info = good.subarray(0, header.dataOffset)
    const relative = last.offset - header.dataOffset
    const view = new DataView(good.buffer, good.byteOffset)
    let at = info.length - 8
    while (Number(view.getBigUint64(at, true)) !== relative) at--
    const bytes = new Uint8Array(good.length + 32)
    bytes.set(good)
    new DataView(bytes.buffer).setBigUint64(at, BigInt(relative + 32), true)
    bytes.copyWithin(last.offset + 32, last.offset, last.offset + last.size)
    expect(only(await findings(bytes), 'gap').where).toMatchObject({
      tensor: 'output.weight',
      offset: last.offset + 32,
    })
  })

  test.each(['llama.block_count', 'llama.attention.head_count', 'llama.context_length'])('no %s', async (key) => {
    const bytes = await remade(await make('q8_0'), ({ metadata }) => void metadata.delete(key))
    expect(only(await findings(bytes), 'missing-key').message).toContain(key)
  })

  test('no architecture', async () => {
    const bytes = await remade(await make('q8_0'), ({ metadata }) => void metadata.delete('general.architecture'))
    only(await findings(bytes), 'missing-key')
  })

  test('an architecture that is not known here is said to be so', async () => {
    const bytes = await remade(
      await make('q8_0'),
      ({ metadata }) => void metadata.set('general.architecture', { type: 'string', value: 'mamba' }),
    )
    expect(only(await findings(bytes), 'unknown-architecture').severity).toBe('info')
  })

  test('a block count that lies, small or huge', async () => {
    for (const value of [2, 4_000_000_000]) {
      const bytes = await remade(
        await make('q8_0'),
        ({ metadata }) => void metadata.set('llama.block_count', { type: 'u32', value }),
      )
      const found = await findings(bytes)
      expect(found.length).toBeGreaterThan(0)
      expect(found.every(({ code }) => code === (value === 2 ? 'extra-tensor' : 'missing-tensor'))).toBe(true)
    }
  })

  test('a token too few, types too many, an id beyond', async () => {
    const good = await make('q8_0')
    const fewer = await remade(good, ({ metadata }) => {
      const tokens = metadata.get('tokenizer.ggml.tokens')!.value as string[]
      metadata.set('tokenizer.ggml.tokens', { type: 'array', of: 'string', value: tokens.slice(1) })
    })
    expect((await findings(fewer)).map(({ code }) => code)).toEqual(['token-count', 'token-count'])
    const beyond = await remade(
      good,
      ({ metadata }) => void metadata.set('tokenizer.ggml.eos_token_id', { type: 'u32', value: 16 }),
    )
    expect(only(await findings(beyond), 'bad-token-id').message).toContain('eos_token_id is 16')
  })

  test('a BPE without merges, an SPM without scores', async () => {
    const bpe = await remade(await make('q8_0'), ({ metadata }) => void metadata.delete('tokenizer.ggml.merges'))
    expect(only(await findings(bpe), 'missing-key').message).toContain('merges')
    const tokenizer = madeUpTokenizer(16, { kind: 'spm', pre: 'default' })
    const spm = await remade(
      await make('q8_0', { ...SHAPE, tokenizer }),
      ({ metadata }) => void metadata.delete('tokenizer.ggml.scores'),
    )
    expect(only(await findings(spm), 'missing-key').message).toContain('scores')
  })

  test.each(['f32', 'f16', 'bf16', 'q8_0', 'q4_k_m', 'tq1_0'])(
    'one NaN between the rows that are sampled is found where all are looked at: %s',
    async (quant) => {
      const bytes = await make(quant)
      const header = await readGguf(await sourceOf(bytes))
      const tensor = header.tensors.find(({ name }) => name === 'blk.1.ffn_up.weight')!
      const at = tensor.offset + tensor.size / 4 + tensor.size / 512
      const block = Math.floor((at - tensor.offset) / tensor.type.bytes) * tensor.type.bytes + tensor.offset
      bytes.fill(0xff, block, block + tensor.type.bytes)
      expect((await findings(bytes)).filter(({ code }) => code === 'bad-weights')).toEqual([])
      const found = await findings(bytes, { signal: new AbortController().signal })
      expect(only(found, 'bad-weights').where).toMatchObject({ tensor: tensor.name, file: 'model.gguf' })
      const offset = only(found, 'bad-weights').where!.offset!
      expect(offset).toBeGreaterThanOrEqual(block)
      expect(offset).toBeLessThan(block + tensor.type.bytes)
    },
  )

  test('a thorough look can be cancelled, and holds a piece at a time', async () => {
    const aborted = new AbortController()
    aborted.abort()
    await expect(findings(await make('f32'), { signal: aborted.signal })).rejects.toMatchObject({ code: 'cancelled' })
  })

  /** Where in a block of each type a NaN does harm. */
  const PLACES = [
    ['f32', 'blk.0.ffn_up.weight', 0, [0, 0, 0xc0, 0x7f]],
    ['f16', 'blk.0.ffn_up.weight', 0, [0, 0x7e]],
    ['bf16', 'blk.0.ffn_up.weight', 0, [0x80, 0x7f]],
    ['q8_0', 'blk.0.ffn_up.weight', 0, [0, 0x7c]],
    ['q4_0', 'blk.0.ffn_up.weight', 0, [0, 0xfc]],
    ['q4_k_m', 'blk.0.ffn_up.weight', 2, [0, 0x7e]],
    ['q4_k_m', 'output.weight', 208, [1, 0x7c]],
    ['q4_k_m', 'blk.0.attn_norm.weight', 0, [0, 0, 0x80, 0x7f]],
  ] as const
  test.each(PLACES)('NaN in %s: %s', async (quant, name, place, nan) => {
    const bytes = await make(quant)
    const tensor = (await readGguf(await sourceOf(bytes))).tensors.find((candidate) => candidate.name === name)!
    // the last row is always looked at
    const at =
      tensor.offset +
      (tensor.size / (tensor.shape.length > 1 ? tensor.shape[0]! : 1)) *
        (tensor.shape.length > 1 ? tensor.shape[0]! - 1 : 0)
    bytes.set(nan, at + place)
    const finding = only(await findings(bytes), 'bad-weights')
    expect(finding).toMatchObject({
      severity: 'error',
      where: { file: 'model.gguf', tensor: name, offset: at + place },
    })
  })

  test('a matrix that was never written', async () => {
    const bytes = await make('q4_k_m')
    const tensor = (await readGguf(await sourceOf(bytes))).tensors.find(({ name }) => name === 'blk.2.attn_q.weight')!
    bytes.fill(0, tensor.offset, tensor.offset + tensor.size)
    expect(only(await findings(bytes), 'all-zero')).toMatchObject({
      severity: 'warning',
      where: { tensor: tensor.name },
    })
  })

  test('no file at all', async () => {
    const found: Finding[] = []
    const match = { format: 'gguf', kind: 'gguf', confidence: 1, because: '', entry: 'other.gguf' } as const
    for await (const finding of gguf.validate(memoryFolder({}), match)) found.push(finding)
    only(found, 'missing-file')
  })

  test('a wrong architecture does not name every tensor', async () => {
    const bytes = await remade(
      await make('f32', { ...SHAPE, layers: 30, hidden: 32, heads: 2, kvHeads: 1, intermediate: 32 }),
      ({ tensors }) => tensors.map((tensor) => ({ ...tensor, name: `x.${tensor.name}` })),
    )
    const found = await findings(bytes)
    expect(found).toHaveLength(101)
    expect(found.at(-1)!.code).toBe('too-many-findings')
  })
})

describe('detect', () => {
  test('by magic, the first part of a split model, not by name alone', async () => {
    const bytes = await make('q8_0')
    const match = await gguf.detect(memoryFolder({ 'b-00002-of-00002.gguf': bytes, 'c-00001-of-00002.GGUF': bytes }))
    expect(match).toMatchObject({
      format: 'gguf',
      entry: 'c-00001-of-00002.GGUF',
      because: 'c-00001-of-00002.GGUF, GGUF version 3, split into 2 files',
    })
    expect(
      await gguf.detect(memoryFolder({ 'a.gguf': Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8), 'b.gguf': new Uint8Array(2) })),
    ).toBeNull()
    expect(await gguf.detect(memoryFolder({ 'model.safetensors': bytes }))).toBeNull()
  })
})
