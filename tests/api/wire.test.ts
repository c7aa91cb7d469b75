import { setTimeout as sleep } from 'node:timers/promises'
import { MessageChannel } from 'node:worker_threads'
import * as Comlink from 'comlink'
import nodeEndpoint from 'comlink/dist/esm/node-adapter.mjs'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { createApi } from '../../src/api/api.ts'
import { installTransferHandlers } from '../../src/api/transfer.ts'
import { createWire } from '../../src/api/wire-server.ts'
import type { ConvertRequest, JobId, Wire } from '../../src/api/wire.ts'
import { AppError } from '../../src/core/errors.ts'
import type { JobEvent, Report } from '../../src/core/job.ts'
import type { Backend } from '../../src/kernels/backend.ts'
import { createReferenceBackend } from '../../src/kernels/reference/index.ts'
import { memoryFolder, MemoryOutput } from '../contracts/memory.ts'
import { tinyLlama } from './fixture.ts'
import { ANYWHERE, sha256, testHost } from './host.ts'

// The page, the wire and the worker, with a MessageChannel of Node for the worker's port: what crosses is cloned.
installTransferHandlers()

const REQUEST: ConvertRequest = {
  input: ANYWHERE,
  target: 'gguf',
  options: { quant: 'q8_0' },
  output: ANYWHERE,
  name: 'tiny',
  overwrite: false,
}

interface Line {
  readonly wire: Comlink.Remote<Wire>
  readonly output: MemoryOutput
  /** While held, kernels wait: the weights have been found and begun, and nothing goes on. */
  hold(): void
  let(): void
  close(): void
}

function line(files = tinyLlama()): Line {
  let gate = Promise.resolve()
  let open = (): void => undefined
  const reference = createReferenceBackend()
  const backend: Backend = {
    ...reference,
    prepare(op) {
      const kernel = reference.prepare(op)
      return {
        op,
        async run(...args) {
          await gate
          return kernel.run(...args)
        },
      }
    },
  }
  const input = memoryFolder(files, { name: 'tiny-llama' })
  const output = new MemoryOutput()
  const { port1, port2 } = new MessageChannel()
  Comlink.expose(createWire(createApi(testHost({ input, output, backend }))), nodeEndpoint(port1))
  const wire = Comlink.wrap<Wire>(nodeEndpoint(port2))
  return {
    wire,
    output,
    hold() {
      gate = new Promise((resolve) => (open = resolve))
    },
    let: () => open(),
    close() {
      port1.close()
      port2.close()
    },
  }
}

/** Follows a job over the wire to its end. */
async function follow(wire: Comlink.Remote<Wire>, id: JobId): Promise<{ events: JobEvent[]; last: JobEvent }> {
  const events: JobEvent[] = []
  for (;;) {
    events.push(...(await wire.next(id)))
    const last = events.find(({ type }) => type === 'done' || type === 'failed')
    if (last !== undefined) return { events, last }
  }
}

async function until(wire: Comlink.Remote<Wire>, id: JobId, state: string): Promise<void> {
  for (;;) {
    const events = await wire.next(id)
    if (events.some((event) => event.type === 'progress' && event.progress.state === state)) return
  }
}

const failure = async (call: Promise<unknown>): Promise<AppError> => {
  const thrown: unknown = await call.then(
    () => new Error('it was not refused'),
    (error: unknown) => error,
  )
  expect(thrown).toBeInstanceOf(AppError)
  return thrown as AppError
}

let current: Line
const unhandled: unknown[] = []
const note = (reason: unknown): void => void unhandled.push(reason)

beforeEach(() => {
  current = line()
  unhandled.length = 0
  process.on('unhandledRejection', note)
  process.on('uncaughtException', note)
})
afterEach(async () => {
  current.close()
  await sleep(0)
  process.off('unhandledRejection', note)
  process.off('uncaughtException', note)
  expect(unhandled).toEqual([])
})

describe('data', () => {
  test('formats, inspection, targets and plan cross whole', async () => {
    const { wire } = current
    expect((await wire.formats()).map(({ id }) => id)).toEqual(expect.arrayContaining(['huggingface', 'gguf']))
    expect(await wire.inspect(ANYWHERE)).toMatchObject({ className: 'LlamaForCausalLM', layers: 2 })
    const targets = await wire.targets(ANYWHERE)
    expect(targets.map(({ title }) => title)).toContain('Q4_K_M')
    const plan = await wire.plan(REQUEST)
    expect(plan.tensors).toHaveLength(21)
    expect(plan.files).toEqual([{ path: 'tiny.gguf', size: plan.writeBytes, tensors: plan.tensors.length }])
  })

  test('targets of one format cost what they do with the options given', async () => {
    const { wire } = current
    const options = { 'split-max-tensors': 5, pure: true }
    const targets = await wire.targets(ANYWHERE, { format: 'gguf', options })
    expect(new Set(targets.map(({ format }) => format))).toEqual(new Set(['gguf']))
    for (const title of ['Q4_K_M', 'Q8_0']) {
      const target = targets.find((one) => one.title === title)!
      const plan = await wire.plan({ ...REQUEST, options: { ...target.options, ...options } })
      expect(target.cost?.writeBytes, title).toBe(plan.writeBytes)
      expect(plan.files.map(({ tensors }) => tensors)).toEqual([5, 5, 5, 5, 1])
    }
  })
})

describe('errors', () => {
  test('keep class, code, place, hint and stack', async () => {
    const { 'config.json': config, ...rest } = tinyLlama()
    const text = new TextDecoder().decode(config).replace(/"hidden_size": *\d+/, '"hidden_size": "wide"')
    const other = line({ ...rest, 'config.json': new TextEncoder().encode(text) })
    const error = await failure(other.wire.inspect(ANYWHERE))
    other.close()
    expect(error.code).toBe('malformed')
    expect(error.message).toContain('hidden_size')
    expect(error.where.file).toBe('config.json')
    expect(error.hint).not.toBeNull()
    expect(error.stack).toContain('src/')
  })

  test('of options', async () => {
    const error = await failure(current.wire.plan({ ...REQUEST, options: { quant: 'q9' } }))
    expect(error).toMatchObject({ code: 'bad-option', hint: expect.stringContaining('q4_k_m') as string })
  })

  test('in a job arrive as its last event', async () => {
    const { wire } = current
    const id = await wire.start({ ...REQUEST, target: 'gogo' })
    const { last } = await follow(wire, id)
    expect(last).toMatchObject({ type: 'failed', error: { code: 'bad-option' } })
  })

  test('an unknown job', async () => {
    const { wire } = current
    for (const call of [wire.next('job-9'), wire.pause('job-9'), wire.resume('job-9'), wire.cancel('job-9')]) {
      expect((await failure(call)).message).toContain('job-9')
    }
  })
})

describe('jobs', () => {
  test('run to their report, whose hash is that of the file', async () => {
    const { wire, output } = current
    const id = await wire.start(REQUEST)
    const { events, last } = await follow(wire, id)
    const { report } = last as { report: Report }
    expect(report.files).toEqual([
      {
        path: 'tiny.gguf',
        size: output.files.get('tiny.gguf')!.length,
        sha256: sha256(output.files.get('tiny.gguf')!),
      },
    ])
    expect(events.at(-1)).toBe(last)
    // the job is over and forgotten
    await failure(wire.next(id))
  })

  test('two at once have ids and events of their own', async () => {
    const { wire } = current
    const [a, b] = await Promise.all([wire.start({ ...REQUEST, name: 'a' }), wire.start({ ...REQUEST, name: 'b' })])
    expect(a).not.toBe(b)
    const [one, two] = await Promise.all([follow(wire, a), follow(wire, b)])
    expect(one.last).toMatchObject({ type: 'done', report: { files: [{ path: 'a.gguf' }] } })
    expect(two.last).toMatchObject({ type: 'done', report: { files: [{ path: 'b.gguf' }] } })
  })

  test('next waits until something happens', async () => {
    current.hold()
    const { wire } = current
    const id = await wire.start(REQUEST)
    // what there is to tell before the first weight is read
    let waiting = wire.next(id)
    while ((await Promise.race([waiting, sleep(100, null)])) !== null) waiting = wire.next(id)
    current.let()
    expect((await waiting).length).toBeGreaterThan(0)
    expect((await follow(wire, id)).last.type).toBe('done')
  })

  test('progress that nobody fetched is one event, the newest', async () => {
    const { wire, output } = current
    const id = await wire.start(REQUEST)
    while (!output.names().includes('tiny.gguf')) await sleep(5)
    await sleep(20)
    const events = await wire.next(id)
    expect(events.filter(({ type }) => type === 'progress')).toHaveLength(1)
    expect(events[0]).toMatchObject({ type: 'progress', progress: { state: 'done' } })
    expect(events.at(-1)).toMatchObject({ type: 'done' })
  })

  test('pause stops the writing, resume goes on to the same bytes', async () => {
    const { wire, output } = current
    current.hold()
    const id = await wire.start(REQUEST)
    await until(wire, id, 'running')
    await wire.pause(id)
    await until(wire, id, 'paused')
    current.let()
    await sleep(50)
    const before = output.stats.writtenBytes
    await sleep(50)
    expect(output.stats.writtenBytes).toBe(before)
    expect(output.names()).not.toContain('tiny.gguf')
    await wire.resume(id)
    expect((await follow(wire, id)).last.type).toBe('done')

    const straight = line()
    await follow(straight.wire, await straight.wire.start(REQUEST))
    straight.close()
    expect(sha256(output.files.get('tiny.gguf')!)).toBe(sha256(straight.output.files.get('tiny.gguf')!))
  })

  test('cancel leaves nothing', async () => {
    const { wire, output } = current
    current.hold()
    const id = await wire.start(REQUEST)
    await until(wire, id, 'running')
    await wire.cancel(id)
    current.let()
    expect((await follow(wire, id)).last).toMatchObject({ type: 'failed', error: { code: 'cancelled' } })
    expect(output.names()).toEqual([])
  })

  test('cancel works while paused', async () => {
    const { wire } = current
    current.hold()
    const id = await wire.start(REQUEST)
    await until(wire, id, 'running')
    await wire.pause(id)
    await wire.cancel(id)
    current.let()
    expect((await follow(wire, id)).last).toMatchObject({ type: 'failed', error: { code: 'cancelled' } })
  })
})
