import { fork, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { hostname, tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { createNodeHost, defaultMemoryBudget } from '../../companion/host.ts'
import { pattern } from '../contracts/bytes-cases.ts'

let state = ''

beforeAll(async () => {
  state = await mkdtemp(join(tmpdir(), 'modelconvert-state-'))
  vi.stubEnv('XDG_STATE_HOME', state)
})

afterAll(async () => {
  vi.unstubAllEnvs()
  await rm(state, { recursive: true, force: true })
})

async function lockFile(): Promise<string> {
  const folder = join(state, 'modelconvert', 'locks')
  const [name] = await readdir(folder)
  return join(folder, name!)
}

test('the digest can be asked midway, also over shared memory', async () => {
  const digest = await createNodeHost().digest()
  const bytes = pattern(100_000)
  const shared = new Uint8Array(new SharedArrayBuffer(100_000))
  shared.set(bytes)
  const sha = (...parts: Uint8Array[]): string => createHash('sha256').update(Buffer.concat(parts)).digest('hex')
  expect(await digest.hex()).toBe(sha())
  await digest.update(bytes)
  expect(await digest.hex()).toBe(sha(bytes))
  await digest.update(shared.subarray(5, 99))
  expect(await digest.hex()).toBe(sha(bytes, bytes.subarray(5, 99)))
  digest.close()
})

test('a lock is held by one', async () => {
  const host = createNodeHost()
  const lock = await host.lock('job')
  expect(lock).not.toBeNull()
  expect(await host.lock('job')).toBeNull()
  expect(await (await host.lock('another'))?.release()).toBeUndefined()
  await lock?.release()
  const again = await host.lock('job')
  expect(again).not.toBeNull()
  await again?.release()
})

test('the lock of a living process holds, of a dead one it does not', async () => {
  const host = createNodeHost()
  const lock = await host.lock('job')
  const path = await lockFile()
  const mine = JSON.parse(await readFile(path, 'utf8')) as { pid: number; host: string; born: string | null }
  expect(mine).toMatchObject({ pid: process.pid, host: hostname() })
  const child = fork('-e', ['process.on("message", () => {})'], { execArgv: ['-e', 'setInterval(() => {}, 1000)'] })
  try {
    await writeFile(path, JSON.stringify({ ...mine, pid: child.pid, born: null }))
    expect(await host.lock('job')).toBeNull()
  } finally {
    child.kill('SIGKILL')
  }
  const dead = spawnSync(process.execPath, ['-e', '']).pid
  await writeFile(path, JSON.stringify({ ...mine, pid: dead }))
  const taken = await host.lock('job')
  expect(taken).not.toBeNull()
  // The first holder lost it, and its release must not free another's.
  await writeFile(path, JSON.stringify({ ...mine, pid: 1 }))
  await taken?.release()
  expect(JSON.parse(await readFile(path, 'utf8'))).toMatchObject({ pid: 1 })
  await rm(path)
  await lock?.release()
})

test.runIf(process.platform === 'linux')(
  'a number that was given to another process does not hold a lock',
  async () => {
    const host = createNodeHost()
    await host.lock('job')
    const path = await lockFile()
    const mine = JSON.parse(await readFile(path, 'utf8')) as object
    await writeFile(path, JSON.stringify({ ...mine, born: 'another boot/1' }))
    const lock = await host.lock('job')
    expect(lock).not.toBeNull()
    await lock?.release()
  },
)

test('the sample is found, and only read', async () => {
  const host = createNodeHost()
  const sample = await host.open({ kind: 'sample' })
  const files = (await sample.list()).map((file) => file.path)
  expect(files).toContain('config.json')
  expect(files).toContain('model.safetensors')
  await expect(host.openOutput({ kind: 'sample' })).rejects.toMatchObject({ code: 'unsupported' })
  await expect(host.open({ kind: 'handle', handle: {}, name: 'x' })).rejects.toMatchObject({ code: 'unsupported' })
})

test('scratch goes without a trace', async () => {
  const host = createNodeHost()
  const scratch = await host.openScratch('job-1')
  const sink = await scratch.create('a', { keep: 0 })
  await sink.write(pattern(10), 0)
  await sink.close()
  await scratch.publish(['a'], false)
  const again = await host.open({ kind: 'scratch', path: 'job-1' })
  const source = await again.open('a')
  expect(source.size).toBe(10)
  await source.close()
  await scratch.remove('a')
  expect(await readdir(join(state, 'modelconvert', 'scratch'))).toEqual([])
  await expect(host.openScratch('../up')).rejects.toMatchObject({ code: 'malformed' })
})

test('the budget is bounded, and the options count', async () => {
  expect(defaultMemoryBudget()).toBeGreaterThanOrEqual(2 ** 27)
  expect(defaultMemoryBudget()).toBeLessThanOrEqual(2 ** 30)
  expect(createNodeHost({ memoryBudget: 12345 }).memoryBudget).toBe(12345)
  expect(createNodeHost().name).toMatch(/^Node \d+\./)
})

test('the reference backend is always there, and backends start once', async () => {
  const host = createNodeHost({ threads: 1 })
  const backends = await host.backends()
  expect(backends.map((backend) => backend.id)).toContain('reference')
  expect(await host.backends()).toBe(backends)
  for (const backend of backends) await backend.close()
})
