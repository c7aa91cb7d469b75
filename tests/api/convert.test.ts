import { describe, expect, test } from 'vitest'
import { createApi } from '../../src/api/api.ts'
import type { Control } from '../../src/api/control.ts'
import type { ConvertRequest } from '../../src/api/wire.ts'
import { AppError } from '../../src/core/errors.ts'
import type { JobEvent, Report } from '../../src/core/job.ts'
import { memoryFolder, MemoryOutput, type Fault, type MemoryFolder } from '../contracts/memory.ts'
import { tinyLlama } from './fixture.ts'
import { ANYWHERE, sha256, testHost } from './host.ts'

const REQUEST: ConvertRequest = {
  input: ANYWHERE,
  target: 'gguf',
  options: { quant: 'q8_0' },
  output: ANYWHERE,
  name: 'tiny',
  overwrite: false,
}

async function finish(job: Control): Promise<{ report: Report; events: JobEvent[] }> {
  const events: JobEvent[] = []
  for (;;) {
    const some = await job.next()
    events.push(...some)
    for (const event of some) {
      if (event.type === 'done') return { report: event.report, events }
      if (event.type === 'failed') throw AppError.fromData(event.error)
    }
    if (some.length === 0) throw new Error('the job ended without a word')
  }
}

interface Bench {
  readonly input: MemoryFolder
  readonly output: MemoryOutput
  readonly api: ReturnType<typeof createApi>
  run(change?: Partial<ConvertRequest>): Promise<{ report: Report; events: JobEvent[] }>
}

function bench(options: { files?: Record<string, Uint8Array>; output?: MemoryOutput } = {}): Bench {
  const input = memoryFolder(options.files ?? tinyLlama(), { name: 'tiny-llama' })
  const output = options.output ?? new MemoryOutput()
  const api = createApi(testHost({ input, output }))
  return { input, output, api, run: (change = {}) => finish(api.start({ ...REQUEST, ...change })) }
}

/** No trace but what was there before. */
function expectClean(output: MemoryOutput, before: readonly string[] = []): void {
  expect(output.names()).toEqual([...before])
  expect(output.stats.openSinks).toBe(0)
}

describe('a conversion', () => {
  test('writes one whole file, reports its hash, and leaves nothing else', async () => {
    const { input, output, run } = bench()
    const { report, events } = await run()
    expect(report.files).toEqual([
      {
        path: 'tiny.gguf',
        size: output.files.get('tiny.gguf')!.length,
        sha256: sha256(output.files.get('tiny.gguf')!),
      },
    ])
    expect(output.names()).toEqual(['tiny.gguf'])
    expect(input.stats.openSources).toBe(0)
    expect(report.findings.some(({ code }) => code === 'samples-agree')).toBe(true)
    expect(report.findings.filter(({ severity }) => severity === 'error')).toEqual([])
    const progress = events.flatMap((event) => (event.type === 'progress' ? [event.progress] : []))
    expect(progress.at(-1)).toMatchObject({
      state: 'done',
      bytesDone: report.writeBytes,
      bytesTotal: report.writeBytes,
    })
  })

  test('is exactly as large as planned and reads what was planned, plus samples and headers', async () => {
    const { api, run, output } = bench()
    const plan = await api.plan(REQUEST)
    expect(output.names()).toEqual([])
    const { report } = await run()
    expect(plan.files.map(({ path, size }) => ({ path, size }))).toEqual(
      report.files.map(({ path, size }) => ({ path, size })),
    )
    expect(plan.tensors.length).toBeGreaterThan(15)
    expect(plan.tensors.every(({ bytes }) => bytes > 0)).toBe(true)
    expect(report.peakBytes).toBeLessThanOrEqual(plan.peakBytes)
    expect(report.readBytes).toBeLessThan(plan.readBytes * 3)
  })

  test('plans a target for every choice, all with sizes', async () => {
    const targets = await bench().api.targets(ANYWHERE)
    const gguf = targets.filter(({ format }) => format === 'gguf')
    expect(gguf.map(({ options }) => options['quant'])).toEqual(
      expect.arrayContaining(['f32', 'f16', 'bf16', 'q8_0', 'q4_0', 'q4_k_m']),
    )
    for (const { cost, reason, options } of gguf) {
      // what is worthless without importances says so instead
      if (reason !== null)
        expect(`${String(options['quant'])}: ${reason}`).toMatch(
          /^(?:(?:iq[123]|q2_k_s).*importance|q[12]_0: .*cannot be)/,
        )
      else expect(cost!.writeBytes).toBeGreaterThan(0)
    }
    expect(gguf.filter(({ reason }) => reason === null).length).toBeGreaterThan(20)
  })

  test('gives the file the name of the model and the quantisation when none is asked for', async () => {
    const { output, run } = bench()
    await run({ name: null })
    expect(output.names()).toEqual(['tiny-llama-Q8_0.gguf'])
  })
})

describe('refusals, each with its code and nothing left behind', () => {
  const changed = (change: (files: Record<string, Uint8Array>) => void): Record<string, Uint8Array> => {
    const files = tinyLlama()
    change(files)
    return files
  }
  const text = (object: unknown): Uint8Array => new TextEncoder().encode(JSON.stringify(object))
  const config = (): Record<string, unknown> =>
    JSON.parse(new TextDecoder().decode(tinyLlama()['config.json'])) as Record<string, unknown>
  const withHeader = (edit: (header: string) => string): Record<string, Uint8Array> =>
    changed((files) => {
      const bytes = files['model.safetensors']!
      const length = Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true))
      const header = new TextEncoder().encode(edit(new TextDecoder().decode(bytes.subarray(8, 8 + length))))
      const made = new Uint8Array(8 + header.length + bytes.length - 8 - length)
      new DataView(made.buffer).setBigUint64(0, BigInt(header.length), true)
      made.set(header, 8)
      made.set(bytes.subarray(8 + length), 8 + header.length)
      files['model.safetensors'] = made
    })
  /** bf16 NaN at the very end: the last tensor by offset. */
  const nan = changed((files) => {
    const bytes = files['model.safetensors']!.slice()
    bytes.set([0xc0, 0x7f], bytes.length - 2)
    files['model.safetensors'] = bytes
  })
  const cases: readonly [string, Record<string, Uint8Array>, string][] = [
    ['an empty folder', {}, 'not-a-model'],
    ['a folder of other things', { 'holiday.jpg': new Uint8Array(10) }, 'not-a-model'],
    [
      'an unknown architecture',
      changed(
        (files) =>
          (files['config.json'] = text({ ...config(), architectures: ['MambaForCausalLM'], model_type: 'mamba' })),
      ),
      'unsupported',
    ],
    [
      'a config that is no JSON',
      changed((files) => (files['config.json'] = new TextEncoder().encode('{"a":'))),
      'malformed',
    ],
    [
      'a truncated file',
      changed((files) => (files['model.safetensors'] = files['model.safetensors']!.slice(0, -1000))),
      'truncated',
    ],
    [
      'a header that lies about its length',
      changed((files) => {
        files['model.safetensors'] = files['model.safetensors']!.slice()
        new DataView(files['model.safetensors'].buffer).setBigUint64(0, 2n ** 60n, true)
      }),
      'malformed',
    ],
    [
      'overlapping tensors',
      withHeader((header) =>
        header.replace(/"data_offsets":\[(\d+),(\d+)\]/g, (all, start: string) =>
          Number(start) > 0 ? all.replace(start, String(Number(start) - 2)) : all,
        ),
      ),
      'malformed',
    ],
    [
      'a tensor of another shape than the config says',
      changed((files) => (files['config.json'] = text({ ...config(), intermediate_size: 96 }))),
      'bad-tensor',
    ],
    [
      'a missing tensor',
      changed((files) => (files['config.json'] = text({ ...config(), num_hidden_layers: 3 }))),
      'missing-tensor',
    ],
    ['NaN weights', nan, 'bad-weights'],
    [
      'a missing shard',
      changed((files) => {
        files['model.safetensors.index.json'] = text({
          metadata: {},
          weight_map: { 'lm_head.weight': 'model-00001-of-00001.safetensors' },
        })
        delete files['model.safetensors']
      }),
      'missing-file',
    ],
  ]
  for (const [name, files, code] of cases) {
    test(name, async () => {
      const { output, input, run } = bench({ files })
      const error: AppError = await run().then(
        () => expect.fail('it was converted'),
        (thrown: AppError) => thrown,
      )
      expect(error).toMatchObject({ code })
      expect(error.message).not.toBe('')
      expect(error.hint).toBeTruthy()
      expectClean(output)
      expect(input.stats.openSources).toBe(0)
    })
  }

  test('an option that is not there names those that are', async () => {
    await expect(bench().run({ options: { quant: 'q99' } })).rejects.toMatchObject({
      code: 'bad-option',
      hint: expect.stringContaining('q4_k_m'),
    })
    await expect(bench().run({ options: { bits: 4 } })).rejects.toMatchObject({ code: 'bad-option' })
    await expect(bench().run({ target: 'jpeg' })).rejects.toMatchObject({ code: 'bad-option' })
  })

  test('an output that is there is not overwritten unless asked for', async () => {
    const output = new MemoryOutput({ files: { 'tiny.gguf': new Uint8Array([1, 2, 3]) } })
    await expect(bench({ output }).run()).rejects.toMatchObject({ code: 'output-exists' })
    expect([...output.files.get('tiny.gguf')!]).toEqual([1, 2, 3])
    expectClean(output, ['tiny.gguf'])
    await bench({ output }).run({ overwrite: true })
    expect(output.files.get('tiny.gguf')!.length).toBeGreaterThan(3)
    expectClean(output, ['tiny.gguf'])
  })

  test('a disk that is too small is refused before the first byte', async () => {
    const output = new MemoryOutput({ capacity: 1000 })
    await expect(bench({ output }).run()).rejects.toMatchObject({
      code: 'no-space',
      message: expect.stringContaining('1000'),
    })
    expect(output.stats.calls.write).toBe(0)
    expectClean(output)
  })
})

describe('trouble on the way', () => {
  const expected = async (): Promise<string> => (await bench().run()).report.files[0]!.sha256

  for (const at of ['create', 'write', 'close', 'publish', 'rename', 'replace'] as const) {
    test(`a crash at any ${at} leaves no file under the final name that is not whole, and the next run completes it`, async () => {
      const hash = await expected()
      for (let count = 1; ; count++) {
        const fault: Fault = { at, count, error: 'crash', half: at === 'write' }
        const output = new MemoryOutput({ faults: [fault] })
        const job = bench({ output }).run()
        const [end] = await Promise.allSettled([job])
        const found = output.files.get('tiny.gguf')
        if (found !== undefined) expect(sha256(found)).toBe(hash)
        if (end.status === 'fulfilled') {
          expect(count).toBeGreaterThan(1)
          break
        }
        output.faults = []
        output.restart('all')
        const { report } = await bench({ output }).run()
        expect(report.files[0]!.sha256).toBe(hash)
        expectClean(output, ['tiny.gguf'])
        if (count > 40) break
      }
    })
  }

  test('a source that is taken away stops the job with its name', async () => {
    const { input, output, run } = bench()
    input.faults = [{ at: 'read', count: 14, error: 'source-lost', sticky: true }]
    await expect(run()).rejects.toMatchObject({ code: 'source-lost' })
    expect([...output.files.keys()].filter((path) => path.endsWith('.gguf'))).toEqual([])
  })

  test('a disk that fills up on the way keeps what is there, and the job goes on once there is room', async () => {
    const hash = await expected()
    const output = new MemoryOutput({ faults: [{ at: 'write', count: 5, error: 'no-space', sticky: true }] })
    await expect(bench({ output }).run()).rejects.toMatchObject({ code: 'no-space' })
    expect(output.files.has('tiny.gguf')).toBe(false)
    output.faults = []
    const { report } = await bench({ output }).run()
    expect(report.files[0]!.sha256).toBe(hash)
    expectClean(output, ['tiny.gguf'])
  })

  test('a source that changed since is refused, unless the job is restarted', async () => {
    const output = new MemoryOutput({ faults: [{ at: 'publish', count: 1, error: 'crash' }] })
    await expect(bench({ output }).run()).rejects.toThrow()
    output.faults = []
    output.restart('none')
    const files = tinyLlama()
    files['model.safetensors'] = files['model.safetensors']!.slice()
    files['model.safetensors'][files['model.safetensors'].length - 20]! ^= 1
    const other = bench({ output, files })
    await expect(other.run()).rejects.toMatchObject({ code: 'source-changed', where: { file: 'model.safetensors' } })
    const { report } = await other.run({ restart: true })
    expect(report.keptBytes).toBe(0)
    expectClean(output, ['tiny.gguf'])
  })

  test('a configuration that changes on the way is a source that changed', async () => {
    const { input, output, run } = bench()
    const config = input.files.get('config.json')!
    const open = input.open.bind(input)
    // after it was read, as soon as weights are
    input.open = (path) => {
      if (path === 'model.safetensors' && output.stats.calls.write > 0)
        input.files.set('config.json', Uint8Array.from(config).fill(32, -1))
      return open(path)
    }
    const before = Uint8Array.from(config)
    await expect(run()).rejects.toMatchObject({ code: 'source-changed', where: { file: 'config.json' } })
    expect(input.files.get('config.json')).not.toEqual(before)
    expect(output.files.has('tiny.gguf')).toBe(false)
  })

  test('a cancel at any time leaves nothing; one that keeps can be resumed', async () => {
    const hash = await expected()
    for (let wait = 0; wait < 60; wait += 6) {
      for (const keep of [false, true]) {
        const { api, output, run } = bench()
        const job = api.start(REQUEST)
        for (let i = 0; i < wait; i++) await new Promise((resolve) => setImmediate(resolve))
        job.cancel(keep)
        const [end] = await Promise.allSettled([finish(job)])
        if (end.status === 'fulfilled') continue
        expect(end.reason).toMatchObject({ code: 'cancelled' })
        expect(output.files.has('tiny.gguf')).toBe(false)
        if (!keep) expectClean(output)
        const { report } = await run()
        expect(report.files[0]!.sha256).toBe(hash)
        expectClean(output, ['tiny.gguf'])
      }
    }
  })

  test('the same job cannot run twice at once', async () => {
    const { api, run } = bench()
    const first = api.start(REQUEST)
    await expect(run()).rejects.toMatchObject({ code: 'busy' })
    await finish(first)
  })

  test('interrupted jobs are listed, and can be discarded', async () => {
    const output = new MemoryOutput({ faults: [{ at: 'publish', count: 1, error: 'crash' }] })
    await expect(bench({ output }).run()).rejects.toThrow()
    output.faults = []
    output.restart('none')
    const { api } = bench({ output })
    const [left] = await api.interrupted(ANYWHERE)
    expect(left).toMatchObject({ target: 'gguf', files: [{ path: 'tiny.gguf' }] })
    expect(left!.files[0]!.done).toBe(left!.files[0]!.size)
    await api.discard(ANYWHERE, left!.key)
    expectClean(output)
  })
})
