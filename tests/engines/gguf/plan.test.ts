import { describe, expect, test } from 'vitest'
import type { RopeScaling, Tokenizer } from '../../../src/core/checkpoint.ts'
import { AppError } from '../../../src/core/errors.ts'
import { segmentSize, type Plan } from '../../../src/core/plan.ts'
import { readGguf, type GgufHeader } from '../../../src/engines/containers/gguf/reader.ts'
import { gguf } from '../../../src/engines/gguf/engine.ts'
import { llama3Factors } from '../../../src/engines/gguf/rope.ts'
import { mistral } from '../../../src/models/mistral.ts'
import { qwen2 } from '../../../src/models/qwen2.ts'
import { qwen3 } from '../../../src/models/qwen3.ts'
import { executeNaively } from '../../oracle/naive.ts'
import { sourceOf } from './bytes.ts'
import { isOffered } from '../../../src/engines/gguf/weights/mix.ts'
import { MIXES } from '../../../src/engines/gguf/weights/mixes.ts'
import { BPE_PRE_TOKENIZERS } from '../../../src/engines/gguf/tokenizer.ts'
import { WRITABLE } from '../../../src/engines/gguf/weights/types.ts'
import { madeUpCheckpoint, madeUpTokenizer, MADE_UP_VOCAB, type MadeUp } from './made-up.ts'

const SMALL: MadeUp = { layers: 2, hidden: 64, intermediate: 96, heads: 4, kvHeads: 2, tied: false }

async function planOf(shape: MadeUp, quant = 'f32', pre: string | null = null): Promise<Plan> {
  return gguf.convert!(madeUpCheckpoint(shape).checkpoint, { quant, pre }, new Map())
}

async function headerOf(plan: Plan): Promise<GgufHeader> {
  const bytes = new Uint8Array(plan.files[0]!.size)
  for (const segment of plan.files[0]!.segments) if (segment.kind === 'bytes') bytes.set(segment.bytes, segment.offset)
  return readGguf(await sourceOf(bytes))
}

function values(header: GgufHeader): Record<string, unknown> {
  return Object.fromEntries([...header.metadata].map(([key, value]) => [key, value.value]))
}

async function failure(promise: Promise<unknown>): Promise<AppError> {
  const thrown: unknown = await promise.then(
    () => null,
    (error: unknown) => error,
  )
  expect(thrown).toBeInstanceOf(AppError)
  return thrown as AppError
}

describe('the plan', () => {
  test.each(['f32', 'f16', 'bf16', 'q8_0', 'q4_0', 'q4_k_m'])(
    '%s: segments fill the file without gap',
    async (quant) => {
      const plan = await planOf({ ...SMALL, vocab: 17 }, quant)
      const [file] = plan.files
      let end = 0
      for (const segment of file!.segments) {
        expect(segment.offset).toBe(end)
        expect(segmentSize(segment)).toBeGreaterThan(0)
        end += segmentSize(segment)
      }
      expect(end).toBe(file!.size)
      expect(plan.writeBytes).toBe(file!.size)
      const header = await headerOf(plan)
      const planned = file!.segments.flatMap((segment) => (segment.kind === 'tensor' ? [segment] : []))
      expect(
        header.tensors.map(({ name, offset, size, type, shape }) => ({ name, offset, size, type: type.dtype, shape })),
      ).toEqual(
        planned.map(({ name, offset, size, recipe }) => ({
          name,
          offset,
          size,
          type: recipe.dtype,
          shape: recipe.shape,
        })),
      )
    },
  )

  test('tensors in the order that a reader streams them', async () => {
    const header = await headerOf(await planOf({ ...SMALL, layers: 1 }))
    expect(header.tensors.map(({ name }) => name)).toEqual([
      'token_embd.weight',
      'blk.0.attn_norm.weight',
      'blk.0.attn_q.weight',
      'blk.0.attn_k.weight',
      'blk.0.attn_v.weight',
      'blk.0.attn_output.weight',
      'blk.0.ffn_norm.weight',
      'blk.0.ffn_gate.weight',
      'blk.0.ffn_up.weight',
      'blk.0.ffn_down.weight',
      'output_norm.weight',
      'output.weight',
    ])
  })

  test('reads each weight once', async () => {
    const { checkpoint } = madeUpCheckpoint(SMALL)
    const plan = await gguf.convert!(checkpoint, { quant: 'q4_k_m', pre: null }, new Map())
    expect(plan.readBytes).toBe(checkpoint.sources[0]!.size)
  })

  test('a tied model has no output matrix', async () => {
    const header = await headerOf(await planOf({ ...SMALL, tied: true }))
    expect(header.tensors.some(({ name }) => name === 'output.weight')).toBe(false)
  })

  test('every row fall-back is a finding with its reason', async () => {
    const { findings } = await planOf(SMALL, 'q4_k_m')
    const found = findings.filter(({ code }) => code === 'row-fallback')
    expect(found).toHaveLength(2 * 7 + 2)
    expect(found.map(({ message }) => message)).toContain(
      'blk.0.ffn_down.weight is Q5_0 instead of Q4_K: its rows of 96 are not whole blocks',
    )
    expect(found.every(({ where }) => where?.tensor !== undefined)).toBe(true)
    expect((await planOf(SMALL, 'q8_0')).findings).toEqual([])
  })

  test('the file is named after the model and the mixture, for any file system', async () => {
    expect((await planOf(SMALL, 'q4_k_m')).files[0]!.path).toBe('Made-Up-1B-Instruct-Q4_K_M.gguf')
    const { checkpoint } = madeUpCheckpoint(SMALL)
    for (const [name, path] of [
      ['a/b:c?', 'a-b-c-F32.gguf'],
      ['..', 'model-F32.gguf'],
      ['', 'model-F32.gguf'],
    ] as const) {
      const plan = await gguf.convert!({ ...checkpoint, name }, { quant: 'f32', pre: null }, new Map())
      expect(plan.files[0]!.path).toBe(path)
    }
  })

  test('is the same for the same input, and is plain data', async () => {
    const [a, b] = [await planOf(SMALL, 'q4_k_m'), await planOf(SMALL, 'q4_k_m')]
    expect(a).toEqual(b)
    expect(structuredClone(a)).toEqual(a)
  })

  test('a missing tensor is named', async () => {
    const { checkpoint } = madeUpCheckpoint(SMALL)
    const tensors = new Map(checkpoint.tensors)
    tensors.delete('blocks.1.mlp.up.weight')
    const error = await failure(gguf.convert!({ ...checkpoint, tensors }, { quant: 'f32', pre: null }, new Map()))
    expect(error.code).toBe('missing-tensor')
    expect(error.where.tensor).toBe('blocks.1.mlp.up.weight')
  })

  test('an architecture that llama.cpp does not run is refused by name', async () => {
    const { checkpoint } = madeUpCheckpoint(SMALL)
    const error = await failure(gguf.convert!({ ...checkpoint, architecture: 'opt' }, { quant: 'f32' }, new Map()))
    expect(error.code).toBe('unsupported')
    expect(error.message).toContain('opt')
  })
})

describe('query and key rows', () => {
  /** What each row of a file's F32 tensor starts with, as row numbers of the source. */
  async function rowOrder(shape: MadeUp, name: string, role: string): Promise<number[]> {
    const { checkpoint, folder } = madeUpCheckpoint(shape)
    const convert = async (input: typeof checkpoint) =>
      executeNaively(await gguf.convert!(input, { quant: 'bf16', pre: null }, new Map()), folder)
    const bytes = await convert(checkpoint)
    const header = await readGguf(await sourceOf(bytes))
    const tensor = header.tensors.find((candidate) => candidate.name === name)!
    const source = checkpoint.tensors.get(role)!
    if (source.op !== 'read') throw new Error('read expected')
    const [rows = 0] = source.shape
    const original = new Uint8Array((tensor.size / (tensor.type.dtype === 'f32' ? 2 : 1)) | 0)
    await (await folder.open('weights.bin')).read(source.offset, original)
    // biases are F32 in the file: compare the upper halves, which are the bfloat16
    const width = original.length / rows
    const key = (data: Uint8Array) => Buffer.from(data).toString('hex')
    const rowKey = (row: number): string => {
      const at = tensor.offset + (row * tensor.size) / rows
      return tensor.type.dtype === 'f32' ? key(bytes.subarray(at + 2, at + 4)) : key(bytes.subarray(at, at + width))
    }
    const byKey = new Map(
      Array.from({ length: rows }, (_, r) => [key(original.subarray(r * width, (r + 1) * width)), r]),
    )
    return Array.from({ length: rows }, (_, row) => byKey.get(rowKey(row))!)
  }

  const EIGHT: MadeUp = { layers: 1, hidden: 16, intermediate: 32, heads: 2, kvHeads: 1, tied: false }

  test('of llama and mistral are interleaved within each head', async () => {
    const expected = [0, 4, 1, 5, 2, 6, 3, 7]
    for (const architecture of [undefined, mistral]) {
      const shape = architecture === undefined ? EIGHT : { ...EIGHT, architecture }
      expect(await rowOrder(shape, 'blk.0.attn_k.weight', 'blocks.0.attn.k.weight')).toEqual(expected)
      const both = [...expected, ...expected.map((row) => row + 8)]
      expect(await rowOrder(shape, 'blk.0.attn_q.weight', 'blocks.0.attn.q.weight')).toEqual(both)
      const straight = Array.from({ length: 8 }, (_, row) => row)
      expect(await rowOrder(shape, 'blk.0.attn_v.weight', 'blocks.0.attn.v.weight')).toEqual(straight)
    }
  })

  test('of llama, biases too', async () => {
    const shape = { ...EIGHT, config: { raw: new Map([['attention_bias', true]]) } }
    expect(await rowOrder(shape, 'blk.0.attn_k.bias', 'blocks.0.attn.k.bias')).toEqual([0, 4, 1, 5, 2, 6, 3, 7])
  })

  test('of qwen stay as they are', async () => {
    const straight = Array.from({ length: 8 }, (_, row) => row)
    for (const architecture of [qwen2, qwen3])
      expect(await rowOrder({ ...EIGHT, architecture }, 'blk.0.attn_k.weight', 'blocks.0.attn.k.weight')).toEqual(
        straight,
      )
  })
})

describe('metadata', () => {
  test('all keys of a llama', async () => {
    const header = await headerOf(await planOf(SMALL, 'q4_k_m'))
    expect(values(header)).toEqual({
      'general.architecture': 'llama',
      'general.type': 'model',
      'general.name': 'Made Up 1B Instruct',
      // so small a model has no billion of weights: llama.cpp takes the size for a length of context
      'general.finetune': '1b-Instruct',
      'general.basename': 'Made-Up',
      'general.size_label': '64K',
      'llama.block_count': 2,
      'llama.context_length': 128,
      'llama.embedding_length': 64,
      'llama.feed_forward_length': 96,
      'llama.attention.head_count': 4,
      'llama.attention.head_count_kv': 2,
      'llama.attention.key_length': 16,
      'llama.attention.value_length': 16,
      'llama.attention.layer_norm_rms_epsilon': Math.fround(1e-5),
      'llama.rope.freq_base': 10_000,
      'llama.rope.dimension_count': 16,
      'llama.vocab_size': MADE_UP_VOCAB,
      'general.file_type': 15,
      'general.quantization_version': 2,
      'tokenizer.ggml.model': 'gpt2',
      'tokenizer.ggml.pre': 'llama-bpe',
      'tokenizer.ggml.tokens': Array.from({ length: MADE_UP_VOCAB }, (_, id) => `t${id}`),
      'tokenizer.ggml.token_type': new Int32Array(MADE_UP_VOCAB).fill(1),
      'tokenizer.ggml.merges': ['t 1'],
      'tokenizer.ggml.bos_token_id': 0,
      'tokenizer.ggml.eos_token_id': 1,
      'tokenizer.ggml.add_bos_token': true,
      'modelconvert.recipe':
        '{"version":1,"from":"huggingface","class":"LlamaForCausalLM","to":"gguf","quant":"q4_k_m"}',
    })
  })

  test.each([
    [mistral, 'llama'],
    [qwen2, 'qwen2'],
    [qwen3, 'qwen3'],
  ] as const)('%j', async (architecture, name) => {
    const found = values(await headerOf(await planOf({ ...SMALL, architecture })))
    expect(found['general.architecture']).toBe(name)
    expect(found[`${name}.block_count`]).toBe(2)
  })

  const scaled = (scaling: RopeScaling, theta = 10_000): MadeUp => ({ ...SMALL, config: { rope: { theta, scaling } } })

  test('linear and yarn scaling', async () => {
    const linear = values(await headerOf(await planOf(scaled({ kind: 'linear', factor: 4 }))))
    expect(linear).toMatchObject({ 'llama.rope.scaling.type': 'linear', 'llama.rope.scaling.factor': 4 })
    const yarn = { kind: 'yarn', factor: 4, originalContext: 32_768, betaFast: null, betaSlow: null } as const
    const plain = values(await headerOf(await planOf(scaled({ ...yarn, attentionFactor: null }))))
    expect(plain).toMatchObject({
      'llama.rope.scaling.type': 'yarn',
      'llama.rope.scaling.factor': 4,
      'llama.rope.scaling.original_context_length': 32_768,
    })
    expect(plain).not.toHaveProperty(['llama.rope.scaling.attn_factor'])
    // llama.cpp multiplies by 1 + 0.1 ln 4 itself
    const own = values(await headerOf(await planOf(scaled({ ...yarn, attentionFactor: 1 + 0.1 * Math.log(4) }))))
    expect(own['llama.rope.scaling.attn_factor']).toBe(1)
  })

  test('yarn betas that llama.cpp ignores, and a window that it has not, are warned of', async () => {
    const yarn = {
      kind: 'yarn',
      factor: 4,
      originalContext: 64,
      betaFast: 16,
      betaSlow: 1,
      attentionFactor: null,
    } as const
    expect((await planOf(scaled(yarn))).findings.map(({ code }) => code)).toEqual(['yarn-beta-ignored'])
    const windowed = await planOf({ ...SMALL, config: { slidingWindow: 32 } })
    expect(windowed.findings.map(({ code }) => code)).toEqual(['window-ignored'])
  })

  test('llama3 scaling is a tensor of factors, as PyTorch computes them', async () => {
    // Llama 3.1 8B: head width 128, theta 500000, factor 8, 1 and 4 of 8192
    const scaling = { kind: 'llama3', factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalContext: 8192 } as const
    const factors = llama3Factors(500_000, scaling, 128)
    expect(factors).toHaveLength(64)
    expect([...factors.subarray(0, 29)]).toEqual(Array.from({ length: 29 }, () => 1))
    expect([...factors.subarray(35)]).toEqual(Array.from({ length: 29 }, () => 8))
    // by NumPy in float32, the way of llama.cpp's converter; a step may round to the neighbour
    const between = [
      1.2074838876724243, 1.5534145832061768, 2.026313066482544, 2.6945300102233887, 3.684253215789795,
      5.257327079772949,
    ]
    between.forEach((value, i) => expect(Math.abs(factors[29 + i]! / value - 1)).toBeLessThan(3e-7))
    const header = await headerOf(await planOf(scaled(scaling, 500_000)))
    expect(header.tensors[0]).toMatchObject({ name: 'rope_freqs.weight', shape: [8], size: 32 })
    expect(values(header)).not.toHaveProperty(['llama.rope.scaling.type'])
  })
})

describe('tokenizers', () => {
  const withTokenizer = async (tokenizer: Tokenizer | null, pre: string | null = null) => {
    const plan = await planOf({ ...SMALL, tokenizer }, 'f32', pre)
    return { found: values(await headerOf(plan)), codes: plan.findings.map(({ code }) => code) }
  }

  test('SPM: scores and types; bytes, control and unused tokens; ends', async () => {
    const { found } = await withTokenizer(
      madeUpTokenizer(0, {
        kind: 'spm',
        pre: 'default',
        tokens: [
          { text: '<unk>', type: 'unknown', score: 0 },
          { text: '<s>', type: 'control', score: 0 },
          { text: '<0x0A>', type: 'byte', score: 0 },
          { text: '▁the', type: 'normal', score: -1.5 },
          { text: '<tool>', type: 'user', score: -1000 },
        ],
        ids: { bos: 1, eos: 1, eot: 4, unknown: 0, pad: 2 },
        addEos: false,
        addSpacePrefix: false,
      }),
    )
    expect(found).toMatchObject({
      'tokenizer.ggml.model': 'llama',
      'tokenizer.ggml.pre': 'default',
      'tokenizer.ggml.bos_token_id': 1,
      'tokenizer.ggml.eot_token_id': 4,
      'tokenizer.ggml.unknown_token_id': 0,
      'tokenizer.ggml.padding_token_id': 2,
      'tokenizer.ggml.add_eos_token': false,
      'tokenizer.ggml.add_space_prefix': false,
    })
    const tokens = found['tokenizer.ggml.tokens'] as string[]
    expect(tokens.slice(4, 7)).toEqual(['<tool>', '[PAD5]', '[PAD6]'])
    expect(tokens).toHaveLength(MADE_UP_VOCAB)
    expect([...(found['tokenizer.ggml.token_type'] as Int32Array)].slice(0, 7)).toEqual([2, 3, 6, 1, 4, 5, 5])
    expect([...(found['tokenizer.ggml.scores'] as Float32Array)].slice(2, 6)).toEqual([0, -1.5, -1000, -10_000])
    expect(found).not.toHaveProperty(['tokenizer.ggml.merges'])
  })

  test('more tokens than rows are cut, with a warning', async () => {
    const { found, codes } = await withTokenizer(madeUpTokenizer(MADE_UP_VOCAB + 2))
    expect(found['tokenizer.ggml.tokens']).toHaveLength(MADE_UP_VOCAB)
    expect(codes).toEqual(['tokens-cut'])
  })

  test('an id beyond the tokens is left out, with a warning', async () => {
    const ids = { bos: 0, eos: 99, eot: null, unknown: null, pad: null }
    const { found, codes } = await withTokenizer(madeUpTokenizer(MADE_UP_VOCAB, { ids }))
    expect(found).not.toHaveProperty(['tokenizer.ggml.eos_token_id'])
    expect(codes).toEqual(['token-id-ignored'])
  })

  test('a space within a merge is spelled as the byte-level alphabet does', async () => {
    const { found } = await withTokenizer(madeUpTokenizer(MADE_UP_VOCAB, { merges: [['a b', 'c']] }))
    expect(found['tokenizer.ggml.merges']).toEqual(['aĠb c'])
  })

  test('chat templates: the default one and named ones', async () => {
    const chatTemplates = [
      { name: 'tool_use', template: '{{ tools }}' },
      { name: 'default', template: '{{ messages }}' },
    ]
    const { found } = await withTokenizer(madeUpTokenizer(MADE_UP_VOCAB, { chatTemplates }))
    expect(found).toMatchObject({
      'tokenizer.chat_template': '{{ messages }}',
      'tokenizer.chat_template.tool_use': '{{ tools }}',
      'tokenizer.chat_templates': ['tool_use'],
    })
  })

  test('no tokenizer at all is a warning', async () => {
    const { found, codes } = await withTokenizer(null)
    expect(found['tokenizer.ggml.model']).toBe('no_vocab')
    expect(codes).toEqual(['no-tokenizer'])
  })

  test('an unrecognised pre-tokenizer is refused with the candidates; --pre names one', async () => {
    const unknown = madeUpTokenizer(MADE_UP_VOCAB, {
      pre: null,
      preDescription: 'Split on "x"',
      preCandidates: ['falcon', 'viking'],
    })
    const error = await failure(planOf({ ...SMALL, tokenizer: unknown }))
    expect(error.code).toBe('bad-option')
    expect(error.message).toContain('Split on "x"')
    expect(error.hint).toMatch(/--pre/)
    expect(error.hint).toMatch(/Most like it: falcon, viking\..*llama-bpe.*qwen2/)
    const { found } = await withTokenizer(unknown, 'tekken')
    expect(found['tokenizer.ggml.pre']).toBe('tekken')
  })

  test.each([
    [madeUpTokenizer(MADE_UP_VOCAB), 'nonsense', /no pre-tokenizer "nonsense"/],
    [madeUpTokenizer(MADE_UP_VOCAB, { kind: 'spm' }), 'qwen2', /SentencePiece/],
  ])('a --pre that cannot be is refused', async (tokenizer, pre, says) => {
    const error = await failure(planOf({ ...SMALL, tokenizer }, 'f32', pre))
    expect(error.code).toBe('bad-option')
    expect(error.message).toMatch(says)
  })
})

test('options have a helpful line each', () => {
  for (const option of gguf.options) {
    expect(option.help).toMatch(/\.$/)
    if (option.kind.kind !== 'choice') continue
    if (option.name !== 'quant') {
      const choices = option.name === 'pre' ? BPE_PRE_TOKENIZERS : WRITABLE
      expect(option.kind.choices.map(({ value }) => value)).toEqual(['auto', ...choices])
      continue
    }
    const offered = MIXES.filter(isOffered).map(({ id }) => id)
    expect(option.kind.choices.map(({ value }) => value)).toEqual([...offered, 'copy'])
    expect(option.kind.default).toBe('q4_k_m')
    for (const { help } of option.kind.choices) expect(help).toMatch(/\.$/)
  }
})
