import { afterAll, afterEach, beforeEach, expect, test } from 'vitest'
import { cdp } from 'vitest/browser'
import { openPickedOutput } from '../../../src/api/browser/bytes-handle.ts'
import { writeError } from '../../../src/api/browser/errors.ts'
import { pattern } from '../../contracts/bytes-cases.ts'
import type { Reply, Request } from './bytes-worker.ts'
import { allNames, clearStorage } from './opfs-tools.ts'

/** Chromium is told that this site has little room, as on a full disk. */
const QUOTA = 20_000_000

interface Session {
  send(method: 'Storage.overrideQuotaForOrigin', params: { origin: string; quotaSize?: number }): Promise<unknown>
}

const session = cdp() as unknown as Session
const worker = new Worker(new URL('./bytes-worker.ts', import.meta.url), { type: 'module' })

beforeEach(async () => {
  await session.send('Storage.overrideQuotaForOrigin', { origin: location.origin, quotaSize: QUOTA })
})

afterEach(async () => {
  await session.send('Storage.overrideQuotaForOrigin', { origin: location.origin })
})

afterAll(async () => {
  worker.terminate()
  await clearStorage()
})

function ask(request: Request): Promise<Reply> {
  return new Promise((resolve) => {
    worker.addEventListener('message', (event: MessageEvent<Reply>) => resolve(event.data), { once: true })
    worker.postMessage(request)
  })
}

test('the private file system says no-space when it is full, and the free bytes before', async () => {
  const reply = await ask({ kind: 'fill', root: 'full', step: 3_000_000, most: 60_000_000 })
  expect(reply.failure).toBeNull()
  expect(reply.code).toBe('no-space')
  // What Chromium reports as free is made up, so nothing is said.
  expect(reply.free === null || reply.free! <= QUOTA).toBe(true)
  expect(reply.written).toBeLessThan(QUOTA)
  // Aborted after that, nothing is left.
  expect(await allNames('full')).toEqual([])
})

test('a stream into a folder says no-space when it is full', async () => {
  const base = await navigator.storage.getDirectory()
  const folder = openPickedOutput(await base.getDirectoryHandle('streamed', { create: true }))
  const sink = await folder.create('a', { keep: 0 })
  const piece = pattern(3_000_000)
  const fill = async (): Promise<void> => {
    for (let at = 0; at < 60_000_000; at += piece.length) await sink.write(piece, at)
    await sink.close()
  }
  await expect(fill()).rejects.toMatchObject({ code: 'no-space', where: { file: 'a' } })
  await sink.abort()
  expect(await allNames('streamed')).toEqual([])
})

test.each([
  ['NotAllowedError', 'output-denied'],
  ['QuotaExceededError', 'no-space'],
  ['NoModificationAllowedError', 'busy'],
  ['NotFoundError', 'output-denied'],
  ['InvalidStateError', 'output-denied'],
  ['AbortError', 'cancelled'],
])('%s in writing is %s', (name, code) => {
  expect(writeError(new DOMException('x', name), 'f').code).toBe(code)
})
