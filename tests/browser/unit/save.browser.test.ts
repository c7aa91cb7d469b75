import { afterAll, beforeAll, expect, test } from 'vitest'
import {
  copyFolder,
  copySaved,
  removeSaved,
  removeStages,
  savedFile,
  savedZip,
  stagedJobs,
  tidySaved,
} from '../../../src/api/browser/save.ts'
import { memoryFolder, MemoryOutput } from '../../contracts/memory.ts'
import { pattern } from '../../contracts/bytes-cases.ts'
import { allNames, clearStorage, putFile } from './opfs-tools.ts'

/** What a conversion wrote; the place holds more. */
const WRITTEN = ['config.json', 'model-00001-of-00002.safetensors', 'sub/tokenizer.json']

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

test('several files come as a zip of those alone', async () => {
  await putFile('outputs', 'model-00002-of-00002.safetensors', pattern(50))
  const seen: [number, number][] = []
  const zip = await savedZip('outputs', WRITTEN, { progress: (done, total) => seen.push([done, total]) })
  expect(seen.at(-1)).toEqual([9_000_400, 9_000_400])
  const bytes = new Uint8Array(await zip.arrayBuffer())
  expect(bytes.slice(30 + 'config.json'.length, 30 + 'config.json'.length + 100)).toEqual(pattern(100))
  const directory = new TextDecoder('latin1').decode(bytes.slice(-400))
  expect(directory).toContain('model-00001-of-00002')
  expect(directory).not.toMatch(/unfinished|00002-of/)
})

test('a copy into a folder appears whole, the commit mark last', async () => {
  await copySaved('outputs', WRITTEN, await target('picked'))
  expect(await allNames('picked')).toEqual(WRITTEN)
  const file = await savedFile('picked', 'model-00001-of-00002.safetensors')
  const copied = new Uint8Array(await file.arrayBuffer())
  const expected = pattern(9_000_000)
  // Millions of elements take the matcher most of a minute.
  expect(copied.length === expected.length && copied.every((byte, i) => byte === expected[i])).toBe(true)
  await expect(copySaved('outputs', WRITTEN, await target('picked'))).rejects.toMatchObject({ code: 'output-exists' })
  expect(await allNames('picked')).toEqual(WRITTEN)
  await copySaved('outputs', WRITTEN, await target('picked'), { overwrite: true })
  expect(await allNames('picked')).toEqual(WRITTEN)
})

test('a copy that is cancelled or fails leaves nothing, and no old file is lost', async () => {
  await putFile('half', 'config.json', pattern(5, 7))
  const controller = new AbortController()
  const progress = (): void => controller.abort()
  const options = { progress, signal: controller.signal, overwrite: true }
  await expect(copySaved('outputs', WRITTEN, await target('half'), options)).rejects.toMatchObject({
    code: 'cancelled',
  })
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

test('tidying keeps what was written, journals, unfinished files and dotted names', async () => {
  const journal = '.modelconvert-0123456789abcdef.json'
  for (const path of [...WRITTEN, 'old/model.gguf', 'sub/.metadata', 'sub/old', 'half.part', journal]) {
    await putFile('tidied', path, pattern(9))
  }
  await tidySaved('tidied', [...WRITTEN, 'sub/.metadata'])
  expect(await allNames('tidied')).toEqual([journal, ...WRITTEN, 'half.part', 'sub/.metadata'].sort())
})

test('what stages left is found by its job, and removed', async () => {
  expect(await stagedJobs()).toEqual([])
  await putFile('stages', 'job-abc/one/two', pattern(9))
  await putFile('stages', 'job-def/one', pattern(9))
  expect([...(await stagedJobs())].sort()).toEqual(['abc', 'def'])
  await removeStages('abc')
  expect(await stagedJobs()).toEqual(['def'])
  expect(await allNames('stages')).toEqual(['job-def/one'])
})

test('cleaning up removes the place', async () => {
  await removeSaved('picked')
  await removeSaved('never-was')
  expect(await allNames('picked')).toEqual([])
})
