import { afterAll, describe, expect, test } from 'vitest'
import { browserName, createBrowserHost, defaultMemoryBudget } from '../../../src/api/browser/host.ts'
import { SAMPLE_FILES } from '../../../src/api/browser/sample.ts'
import { pattern } from '../../contracts/bytes-cases.ts'
import { clearStorage, putFile } from './opfs-tools.ts'

afterAll(clearStorage)

async function sha(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes))
  return [...digest].map((byte) => byte.toString(16).padStart(2, '0')).join('')
}

describe('the digest', () => {
  test('is SHA-256, can be asked midway, and takes shared memory', async () => {
    const digest = await createBrowserHost().digest()
    const bytes = pattern(3_000_000)
    const shared = new Uint8Array(new SharedArrayBuffer(bytes.length))
    shared.set(bytes)
    expect(await digest.hex()).toBe(await sha(new Uint8Array(0)))
    await digest.update(bytes.subarray(0, 1))
    expect(await digest.hex()).toBe(await sha(bytes.slice(0, 1)))
    await digest.update(shared.subarray(1, 2_500_001))
    expect(await digest.hex()).toBe(await sha(bytes.slice(0, 2_500_001)))
    await digest.update(shared.subarray(2_500_001))
    expect(await digest.hex()).toBe(await sha(bytes))
    digest.close()
    await expect(digest.hex()).rejects.toMatchObject({ code: 'device' })
  })

  test('beside it CRC-32, of the bytes since it was last asked', async () => {
    const crc = await createBrowserHost().crc32()
    const text = new TextEncoder().encode('123456789')
    const shared = new Uint8Array(new SharedArrayBuffer(text.length))
    shared.set(text)
    expect(crc.take()).toBe(0)
    for (let turn = 0; turn < 2; turn++) {
      crc.update(shared.subarray(0, 4))
      crc.update(text.subarray(4))
      // the check value of the catalogue of CRC algorithms
      expect(crc.take()).toBe(0xcbf4_3926)
    }
  })

  test('keeps the order of calls that do not wait, and lags by no more than its buffers', async () => {
    const digest = await createBrowserHost().digest()
    const bytes = pattern(20_000_000)
    const sent: Promise<void>[] = []
    for (let at = 0; at < bytes.length; at += 333_333) sent.push(digest.update(bytes.subarray(at, at + 333_333)))
    const hex = digest.hex()
    await Promise.all(sent)
    expect(await hex).toBe(await sha(bytes))
    digest.close()
  })

  test('lets its caller reuse the buffer', async () => {
    const digest = await createBrowserHost().digest()
    const buffer = pattern(1_500_000)
    const expected = await sha(pattern(1_500_000))
    await digest.update(buffer)
    buffer.fill(0)
    expect(await digest.hex()).toBe(expected)
    digest.close()
  })
})

test('a lock is held by one', async () => {
  const host = createBrowserHost()
  const lock = await host.lock('job')
  expect(lock).not.toBeNull()
  expect(await createBrowserHost().lock('job')).toBeNull()
  const other = await host.lock('other')
  expect(other).not.toBeNull()
  await other?.release()
  await lock?.release()
  const again = await host.lock('job')
  expect(again).not.toBeNull()
  await again?.release()
})

test('the sample comes from the page’s own origin', async () => {
  const host = createBrowserHost()
  const folder = await host.open({ kind: 'sample' })
  expect((await folder.list()).map((file) => file.path)).toEqual([...SAMPLE_FILES])
  const source = await folder.open('config.json')
  const bytes = new Uint8Array(source.size)
  await source.read(0, bytes)
  expect(JSON.parse(new TextDecoder().decode(bytes))).toHaveProperty('architectures')
  await expect(host.openOutput({ kind: 'sample' })).rejects.toMatchObject({ code: 'unsupported' })
})

test('a sample that is not on the server is missing-file', async () => {
  const host = createBrowserHost({ sampleUrl: new URL('/nowhere/', location.href) })
  await expect(host.open({ kind: 'sample' })).rejects.toMatchObject({ code: 'missing-file' })
})

test('places: files, handles, scratch; not paths', async () => {
  const host = createBrowserHost()
  const files = await host.open({ kind: 'files', name: 'picked', files: [{ path: 'a/b', file: new Blob(['xy']) }] })
  expect(await files.list()).toMatchObject([{ path: 'a/b', size: 2, modified: null }])
  await putFile('outputs', 'done.gguf', pattern(5))
  expect(await (await host.open({ kind: 'scratch', path: 'outputs' })).list()).toMatchObject([{ path: 'done.gguf' }])
  const root = await navigator.storage.getDirectory()
  const handle = await root.getDirectoryHandle('outputs')
  expect(await (await host.open({ kind: 'handle', handle, name: 'outputs' })).list()).toMatchObject([
    { path: 'done.gguf' },
  ])
  expect((await host.openOutput({ kind: 'handle', handle, name: 'outputs' })).resumable).toBe(false)
  expect((await host.openOutput({ kind: 'scratch', path: 'outputs' })).resumable).toBe(true)
  await expect(host.open({ kind: 'path', path: '/etc' })).rejects.toMatchObject({ code: 'unsupported' })
  await expect(host.openScratch('../up')).rejects.toMatchObject({ code: 'malformed' })
  await expect(host.open({ kind: 'handle', handle: {}, name: 'x' })).rejects.toMatchObject({ code: 'internal' })
})

test('a folder whose permission is gone says so', async () => {
  const root = await navigator.storage.getDirectory()
  const handle = await root.getDirectoryHandle('outputs', { create: true })
  Object.defineProperty(handle, 'queryPermission', { value: async () => 'prompt' })
  const host = createBrowserHost()
  await expect(host.open({ kind: 'handle', handle, name: 'outputs' })).rejects.toMatchObject({ code: 'source-lost' })
  await expect(host.openOutput({ kind: 'handle', handle, name: 'outputs' })).rejects.toMatchObject({
    code: 'output-denied',
  })
})

test('the private file system is not written outside of a worker', async () => {
  const output = await createBrowserHost().openScratch('job')
  if ('createSyncAccessHandle' in FileSystemFileHandle.prototype) return
  await expect(output.create('a', { keep: 0 })).rejects.toMatchObject({ code: 'output-denied' })
})

test('the budget is bounded, the name is the browser’s', () => {
  expect(defaultMemoryBudget()).toBeGreaterThanOrEqual(2 ** 27)
  expect(defaultMemoryBudget()).toBeLessThanOrEqual(2 ** 29)
  expect(createBrowserHost().name).toMatch(/^Chromium \d+$/)
  expect(browserName('Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0')).toBe('Firefox 140')
  expect(browserName('Mozilla/5.0 (Macintosh) AppleWebKit/605.1.15 Version/26.1 Safari/605.1.15')).toBe('Safari 26.1')
})

test('kernels run, on threads', async () => {
  const host = createBrowserHost({ threads: 1 })
  const backends = await host.backends()
  expect(await host.backends()).toBe(backends)
  expect(backends.map((backend) => backend.id)).toEqual(['wasm', 'reference'])
  expect(backends[0]).toMatchObject({ threads: 1, limitation: null })
  for (const backend of backends) {
    const kernel = backend.prepare({ kind: 'cast', from: 'f32', to: 'f16' })
    const output = new Uint8Array(4)
    await kernel.run(new Uint8Array(new Float32Array([1, -2]).buffer), output, 2)
    expect([...output]).toEqual([0x00, 0x3c, 0x00, 0xc0])
    await backend.close()
  }
})
