import { openOpfs } from '../../../src/api/browser/bytes-opfs.ts'
import type { OutputFolder } from '../../../src/core/bytes.ts'
import { AppError } from '../../../src/core/errors.ts'
import { bytesCases, pattern, type BytesHarness } from '../../contracts/bytes-cases.ts'
import { allNames, putFile } from './opfs-tools.ts'

/** Runs one case of the contract against the private file system: sync access handles exist in workers only. */

export type Request =
  | { readonly kind: 'case'; readonly name: string }
  | { readonly kind: 'interrupt'; readonly root: string; readonly path: string; readonly bytes: Uint8Array }
  | { readonly kind: 'fill'; readonly root: string; readonly step: number; readonly most: number }

export interface Reply {
  readonly skipped: string | null
  readonly failure: string | null
  /** Of `fill`: the error's code, the bytes written before it, and those said to be free at first. */
  readonly code?: string
  readonly written?: number
  readonly free?: number | null
}

/** Writes until it fails, or `most` bytes. */
async function fill(root: string, step: number, most: number): Promise<Reply> {
  const folder = await openOpfs(root, { prune: true })
  const free = await folder.freeBytes()
  const sink = await folder.create('a', { keep: 0 })
  let written = 0
  let code = 'none'
  try {
    for (; written < most; written += step) await sink.write(pattern(step), written)
  } catch (error) {
    code = error instanceof AppError ? error.code : String(error)
  }
  await sink.abort()
  return { skipped: null, failure: null, code, written, free }
}

const kept: unknown[] = []

/** A worker of its own writes and is terminated with the file open. */
async function interrupted(root: string, path: string, bytes: Uint8Array): Promise<OutputFolder> {
  const worker = new Worker(new URL('./bytes-worker.ts', import.meta.url), { type: 'module' })
  const reply = await new Promise<Reply>((resolve, reject) => {
    worker.addEventListener('message', (event: MessageEvent<Reply>) => resolve(event.data))
    worker.addEventListener('error', (event) => reject(new Error(event.message)))
    worker.postMessage({ kind: 'interrupt', root, path, bytes } satisfies Request)
  })
  if (reply.failure !== null) throw new Error(reply.failure)
  worker.terminate()
  // The browser lets go of a dead worker's files a moment later; the folder has to wait for that by itself.
  return openOpfs(root)
}

function makeHarness(id: string): BytesHarness {
  const [input, target] = [`in-${id}`, `out-${id}`]
  return {
    large: false,
    folder: async (files) => {
      for (const [path, bytes] of Object.entries(files)) await putFile(input, path, bytes)
      return openOpfs(input)
    },
    shorten: async (path, size) => {
      const root = await navigator.storage.getDirectory()
      const handle = await (await root.getDirectoryHandle(input)).getFileHandle(path)
      const stream = await handle.createWritable({ keepExistingData: true })
      await stream.truncate(size)
      await stream.close()
    },
    vanish: async (path) => {
      const root = await navigator.storage.getDirectory()
      await (await root.getDirectoryHandle(input)).removeEntry(path)
    },
    output: async () => ({
      folder: await openOpfs(target),
      names: () => allNames(target),
      put: (path, bytes) => putFile(target, path, bytes),
      interrupted: (path, bytes) => interrupted(target, path, bytes),
    }),
  }
}

async function answer(request: Request): Promise<Reply> {
  try {
    if (request.kind === 'fill') return await fill(request.root, request.step, request.most)
    if (request.kind === 'interrupt') {
      const sink = await (await openOpfs(request.root)).create(request.path, { keep: 0 })
      kept.push(sink)
      await sink.write(request.bytes, 0)
      await sink.flush()
      return { skipped: null, failure: null }
    }
    const one = bytesCases.find((candidate) => candidate.name === request.name)
    if (one === undefined) throw new Error(`no case ${request.name}`)
    const harness = makeHarness(crypto.randomUUID())
    const skipped = one.skip?.(harness) ?? null
    if (skipped === null) await one.run(harness)
    return { skipped, failure: null }
  } catch (error) {
    return { skipped: null, failure: error instanceof Error ? (error.stack ?? error.message) : String(error) }
  }
}

self.addEventListener('message', (event: MessageEvent<Request>) => {
  void answer(event.data).then((reply) => self.postMessage(reply))
})
