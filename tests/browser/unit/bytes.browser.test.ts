import { afterAll, describe, expect, test } from 'vitest'
import { openFiles } from '../../../src/api/browser/bytes-file.ts'
import { openPickedOutput } from '../../../src/api/browser/bytes-handle.ts'
import { openPicked } from '../../../src/api/browser/handles.ts'
import { bytesContract } from '../../contracts/bytes.ts'
import { bytesCases, pattern } from '../../contracts/bytes-cases.ts'
import type { Reply, Request } from './bytes-worker.ts'
import { allNames, clearStorage, putFile } from './opfs-tools.ts'

afterAll(clearStorage)

test('the page is isolated, so that the cases of shared memory run', () => {
  expect(crossOriginIsolated).toBe(true)
})

bytesContract('Files', async () => ({
  large: false,
  output: null,
  shorten: null,
  vanish: null,
  folder: async (files) =>
    openFiles(
      'picked',
      Object.entries(files).map(([path, bytes]) => ({
        path,
        file: new File([Uint8Array.from(bytes)], path.split('/').at(-1)!, { lastModified: 5 }),
      })),
    ),
}))

// A handle of the private file system stands in for a picked one, which no test can have without a person.
async function directory(name: string): Promise<FileSystemDirectoryHandle> {
  const base = await navigator.storage.getDirectory()
  return base.getDirectoryHandle(name, { create: true })
}

async function handleHarness() {
  const id = crypto.randomUUID()
  const [input, target] = [`in-${id}`, `out-${id}`]
  return {
    large: false,
    folder: async (files: Readonly<Record<string, Uint8Array>>) => {
      for (const [path, bytes] of Object.entries(files)) await putFile(input, path, bytes)
      return openPicked(await directory(input))
    },
    shorten: async (path: string, size: number) => {
      const handle = await (await directory(input)).getFileHandle(path)
      const stream = await handle.createWritable({ keepExistingData: true })
      await stream.truncate(size)
      await stream.close()
    },
    vanish: async (path: string) => (await directory(input)).removeEntry(path),
    output: async () => ({
      folder: openPickedOutput(await directory(target)),
      names: async () => (await allNames(target)).filter((name) => !name.endsWith('.crswap')),
      put: (path: string, bytes: Uint8Array) => putFile(target, path, bytes),
      interrupted: async (path: string, bytes: Uint8Array) => {
        // A dead tab's swap file is thrown away: what is left is the empty file that it would have become.
        await putFile(target, `${path}.part`, new Uint8Array(0))
        void bytes
        return openPickedOutput(await directory(target))
      },
    }),
  }
}

bytesContract('Handles', handleHarness)

const moveOf = Object.getOwnPropertyDescriptor(FileSystemFileHandle.prototype, 'move')

describe('Handles that cannot be renamed', () => {
  bytesContract('copied', async () => {
    Reflect.deleteProperty(FileSystemFileHandle.prototype, 'move')
    return {
      ...(await handleHarness()),
      cleanup: async () => {
        if (moveOf !== undefined) Object.defineProperty(FileSystemFileHandle.prototype, 'move', moveOf)
      },
    }
  })
})

describe('OPFS, in a worker', () => {
  const worker = new Worker(new URL('./bytes-worker.ts', import.meta.url), { type: 'module' })
  afterAll(() => worker.terminate())
  const ask = (request: Request): Promise<Reply> =>
    new Promise((resolve, reject) => {
      worker.addEventListener('message', (event: MessageEvent<Reply>) => resolve(event.data), { once: true })
      worker.addEventListener('error', (event) => reject(new Error(event.message)), { once: true })
      worker.postMessage(request)
    })
  for (const one of bytesCases) {
    test(one.name, async (context) => {
      const reply = await ask({ kind: 'case', name: one.name })
      if (reply.skipped !== null) return context.skip(reply.skipped)
      if (reply.failure !== null) throw new Error(reply.failure)
    })
  }
})

test('a single file handle is a folder of one', async () => {
  await putFile('single', 'Tiny-1.1B.gguf', pattern(10))
  const folder = openPicked(await (await directory('single')).getFileHandle('Tiny-1.1B.gguf'))
  expect(folder.name).toBe('Tiny-1.1B')
  expect(await folder.list()).toMatchObject([{ path: 'Tiny-1.1B.gguf', size: 10 }])
  expect((await folder.open('Tiny-1.1B.gguf')).size).toBe(10)
  await expect(folder.open('other')).rejects.toMatchObject({ code: 'missing-file' })
})

test('small reads are cut from few slices', async () => {
  const bytes = pattern(1_000_000)
  const blob = new Blob([bytes])
  let slices = 0
  const slice = blob.slice.bind(blob)
  blob.slice = (start, end) => {
    slices++
    return slice(start, end)
  }
  const folder = openFiles('picked', [{ path: 'a', file: blob }])
  const source = await folder.open('a')
  for (let offset = 0; offset < 500_000; offset += 500) await source.read(offset, new Uint8Array(500))
  expect(slices).toBe(Math.ceil(500_000 / 131_072))
})
