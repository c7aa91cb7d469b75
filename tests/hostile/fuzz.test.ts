/**
 * Files of every format that is read, mutated at random: each must be read, or refused with an AppError that is not
 * `internal`; none may hang or take much memory. `FUZZ=20000 npx vitest run tests/hostile/fuzz.test.ts` goes on longer.
 */
import { afterAll, describe, expect, test } from 'vitest'
import { createApi } from '../../src/api/api.ts'
import { detect } from '../../src/api/api.ts'
import type { Folder } from '../../src/core/bytes.ts'
import { AppError } from '../../src/core/errors.ts'
import { importanceOf, readImatrix, writeImatrix, type Imatrix } from '../../src/engines/containers/imatrix.ts'
import { parseSentencePiece } from '../../src/engines/containers/sentencepiece.ts'
import { readTorchFile } from '../../src/engines/containers/torch.ts'
import { formatIds } from '../../src/engines/index.ts'
import { ANYWHERE, testHost } from '../api/host.ts'
import { memoryFolder, MemoryOutput } from '../contracts/memory.ts'
import { filesOf as ggufFiles } from '../engines/gguf/folder.ts'
import { madeUpCheckpoint } from '../engines/gguf/made-up.ts'
import { jsonBytes, utf8, type Files } from '../engines/hf/folder.ts'
import { convert, madeUp } from '../engines/megatron/folder.ts'
import { mutateBytes, mutateJson, seeded } from './mutate.ts'
import { stateDict, torchZip } from './pickle-bytes.ts'

const RUNS = Number(process.env['FUZZ'] ?? 150)
const SEED = Number(process.env['FUZZ_SEED'] ?? 1)
/** A hang would be endless; a slow machine is not. */
const SLOWEST_MS = 10_000
const MAX_MEMORY = 64 * 2 ** 20

/** What was asked for at once, and the longest that one file took. */
const seen = { largestRead: 0, slowestMs: 0, slowest: '', refused: 0, read: 0, codes: new Map<string, number>() }

const CONFIG = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  hidden_size: 32,
  intermediate_size: 32,
  num_hidden_layers: 1,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  max_position_embeddings: 64,
  rms_norm_eps: 1e-5,
  vocab_size: 300,
  bos_token_id: 0,
  eos_token_id: 1,
  tie_word_embeddings: true,
  rope_parameters: {
    rope_type: 'llama3',
    rope_theta: 10000,
    factor: 8,
    low_freq_factor: 1,
    high_freq_factor: 4,
    original_max_position_embeddings: 32,
  },
}

/** What the command does with a place: look at it, plan every target, validate. */
async function useWhole(files: Files, adapter: Files | null): Promise<void> {
  const folder = memoryFolder(files, { name: 'mutated' })
  const other = adapter === null ? null : memoryFolder(adapter, { name: 'adapter' })
  const output = new MemoryOutput()
  const host = testHost({ input: folder, output })
  const api = createApi({
    ...host,
    open: async (place): Promise<Folder> =>
      other !== null && 'path' in place && place.path === 'adapter' ? other : folder,
  })
  const transforms =
    other === null ? {} : { adapters: [{ place: { kind: 'path', path: 'adapter' } as const, weight: 1 }] }
  try {
    await ends(api.inspect(ANYWHERE, transforms))
    for (const target of formatIds())
      await ends(
        api.plan({ input: ANYWHERE, target, options: {}, output: ANYWHERE, name: null, overwrite: false, transforms }),
      )
    await ends(validate(folder))
  } finally {
    await api.close()
    for (const one of [folder, other])
      if (one !== null) seen.largestRead = Math.max(seen.largestRead, one.stats.largestRead)
  }
  expect(folder.stats.openSources + (other?.stats.openSources ?? 0)).toBe(0)
}

async function validate(folder: Folder): Promise<void> {
  const { engine, match } = await detect(folder)
  for await (const { code } of engine.validate(folder, match)) expect(code).not.toBe('internal')
}

/** Waits for what may refuse, but only in words. */
async function ends(what: Promise<unknown>): Promise<void> {
  try {
    await what
    seen.read++
  } catch (error) {
    if (!(error instanceof AppError) || error.code === 'internal') throw error
    seen.refused++
    seen.codes.set(error.code, (seen.codes.get(error.code) ?? 0) + 1)
  }
}

interface Subject {
  readonly files: Files
  /** What is mutated; all files if absent. */
  readonly only?: RegExp
  /** Bytes of a file from its start that are its header; the rest are weights. */
  readonly reach?: number
  readonly use?: (files: Files) => Promise<void>
  readonly adapter?: Files
  readonly runs?: number
}

const IMATRIX: Imatrix = {
  form: 'gguf',
  entries: new Map([
    ['blk.0.attn_q.weight', { sums: Float32Array.from({ length: 8 }, (_, i) => i + 1), counts: [4] }],
    ['blk.0.ffn_up_exps.weight', { sums: Float32Array.from({ length: 16 }, (_, i) => i), counts: [3, 0] }],
  ]),
  datasets: ['text'],
  chunkCount: 2,
  chunkSize: 512,
}

/** A SentencePiece model of a few pieces, by its protobuf fields. */
function sentencePiece(): Uint8Array {
  const field = (number: number, wire: number): number => (number << 3) | wire
  const message = (number: number, bytes: readonly number[]): number[] => [field(number, 2), bytes.length, ...bytes]
  const piece = (text: string, score: number, type: number): number[] => [
    ...message(1, [...new TextEncoder().encode(text)]),
    field(2, 5),
    ...new Uint8Array(Float32Array.of(score).buffer),
    field(3, 0),
    type,
  ]
  const pieces = [piece('<unk>', 0, 2), piece('<s>', 0, 3), piece('</s>', 0, 3), piece('▁a', -1, 1), piece('b', -2, 1)]
  const trainer = [field(3, 0), 2, field(40, 0) & 0x7f, 2]
  return Uint8Array.from([...pieces.flatMap((one) => message(1, one)), ...message(2, trainer), ...message(3, [])])
}

async function subjects(): Promise<ReadonlyMap<string, Subject>> {
  const { checkpoint, folder } = madeUpCheckpoint({
    layers: 1,
    hidden: 32,
    intermediate: 32,
    heads: 2,
    kvHeads: 1,
    tied: true,
  })
  const card = utf8('---\nlicense: mit\ntags: [a, b]\nbase_model:\n- a/b-7B\n---\n')
  const model = { ...(await madeUp(CONFIG)), 'README.md': card }
  const bin = torchZip(stateDict())
  const adapter = {
    'adapter_config.json': jsonBytes({
      peft_type: 'LORA',
      r: 2,
      lora_alpha: 4,
      target_modules: ['q_proj'],
      rank_pattern: {},
      alpha_pattern: {},
      use_rslora: false,
      modules_to_save: null,
      bias: 'none',
    }),
  }
  return new Map<string, Subject>([
    ['gguf', { files: await ggufFiles(checkpoint, folder, { quant: 'q8_0' }), reach: 2600 }],
    [
      'gguf, split',
      { files: await ggufFiles(checkpoint, folder, { quant: 'f16', 'split-max-tensors': 6 }), reach: 1800 },
    ],
    ['safetensors', { files: model, only: /\.safetensors$/, reach: 1200 }],
    ['config.json', { files: model, only: /^config\.json$/ }],
    ['tokenizer.json', { files: model, only: /tokenizer(_config)?\.json|generation/ }],
    ['a model card', { files: model, only: /^README/ }],
    ['an adapter', { files: model, adapter, only: /^adapter_config/ }],
    [
      'Megatron, ranks',
      { files: (await convert(model, 'megatron', { 'checkpoint-format': 'torch' })).files, reach: 4000 },
    ],
    [
      'Megatron, torch_dist',
      { files: (await convert(model, 'megatron', { 'checkpoint-format': 'torch_dist' })).files, reach: 6000 },
    ],
    ['MLX', { files: (await convert(model, 'mlx', {})).files, only: /config\.json|\.safetensors/, reach: 3000 }],
    [
      'pickles in zips',
      {
        files: { 'm.bin': bin },
        use: async (files) => {
          await ends(memoryFolder(files).open('m.bin').then(readTorchFile))
        },
      },
    ],
    [
      'importance matrices',
      {
        files: { 'new.gguf': writeImatrix(IMATRIX, 'gguf'), 'old.dat': writeImatrix(IMATRIX, 'legacy') },
        use: async (files) => {
          for (const [name, bytes] of Object.entries(files))
            await ends(
              readImatrix(bytes, name).then((read) =>
                [...read.entries.values()].map((entry) => importanceOf(entry, read.form)),
              ),
            )
        },
      },
    ],
    [
      'tokenizer.model',
      {
        files: { 'tokenizer.model': sentencePiece() },
        use: async (files) => {
          await ends(Promise.resolve().then(() => parseSentencePiece(files['tokenizer.model']!, 'tokenizer.model')))
        },
      },
    ],
  ])
}

const SUBJECTS = await subjects()

describe('mutated files', () => {
  afterAll(() => {
    if (process.env['FUZZ'] !== undefined) console.log(seen)
    expect(seen.largestRead).toBeLessThan(MAX_MEMORY)
    expect(seen.slowestMs, seen.slowest).toBeLessThan(SLOWEST_MS)
    // mutations that change nothing that matters, or that all break the same, would prove nothing
    expect(seen.read).toBeGreaterThan(RUNS)
    expect(seen.refused).toBeGreaterThan(RUNS)
  })

  test.each([...SUBJECTS])('%s', { timeout: 60_000 + RUNS * 100 }, async (what, subject) => {
    await (subject.use?.(subject.files) ?? useWhole(subject.files, subject.adapter ?? null))
    const own = subject.adapter === undefined ? subject.files : subject.adapter
    const paths = Object.keys(own).filter((path) => subject.only?.test(path) ?? true)
    const failures = new Map<string, string>()
    for (let run = 0; run < RUNS; run++) {
      const random = seeded(SEED * 1_000_003 + run)
      const path = paths[Math.floor(random() * paths.length)]!
      const bytes = path.endsWith('.json')
        ? mutateJson(own[path]!, random)
        : mutateBytes(own[path]!, random, subject.reach)
      const mutated = { ...own, [path]: bytes }
      const start = performance.now()
      try {
        if (subject.use !== undefined) await subject.use(mutated)
        else if (subject.adapter !== undefined) await useWhole(subject.files, mutated)
        else await useWhole(mutated, null)
      } catch (error) {
        const why = error instanceof Error ? (error.stack ?? error.message) : String(error)
        failures.set(why.split('\n').slice(0, 3).join('\n'), `${what}, seed ${SEED}, run ${run}, ${path}: ${why}`)
      }
      const took = performance.now() - start
      if (took > seen.slowestMs) {
        seen.slowestMs = took
        seen.slowest = `${what}, run ${run}, ${path}`
      }
    }
    expect([...failures.values()].join('\n\n')).toBe('')
  })
})
