import { crc32 } from 'node:zlib'
import { describe, expect, test } from 'vitest'
import { Control } from '../../src/api/control.ts'
import { costPlan, windowFor, type Window } from '../../src/api/cost.ts'
import { writeFile, type Execution } from '../../src/api/execute.ts'
import { Journal } from '../../src/api/journal.ts'
import { kernels } from '../../src/api/kernels.ts'
import { Pool } from '../../src/api/pool.ts'
import { JobInputs } from '../../src/api/sources.ts'
import { segmentSize, type Plan, type PlannedFile, type Segment } from '../../src/core/plan.ts'
import * as t from '../../src/core/tensor.ts'
import type { Recipe } from '../../src/core/tensor.ts'
import { memoryFolder, MemoryOutput } from '../contracts/memory.ts'
import { sha256, shuffledBackend, testHost } from './host.ts'

const MIB = 1 << 20

/** 24 MiB of bf16 weights with a known pattern. */
const weights = (() => {
  const data = new Uint16Array(12 * MIB)
  for (let i = 0; i < data.length; i++) data[i] = 0x3c00 + ((i * 2654435761) >>> 22)
  return new Uint8Array(data.buffer)
})()

function tensorSegments(recipes: readonly (readonly [string, Recipe])[]): Segment[] {
  let offset = 0
  return recipes.map(([name, recipe]) => {
    const size = t.tensorBytes(recipe)
    const segment: Segment = { kind: 'tensor', offset, size, name, recipe }
    offset += size
    return segment
  })
}

function planOf(segments: readonly Segment[]): Plan {
  const last = segments.at(-1)!
  const size = last.offset + segmentSize(last)
  const file: PlannedFile = { path: 'out.bin', size, segments }
  return { target: 'test', stages: [], files: [file], findings: [], readBytes: 0, writeBytes: size }
}

function bf16(rows: number, columns: number, at: number): Recipe {
  return t.read({ dtype: 'bf16', shape: [rows, columns] }, 'weights', at * 2)
}

/** Casts, a plain copy, a head permutation, and a small tensor among large ones. */
function mixedPlan(): Plan {
  const heads = t.reshape(bf16(2048, 1024, 0), [16, 2, 64, 1024])
  return planOf(
    tensorSegments([
      ['embed', t.cast(bf16(4096, 1024, 0), 'f16')],
      ['norm', t.cast(bf16(1, 1024, 5000), 'f32')],
      ['query', t.cast(t.reshape(t.permute(heads, [0, 2, 1, 3]), [2048, 1024]), 'f32')],
      ['copy', bf16(4096, 1024, 8 * MIB)],
    ]),
  )
}

interface Setup {
  readonly run: Execution
  readonly output: MemoryOutput
  readonly plan: Plan
  readonly window: Window
  readonly control: Control
  readonly pool: Pool
}

function setup(plan: Plan, options: { threads?: number; budget?: number; output?: MemoryOutput } = {}): Setup {
  const backend = shuffledBackend(options.threads ?? 3)
  const output = options.output ?? new MemoryOutput()
  const input = memoryFolder({ weights })
  const host = testHost({ input, output, backend })
  const window = windowFor(backend.threads, options.budget ?? 256 * MIB)
  const control = new Control(() => host.now())
  const pool = new Pool(backend.arena)
  const inputs = new JobInputs(input, [{ path: 'weights', size: weights.length, modified: 0 }], null)
  return {
    run: { host, control, window, pool, inputs, kernels: kernels([backend]) },
    output,
    plan,
    window,
    control,
    pool,
  }
}

async function write({ run, output, plan }: Setup, journal: Journal | null = null): Promise<string> {
  const written = await writeFile(run, plan.files[0]!, output, journal)
  await output.publish(['out.bin'], true)
  expect(sha256(output.files.get('out.bin')!)).toBe(written.sha256)
  return written.sha256
}

describe('the loop', () => {
  test('writes the same bytes at any number of threads and any budget, and holds what the plan says', async () => {
    const hashes = new Set<string>()
    for (const [threads, budget] of [
      [1, 256 * MIB],
      [2, 256 * MIB],
      [7, 256 * MIB],
      [7, 30 * MIB],
      [3, 13 * MIB],
    ] as const) {
      const one = setup(mixedPlan(), { threads, budget })
      const { peakBytes } = costPlan(one.plan, one.window)
      hashes.add(await write(one))
      expect(one.pool.inUse).toBe(0)
      expect(one.pool.highWater).toBeLessThanOrEqual(peakBytes)
      expect(one.pool.highWater).toBeGreaterThan(peakBytes * 0.9)
      expect(peakBytes).toBeLessThanOrEqual(budget)
    }
    expect(hashes.size).toBe(1)
  })

  test('reads what the plan says, once', async () => {
    const one = setup(mixedPlan())
    const { readBytes } = costPlan(one.plan, one.window)
    await write(one)
    expect((one.run.inputs as JobInputs).bytesRead).toBe(readBytes)
    expect(readBytes).toBe(2 * (4096 * 1024 + 1024 + 2048 * 1024 + 4096 * 1024))
  })

  test('a budget too small for one tile is refused with the tensor', () => {
    expect(() => costPlan(mixedPlan(), windowFor(1, MIB))).toThrow(expect.objectContaining({ code: 'memory' }))
  })

  test('a layout with a gap or an overlap is refused before anything is written', () => {
    const segments = tensorSegments([
      ['a', bf16(8, 8, 0)],
      ['b', bf16(8, 8, 0)],
    ])
    const moved = segments.map((segment, i) => (i === 1 ? { ...segment, offset: segment.offset + 32 } : segment))
    expect(() => costPlan(planOf(moved as Segment[]), windowFor(1, MIB))).toThrow(
      expect.objectContaining({ code: 'internal' }),
    )
  })

  test('a producer is evaluated once for all its outputs, and the file is written front to back', async () => {
    const producer = t.quantize(bf16(4096, 1024, 0), { kind: 'affine', bits: 4, group: 64 }, 'bf16')
    const outputs = ['codes', 'scales', 'biases'].map((field) => ({ name: `w.${field}`, field }))
    const size = Object.values(producer.fields).reduce((sum, info) => sum + t.tensorBytes(info), 0)
    const plan = planOf([{ kind: 'outputs', offset: 0, size, producer, outputs }])
    const one = setup(plan)
    const { peakBytes } = costPlan(plan, one.window)
    await write(one)
    expect((one.run.inputs as JobInputs).bytesRead).toBe(4096 * 1024 * 2)
    expect(one.pool.inUse).toBe(0)
    expect(one.pool.highWater).toBeLessThanOrEqual(peakBytes)
    expect(one.pool.highWater).toBeGreaterThan(peakBytes * 0.9)
    // the same as each part for itself
    const parts = setup(
      planOf(tensorSegments(outputs.map(({ name, field }) => [name, t.part(producer, field)] as const))),
    )
    await write(parts)
    expect(sha256(parts.output.files.get('out.bin')!)).toBe(sha256(one.output.files.get('out.bin')!))
  })

  test('what a producer holds is its own until it is written, whatever is in flight behind it', async () => {
    const segments: Segment[] = []
    let size = 0
    for (const [index, bits] of [4, 8, 2, 4, 6, 3, 8, 4, 5, 2, 4, 8].entries()) {
      const producer = t.quantize(bf16(64, 1024, index * 1024), { kind: 'affine', bits, group: 32 }, 'bf16')
      const outputs = ['codes', 'scales', 'biases'].map((field) => ({ name: `${index}.${field}`, field }))
      const own = Object.values(producer.fields).reduce((sum, info) => sum + t.tensorBytes(info), 0)
      segments.push({ kind: 'outputs', offset: size, size: own, producer, outputs })
      size += own
    }
    const plan = planOf(segments)
    const alone = await write(setup(plan, { threads: 1 }))
    // memory that was given back is used by others from then on
    const freed: Uint8Array[] = []
    const reuse = (): void => freed.forEach((buffer) => buffer.fill(0xff))
    const pool = new Pool({
      alloc(bytes) {
        reuse()
        return new Uint8Array(bytes)
      },
      free(buffer) {
        freed.push(buffer)
        reuse()
      },
    })
    const together = setup(plan, { threads: 8 })
    expect(await write({ ...together, run: { ...together.run, pool } })).toBe(alone)
    expect(pool.inUse).toBe(0)
  })

  test('a NaN names tensor, row, column and file, and leaves nothing behind', async () => {
    const bad = weights.slice()
    new Uint16Array(bad.buffer)[1024 * 7 + 5] = 0x7fc0
    const output = new MemoryOutput()
    for (const recipe of [t.cast(bf16(64, 1024, 0), 'f32'), bf16(64, 1024, 0)]) {
      const one = setup(planOf(tensorSegments([['blk.0.weight', recipe]])), { output })
      const inputs = new JobInputs(memoryFolder({ weights: bad }), [], null)
      await expect(writeFile({ ...one.run, inputs }, one.plan.files[0]!, output, null)).rejects.toMatchObject({
        code: 'bad-weights',
        message: expect.stringContaining('row 7, column 5'),
        where: { tensor: 'blk.0.weight', file: 'weights' },
      })
      expect(output.names()).toEqual([])
      expect(one.pool.inUse).toBe(0)
    }
  })

  test('pauses between tiles and goes on', async () => {
    const one = setup(mixedPlan())
    one.control.report({ phase: 'write', state: 'running', bytesTotal: one.plan.writeBytes })
    const writing = write(one)
    one.control.pause()
    await new Promise((resolve) => setTimeout(resolve, 100))
    const held = one.control.progress.bytesDone
    await new Promise((resolve) => setTimeout(resolve, 100))
    expect(one.control.progress).toMatchObject({ state: 'paused', bytesDone: held })
    expect(held).toBeLessThan(one.plan.writeBytes)
    one.control.resume()
    expect(await writing).toBe(await write(setup(mixedPlan())))
  })

  test('a cancel at any moment removes the file and gives back all memory', async () => {
    let cancelled = 0
    for (let wait = 0; wait < 12; wait++) {
      const one = setup(mixedPlan())
      const writing = writeFile(one.run, one.plan.files[0]!, one.output, null)
      for (let i = 0; i < wait * 3; i++) await new Promise((resolve) => setImmediate(resolve))
      one.control.cancel(false)
      const [end] = await Promise.allSettled([writing])
      expect(one.pool.inUse).toBe(0)
      // too late: the file was complete
      if (end.status === 'fulfilled') continue
      cancelled++
      expect(end.reason).toMatchObject({ code: 'cancelled' })
      expect(one.output.names()).toEqual([])
    }
    expect(cancelled).toBeGreaterThan(3)
  })
})

describe('resume', () => {
  const identity = [{ path: 'weights', size: weights.length, modified: 0, sample: 'x' }]
  /** 120 MiB, mostly made from nothing: enough for checkpoints. */
  const plan = planOf(
    tensorSegments([
      ['made', t.generate({ dtype: 'f32', shape: [15 * MIB] }, { kind: 'constant', value: 1 })],
      ['copied', bf16(12 * MIB, 1, 0)],
      ['more', t.generate({ dtype: 'f32', shape: [8 * MIB] }, { kind: 'constant', value: 2 })],
    ]),
  )

  test('after a crash at any write or flush gives the same file, whether unflushed writes are lost or not', async () => {
    const expected = await write(setup(plan))
    for (const [at, count, lose] of [
      ['write', 1, 'all'],
      ['write', 18, 'all'],
      ['write', 19, 'none'],
      ['write', 28, 'all'],
      ['flush', 1, 'all'],
      ['close', 1, 'all'],
      ['replace', 1, 'all'],
    ] as const) {
      const output = new MemoryOutput({ faults: [{ at, count, error: 'crash', half: at === 'write' }] })
      const first = setup(plan, { output })
      const begun = Journal.begin(output, 'abcdef0123456789', 'test', identity)
      await expect(writeFile(first.run, plan.files[0]!, output, begun)).rejects.toThrow()
      output.faults = []
      output.restart(lose)
      const journal = (await Journal.find(output, 'abcdef0123456789')) ?? begun
      const second = setup(plan, { output })
      const written = await writeFile(second.run, plan.files[0]!, output, journal)
      expect(written.sha256).toBe(expected)
      const recorded = count > 20 || at === 'close'
      if (recorded) expect(written.kept).toBeGreaterThan(0)
      await output.publish(['out.bin'], false)
      expect(sha256(output.files.get('out.bin')!)).toBe(expected)
    }
  })

  test('does not trust what was changed below the watermark', async () => {
    const expected = await write(setup(plan))
    const output = new MemoryOutput({ faults: [{ at: 'write', count: 28, error: 'crash' }] })
    const first = setup(plan, { output })
    const journal = Journal.begin(output, 'abcdef0123456789', 'test', identity)
    await expect(writeFile(first.run, plan.files[0]!, output, journal)).rejects.toThrow()
    output.faults = []
    output.restart('none')
    output.part('out.bin')![1000]! ^= 1
    const second = setup(plan, { output })
    const written = await writeFile(
      second.run,
      plan.files[0]!,
      output,
      (await Journal.find(output, 'abcdef0123456789'))!,
    )
    expect(written).toMatchObject({ sha256: expected, kept: 0 })
    const events = await second.control.next()
    expect(events).toContainEqual(
      expect.objectContaining({ type: 'log', finding: expect.objectContaining({ code: 'restarted' }) }),
    )
  })
})

describe('seals', () => {
  /** Two tensors, each followed by its checksum, and both checksums at the end, as in a zip. */
  function sealedPlan(): Plan {
    const made = t.generate({ dtype: 'f32', shape: [20 * MIB] }, { kind: 'constant', value: 1 })
    const copied = bf16(12 * MIB, 1, 0)
    const first = { start: 5, size: t.tensorBytes(made) }
    const second = { start: 5 + first.size + 6, size: t.tensorBytes(copied) }
    const end = second.start + second.size
    const seal = (offset: number, bytes: number, checksums: (Segment & { kind: 'seal' })['checksums']): Segment => {
      return { kind: 'seal', offset, bytes: new Uint8Array(bytes).fill(7), checksums }
    }
    return planOf([
      { kind: 'bytes', offset: 0, bytes: new Uint8Array(5) },
      { kind: 'tensor', offset: 5, size: first.size, name: 'made', recipe: made },
      seal(5 + first.size, 6, [{ at: 1, ...first }]),
      { kind: 'tensor', offset: second.start, size: second.size, name: 'copied', recipe: copied },
      seal(end, 11, [
        { at: 0, ...second },
        { at: 6, ...first },
      ]),
    ])
  }

  function expectSealed(file: Uint8Array): void {
    const made = 80 * MIB
    const view = new DataView(file.buffer, file.byteOffset, file.length)
    const crcs = [crc32(file.subarray(5, 5 + made)), crc32(file.subarray(11 + made, 11 + made + weights.length))]
    const end = 11 + made + weights.length
    expect([6 + made, end + 6, end].map((at) => view.getUint32(at, true))).toEqual([crcs[0], crcs[0], crcs[1]])
    // what is no checksum is as it was
    expect([5 + made, 10 + made, end + 4, end + 5, end + 10].map((at) => file[at])).toEqual([7, 7, 7, 7, 7])
    expect(file.length).toBe(end + 11)
  }

  test('hold the checksums of what was written before them', async () => {
    const hashes = new Set<string>()
    for (const threads of [1, 6]) {
      const one = setup(sealedPlan(), { threads })
      costPlan(one.plan, one.window)
      hashes.add(await write(one))
      expectSealed(one.output.files.get('out.bin')!)
      expect(one.pool.inUse).toBe(0)
    }
    expect(hashes.size).toBe(1)
  })

  test('hold those of a job that was taken up again, in the midst of a tensor too', { timeout: 60_000 }, async () => {
    for (const count of [20, 27]) {
      const output = new MemoryOutput({ faults: [{ at: 'write', count, error: 'crash', half: true }] })
      const first = setup(sealedPlan(), { output })
      const begun = Journal.begin(output, 'abcdef0123456789', 'test', [])
      await expect(writeFile(first.run, first.plan.files[0]!, output, begun)).rejects.toThrow()
      output.faults = []
      output.restart('none')
      const journal = (await Journal.find(output, 'abcdef0123456789'))!
      const second = setup(sealedPlan(), { output })
      const { kept } = await writeFile(second.run, second.plan.files[0]!, output, journal)
      expect(kept).toBeGreaterThan(0)
      await output.publish(['out.bin'], false)
      expectSealed(output.files.get('out.bin')!)
    }
  })

  test.each([
    ['of bytes behind it', [{ at: 0, start: 0, size: 9 }]],
    ['of nothing', [{ at: 0, start: 0, size: 0 }]],
    ['outside of it', [{ at: 2, start: 0, size: 8 }]],
    [
      'of ranges that overlap',
      [
        { at: 0, start: 0, size: 8 },
        { at: 0, start: 4, size: 4 },
      ],
    ],
  ])('a checksum %s is refused before anything is written', (_, checksums) => {
    const segments: Segment[] = [
      { kind: 'bytes', offset: 0, bytes: new Uint8Array(8) },
      { kind: 'seal', offset: 8, bytes: new Uint8Array(5), checksums },
    ]
    expect(() => costPlan(planOf(segments), windowFor(1, MIB))).toThrow(expect.objectContaining({ code: 'internal' }))
  })
})
