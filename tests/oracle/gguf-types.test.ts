import { mkdtemp, open, rm } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { ggmlTypes, type GgufValue } from '../../src/engines/containers/gguf/types.ts'
import { ggufLayout } from '../../src/engines/containers/gguf/writer.ts'
import { gguf } from '../../src/engines/gguf/engine.ts'
import {
  chooseTypes,
  PLAIN,
  type MixModel,
  type MixSettings,
  type MixTensor,
} from '../../src/engines/gguf/weights/mix.ts'
import { MIXES } from '../../src/engines/gguf/weights/mixes.ts'
import { blockOf, type WeightType } from '../../src/engines/gguf/weights/types.ts'
import { gpt2 } from '../../src/models/gpt2.ts'
import { mixtral } from '../../src/models/mixtral.ts'
import { phi3 } from '../../src/models/phi3.ts'
import { qwen2 } from '../../src/models/qwen2.ts'
import { madeUpCheckpoint, type MadeUp } from '../engines/gguf/made-up.ts'
import { llamaTypes, noLlama, type LlamaOptions } from './llama.ts'

/** A model as llama.cpp and as our rules see it. */
interface Sample {
  readonly metadata: ReadonlyMap<string, GgufValue>
  readonly tensors: readonly MixTensor[]
  readonly model: MixModel
}

const BASE: MadeUp = { layers: 32, hidden: 256, intermediate: 256, heads: 4, kvHeads: 4, tied: false }

/** The names and shapes of a made-up model's file, with the keys that its loader wants. */
async function sampleOf(name: string, shape: MadeUp, extra: readonly (readonly [string, GgufValue])[] = []) {
  const { checkpoint } = madeUpCheckpoint(shape)
  const plan = await gguf.convert!(checkpoint, { quant: 'f32' }, new Map())
  const tensors = plan.files[0]!.segments.flatMap((segment) =>
    segment.kind === 'tensor' ? [{ name: segment.name, shape: segment.recipe.shape }] : [],
  )
  const { heads, kvHeads, layers, experts } = checkpoint.config
  const model: MixModel = { architecture: name, layers, heads, kvHeads, experts: experts?.count ?? 0 }
  const metadata = new Map<string, GgufValue>([['general.architecture', { type: 'string', value: name }]])
  const set = (key: string, value: number, type: 'u32' | 'f32' = 'u32') =>
    metadata.set(`${name}.${key}`, { type, value })
  set('block_count', layers)
  set('context_length', 128)
  set('embedding_length', shape.hidden)
  set('feed_forward_length', shape.intermediate)
  set('attention.head_count', heads)
  set('attention.head_count_kv', kvHeads)
  set('vocab_size', 16)
  set('attention.layer_norm_rms_epsilon', 1e-5, 'f32')
  set('attention.layer_norm_epsilon', 1e-5, 'f32')
  if (model.experts > 0) {
    set('expert_count', model.experts)
    set('expert_used_count', 2)
  }
  for (const [key, value] of extra) metadata.set(key, value)
  return { metadata, tensors, model } satisfies Sample
}

const experts = (count: number) => ({
  architecture: mixtral,
  config: { experts: { count, used: 2, intermediateSize: 256 } },
})

/** Names of T5's two stacks, which no layer number stands before. */
const T5: Sample = {
  metadata: new Map<string, GgufValue>([
    ['general.architecture', { type: 'string', value: 't5' }],
    ...['block_count', 'decoder_block_count'].map((key): [string, GgufValue] => [
      `t5.${key}`,
      { type: 'u32', value: 12 },
    ]),
    ...Object.entries({
      context_length: 128,
      embedding_length: 256,
      feed_forward_length: 256,
      'attention.head_count': 4,
      'attention.relative_buckets_count': 32,
      vocab_size: 16,
    }).map(([key, value]): [string, GgufValue] => [`t5.${key}`, { type: 'u32', value }]),
    ['t5.attention.layer_norm_rms_epsilon', { type: 'f32', value: 1e-5 }],
    ['t5.attention.layer_norm_epsilon', { type: 'f32', value: 1e-5 }],
  ]),
  tensors: [
    { name: 'token_embd.weight', shape: [16, 256] },
    ...['enc', 'dec'].flatMap((stack) =>
      Array.from({ length: 12 }, (_, i) => i).flatMap((i) =>
        [
          'attn_q',
          'attn_k',
          'attn_v',
          'attn_rel_b',
          'ffn_gate',
          'ffn_up',
          'ffn_down',
          ...(stack === 'dec' ? ['cross_attn_q', 'cross_attn_k', 'cross_attn_v', 'cross_attn_o'] : []),
          'attn_o',
        ].map((part) => ({ name: `${stack}.blk.${i}.${part}.weight`, shape: [256, 256] })),
      ),
    ),
  ],
  model: { architecture: 't5', layers: 12, heads: 4, kvHeads: 4, experts: 0 },
}

const SAMPLES: readonly (readonly [string, () => Promise<Sample>])[] = [
  ['32 layers', () => sampleOf('llama', BASE)],
  ['24 layers, tied, 2 queries a key', () => sampleOf('llama', { ...BASE, layers: 24, kvHeads: 2, tied: true })],
  ['80 layers, 4 queries a key: a "70B"', () => sampleOf('llama', { ...BASE, layers: 80, kvHeads: 1 })],
  ['80 layers of qwen2', () => sampleOf('qwen2', { ...BASE, layers: 80, architecture: qwen2 })],
  ['80 layers, one query a key: no "70B"', () => sampleOf('llama', { ...BASE, layers: 80 })],
  ['8 experts', () => sampleOf('llama', { ...BASE, ...experts(8) })],
  ['4 experts, 4 queries a key', () => sampleOf('llama', { ...BASE, layers: 9, kvHeads: 1, ...experts(4) })],
  ['6 experts, 80 layers', () => sampleOf('llama', { ...BASE, layers: 80, kvHeads: 2, ...experts(6) })],
  ['8 experts, rows of 192', () => sampleOf('llama', { ...BASE, hidden: 192, layers: 7, ...experts(8) })],
  ['rows of 192 and 256', () => sampleOf('llama', { ...BASE, layers: 7, hidden: 192, heads: 6, kvHeads: 1 })],
  ['rows of 192, tied', () => sampleOf('llama', { ...BASE, layers: 2, hidden: 192, intermediate: 176, tied: true })],
  [
    'rows of 272 and 176',
    () => sampleOf('llama', { ...BASE, layers: 9, hidden: 272, intermediate: 176, heads: 2, kvHeads: 2 }),
  ],
  ['1 layer', () => sampleOf('llama', { ...BASE, layers: 1, kvHeads: 1 })],
  ['16 layers', () => sampleOf('llama', { ...BASE, layers: 16 })],
  ['fused projections (phi3)', () => sampleOf('phi3', { ...BASE, layers: 12, architecture: phi3 })],
  ['fused projections (gpt2)', () => sampleOf('gpt2', { ...BASE, layers: 12, tied: true, architecture: gpt2 })],
  ['falcon', () => sampleOf('falcon', { ...BASE, kvHeads: 1 })],
  ['t5', async () => T5],
]

/** ggml's number of a type. */
const number = (type: WeightType) => ggmlTypes().find(({ name }) => name.toLowerCase() === type)!.id

const SETTINGS: readonly (readonly [string, Partial<MixSettings>])[] = [
  ['nothing', {}],
  ['importances', { importance: true }],
  ['pure', { pure: true }],
  ['an output matrix left alone', { leaveOutput: true }],
  ['types of output matrix and embedding', { output: 'q8_0', embedding: 'q5_1' }],
  ['the output type alone', { output: 'q4_0' }],
  [
    'patterns',
    {
      importance: true,
      overrides: [
        { pattern: /blk\.[0-3]\.attn_v/, type: 'q8_0' },
        { pattern: /ffn_(up|gate)/, type: 'q2_k' },
        { pattern: /attn_v|token_embd/, type: 'q5_k' },
      ],
    },
  ],
]

function asLlama({ importance, pure, leaveOutput, output, embedding, overrides }: MixSettings): LlamaOptions {
  return {
    pure,
    leaveOutput,
    ...(output === null ? {} : { output: number(output) }),
    ...(embedding === null ? {} : { embedding: number(embedding) }),
    overrides: overrides.map(({ pattern, type }) => [pattern.source, number(type)] as const),
    // that there are any is all that the types depend on
    ...(importance ? { imatrix: { 'blk.0.attn_q.weight': [1] } } : {}),
  }
}

const title = `Types against llama_model_quantize${noLlama === null ? '' : ` (${noLlama})`}`

describe.skipIf(noLlama !== null)(title, () => {
  let folder = ''
  beforeAll(async () => {
    folder = await mkdtemp(path.join(os.tmpdir(), 'modelconvert-types-'))
  })
  afterAll(() => rm(folder, { recursive: true, force: true }))

  /** A file with a header and nothing but room behind it. */
  async function writeHollow({ metadata, tensors }: Sample): Promise<string> {
    const layout = ggufLayout(
      metadata,
      tensors.map((tensor) => ({ ...tensor, dtype: 'f32' as const })),
    )
    const file = path.join(folder, 'hollow.gguf')
    const handle = await open(file, 'w')
    await handle.write(layout.header)
    await handle.truncate(layout.size)
    await handle.close()
    return file
  }

  test.each(SAMPLES)('%s: every mixture, tensor by tensor', async (_, make) => {
    const sample = await make()
    const file = await writeHollow(sample)
    for (const [what, given] of SETTINGS) {
      const settings = { ...PLAIN, ...given }
      // a type that a row does not suit stops llama.cpp where it was asked for by name
      const fits = (type: WeightType | null) =>
        type === null || sample.tensors.every(({ shape }) => shape.at(-1)! % blockOf(type).block === 0)
      if (!fits(settings.output) || !fits(settings.embedding)) continue
      const theirs = await llamaTypes(
        file,
        MIXES.map(({ fileType }) => fileType),
        asLlama(settings),
      )
      for (const mix of MIXES) {
        const wanted = theirs.get(mix.fileType)
        if (wanted === null) {
          expect(() => chooseTypes(mix, sample.model, sample.tensors, settings), `${mix.id}, ${what}`).toThrow(
            'are not whole blocks',
          )
          continue
        }
        const choices = chooseTypes(mix, sample.model, sample.tensors, settings)
        const ours = new Map([...choices].map(([name, { type }]) => [name, type ?? 'f32']))
        const different = [...wanted!].filter(([name, type]) => ours.get(name) !== type)
        expect(
          different.map(([name, type]) => `${name}: ${type}, not ${ours.get(name)}`),
          `${mix.id}, ${what}`,
        ).toEqual([])
        expect(ours.size).toBe(wanted!.size)
      }
    }
  })
})
