import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { pathToFileURL } from 'node:url'
import { svelte } from '@sveltejs/vite-plugin-svelte'
import { build } from 'vite'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import type { Wire } from '../../src/api/wire.ts'
import type { JobRecord } from '../../src/ui/state/records.ts'
import type { Page } from '../../src/ui/state/session.svelte.ts'
import type { ScratchPlace } from '../../src/ui/state/shelf.ts'
import type { Scenario } from './fake-wire.ts'

// Runes are compiled: the state classes are bundled once, as the page would have them, without a DOM.
let code: typeof import('./session-bundle.ts')
const folder = mkdtempSync(path.join(tmpdir(), 'modelconvert-session-'))

beforeAll(async () => {
  const built = await build({
    configFile: false,
    publicDir: false,
    logLevel: 'silent',
    plugins: [svelte({ configFile: false })],
    build: { ssr: path.join(import.meta.dirname, 'session-bundle.ts'), write: false, target: 'node20' },
    ssr: { noExternal: true },
  })
  const [output] = Array.isArray(built) ? built : [built]
  if (output === undefined || !('output' in output)) throw new Error('nothing was built')
  for (const chunk of output.output) {
    const body = chunk.type === 'chunk' ? chunk.code : chunk.source
    writeFileSync(path.join(folder, chunk.fileName.replaceAll('/', '-').replace(/\.js$/, '.mjs')), body)
  }
  const entry = output.output.find((chunk) => chunk.type === 'chunk' && chunk.isEntry)
  code = (await import(
    /* @vite-ignore */ pathToFileURL(path.join(folder, (entry?.fileName ?? '').replace(/\.js$/, '.mjs'))).href
  )) as typeof code
}, 60_000)

afterAll(() => rmSync(folder, { recursive: true, force: true }))

const SAMPLE = { kind: 'sample' } as const
const scratch = (name: string): ScratchPlace => ({ kind: 'scratch', path: `outputs/${name}` })

function setUp(scenario: Scenario = {}, change: Partial<Page> = {}, wires: Partial<Wire> = {}) {
  const kept = new Map<string, JobRecord>()
  const held = new Set<string>()
  const wire = { ...code.createFakeWire({ jobMs: 300, ...scenario }), ...wires }
  const page: Page = {
    wire,
    records: {
      all: async () => [...kept.values()],
      put: async (record) => void kept.set(record.key, record),
      remove: async (key) => void kept.delete(key),
    },
    shelf: {
      place: scratch,
      places: async () => [scratch('a')],
      list: async () => [],
      download: async () => undefined,
      copy: async () => undefined,
      tidy: async () => undefined,
      stages: async () => [],
      sweep: async () => undefined,
      remove: async () => undefined,
    },
    holds: {
      hold(key) {
        held.add(key)
        return async () => void held.delete(key)
      },
      held: async () => held,
    },
    allowed: async () => true,
    pickFolder: async () => ({ kind: 'handle', handle: null, name: 'picked' }),
    ...change,
  }
  return { session: new code.Session(page), kept, held, wire }
}

test('opening a model preselects what is recommended and plans it', async () => {
  const { session } = setUp()
  await session.open(SAMPLE, 'the sample')
  expect(session.screen).toBe('model')
  expect(session.target?.title).toBe('Q4_K_M')
  await vi.waitFor(() => expect(session.plan?.files[0]?.path).toContain('Q4_K_M'))
})

test('the newest dry run wins', async () => {
  const { session } = setUp()
  await session.open(SAMPLE, 'the sample')
  const titles = session.model?.targets.map((target) => target.title) ?? []
  session.choose(titles.indexOf('Q8_0'))
  session.choose(titles.indexOf('Q4_0'))
  expect(session.plan).toBeNull()
  await vi.waitFor(() => expect(session.plan?.files[0]?.path).toContain('Q4_0'))
})

test('what does not fit says by how much', async () => {
  const { session } = setUp()
  await session.open(SAMPLE, 'the sample')
  session.choose(session.model?.targets.findIndex((target) => target.title === 'F32') ?? -1)
  await vi.waitFor(() => expect(session.plan).not.toBeNull())
  expect(session.shortOf).toBe((session.plan?.writeBytes ?? 0) - 20_000_000_000)
})

test('a folder that is no model fails with what to do, and can be tried again', async () => {
  const { session } = setUp({ fail: 'open' })
  await session.open(SAMPLE, 'photos')
  expect(session.screen).toBe('failed')
  expect(session.failure).toMatchObject({ during: 'opening', error: { code: 'not-a-model' } })
  expect(session.failure?.error.hint).toMatch(/config\.json/)
  await session.retry()
  expect(session.screen).toBe('failed')
})

test('a conversion is remembered while it runs and forgotten when it is done', async () => {
  const { session, kept, held } = setUp()
  await session.open(SAMPLE, 'the sample')
  const run = session.convert()
  await vi.waitFor(() => expect(kept.size).toBe(1))
  expect([...kept.values()][0]).toMatchObject({ title: 'GGUF Q4_K_M', request: { input: SAMPLE, overwrite: true } })
  expect([...held]).toEqual(['k1'])
  await run
  expect(session.screen).toBe('done')
  expect(kept.size).toBe(0)
  expect(held.size).toBe(0)
  expect(session.finished?.checks.length).toBe(2)
})

test('File objects are not kept: a database would copy the whole model', async () => {
  const { session, kept } = setUp()
  await session.open({ kind: 'files', name: 'model', files: [] }, 'model')
  const run = session.convert()
  await vi.waitFor(() => expect([...kept.values()][0]?.request).toBeNull())
  await run
})

test('cancelling returns to the model and forgets the job', async () => {
  const { session, kept } = setUp({ jobMs: 60_000 })
  await session.open(SAMPLE, 'the sample')
  const run = session.convert()
  await vi.waitFor(() => expect(session.job.progress).not.toBeNull())
  await session.job.pause(true)
  expect(session.job.paused).toBe(true)
  session.reset()
  expect(session.screen).toBe('job')
  await session.job.cancel()
  await run
  expect(session.screen).toBe('model')
  expect(session.notice).toMatch(/removed/)
  expect(kept.size).toBe(0)
})

test('a failed conversion shows its error and keeps the record, to resume', async () => {
  const { session, kept } = setUp({ fail: 'job' })
  await session.open(SAMPLE, 'the sample')
  await session.convert()
  expect(session.failure).toMatchObject({ during: 'converting', error: { code: 'bad-weights' } })
  expect(kept.size).toBe(1)
  session.back()
  expect(session.screen).toBe('model')
})

test('a job that ends without a word does not hang the page', async () => {
  const { session } = setUp({}, {}, { next: async () => [] })
  await session.open(SAMPLE, 'the sample')
  await session.convert()
  expect(session.failure?.error.code).toBe('internal')
})

test('into a folder: not overwritten unasked, replaced on request, permission asked', async () => {
  const asked: string[] = []
  const requests: boolean[] = []
  const { session } = setUp({}, { allowed: async (place, mode) => asked.push(`${place.kind} ${mode}`) > 0 })
  const { wire } = session.page
  const start = wire.start.bind(wire)
  Object.assign(wire, {
    start: async (request: Parameters<Wire['start']>[0]) => {
      requests.push(request.overwrite)
      if (!request.overwrite) throw new code.AppError('output-exists', 'x.gguf is there already')
      return start(request)
    },
  })
  await session.open(SAMPLE, 'the sample')
  session.aim('folder')
  await session.convert()
  expect(session.failure?.error.code).toBe('output-exists')
  expect(asked).toEqual(['sample read', 'handle readwrite'])
  await session.retry({ overwrite: true })
  expect(session.screen).toBe('done')
  expect(requests).toEqual([false, true])
})

test('without permission nothing starts', async () => {
  const { session } = setUp({}, { allowed: async () => false })
  await session.open(SAMPLE, 'the sample')
  await session.convert()
  expect(session.screen).toBe('model')
  expect(session.notice).toMatch(/permission/)
})

test('an interrupted job is offered with what is known of it', async () => {
  const { session, kept, held } = setUp({ interrupted: true })
  held.add('k0')
  await session.begin()
  expect(session.kept.unfinished, 'it runs in another tab').toEqual([])
  held.delete('k0')
  // It looks again by itself: a tab that was closed lets go a moment later.
  await vi.waitFor(() => expect(session.kept.unfinished).toHaveLength(1), { timeout: 5000 })
  expect(session.kept.unfinished).toMatchObject([{ record: null, job: { key: 'k0' } }])
  kept.set('k0', {
    key: 'k0',
    title: 'Q4_K_M',
    modelName: 'Qwen3-4B',
    request: { input: SAMPLE, target: 'gguf', options: {}, output: scratch('a'), name: null, overwrite: true },
    startedAt: 0,
  })
  await session.kept.refresh()
  const [job] = session.kept.unfinished
  if (job === undefined) throw new Error('it is not offered')
  await session.takeUp(job)
  expect(session.screen).toBe('done')
  expect(session.finished?.modelName).toBe('Qwen3-4B')
})

test('options are planned and sent with the target of their format, files and all', async () => {
  const asked: Parameters<Wire['plan']>[0][] = []
  const fake = setUp()
  const plan = fake.wire.plan.bind(fake.wire)
  Object.assign(fake.wire, {
    plan: async (request: Parameters<Wire['plan']>[0]) => {
      asked.push(structuredClone(request))
      return plan(request)
    },
  })
  const { session } = fake
  await session.open(SAMPLE, 'the sample')
  const spec = (name: string) => session.optionSpecs.find((one) => one.name === name)!
  expect(session.optionSpecs.map(({ name }) => name)).toEqual(['imatrix', 'split-max-tensors', 'pure', 'pre'])
  const plain = asked.at(-1)?.output
  session.set(spec('pure'), true)
  session.set(spec('imatrix'), { name: 'a.dat', bytes: new Uint8Array([1, 2]) })
  await vi.waitFor(() => expect(session.plan).not.toBeNull())
  expect(asked.at(-1)?.options).toEqual({
    quant: 'q4_k_m',
    pure: true,
    imatrix: { name: 'a.dat', bytes: new Uint8Array([1, 2]) },
  })
  expect(asked.at(-1)?.output, 'a place of its own').not.toEqual(plain)

  session.set(spec('split-max-tensors'), 0)
  expect([...session.optionFaults.keys()]).toEqual(['split-max-tensors'])
  await session.convert()
  expect(session.screen, 'it is not started with a wrong option').toBe('model')
  session.clearOptions()
  expect(session.optionFaults.size).toBe(0)
  await vi.waitFor(() => expect(asked.at(-1)?.options).toEqual({ quant: 'q4_k_m' }))
})

test('what an option changes about the sizes of a format is looked up again, once', async () => {
  const asked: Parameters<Wire['targets']>[1][] = []
  const fake = setUp()
  const targets = fake.wire.targets.bind(fake.wire)
  Object.assign(fake.wire, {
    targets: async (...[place, given]: Parameters<Wire['targets']>) => {
      asked.push(given)
      const found = await targets(place, given)
      if (given === undefined) return found
      const own = found.filter(({ format }) => format === given.format)
      return own.map((target) =>
        target.cost === null ? target : { ...target, cost: { ...target.cost, writeBytes: 7 } },
      )
    },
  })
  const { session } = fake
  await session.open(SAMPLE, 'the sample')
  await vi.waitFor(() => expect(session.plan).not.toBeNull())
  session.set(
    session.optionSpecs.find(({ name }) => name === 'pure')!,
    true,
  )
  await vi.waitFor(() => expect(session.model?.targets[1]?.cost?.writeBytes).toBe(7))
  expect(session.target?.title).toBe('Q4_K_M')
  expect(session.model?.targets.at(-1)?.format).toBe('onnx')
  session.choose(1)
  await vi.waitFor(() => expect(session.plan).not.toBeNull())
  expect(asked).toEqual([undefined, { format: 'gguf', options: { pure: true } }])
})

test('a dropped file is taken by the option that its name is meant for', async () => {
  const { session } = setUp()
  expect(session.optionFor('imatrix.dat')).toBeNull()
  await session.open(SAMPLE, 'the sample')
  expect(session.optionFor('model.gguf')).toBeNull()
  const spec = session.optionFor('imatrix.dat')!
  expect(spec.name).toBe('imatrix')
  await session.give(spec, new File([new Uint8Array([1, 2])], 'imatrix.dat'))
  expect(session.options['imatrix']).toEqual({ name: 'imatrix.dat', bytes: new Uint8Array([1, 2]) })
  await session.give(spec, new File([new Uint8Array(1001)], 'large.dat'))
  expect(session.notice).toMatch(/“large.dat” has .* at most/)
  expect(session.options['imatrix']).toMatchObject({ name: 'imatrix.dat' })
})

test('what is typed is planned once, after a pause', async () => {
  const { session, wire } = setUp()
  await session.open(SAMPLE, 'the sample')
  await vi.waitFor(() => expect(session.plan).not.toBeNull())
  const plan = vi.spyOn(wire, 'plan')
  const pre = session.optionSpecs.find(({ name }) => name === 'pre')!
  for (const text of ['q', 'qw', 'qwe', 'qwen']) session.set(pre, text)
  expect(session.lastPlan, 'the plan before stays to be seen').not.toBeNull()
  await vi.waitFor(() => expect(session.plan).not.toBeNull())
  expect(plan.mock.calls.map(([request]) => request.options['pre'])).toEqual(['qwen'])
})

test('several files get a folder of their own, named by the user or after the model', async () => {
  const names: (string | null)[] = []
  const files = ['a.bin', 'b.bin'].map((path) => ({ path, size: 1 }))
  const fake = setUp()
  const plan = fake.wire.plan.bind(fake.wire)
  const start = fake.wire.start.bind(fake.wire)
  Object.assign(fake.wire, {
    plan: async (request: Parameters<Wire['plan']>[0]) => ({
      ...(await plan(request)),
      files: files.map(({ path, size }) => ({ path: request.name === null ? path : `${request.name}/${path}`, size })),
    }),
    start: async (request: Parameters<Wire['start']>[0]) => {
      names.push(request.name)
      return start(request)
    },
  })
  const { session } = fake
  await session.open(SAMPLE, 'the sample')
  await vi.waitFor(() => expect(session.plan?.files[0]?.path).toBe('Meta-Llama-3.1-8B-Instruct-gguf/a.bin'))
  await session.convert()
  session.back()
  session.rename('my/model ')
  await vi.waitFor(() => expect(session.plan?.files[0]?.path).toBe('my-model/a.bin'))
  await session.convert()
  expect(names).toEqual(['Meta-Llama-3.1-8B-Instruct-gguf', 'my-model'])
})

/** A wire that knows adapters and configurations by the names of their places. */
function setUpPlaces() {
  const given: Parameters<Wire['inspect']>[] = []
  const fake = code.createFakeWire()
  const nameOf = (place: Parameters<Wire['inspect']>[0]): string => ('name' in place ? place.name : '')
  const inspect: Wire['inspect'] = async (place, transforms) => {
    given.push([place, transforms])
    const name = nameOf(place)
    if (name.startsWith('adapter')) throw new code.AppError('needs-base', `${name} is a LoRA adapter`)
    if (name === 'config' && transforms?.fakeWeights === undefined) {
      const where = { file: 'model.safetensors', missing: ['model.safetensors'] }
      throw new code.AppError('missing-file', 'model.safetensors is not there', { where })
    }
    if (name === 'checkpoint' && transforms?.hfConfig === undefined) {
      throw new code.AppError('malformed', 'It does not say hidden_size', { hint: 'Give it with --hf-config.' })
    }
    if (transforms?.hfConfig === 'not JSON') throw new code.AppError('bad-option', 'It is no JSON')
    if (transforms?.adapters?.some(({ place }) => nameOf(place) === 'adapter of another')) {
      throw new code.AppError('bad-tensor', 'q_proj has another shape')
    }
    return fake.inspect(place, transforms)
  }
  return { ...setUp({}, {}, { inspect }), given }
}

const placed = (name: string) => ({ kind: 'files', name, files: [] }) as const

test('an adapter waits for its base; on a model that is open it is merged, and one that does not fit costs nothing', async () => {
  const { session, given } = setUpPlaces()
  await session.open(placed('adapter'), 'adapter')
  expect(session.need).toMatchObject({ kind: 'base', message: 'adapter is a LoRA adapter' })
  await session.openBase(placed('adapter 2'), 'adapter 2')
  expect(session.need).toMatchObject({ kind: 'base', adapters: [{ name: 'adapter' }, { name: 'adapter 2' }] })
  await session.openBase(placed('base'), 'base')
  expect(session.screen).toBe('model')
  expect(given.at(-1)).toEqual([
    placed('base'),
    {
      adapters: [
        { place: placed('adapter'), weight: 1 },
        { place: placed('adapter 2'), weight: 1 },
      ],
    },
  ])

  await session.open(placed('adapter of another'), 'adapter of another')
  expect(session.screen).toBe('model')
  expect(session.notice).toBe('q_proj has another shape')
  expect(session.model?.source.adapters.map(({ name }) => name)).toEqual(['adapter', 'adapter 2'])
  session.weigh(0, Number.NaN)
  expect(session.optionFaults.size).toBe(1)
  session.weigh(0, 0.5)
  expect(session.optionFaults.size).toBe(0)
  await vi.waitFor(() => expect(session.plan).not.toBeNull())
  await session.convert()
  expect(session.conversion.request?.transforms?.adapters?.map(({ weight }) => weight)).toEqual([0.5, 1])
})

test('a configuration alone can have its weights made up, and a checkpoint can be given one', async () => {
  const { session, given } = setUpPlaces()
  await session.open(placed('config'), 'config.json')
  expect(session.need).toMatchObject({ kind: 'weights', outline: { className: 'LlamaForCausalLM' } })
  await session.reopen((source) => ({ ...source, madeUp: true }))
  expect(session.screen).toBe('model')
  expect(session.transforms).toEqual({ 'fake-weight': true })
  session.clearOptions()
  expect(session.transforms, 'there are no other weights').toEqual({ 'fake-weight': true })

  await session.open(placed('checkpoint'), 'checkpoint')
  expect(session.need?.kind).toBe('config')
  await session.reopen((source) => ({ ...source, config: { name: 'config.json', text: 'not JSON' } }))
  expect(session.need, 'another one can be given').toEqual({ kind: 'config', message: 'It is no JSON' })
  await session.reopen((source) => ({ ...source, config: { name: 'config.json', text: '{}' } }))
  expect(session.screen).toBe('model')
  expect(given.at(-1)?.[1]).toEqual({ hfConfig: '{}' })
})

test('what a dead job left beside its output is swept, not that of one that runs or can be resumed', async () => {
  const swept: string[] = []
  const { session, held } = setUp({ interrupted: true })
  Object.assign(session.page.shelf, {
    stages: async () => ['k0', 'running', 'dead'],
    sweep: async (key: string) => void swept.push(key),
  })
  held.add('running')
  await session.kept.sweep()
  expect(swept).toEqual(['dead'])
})

test('what an earlier conversion left in the same place goes', async () => {
  const tidied: [string, readonly string[]][] = []
  const { session } = setUp()
  Object.assign(session.page.shelf, {
    tidy: async ({ path }: ScratchPlace, files: readonly string[]) => void tidied.push([path, files]),
  })
  await session.open(SAMPLE, 'the sample')
  await session.convert()
  expect(tidied).toEqual([[expect.stringContaining('gguf Q4_K_M'), ['Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf']]])
})

test('a check that is stopped before it has begun is cancelled once it has', async () => {
  const cancelled: string[] = []
  const wire: Wire = {
    ...code.createFakeWire(),
    check: async () => new Promise((resolve) => setTimeout(() => resolve('job-2'), 20)),
    cancel: async (id) => void cancelled.push(id),
    next: async () => [{ type: 'failed', error: new code.AppError('cancelled', 'It was cancelled').toData() }],
  }
  const check = new code.Check(wire, { input: SAMPLE })
  const run = check.run()
  await check.stop()
  await run
  expect(cancelled).toEqual(['job-2'])
  expect(check).toMatchObject({ running: false, report: null, error: null })
})
