import { describe, expect, test } from 'vitest'
import { bytesContract } from './bytes.ts'
import { pattern } from './bytes-cases.ts'
import { memoryFolder, MemoryOutput, type MemoryFolder } from './memory.ts'

for (const resumable of [true, false]) {
  bytesContract(resumable ? 'memory' : 'memory, not resumable', async () => {
    let last: MemoryFolder | null = null
    return {
      large: false,
      folder: async (files) => (last = memoryFolder(files)),
      shorten: async (path, size) => {
        last?.files.set(path, last.files.get(path)!.slice(0, size))
      },
      vanish: async (path) => {
        last?.files.delete(path)
      },
      output: async () => {
        const folder = new MemoryOutput({ resumable, capacity: 2 ** 26 })
        return {
          folder,
          names: async () => folder.names(),
          put: async (path, bytes) => {
            folder.files.set(path, bytes)
          },
          interrupted: async (path, bytes) => {
            const sink = await folder.create(path, { keep: 0 })
            await sink.write(bytes, 0)
            await sink.flush()
            folder.restart()
            return folder
          },
        }
      },
    }
  })
}

describe('faults of the memory folder', () => {
  test('loses what was not flushed, and only that', async () => {
    const folder = new MemoryOutput()
    const sink = await folder.create('a', { keep: 0 })
    await sink.write(pattern(10), 0)
    await sink.flush()
    await sink.write(pattern(10, 2), 5)
    await sink.write(pattern(4, 3), 20)
    folder.restart('all')
    expect(folder.part('a')).toEqual(pattern(10))
    await expect(sink.write(pattern(1), 0)).rejects.toThrow(/no longer open/)
  })

  test('loses single writes, as a disk that reorders', async () => {
    const folder = new MemoryOutput()
    const sink = await folder.create('a', { keep: 0 })
    await sink.write(pattern(4, 1), 0)
    await sink.write(pattern(4, 2), 4)
    await sink.write(pattern(4, 3), 8)
    folder.restart((index) => index === 1)
    expect(folder.part('a')).toEqual(Uint8Array.from([...pattern(4, 1), 0, 0, 0, 0, ...pattern(4, 3)]))
  })

  test('fails at the call it was told to', async () => {
    const folder = new MemoryOutput({
      faults: [
        { at: 'write', count: 2, error: 'no-space', half: true },
        { at: 'flush', count: 1, error: 'crash' },
      ],
    })
    const sink = await folder.create('a', { keep: 0 })
    await sink.write(pattern(10), 0)
    await expect(sink.write(pattern(10), 10)).rejects.toMatchObject({ code: 'no-space' })
    expect(folder.part('a')!.length).toBe(15)
    await expect(sink.flush()).rejects.toThrow(/crashed/)
    await expect(folder.exists('a')).rejects.toThrow(/crashed/)
    folder.restart('none')
    expect(folder.part('a')!.length).toBe(15)
    expect(folder.stats.calls).toMatchObject({ write: 2, flush: 1 })
  })

  test('stops between two names when told to', async () => {
    const folder = new MemoryOutput({ faults: [{ at: 'rename', count: 2, error: 'crash' }] })
    for (const path of ['a', 'b']) await (await folder.create(path, { keep: 0 })).close()
    await expect(folder.publish(['a', 'b'], false)).rejects.toThrow(/crashed/)
    expect(folder.names()).toEqual(['a', 'b.part'])
  })

  test('runs out of space and counts', async () => {
    const folder = new MemoryOutput({ capacity: 100 })
    const sink = await folder.create('a', { keep: 0 })
    await sink.write(pattern(90), 0)
    await sink.write(pattern(90), 0)
    expect(await folder.freeBytes()).toBe(10)
    await expect(sink.write(pattern(11), 90)).rejects.toMatchObject({ code: 'no-space' })
    const input = memoryFolder(
      { a: pattern(100) },
      { faults: [{ at: 'read', count: 3, error: 'source-lost', sticky: true }] },
    )
    const source = await input.open('a')
    await Promise.all([source.read(0, new Uint8Array(60)), source.read(0, new Uint8Array(30))])
    expect(input.stats).toMatchObject({ readBytes: 90, peakReadBytes: 90, largestRead: 60, openSources: 1 })
    await expect(source.read(0, new Uint8Array(1))).rejects.toMatchObject({ code: 'source-lost' })
    await expect(source.read(0, new Uint8Array(1))).rejects.toMatchObject({ code: 'source-lost' })
  })
})
