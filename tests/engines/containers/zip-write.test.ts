import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { open, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { crc32 } from 'node:zlib'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { generate, literal } from '../../../src/core/tensor.ts'
import { planZip } from '../../../src/engines/containers/zip-write.ts'
import { convert, madeUp } from '../megatron/folder.ts'

const noPython = spawnSync('python3', ['-c', 'import zipfile']).status !== 0
const noUnzip = spawnSync('unzip', ['-v']).status !== 0

/** What Python's zipfile finds wrong with the checksums of an archive's entries of less than 1 MiB, and its entries. */
function python(file: string): {
  readonly bad: string | null
  readonly names: string[]
  readonly sizes: number[]
  readonly starts: number[]
} {
  const program = `
import json, struct, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as z:
    starts, bad = [], None
    for i in z.infolist():
        z.fp.seek(i.header_offset + 26)
        name, extra = struct.unpack('<HH', z.fp.read(4))
        starts.append(i.header_offset + 30 + name + extra)
        try:
            if i.file_size < 2**20:
                z.read(i)
        except zipfile.BadZipFile:
            bad = bad or i.filename
    print(json.dumps({'bad': bad, 'sizes': [i.file_size for i in z.infolist()], 'names': z.namelist(), 'starts': starts}))
`
  const { status, stdout, stderr } = spawnSync('python3', ['-c', program, file], { encoding: 'utf8' })
  if (status !== 0) throw new Error(stderr)
  return JSON.parse(stdout) as ReturnType<typeof python>
}

let folder = ''
beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'zip-write-'))
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

describe.skipIf(noPython || noUnzip)(
  'stored zips of tensors, judged by Python and unzip (skipped without them)',
  () => {
    test('have the checksums of what is in them', { timeout: 60_000 }, async () => {
      const { files } = await convert(await madeUp(CONFIG), 'megatron', { tp: 2, pp: 1 })
      const parts = Object.keys(files).filter((name) => name.endsWith('.pt'))
      expect(parts).toHaveLength(2)
      for (const part of parts) {
        const file = path.join(folder, 'rank.pt')
        await writeFile(file, files[part]!)
        const { bad, names, starts } = python(file)
        expect(bad).toBeNull()
        expect(names.length).toBeGreaterThan(20)
        expect(starts.filter((start) => start % 64 !== 0)).toEqual([])
        const { status, stdout } = spawnSync('unzip', ['-t', file], { encoding: 'utf8' })
        expect(stdout).toContain('No errors detected')
        expect(status).toBe(0)
        // the judges do compare: a weight that is changed is found
        const damaged = files[part]!.slice()
        damaged[starts.at(-2)! + 5]! ^= 1
        await writeFile(file, damaged)
        expect(python(file).bad).toBe(names.at(-2))
        expect(spawnSync('unzip', ['-t', file]).status).not.toBe(0)
      }
    })

    test('an entry of 4 GiB, and what lies behind it', async () => {
      const zeros = 2 ** 32 + 64
      const content = Uint8Array.of(1, 2, 3)
      const weight = literal({ dtype: 'u8', shape: [3] }, content)
      const start = 100
      const { size, segments } = planZip(
        [
          { name: 'x/data.pkl', bytes: Uint8Array.of(9, 9) },
          {
            name: 'x/data/0',
            tensor: 'large',
            recipe: generate({ dtype: 'f32', shape: [zeros / 4] }, { kind: 'constant', value: 0 }),
          },
          { name: 'x/data/1', tensor: 'small', recipe: weight },
          { name: 'x/data/2', tensor: 'none', recipe: literal({ dtype: 'u8', shape: [0] }, new Uint8Array(0)) },
        ],
        start,
      )
      const file = path.join(folder, 'large.zip')
      const handle = await open(file, 'w')
      try {
        await handle.truncate(size)
        for (const segment of segments) {
          const at = segment.offset - start
          if (segment.kind === 'tensor') {
            if (segment.name === 'small') await handle.write(content, 0, content.length, at)
          } else if (segment.kind !== 'outputs') {
            const bytes = segment.bytes.slice()
            const view = new DataView(bytes.buffer)
            if (segment.kind === 'seal')
              for (const one of segment.checksums) view.setUint32(one.at, one.size === 3 ? crc32(content) : 0, true)
            await handle.write(bytes, 0, bytes.length, at)
          }
        }
      } finally {
        await handle.close()
      }
      const { bad, names, starts } = python(file)
      expect(bad).toBeNull()
      expect(names).toEqual(['x/data.pkl', 'x/data/0', 'x/data/1', 'x/data/2'])
      expect(starts.filter((at) => at % 64 !== 0)).toEqual([])
      // the others: 4 GiB take a minute
      const { stdout } = spawnSync('unzip', ['-t', file, 'x/data.pkl', 'x/data/1', 'x/data/2'], { encoding: 'utf8' })
      expect(stdout).toContain('No errors detected')
    })
  },
)

const CONFIG = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  hidden_size: 32,
  intermediate_size: 48,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  num_hidden_layers: 3,
  vocab_size: 300,
  max_position_embeddings: 128,
  rms_norm_eps: 1e-5,
  torch_dtype: 'bfloat16',
  tie_word_embeddings: false,
}
