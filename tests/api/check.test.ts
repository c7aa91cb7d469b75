import { expect, test } from 'vitest'
import { createApi } from '../../src/api/api.ts'
import type { Control } from '../../src/api/control.ts'
import type { Generation, Runner, RunningModel, TextMeasures } from '../../src/api/runner.ts'
import type { CheckRequest } from '../../src/api/wire.ts'
import { createWire } from '../../src/api/wire-server.ts'
import type { CheckReport } from '../../src/core/check.ts'
import { AppError } from '../../src/core/errors.ts'
import type { JobEvent } from '../../src/core/job.ts'
import { memoryFolder, MemoryOutput } from '../contracts/memory.ts'
import { filesOf, type Files } from '../engines/gguf/folder.ts'
import { MADE_UP_VOCAB, madeUpCheckpoint } from '../engines/gguf/made-up.ts'
import { tinyLlama } from './fixture.ts'
import { ANYWHERE, testHost } from './host.ts'

/** The file of a model that nobody trained. */
async function madeUp(): Promise<Files> {
  const { checkpoint, folder } = madeUpCheckpoint({
    layers: 1,
    hidden: 32,
    intermediate: 64,
    heads: 2,
    kvHeads: 2,
    tied: false,
  })
  return filesOf(checkpoint, folder, { quant: 'f16' })
}

const GENERATION: Generation = {
  promptIds: [0, 5],
  promptTokens: 2,
  ids: [7, 8],
  text: 'and so on',
  ended: false,
  logProbs: [-0.5, -1],
  promptMs: 10,
  ms: 20,
}

const MEASURES: TextMeasures = {
  first: null,
  tokenize: async (text) => Array.from({ length: text.length }, (_, i) => i % MADE_UP_VOCAB),
  losses: async (ids) => new Float64Array(ids.length - 1).fill(1),
  logits: async () => new Float32Array(),
}

interface Fake extends Runner {
  closed: number
  loaded: number
}

/** A runner that says what it is told to. */
function fakeRunner(model: Partial<RunningModel> = {}, runner: Partial<Runner> = {}): Fake {
  const fake: Fake = {
    id: 'llama.cpp',
    closed: 0,
    loaded: 0,
    limitation: async () => null,
    async load() {
      fake.loaded++
      return {
        by: 'fake 1.0',
        threads: 3,
        context: 64,
        loadMs: 5,
        generate: async () => GENERATION,
        embed: async () => [1, 2],
        measures: MEASURES,
        memoryBytes: async () => 1000,
        close: async () => void fake.closed++,
        ...model,
      }
    },
    ...runner,
  }
  return fake
}

async function lastOf(job: Pick<Control, 'next'>): Promise<JobEvent> {
  for (;;) {
    const last = (await job.next()).at(-1)
    if (last !== undefined && last.type !== 'progress' && last.type !== 'log') return last
  }
}

async function check(
  files: Record<string, Uint8Array>,
  runner: Runner | null,
  request: Partial<CheckRequest> = {},
): Promise<CheckReport> {
  const host = testHost({ input: memoryFolder(files), output: new MemoryOutput() })
  const api = createApi({ ...host, runners: runner === null ? [] : [runner] })
  const last = await lastOf(api.check({ input: ANYWHERE, ...request }))
  if (last.type === 'failed') throw AppError.fromData(last.error)
  if (last.type !== 'checked') throw new Error(last.type)
  return last.report
}

const codes = ({ findings }: CheckReport): string[] => findings.map(({ severity, code }) => `${severity} ${code}`)

test('what a model did when it was run', async () => {
  const runner = fakeRunner()
  const report = await check(await madeUp(), runner, { text: 'x'.repeat(130) })
  expect(report).toMatchObject({ format: 'gguf', passed: true, validated: true, notRun: null })
  expect(report.judges).toEqual(['validation', 'fake 1.0'])
  expect(report.run).toEqual({
    by: 'fake 1.0',
    kind: 'decoder',
    threads: 3,
    prompt: 'Once upon a time',
    promptIds: [0, 5],
    generated: {
      ids: [7, 8],
      text: 'and so on',
      ended: false,
      logProbs: [-0.5, -1],
      promptTokensPerSecond: 200,
      tokensPerSecond: 50,
    },
    embedding: null,
    // two windows of 64 tokens
    perplexity: { value: Math.E, meanLoss: 1, tokens: 126, builtIn: false },
    loadMs: 5,
    memoryBytes: 1000,
  })
  expect(runner.closed).toBe(1)
})

test('the first token that a model needs takes a place of the window, and is not foretold', async () => {
  const seen: (readonly number[])[] = []
  const measures: TextMeasures = {
    ...MEASURES,
    first: 9,
    async losses(ids) {
      seen.push(ids)
      // foretelling what comes first would cost much
      return Float64Array.from(ids.slice(1), (_, i) => (i === 0 ? 1000 : 2))
    },
  }
  const report = await check(await madeUp(), fakeRunner({ measures }), { text: 'x'.repeat(130), windows: 1 })
  expect(seen.map((ids) => [ids.length, ids[0]])).toEqual([[64, 9]])
  expect(report.run?.perplexity).toMatchObject({ meanLoss: 2, tokens: 62 })
})

test('a runner that shows no probabilities of a text measures none', async () => {
  const report = await check(await madeUp(), fakeRunner({ measures: null }))
  expect(report).toMatchObject({ passed: true, run: { perplexity: null } })
})

const faults: readonly (readonly [string, Partial<RunningModel>, readonly string[]])[] = [
  ['NaN', { generate: async () => ({ ...GENERATION, logProbs: [-1, Number.NaN] }) }, ['error bad-logits']],
  [
    'nothing but chance',
    {
      generate: async () => ({ ...GENERATION, logProbs: [-Math.log(MADE_UP_VOCAB), -Math.log(MADE_UP_VOCAB)] }),
      measures: { ...MEASURES, losses: async (ids) => new Float64Array(ids.length - 1).fill(Math.log(MADE_UP_VOCAB)) },
    },
    ['error equal-logits'],
  ],
  [
    'NaN on the text alone',
    { measures: { ...MEASURES, losses: async (ids) => new Float64Array(ids.length - 1).fill(Number.NaN) } },
    ['error bad-logits'],
  ],
  [
    'worse than chance',
    { measures: { ...MEASURES, losses: async (ids) => new Float64Array(ids.length - 1).fill(9) } },
    ['warning worse-than-chance', 'info runs'],
  ],
  [
    'a break-down',
    { generate: async () => Promise.reject(new AppError('device', 'it broke down (SIGABRT)')) },
    ['error device'],
  ],
]
test.each(faults)('%s', async (_, model, expected) => {
  const runner = fakeRunner(model)
  const report = await check(await madeUp(), runner)
  expect(codes(report)).toEqual(expected)
  expect(report.passed).toBe(!expected[0]!.startsWith('error'))
  expect(runner.closed).toBe(1)
})

test('a refusal is a finding, with the words of who refused', async () => {
  const load = async (): Promise<never> => Promise.reject(new AppError('malformed', 'no head'))
  const report = await check(await madeUp(), fakeRunner({}, { load }))
  expect(report).toMatchObject({ passed: false, run: null, notRun: 'no head', judges: ['validation'] })
  expect(codes(report)).toEqual(['error malformed'])
})

test('who is not there does not judge: validation alone did, and the model is not blamed', async () => {
  const missing = new AppError('unsupported', 'not installed', { hint: 'Install it.' })
  const cases: readonly (readonly [Runner | null, string])[] = [
    [null, 'nothing here can run it'],
    [fakeRunner({}, { limitation: async () => 'too large' }), 'too large'],
    [fakeRunner({}, { load: async () => Promise.reject(missing) }), 'not installed. Install it.'],
  ]
  for (const [runner, notRun] of cases) {
    expect(await check(await madeUp(), runner)).toMatchObject({
      passed: true,
      run: null,
      notRun,
      judges: ['validation'],
    })
  }
})

test('a format that nothing runs says so', async () => {
  const report = await check(tinyLlama(), fakeRunner())
  expect(report).toMatchObject({ format: 'huggingface', passed: true, run: null })
  expect(report.notRun).toMatch(/^nothing here runs HuggingFace/)
})

test('validation, or the run, can be left out', async () => {
  const runner = fakeRunner()
  expect(await check(await madeUp(), runner, { run: false })).toMatchObject({ run: null, validated: true })
  expect(runner.loaded).toBe(0)
  expect((await check(await madeUp(), runner, { validate: false })).judges).toEqual(['fake 1.0'])
})

test('a folder of several models is checked by the files that are meant', async () => {
  const [bytes] = Object.values(await madeUp())
  const files = { 'a.gguf': bytes!, 'b.gguf': bytes! }
  expect(codes(await check(files, fakeRunner()))).toEqual(['error not-a-model'])
  expect(await check(files, fakeRunner(), { files: ['b.gguf'] })).toMatchObject({
    passed: true,
    files: [{ path: 'b.gguf', size: bytes!.length }],
  })
})

test('the format can be said, and must be right', async () => {
  const files = await madeUp()
  expect(await check(files, fakeRunner(), { format: 'gguf' })).toMatchObject({ passed: true })
  await expect(check(files, fakeRunner(), { format: 'hf' })).rejects.toMatchObject({ code: 'not-a-model' })
  await expect(check(files, fakeRunner(), { format: 'gogo' })).rejects.toMatchObject({ code: 'bad-option' })
})

test('a text of no words is wrong usage', async () => {
  await expect(check(await madeUp(), fakeRunner(), { text: ' \n\n ' })).rejects.toMatchObject({ code: 'bad-option' })
})

test('cancelling reaches the runner', async () => {
  let signal: AbortSignal | null = null
  const runner = fakeRunner(
    {},
    {
      load: (_, options) => {
        signal = options.signal
        return new Promise((_, reject) => options.signal.addEventListener('abort', () => reject(options.signal.reason)))
      },
    },
  )
  const host = testHost({ input: memoryFolder(await madeUp()), output: new MemoryOutput() })
  const job = createApi({ ...host, runners: [runner] }).check({ input: ANYWHERE })
  while (signal === null) await new Promise((resolve) => setTimeout(resolve, 5))
  job.cancel(false)
  expect(await lastOf(job)).toMatchObject({ type: 'failed', error: { code: 'cancelled' } })
})

test('on the wire a check is a job, and whether it can be run is told without one', async () => {
  const host = testHost({ input: memoryFolder(await madeUp()), output: new MemoryOutput() })
  const wire = createWire(createApi({ ...host, runners: [fakeRunner()] }))
  expect(await wire.runnable({ input: ANYWHERE })).toEqual({ can: true, by: 'llama.cpp', kind: 'decoder' })
  const id = await wire.check({ input: ANYWHERE })
  expect(await lastOf({ next: () => wire.next(id) })).toMatchObject({ type: 'checked', report: { passed: true } })
  await expect(wire.next(id)).rejects.toThrow(`There is no job ${id}`)
})

test('a conversion can be checked before it is reported', async () => {
  const output = new MemoryOutput()
  const runner = fakeRunner()
  // what is converted is not what is checked
  const host = {
    ...testHost({ input: memoryFolder(tinyLlama()), output }),
    runners: [runner],
    open: async (place: typeof ANYWHERE) => (place === ANYWHERE ? memoryFolder(tinyLlama()) : output),
  }
  const request = {
    input: ANYWHERE,
    target: 'gguf',
    options: { quant: 'q8_0' },
    output: { kind: 'scratch', path: 'out' },
    name: null,
    overwrite: false,
  } as const
  const api = createApi(host)
  const plain = await lastOf(api.start(request))
  expect(plain).toMatchObject({ type: 'done' })
  expect(plain).not.toHaveProperty('report.check')
  expect(runner.loaded).toBe(0)
  const last = await lastOf(api.start({ ...request, overwrite: true, check: true }))
  expect(last).toMatchObject({
    type: 'done',
    report: { check: { passed: true, validated: false, judges: ['fake 1.0'], run: { by: 'fake 1.0' } } },
  })
  const stop = fakeRunner({}, { load: async () => Promise.reject(new AppError('cancelled', 'stopped')) })
  const stopped = await lastOf(
    createApi({ ...host, runners: [stop] }).start({ ...request, overwrite: true, check: true }),
  )
  expect(stopped).toMatchObject({ type: 'done' })
  expect(stopped).not.toHaveProperty('report.check')
})
