import { describe, expect, test } from 'vitest'
import type { Folder } from '../../../src/core/bytes.ts'
import type { Checkpoint, ModelConfig } from '../../../src/core/checkpoint.ts'
import { cast, literalF32 } from '../../../src/core/tensor.ts'
import { readGguf } from '../../../src/engines/containers/gguf/reader.ts'
import { ggufLayout } from '../../../src/engines/containers/gguf/writer.ts'
import { deinterleaveRows, interleaveRows } from '../../../src/engines/gguf/transforms.ts'
import { llama3Factors, solveLlama3 } from '../../../src/engines/gguf/rope.ts'
import { gguf } from '../../../src/engines/gguf/engine.ts'
import { gemma2 } from '../../../src/models/gemma2.ts'
import { mistral } from '../../../src/models/mistral.ts'
import { mixtral } from '../../../src/models/mixtral.ts'
import { qwen2 } from '../../../src/models/qwen2.ts'
import { qwen3 } from '../../../src/models/qwen3.ts'
import { memoryFolder } from '../../contracts/memory.ts'
import { evaluateNaively } from '../../oracle/naive.ts'
import { filesOf, openFiles } from './folder.ts'
import { madeUpCheckpoint, type MadeUp } from './made-up.ts'

const SHAPE: MadeUp = { layers: 2, hidden: 32, intermediate: 48, heads: 4, kvHeads: 2, tied: false }

type Scaling = ModelConfig['rope']['scaling']

async function throughGguf(
  shape: MadeUp,
  quant = 'f32',
): Promise<{ before: Checkpoint; source: Folder; after: Checkpoint; folder: Folder }> {
  const { checkpoint: before, folder: source } = madeUpCheckpoint(shape)
  const { checkpoint: after, folder } = await openFiles(await filesOf(before, source, { quant, pre: null }))
  return { before, source, after, folder }
}

/** A tensor's values as f32 bytes. */
function values(checkpoint: Checkpoint, folder: Folder, role: string): Promise<Uint8Array> {
  return evaluateNaively(cast(checkpoint.tensors.get(role)!, 'f32'), folder)
}

describe('GGUF as an input', () => {
  const flags = new Map([
    ['attention_bias', true],
    ['mlp_bias', true],
  ])
  const shapes: readonly (readonly [string, MadeUp])[] = [
    ['llama', SHAPE],
    ['llama, tied', { ...SHAPE, tied: true }],
    ['llama with biases', { ...SHAPE, config: { raw: flags } }],
    ['qwen2', { ...SHAPE, architecture: qwen2 }],
    ['qwen3, tied', { ...SHAPE, architecture: qwen3, tied: true }],
  ]

  test.each(shapes)('%s: every tensor comes back bit for bit, and the configuration', async (_, shape) => {
    const { before, source, after, folder } = await throughGguf(shape)
    expect([...after.tensors.keys()].sort()).toEqual([...before.tensors.keys()].sort())
    for (const role of before.tensors.keys())
      expect(Buffer.compare(await values(after, folder, role), await values(before, source, role)), role).toBe(0)
    const { raw, dtype, ...config } = before.config
    expect(after.config).toMatchObject(config)
    expect([...after.config.raw]).toEqual([...raw])
    expect([dtype, after.config.dtype]).toEqual(['bf16', 'f32'])
    expect(after.architecture).toBe(before.architecture)
    expect(after.tokenizer).toMatchObject({ ...before.tokenizer, preDescription: expect.any(String) })
    expect(after.findings).toEqual([])
  })

  test('a Mistral comes back as the llama that it is to llama.cpp', async () => {
    const { after } = await throughGguf({ ...SHAPE, architecture: mistral })
    expect([after.architecture, after.config.className]).toEqual(['llama', 'LlamaForCausalLM'])
  })

  test('a Mixtral’s experts come back one by one', async () => {
    const experts = { count: 3, used: 2, intermediateSize: 48 }
    const raw = new Map([
      ['num_local_experts', 3],
      ['num_experts_per_tok', 2],
    ])
    const { checkpoint } = madeUpCheckpoint({ ...SHAPE, architecture: mixtral, config: { experts, raw } })
    const files = await bytesByRecipe(checkpoint)
    const { checkpoint: after } = await openFiles(files)
    expect(after).toMatchObject({ architecture: 'mixtral', config: { experts, className: 'MixtralForCausalLM' } })
    expect([...after.tensors.keys()].sort()).toEqual([...checkpoint.tensors.keys()].sort())
    expect(after.tensors.get('blocks.1.mlp.experts.2.up.weight')!.shape).toEqual([48, 32])
  })

  test('Gemma’s norms lose the 1 that GGUF adds', async () => {
    const raw = new Map([['query_pre_attn_scalar', 8]])
    const config = { raw, attentionSoftcap: 50, logitSoftcap: 30, attentionScale: 1 / Math.sqrt(8), slidingWindow: 64 }
    const { checkpoint } = madeUpCheckpoint({ ...SHAPE, architecture: gemma2, tied: true, config })
    const { checkpoint: after } = await openFiles(await bytesByRecipe(checkpoint))
    expect(after).toMatchObject({
      architecture: 'gemma2',
      config: { attentionSoftcap: 50, logitSoftcap: 30, slidingWindow: 64 },
    })
    expect(after.tensors.get('blocks.0.attn_norm.weight')).toMatchObject({ op: 'affine', mul: 1, add: -1 })
    expect(after.tensors.get('blocks.0.attn.q.weight')!.op).toBe('read')
  })

  /** Only the headers: the plan's literal bytes, zeros for tensors. */
  async function bytesByRecipe(checkpoint: Checkpoint): Promise<Record<string, Uint8Array<ArrayBuffer>>> {
    const plan = await gguf.convert!(checkpoint, { quant: 'f32', pre: null }, new Map())
    return Object.fromEntries(
      plan.files.map(({ path, size, segments }) => {
        const bytes = new Uint8Array(size)
        for (const segment of segments) if (segment.kind === 'bytes') bytes.set(segment.bytes, segment.offset)
        return [path, bytes]
      }),
    )
  }

  const scalings: readonly (readonly [string, Scaling])[] = [
    ['linear', { kind: 'linear', factor: 2.5 }],
    ['llama3', { kind: 'llama3', factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalContext: 8192 }],
    [
      'llama3 of another size',
      { kind: 'llama3', factor: 32, lowFreqFactor: 1, highFreqFactor: 4, originalContext: 96 },
    ],
    [
      'yarn',
      { kind: 'yarn', factor: 4, originalContext: 32_768, betaFast: null, betaSlow: null, attentionFactor: null },
    ],
    [
      'yarn with more',
      { kind: 'yarn', factor: 4, originalContext: 4096, betaFast: 32, betaSlow: 1, attentionFactor: 1.25 },
    ],
  ]

  test.each(scalings)('rotary scaling: %s', async (_, scaling) => {
    const config = { rope: { theta: 500_000, scaling } }
    const { after } = await throughGguf({ ...SHAPE, hidden: 256, heads: 4, config })
    expect(after.config.rope).toEqual({ theta: 500_000, scaling })
  })

  test('rotary factors that no rope_scaling gives: GGUF only', async () => {
    const { checkpoint, folder } = madeUpCheckpoint({
      ...SHAPE,
      config: { rope: { theta: 1e4, scaling: scalings[1]![1] } },
    })
    const files = await filesOf(checkpoint, folder, { quant: 'f32' })
    const bytes = Object.values(files)[0]!
    const source = await memoryFolder({ 'model.gguf': bytes }).open('model.gguf')
    const tensor = (await readGguf(source)).tensors.find(({ name }) => name === 'rope_freqs.weight')!
    bytes.set(new Uint8Array(Float32Array.of(1, 3, 2, 5).buffer), tensor.offset)
    const { checkpoint: after } = await openFiles({ 'model.gguf': bytes })
    expect(after.architecture).toBe('none')
    expect(after.findings.map(({ code }) => code)).toContain('gguf-only')
  })

  test('quantised weights stay as they lie, in order of their rows', async () => {
    const { after } = await throughGguf(SHAPE, 'q8_0')
    expect(after.tensors.get('blocks.0.attn.v.weight')).toMatchObject({ op: 'read', dtype: 'q8_0' })
    expect(after.tensors.get('blocks.0.attn.q.weight')).toMatchObject({ op: 'reshape', dtype: 'q8_0' })
    expect(after.config.dtype).toBe('f16')
    expect(after.findings.map(({ code }) => code)).toEqual(['quantised-source'])
  })

  test('a llama with query biases alone is no llama of ours: another format would lose them', async () => {
    const { checkpoint, folder } = madeUpCheckpoint(SHAPE)
    const bytes = Object.values(await filesOf(checkpoint, folder, { quant: 'f32' }))[0]!
    const header = await readGguf(await memoryFolder({ 'model.gguf': bytes }).open('model.gguf'))
    const tensors = [
      ...header.tensors.map(({ name, shape }) => ({ name, shape, dtype: 'f32' as const })),
      { name: 'blk.0.attn_q.bias', shape: [32], dtype: 'f32' as const },
    ]
    const layout = ggufLayout(header.metadata, tensors)
    const file = new Uint8Array(layout.size)
    file.set(layout.header)
    const { checkpoint: after } = await openFiles({ 'model.gguf': file })
    expect(after.architecture).toBe('none')
    expect(after.findings[0]?.message).toContain('blk.0.attn_q.bias')
    expect(after.tensors.has('blk.0.attn_q.bias')).toBe(true)
    await expect(gguf.convert!(after, { quant: 'f16' }, new Map())).resolves.toMatchObject({ target: 'gguf' })
  })
})

describe('rotary rows', () => {
  test.each([1, 2, 4])('undoing the order of %d heads gives the rows back', async (heads) => {
    const of = literalF32(
      [16, 3],
      Float32Array.from({ length: 48 }, (_, i) => i),
    )
    const there = interleaveRows(of, heads)
    const back = await evaluateNaively(deinterleaveRows(there, heads), memoryFolder({}))
    expect([...new Float32Array(Uint8Array.from(back).buffer)]).toEqual(Array.from({ length: 48 }, (_, i) => i))
    if (heads < 8) expect(await evaluateNaively(there, memoryFolder({}))).not.toEqual(back)
  })
})

describe('the parameters behind rotary factors', () => {
  const cases = [
    [500_000, 128, 8, 4, 8192],
    [500_000, 64, 32, 4, 8192],
    [10_000, 16, 8, 4, 128],
    [1_000_000, 128, 16, 2, 4096],
    [500_000, 128, 8, 8, 3000],
  ] as const

  test.each(cases)(
    'theta %d, heads of %d, factor %d, high %d, context %d',
    (theta, dim, factor, highFreqFactor, originalContext) => {
      const scaling = { kind: 'llama3', factor, lowFreqFactor: 1, highFreqFactor, originalContext } as const
      const factors = llama3Factors(theta, scaling, dim)
      const found = solveLlama3(factors, theta, dim)
      expect(found).not.toBeNull()
      expect(llama3Factors(theta, found!, dim)).toEqual(factors)
      if (dim === 128) expect(found).toEqual(scaling)
    },
  )

  test('none for factors of another make', () => {
    expect(solveLlama3(Float32Array.of(1, 1, 1, 1), 1e4, 8)).toBeNull()
    expect(solveLlama3(Float32Array.of(1, 2, 3, 4), 1e4, 8)).toBeNull()
    expect(solveLlama3(Float32Array.of(1, 2, Number.NaN, 4), 1e4, 8)).toBeNull()
    expect(solveLlama3(Float32Array.of(1, 8), 1e4, 8)).toBeNull()
  })
})
