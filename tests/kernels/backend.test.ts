import { afterEach, describe, expect, test } from 'vitest'
import { AppError } from '../../src/core/errors.ts'
import type { Backend, KernelOp } from '../../src/kernels/backend.ts'
import { chooseBackend } from '../../src/kernels/dispatch.ts'
import { createWasmBackend, type FromWorker, type ToWorker, type WorkerLike } from '../../src/kernels/wasm/index.ts'
import { reference, wasm } from './backends.ts'

const Q4_K: KernelOp = { kind: 'cast', from: 'f32', to: 'q4_k' }
const open: Backend[] = []
async function pool(threads: number): Promise<Backend> {
  const backend = await wasm(threads)
  open.push(backend)
  return backend
}
afterEach(async () => {
  for (const backend of open.splice(0)) await backend.close()
})

/** A worker that comes up and then does what a test wants. */
function fakeWorker(
  run: (reply: (message: FromWorker) => void, fail: (error: unknown) => void, id: number) => void,
): WorkerLike {
  let reply: (message: FromWorker) => void = () => {}
  let fail: (error: unknown) => void = () => {}
  return {
    post(message: ToWorker) {
      queueMicrotask(() => (message.kind === 'init' ? reply({ kind: 'ready' }) : run(reply, fail, message.id)))
    },
    onMessage: (listener) => (reply = listener),
    onError: (listener) => (fail = listener),
    terminate() {},
  }
}

describe('runs', () => {
  test('an aborted run rejects `cancelled`, once nothing is written any more', async () => {
    for (const threads of [0, 2]) {
      const backend = await pool(threads)
      const elements = 1 << 21
      const [input, output] = [backend.arena.alloc(elements * 4), backend.arena.alloc((elements / 256) * 144)]
      new Float32Array(input.buffer, input.byteOffset, elements).fill(0).forEach((_, i, all) => (all[i] = Math.sin(i)))
      const controller = new AbortController()
      const running = backend.prepare(Q4_K).run(input, output, elements, controller.signal)
      controller.abort()
      await expect(running).rejects.toMatchObject({ code: 'cancelled' })
      const seen = output.slice()
      await new Promise((resolve) => setTimeout(resolve, 20))
      expect(Buffer.compare(output, seen)).toBe(0)
      await expect(backend.prepare(Q4_K).run(input, output, 256, controller.signal)).rejects.toMatchObject({
        code: 'cancelled',
      })
      // The backend is none the worse for it.
      expect(await backend.prepare(Q4_K).run(input, output, 256)).toEqual({ bad: null })
    }
  })

  test('a closed backend rejects what it was given and what it is given', async () => {
    const backend = await pool(1)
    const elements = 1 << 21
    const running = backend
      .prepare(Q4_K)
      .run(new Uint8Array(elements * 4), new Uint8Array((elements / 256) * 144), elements)
    const settled = expect(running).rejects.toBeInstanceOf(AppError)
    await backend.close()
    await settled
    await expect(backend.prepare(Q4_K).run(new Uint8Array(1024), new Uint8Array(144), 256)).rejects.toBeInstanceOf(
      AppError,
    )
  })

  test('elements that are not whole blocks, small buffers and unknown ops are refused', async () => {
    for (const backend of [reference, await pool(0)]) {
      const kernel = backend.prepare(Q4_K)
      await expect(kernel.run(new Uint8Array(1024), new Uint8Array(144), 255)).rejects.toMatchObject({
        code: 'internal',
      })
      await expect(kernel.run(new Uint8Array(1023), new Uint8Array(144), 256)).rejects.toMatchObject({
        code: 'internal',
      })
      await expect(kernel.run(new Uint8Array(1024), new Uint8Array(143), 256)).rejects.toMatchObject({
        code: 'internal',
      })
      const impossible: KernelOp = { kind: 'cast', from: 'q4_k', to: 'q8_0' }
      expect(backend.speed(impossible)).toBe(0)
      expect(() => backend.prepare(impossible)).toThrow(expect.objectContaining({ code: 'unsupported' }))
    }
  })

  test('copies leave nothing behind in the arena', async () => {
    const backend = await pool(2)
    const arena = backend.arena as unknown as { readonly used: number }
    const before = arena.used
    await backend.prepare(Q4_K).run(new Uint8Array(1024), new Uint8Array(144), 256)
    expect(arena.used).toBe(before)
  })

  test('tables to search in are made when a type is first written, once, and where there is no room it is said', async () => {
    const op: KernelOp = { kind: 'cast', from: 'f32', to: 'iq3_s' }
    const [input, output] = [new Uint8Array(2048), new Uint8Array(220)]
    for (const threads of [0, 2]) {
      const backend = await pool(threads)
      const arena = backend.arena as unknown as { readonly used: number }
      const before = arena.used
      const kernel = backend.prepare(op)
      expect(arena.used).toBe(before)
      expect(await kernel.run(input, output, 512)).toEqual({ bad: null })
      const after = arena.used
      expect(after - before).toBeGreaterThan(100_000)
      expect(after - before).toBeLessThan(500_000)
      expect(await backend.prepare({ ...op, from: 'f16' }).run(input, output, 512)).toEqual({ bad: null })
      expect(arena.used).toBe(after)
    }
    const small = await createWasmBackend({ spawn: null, threads: 0, maxBytes: 3 * 65536 })
    open.push(small)
    await expect(small.prepare(op).run(input, output, 512)).rejects.toMatchObject({ code: 'memory' })
    expect(await small.prepare(Q4_K).run(input, new Uint8Array(288), 512)).toEqual({ bad: null })
  })
})

describe('workers', () => {
  test('without shared memory, without workers, and with workers that fail, there is one thread and a reason', async () => {
    const broken = fakeWorker(() => {})
    const cases = [
      { spawn: () => broken, threads: 2, shared: false },
      { spawn: null, threads: 2 },
      {
        spawn: () => ({ ...broken, post: () => {}, onError: (cb: (e: unknown) => void) => cb(new Error('no')) }),
        threads: 2,
      },
    ]
    for (const options of cases) {
      const backend = await createWasmBackend(options)
      expect(backend.threads).toBe(1)
      expect(backend.limitation).toMatch(/^Kernels run on one thread: .+\.$/)
      expect(await backend.prepare(Q4_K).run(new Uint8Array(1024), new Uint8Array(144), 256)).toEqual({ bad: null })
    }
  })

  test('a worker that dies fails its run with `device`, and the others go on', async () => {
    let born = 0
    const spawn = (): WorkerLike => {
      const deadly = born++ === 0
      return fakeWorker((reply, fail, id) =>
        deadly ? fail(new Error('out of memory')) : reply({ kind: 'done', id, bad: -1 }),
      )
    }
    const backend = await createWasmBackend({ spawn, threads: 2 })
    const run = () => backend.prepare(Q4_K).run(new Uint8Array(1024), new Uint8Array(144), 256)
    await expect(run()).rejects.toMatchObject({ code: 'device' })
    expect(await run()).toEqual({ bad: null })
  })
})

describe('dispatch', () => {
  test('takes the fastest that is able, exact and passed its self-test, and says why not the preferred one', async () => {
    const fast = await pool(0)
    expect(chooseBackend([fast, reference], Q4_K)).toEqual({ backend: fast, reason: null })
    const refused = new Map([[fast, [{ op: Q4_K, reason: 'byte 3 is 1, not 2' }]]])
    const fallback = chooseBackend([fast, reference], Q4_K, refused)
    expect(fallback.backend).toBe(reference)
    expect(fallback.reason).toContain('byte 3 is 1')
    expect(chooseBackend([fast, reference], { kind: 'cast', from: 'f64', to: 'f32' }).reason).toContain(
      'cannot do f64 -> f32',
    )
    expect(chooseBackend([{ ...fast, exact: () => false }, reference], Q4_K).reason).toContain('not exact')
    expect(() => chooseBackend([fast], { kind: 'cast', from: 'f64', to: 'f32' })).toThrow(
      expect.objectContaining({ code: 'unsupported' }),
    )
  })
})
