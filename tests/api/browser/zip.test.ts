import { spawnSync } from 'node:child_process'
import { mkdtemp, open, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { crc32 } from 'node:zlib'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { zipBlob, zipHeaders } from '../../../src/api/browser/zip.ts'
import { pattern } from '../../contracts/bytes-cases.ts'

let folder = ''

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'modelconvert-zip-'))
})

afterAll(async () => {
  await rm(folder, { recursive: true, force: true })
})

const python = spawnSync('python3', ['-c', 'import zipfile']).status === 0

/** What Python's zipfile, as a second judge, makes of an archive: name, size, and the bytes of files up to 1 MiB. */
function judge(path: string): { name: string; size: number; hex: string | null }[] {
  const program = `
import json, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as z:
    print(json.dumps([{ 'name': i.filename, 'size': i.file_size,
                        'hex': z.read(i).hex() if i.file_size < 2**20 else None } for i in z.infolist()]))
`
  const run = spawnSync('python3', ['-c', program, path], { encoding: 'utf8', maxBuffer: 2 ** 26 })
  if (run.status !== 0) throw new Error(run.stderr)
  return JSON.parse(run.stdout) as ReturnType<typeof judge>
}

describe('a stored zip', () => {
  test('holds the files byte for byte, with their checksums', async () => {
    const bytes = pattern(10_000)
    const blob = await zipBlob([
      { path: 'a.bin', blob: new Blob([bytes]) },
      { path: 'empty', blob: new Blob([]) },
    ])
    const zip = new Uint8Array(await blob.arrayBuffer())
    const view = new DataView(zip.buffer)
    expect(view.getUint32(14, true)).toBe(crc32(bytes))
    expect(zip.slice(30 + 5, 30 + 5 + 10_000)).toEqual(bytes)
    // The same files, the same zip.
    const again = await zipBlob([
      { path: 'a.bin', blob: new Blob([bytes]) },
      { path: 'empty', blob: new Blob([]) },
    ])
    expect(new Uint8Array(await again.arrayBuffer())).toEqual(zip)
  })

  test.skipIf(!python)('is read by Python (skipped where there is none)', async () => {
    const files = { 'config.json': pattern(300), 'weights/ünï-1.bin': pattern(70_000), empty: pattern(0) }
    let last = 0
    const blob = await zipBlob(
      Object.entries(files).map(([path, bytes]) => ({ path, blob: new Blob([bytes]) })),
      (done) => (last = done),
    )
    const path = join(folder, 'small.zip')
    await writeFile(path, new Uint8Array(await blob.arrayBuffer()))
    expect(judge(path)).toEqual(
      Object.entries(files).map(([name, bytes]) => ({
        name,
        size: bytes.length,
        hex: Buffer.from(bytes).toString('hex'),
      })),
    )
    expect(last).toBe(70_300)
  })

  test.skipIf(!python)('goes beyond 4 GiB (skipped where there is no Python)', async () => {
    const small = pattern(1000)
    const large = 5 * 2 ** 30 + 7
    const { headers, end } = zipHeaders([
      { path: 'first', size: 1000, crc32: crc32(small) },
      { path: 'large', size: large, crc32: 0 },
      { path: 'last', size: 1000, crc32: crc32(small) },
    ])
    const path = join(folder, 'large.zip')
    const file = await open(path, 'w')
    let at = 0
    const put = async (bytes: Uint8Array): Promise<void> => {
      await file.write(bytes, 0, bytes.length, at)
      at += bytes.length
    }
    await put(headers[0]!)
    await put(small)
    await put(headers[1]!)
    at += large
    await put(headers[2]!)
    await put(small)
    await put(end)
    await file.close()
    const hex = Buffer.from(small).toString('hex')
    expect(judge(path)).toEqual([
      { name: 'first', size: 1000, hex },
      { name: 'large', size: large, hex: null },
      { name: 'last', size: 1000, hex },
    ])
    await rm(path)
  })

  test.skipIf(!python)('holds more than 65535 files (skipped where there is no Python)', async () => {
    const entries = Array.from({ length: 65_536 }, (_, i) => ({ path: `f${i}`, size: 0, crc32: 0 }))
    const { headers, end } = zipHeaders(entries)
    const path = join(folder, 'many.zip')
    await writeFile(path, Buffer.concat([...headers, end]))
    expect(judge(path)).toHaveLength(65_536)
  })

  test('refuses paths that lead out, and repeated ones', () => {
    expect(() => zipHeaders([{ path: '../a', size: 0, crc32: 0 }])).toThrow(/not a path/)
    const twice = { path: 'a', size: 0, crc32: 0 }
    expect(() => zipHeaders([twice, twice])).toThrow(/twice/)
  })

  test('stops on abort', async () => {
    const controller = new AbortController()
    controller.abort()
    const files = [{ path: 'a', blob: new Blob([pattern(10)]) }]
    await expect(zipBlob(files, () => {}, controller.signal)).rejects.toMatchObject({ code: 'cancelled' })
  })
})
