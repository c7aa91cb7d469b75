import type { JobEvent, Progress, Report } from '../../src/core/job.ts'
import { AppError } from '../../src/core/errors.ts'
import type { FormatInfo, Inspection, Interrupted, Matrix, PlanSummary, Target, Wire } from '../../src/api/wire.ts'

/** A wire with a made-up model behind it, to look at the page without an engine. Never shipped. */
const MIB = 1024 * 1024

const inspection: Inspection = {
  format: 'huggingface',
  kind: 'huggingface',
  formatTitle: 'Hugging Face folder',
  because: 'config.json with 4 safetensors shards',
  name: 'Meta-Llama-3.1-8B-Instruct',
  architecture: 'llama',
  className: 'LlamaForCausalLM',
  parameters: 8_030_261_248,
  weightBytes: 16_060_522_496,
  tensorCount: 291,
  dtypes: [
    { dtype: 'bf16', bytes: 16_059_990_016 },
    { dtype: 'f32', bytes: 532_480 },
  ],
  layers: 32,
  hiddenSize: 4096,
  heads: 32,
  kvHeads: 8,
  vocabSize: 128_256,
  contextLength: 131_072,
  tied: false,
  mup: { folds: 'no', because: 'LlamaForCausalLM is not a muP model: there is nothing to fold' },
  tokenizer: 'BPE (Llama 3), 128,256 tokens',
  files: [
    { path: 'config.json', size: 855 },
    { path: 'model-00001-of-00004.safetensors', size: 4_976_698_672 },
    { path: 'model-00002-of-00004.safetensors', size: 4_999_802_720 },
    { path: 'model-00003-of-00004.safetensors', size: 4_915_916_176 },
    { path: 'model-00004-of-00004.safetensors', size: 1_168_138_808 },
    { path: 'tokenizer.json', size: 9_085_657 },
  ],
  metadata: [],
  findings: [
    {
      severity: 'info',
      code: 'rope-scaling',
      message: 'Its rotary frequencies are scaled for long contexts (llama3); the factors go along as a tensor.',
    },
    {
      severity: 'warning',
      code: 'no-chat-template',
      message: 'There is no chat template: programs will fall back to a plain prompt.',
      hint: 'Add tokenizer_config.json of the original model if you chat with it.',
    },
  ],
}

function target(quant: string, title: string, help: string, bpw: number, over: Partial<Target> = {}): Target {
  const writeBytes = Math.round((inspection.parameters * bpw) / 8)
  return {
    format: 'gguf',
    formatTitle: 'GGUF (llama.cpp)',
    title,
    help,
    options: { quant },
    cost: { writeBytes, readBytes: inspection.weightBytes, peakBytes: 96 * MIB, bitsPerWeight: bpw },
    reason: null,
    findings: [],
    ...over,
  }
}

const targets: readonly Target[] = [
  target('q4_k_m', 'Q4_K_M', 'The usual choice: small, fast, close to the original.', 4.89),
  target('q8_0', 'Q8_0', 'Next to lossless at half the size of 16 bits.', 8.5),
  target('q4_0', 'Q4_0', 'The simplest 4 bits: fastest on phones, less exact than Q4_K_M.', 4.65),
  target('f16', 'F16', 'Half precision, for further conversion.', 16, {
    cost: null,
    reason: 'blk.3.ffn_down.weight holds 71,344: more than F16 can (65,504). Take BF16 or F32.',
  }),
  target('iq2_s', 'IQ2_S', 'From a codebook; needs an importance matrix.', 2.5, {
    cost: null,
    reason: 'IQ2_S is worthless without an importance matrix. Give one with --imatrix.',
  }),
  target('bf16', 'BF16', 'The weights as they are.', 16),
  target('f32', 'F32', 'Full precision: only for tests and further conversion.', 32),
  target('', 'ONNX', 'For onnxruntime.', 32, {
    format: 'onnx',
    formatTitle: 'ONNX',
    cost: null,
    reason: 'Writing ONNX is not built yet.',
  }),
]

const matrix: Matrix = {
  inputs: [
    {
      id: 'huggingface',
      title: 'HuggingFace folder',
      help: 'config.json with safetensors.',
      format: 'huggingface',
      otherwise: null,
    },
    {
      id: 'gguf',
      title: 'GGUF file',
      help: 'One file or a split set.',
      format: 'gguf',
      otherwise: 'Any other model of llama.cpp becomes GGUF only.',
    },
  ],
  outputs: [
    { id: 'huggingface', title: 'HuggingFace (transformers)' },
    { id: 'gguf', title: 'GGUF (llama.cpp)' },
    { id: 'onnx', title: 'ONNX' },
  ],
  architectures: [
    {
      id: 'llama',
      classNames: ['LlamaForCausalLM'],
      refused: [{ format: 'onnx', reason: 'ONNX cannot be written yet' }],
    },
    {
      id: 't5',
      classNames: ['T5ForConditionalGeneration'],
      refused: [
        { format: 'gguf', reason: 'not run by llama.cpp' },
        { format: 'onnx', reason: 'ONNX cannot be written yet' },
      ],
    },
  ],
  cells: ['huggingface', 'gguf'].flatMap((input) => [
    { input, output: 'huggingface', architectures: input === 'gguf' ? ['llama'] : ['llama', 't5'], reason: null },
    { input, output: 'gguf', architectures: ['llama'], reason: null },
    { input, output: 'onnx', architectures: [], reason: 'ONNX cannot be written yet' },
  ]),
}

const formats: readonly FormatInfo[] = [
  {
    id: 'huggingface',
    title: 'HuggingFace (transformers)',
    reads: true,
    writes: true,
    options: [],
    architectures: ['LlamaForCausalLM'],
  },
  {
    id: 'gguf',
    title: 'GGUF (llama.cpp)',
    reads: true,
    writes: true,
    options: [
      {
        name: 'quant',
        title: 'Weights',
        help: 'How the weights are stored.',
        kind: {
          kind: 'choice',
          choices: targets
            .filter(({ format }) => format === 'gguf')
            .map(({ title, help, options }) => ({
              value: String(options['quant']),
              title,
              help,
              ...(['Q4_K_M', 'Q8_0', 'F16'].includes(title) ? { featured: true as const } : {}),
            })),
          default: 'q4_k_m',
        },
      },
      {
        name: 'imatrix',
        title: 'Importance matrix',
        help: 'What llama-imatrix measured on some text.',
        kind: { kind: 'file', maxBytes: 1000, names: '\\.dat$', default: null },
      },
      {
        name: 'split-max-tensors',
        title: 'Split by tensors',
        help: 'Write several files of at most this many tensors.',
        kind: { kind: 'integer', min: 1, max: 1000, default: null },
      },
      {
        name: 'pure',
        title: 'One type for all',
        help: 'Every matrix gets the same type.',
        kind: { kind: 'flag', default: false },
      },
      {
        name: 'pre',
        title: 'Pre-tokenizer',
        help: 'The way the tokenizer splits text.',
        kind: { kind: 'text', default: null },
      },
    ],
    architectures: ['LlamaForCausalLM'],
  },
]

export interface Scenario {
  readonly fail?: 'open' | 'job'
  readonly interrupted?: boolean
  /** Milliseconds a job takes. */
  readonly jobMs?: number
}

export function createFakeWire(scenario: Scenario = {}): Wire {
  const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))
  let started = 0
  let paused = false
  let cancelled = false
  let done = 0
  const total = targets[0]!.cost!.writeBytes
  const notAModel = new AppError('not-a-model', 'Nothing in “Holiday photos” is a model format that is known', {
    hint: 'Choose the folder that holds config.json and the .safetensors files.',
    where: { file: 'Holiday photos' },
  })
  const report: Report = {
    target: 'gguf',
    files: [
      {
        path: 'Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf',
        size: total,
        sha256: '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08',
      },
    ],
    findings: [
      { severity: 'info', code: 'reopened', message: 'Reopened and read: 291 tensors, all where the header says.' },
      { severity: 'info', code: 'sampled', message: '64 sampled rows agree with the source within the type’s error.' },
    ],
    readBytes: inspection.weightBytes,
    writeBytes: total,
    keptBytes: 0,
    elapsedMs: 184_300,
    peakBytes: 94 * MIB,
    backends: ['WASM SIMD, 8 threads'],
  }
  return {
    formats: () => Promise.resolve(formats),
    matrix: () => Promise.resolve(matrix),
    devices: () =>
      Promise.resolve([
        {
          id: 'wasm',
          label: 'WASM SIMD, 1 thread',
          threads: 1,
          available: true,
          limitation: 'one thread: the page is not cross-origin isolated',
        },
        { id: 'reference', label: 'Reference (TypeScript)', threads: 1, available: true, limitation: null },
      ]),
    async inspect() {
      await sleep(scenario.fail === 'open' ? 100 : 300)
      if (scenario.fail === 'open') throw notAModel
      return inspection
    },
    async targets() {
      await sleep(400)
      return targets
    },
    async plan(request): Promise<PlanSummary> {
      await sleep(100)
      const found = targets.find((target) => target.options['quant'] === request.options['quant']) ?? targets[0]!
      const writeBytes = found.cost?.writeBytes ?? 0
      return {
        target: found.format,
        key: 'k1',
        files: [{ path: `Meta-Llama-3.1-8B-Instruct-${found.title}.gguf`, size: writeBytes, tensors: 291 }],
        tensors: Array.from({ length: 291 }, (_, index) => ({
          name: index === 0 ? 'token_embd.weight' : `blk.${Math.floor(index / 9)}.ffn_down.weight`,
          shape: [14336, 4096],
          from: 'bf16' as const,
          to: index % 7 === 0 ? ('q6_k' as const) : index % 9 === 8 ? ('f32' as const) : ('q4_k' as const),
          bytes: index % 9 === 8 ? 16_384 : 33_030_144,
        })),
        metadata: [],
        findings: [],
        readBytes: inspection.weightBytes,
        writeBytes,
        peakBytes: 96 * MIB,
        freeBytes: request.options['quant'] === 'f32' ? 20_000_000_000 : 280_000_000_000,
        keptBytes: 0,
      }
    },
    start() {
      started = performance.now()
      done = 0
      paused = false
      cancelled = false
      return Promise.resolve('job-1')
    },
    async next(): Promise<readonly JobEvent[]> {
      await sleep(150)
      const failed = (error: AppError): JobEvent[] => [{ type: 'failed', error: error.toData() }]
      if (cancelled) return failed(new AppError('cancelled', 'The job was cancelled.'))
      if (!paused) done = Math.min(total, done + (total * 150) / (scenario.jobMs ?? 6000))
      if (scenario.fail === 'job' && done > total * 0.2) {
        return failed(
          new AppError('bad-weights', 'model.layers.17.mlp.up_proj.weight holds NaN at element 40,112', {
            where: {
              file: 'model-00003-of-00004.safetensors',
              offset: 1_048_576,
              tensor: 'model.layers.17.mlp.up_proj.weight',
            },
            hint: 'The checkpoint is damaged: download that shard again and compare its SHA-256.',
          }),
        )
      }
      if (done >= total) return [{ type: 'done', report }]
      const progress: Progress = {
        state: paused ? 'paused' : 'running',
        phase: 'write',
        bytesDone: Math.round(done),
        bytesTotal: total,
        bytesKept: 0,
        rate: paused ? null : 57_412_000,
        eta: paused ? null : (total - done) / 57_412_000,
        item: `blk.${Math.floor((done / total) * 32)}.ffn_down.weight`,
        elapsedMs: performance.now() - started,
      }
      return [{ type: 'progress', progress }]
    },
    pause() {
      paused = true
      return Promise.resolve()
    },
    resume() {
      paused = false
      return Promise.resolve()
    },
    cancel() {
      cancelled = true
      return Promise.resolve()
    },
    discard: () => Promise.resolve(),
    runnable: () => Promise.resolve({ can: true, by: 'llama.cpp', kind: 'decoder' }),
    check: () => Promise.resolve('job-2'),
    compare: () => Promise.resolve('job-3'),
    interrupted(): Promise<readonly Interrupted[]> {
      return Promise.resolve(
        scenario.interrupted === true
          ? [
              {
                key: 'k0',
                target: 'gguf',
                files: [{ path: 'Qwen3-4B-Q4_K_M.gguf', size: 2_497_280_256, done: 1_401_000_000 }],
              },
            ]
          : [],
      )
    },
  }
}
