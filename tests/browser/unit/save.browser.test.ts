import { afterAll, beforeAll, expect, test } from 'vitest'
import { copyFolder, copySaved, removeSaved, savedFile, savedZip } from '../../../src/api/browser/save.ts'
import { memoryFolder, MemoryOutput } from '../../contracts/memory.ts'
import { pattern } from '../../contracts/bytes-cases.ts'
import { allNames, clearStorage, putFile } from './opfs-tools.ts'

beforeAll(async () => {
  await putFile('outputs', 'config.json', pattern(100))
  await putFile('outputs', 'model-00001-of-00002.safetensors', pattern(9_000_000))
  await putFile('outputs', 'sub/tokenizer.json', pattern(300))
  await putFile('outputs', 'unfinished.gguf.part', pattern(300))
})

afterAll(clearStorage)

async function target(name: string): Promise<FileSystemDirectoryHandle> {
  return (await navigator.storage.getDirectory()).getDirectoryHandle(name, { create: true })
}

test('a single file comes as it is', async () => {
  const file = await savedFile('outputs', 'sub/tokenizer.json')
  expect(new Uint8Array(await file.arrayBuffer())).toEqual(pattern(300))
  await expect(savedFile('outputs', 'nothing')).rejects.toMatchObject({ code: 'missing-file' })
  await expect(savedFile('outputs', '../x')).rejects.toMatchObject({ code: 'malformed' })
})

test('several files come as a zip of the finished ones', async () => {
  const seen: [number, number][] = []
  const zip = await savedZip('outputs', { progress: (done, total) => seen.push([done, total]) })
  expect(seen.at(-1)).toEqual([9_000_400, 9_000_400])
  const bytes = new Uint8Array(await zip.arrayBuffer())
  expect(bytes.slice(30 + 'config.json'.length, 30 + 'config.json'.length + 100)).toEqual(pattern(100))
  expect(new TextDecoder('latin1').decode(bytes.slice(-400))).not.toContain('unfinished')
})

test('a copy into a folder appears whole, the commit mark last', async () => {
  await copySaved('outputs', await target('picked'))
  const names = ['config.json', 'model-00001-of-00002.safetensors', 'sub/tokenizer.json']
  expect(await allNames('picked')).toEqual(names)
  const file = await savedFile('picked', 'model-00001-of-00002.safetensors')
  const copied = new Uint8Array(await file.arrayBuffer())
  const expected = pattern(9_000_000)
  // Millions of elements take the matcher most of a minute.
  expect(copied.length === expected.length && copied.every((byte, i) => byte === expected[i])).toBe(true)
  await expect(copySaved('outputs', await target('picked'))).rejects.toMatchObject({ code: 'output-exists' })
  expect(await allNames('picked')).toEqual(names)
  await copySaved('outputs', await target('picked'), { overwrite: true })
  expect(await allNames('picked')).toEqual(names)
})

test('a copy that is cancelled or fails leaves nothing, and no old file is lost', async () => {
  await putFile('half', 'config.json', pattern(5, 7))
  const controller = new AbortController()
  const progress = (): void => controller.abort()
  const options = { progress, signal: controller.signal, overwrite: true }
  await expect(copySaved('outputs', await target('half'), options)).rejects.toMatchObject({ code: 'cancelled' })
  expect(await allNames('half')).toEqual(['config.json'])
  const from = memoryFolder({ a: pattern(10), b: pattern(10), 'config.json': pattern(10) })
  const full = new MemoryOutput({ files: { old: pattern(3), a: pattern(1) }, capacity: 20 })
  await expect(copyFolder(from, full, { overwrite: true })).rejects.toMatchObject({ code: 'no-space' })
  expect(full.names()).toEqual(['a', 'old'])
  const order: string[] = []
  const output = new MemoryOutput()
  const publish = output.publish.bind(output)
  output.publish = async (paths, overwrite) => {
    order.push(...paths)
    return publish(paths, overwrite)
  }
  await copyFolder(memoryFolder({ 'config.json': pattern(1), z: pattern(2) }), output)
  expect(order).toEqual(['z', 'config.json'])
})

test('cleaning up removes the place', async () => {
  await removeSaved('picked')
  await removeSaved('never-was')
  expect(await allNames('picked')).toEqual([])
})
