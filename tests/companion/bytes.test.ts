import { mkdir, mkdtemp, open, readdir, rm, symlink, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join, relative, sep } from 'node:path'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { openPath, openPathOutput } from '../../companion/bytes.ts'
import { readError, writeError } from '../../companion/errors.ts'
import type { Sink } from '../../src/core/bytes.ts'
import { bytesContract } from '../contracts/bytes.ts'
import { pattern } from '../contracts/bytes-cases.ts'

let base = ''

beforeAll(async () => {
  base = await mkdtemp(join(tmpdir(), 'modelconvert-bytes-'))
})

afterAll(async () => {
  await rm(base, { recursive: true, force: true })
})

let count = 0

function fresh(): string {
  return join(base, `case-${count++}`)
}

async function put(root: string, path: string, bytes: Uint8Array): Promise<void> {
  await mkdir(dirname(join(root, path)), { recursive: true })
  await writeFile(join(root, path), bytes)
}

async function names(root: string): Promise<string[]> {
  const entries = await readdir(root, { recursive: true, withFileTypes: true }).catch(() => [])
  return entries
    .filter((entry) => !entry.isDirectory())
    .map((entry) => relative(root, join(entry.parentPath, entry.name)).split(sep).join('/'))
    .sort()
}

bytesContract('Node', async () => {
  const input = fresh()
  const target = fresh()
  const dead: Sink[] = []
  return {
    large: true,
    vanish: null,
    shorten: (path, size) => truncate(join(input, path), size),
    folder: async (files) => {
      await mkdir(input)
      for (const [path, bytes] of Object.entries(files)) await put(input, path, bytes)
      return openPath(input)
    },
    output: async () => ({
      folder: openPathOutput(target),
      names: () => names(target),
      put: (path, bytes) => put(target, path, bytes),
      interrupted: async (path, bytes) => {
        const sink = await openPathOutput(target).create(path, { keep: 0 })
        await sink.write(bytes, 0)
        await sink.flush()
        // Another instance of the module knows as little of the open sink as another process.
        dead.push(sink)
        vi.resetModules()
        const { openPathOutput: again } = await import('../../companion/bytes.ts')
        return again(target)
      },
    }),
    cleanup: async () => {
      for (const sink of dead) await sink.close()
      await rm(input, { recursive: true, force: true })
      await rm(target, { recursive: true, force: true })
    },
  }
})

describe('Node folders', () => {
  test('a single file is a folder of one, named after its stem', async () => {
    const root = fresh()
    await put(root, 'Llama-3.2-1B.gguf', pattern(5))
    await put(root, 'other', pattern(5))
    const folder = await openPath(join(root, 'Llama-3.2-1B.gguf'))
    expect(folder.name).toBe('Llama-3.2-1B')
    expect((await folder.list()).map((file) => file.path)).toEqual(['Llama-3.2-1B.gguf'])
    const source = await folder.open('Llama-3.2-1B.gguf')
    expect(source.size).toBe(5)
    expect(source.modified).toBeGreaterThan(0)
    await source.close()
    await expect(folder.open('other')).rejects.toMatchObject({ code: 'missing-file' })
  })

  test('the cache of the hub: links to files are followed, the name is the repository', async () => {
    const root = join(fresh(), 'models--org--Tiny-1B')
    await put(root, 'blobs/abc', pattern(1000))
    const snapshot = join(root, 'snapshots', '0123abcd')
    await mkdir(snapshot, { recursive: true })
    await symlink('../../blobs/abc', join(snapshot, 'model.safetensors'))
    const folder = await openPath(snapshot)
    expect(folder.name).toBe('Tiny-1B')
    expect(await folder.list()).toMatchObject([{ path: 'model.safetensors', size: 1000 }])
    const into = new Uint8Array(1000)
    const source = await folder.open('model.safetensors')
    await source.read(0, into)
    await source.close()
    expect(into).toEqual(pattern(1000))
  })

  test('rings of links and links into nowhere end', async () => {
    const root = fresh()
    await put(root, 'sub/a', pattern(1))
    await symlink('..', join(root, 'sub', 'up'))
    await symlink('self', join(root, 'self'))
    await symlink('nowhere', join(root, 'dangling'))
    const folder = await openPath(root)
    expect((await folder.list()).map((file) => file.path)).toEqual(['sub/a'])
    await expect(folder.open('self')).rejects.toMatchObject({ code: 'missing-file' })
    await expect(folder.open('dangling')).rejects.toMatchObject({ code: 'missing-file' })
  })

  test('a place that is not there is missing-file', async () => {
    await expect(openPath(join(base, 'nowhere'))).rejects.toMatchObject({ code: 'missing-file' })
  })

  test('more files than any model has are not-a-model', async () => {
    const root = fresh()
    await mkdir(root)
    for (let i = 0; i <= 20_000; i += 500) {
      await Promise.all(Array.from({ length: 500 }, (_, k) => writeFile(join(root, `f${i + k}`), '')))
    }
    await expect((await openPath(root)).list()).rejects.toMatchObject({ code: 'not-a-model' })
    await rm(root, { recursive: true })
  })

  test('the output folder is made with the first file, and an abort takes it away again', async () => {
    const root = join(fresh(), 'deep', 'er')
    const output = openPathOutput(root)
    expect(await output.freeBytes()).toBeGreaterThan(0)
    expect(await output.exists('a')).toBe(false)
    expect(await names(dirname(dirname(root)))).toEqual([])
    const sink = await output.create('sub/a', { keep: 0 })
    await sink.abort()
    await expect(readdir(dirname(dirname(root)))).rejects.toMatchObject({ code: 'ENOENT' })
  })

  test('an abort leaves folders that were there', async () => {
    const root = fresh()
    await mkdir(root)
    const sink = await openPathOutput(root).create('sub/a', { keep: 0 })
    await sink.abort()
    expect(await readdir(root)).toEqual([])
  })

  test('an output below a file is output-denied', async () => {
    const root = fresh()
    await put(root, 'file', pattern(1))
    const output = openPathOutput(join(root, 'file'))
    await expect(output.create('a', { keep: 0 })).rejects.toMatchObject({ code: 'output-denied' })
  })

  test('an unfinished name that is a link is not written through', async () => {
    const root = fresh()
    await put(root, 'precious', pattern(9))
    await symlink('precious', join(root, 'a.part'))
    await expect(openPathOutput(root).create('a', { keep: 0 })).rejects.toMatchObject({ code: 'output-denied' })
    expect((await (await openPath(root)).open('precious')).size).toBe(9)
  })

  test('a folder of the final name is in the way even when overwriting', async () => {
    const root = fresh()
    await put(root, 'a/b', pattern(1))
    const output = openPathOutput(root)
    await (await output.create('a', { keep: 0 })).close()
    await expect(output.publish(['a'], true)).rejects.toMatchObject({ code: 'output-exists' })
  })

  test('a pruned folder goes with its last file', async () => {
    const root = fresh()
    const output = openPathOutput(root, { prune: true })
    await output.replace('x/a', pattern(1))
    await output.replace('b', pattern(1))
    await output.remove('x/a')
    expect(await readdir(root)).toEqual(['b'])
    await output.remove('b')
    await expect(readdir(root)).rejects.toMatchObject({ code: 'ENOENT' })
  })
})

describe('errors of the system', () => {
  test.each([
    ['ENOENT', 'source-lost', 'output-denied'],
    ['EIO', 'source-lost', 'output-denied'],
    ['ESTALE', 'source-lost', 'output-denied'],
    ['EBADF', 'source-lost', 'output-denied'],
    ['EACCES', 'source-lost', 'output-denied'],
    ['ENOSPC', 'source-lost', 'no-space'],
    ['EDQUOT', 'source-lost', 'no-space'],
    ['EROFS', 'source-lost', 'output-denied'],
    ['EMFILE', 'internal', 'output-denied'],
  ])('%s: %s in reading, %s in writing', (errno, reading, writing) => {
    const error = Object.assign(new Error(errno), { code: errno })
    for (const [made, code] of [
      [readError(error, 'f', 'read'), reading],
      [writeError(error, 'f'), writing],
    ] as const) {
      expect(made).toMatchObject({ code, where: { file: 'f' }, cause: error })
      expect(made.hint).toMatch(/\.$/)
    }
  })

  test.runIf(process.platform === 'linux')('a full device is no-space', async () => {
    const handle = await open('/dev/full', 'w')
    const error: unknown = await handle.write(new Uint8Array(1)).catch((reason: unknown) => reason)
    await handle.close()
    expect(writeError(error, 'f').code).toBe('no-space')
  })
})
