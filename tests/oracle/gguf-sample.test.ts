import { execFile } from 'node:child_process'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { ggmlTypes } from '../../src/engines/containers/gguf/types.ts'
import { sampleTensor, scanTensor } from '../../src/engines/gguf/sample.ts'
import { randoms } from '../kernels/distributions.ts'
import { noGgml } from './ggml.ts'

/** ggml does not look at q8_1, which is none of a file, and takes doubles beyond a float's range for infinite. */
const UNKNOWN = new Set(['q8_1', 'f64'])
const BLOCKS = 3
const RANDOM = 300
/** Bytes that NaN and infinity are made of, and some that they are not. */
const BYTES = [0x00, 0x3c, 0x70, 0x7b, 0x7c, 0x7f, 0x80, 0xc0, 0xf0, 0xfc, 0xff]

/** Rows of three blocks: zeros but for a byte of the middle one, or some from there on; then bytes of all kinds. */
function rowsOf(bytes: number): readonly Uint8Array[] {
  const random = randoms(bytes)
  const single = [1, 2, 4, 8].flatMap((run) =>
    Array.from({ length: bytes }, (_, at) => new Uint8Array(bytes * BLOCKS).fill(0xff, bytes + at, bytes + at + run)),
  )
  const mixed = Array.from({ length: RANDOM }, () =>
    Uint8Array.from({ length: bytes * BLOCKS }, () =>
      random() < 0.9 ? random() * 0x3c : BYTES[Math.floor(random() * BYTES.length)]!,
    ),
  )
  return [...single, ...mixed]
}

/** ggml's own verdicts. */
async function verdicts(rows: readonly (readonly [number, readonly Uint8Array[]])[]): Promise<readonly boolean[][]> {
  const script = path.join(import.meta.dirname, 'ggml-validate.mjs')
  const blocks = rows.map(([id, all]) => [id, all.map((row) => Buffer.from(row).toString('base64'))])
  return new Promise((resolve, reject) => {
    const child = execFile(process.execPath, [script], { maxBuffer: 1 << 26 }, (error, stdout) =>
      error === null ? resolve(JSON.parse(stdout) as boolean[][]) : reject(error),
    )
    child.stdin?.end(JSON.stringify(blocks))
  })
}

describe.skipIf(noGgml !== null)(
  `NaN and infinity are found where ggml finds them (${noGgml ?? 'in all types'})`,
  () => {
    test('in every type', async () => {
      const types = ggmlTypes().filter(({ name }) => !UNKNOWN.has(name))
      const rows = types.map(({ id, bytes }) => [id, rowsOf(bytes)] as const)
      const want = await verdicts(rows)
      for (const [i, type] of types.entries()) {
        const seen = new Set<boolean>()
        for (const [j, row] of rows[i]![1].entries()) {
          const source = {
            name: 'row',
            size: row.length,
            read: async (offset: number, into: Uint8Array) => into.set(row.subarray(offset, offset + into.length)),
            close: async () => {},
            modified: null,
          }
          const tensor = { name: 'row', type, shape: [type.block * BLOCKS], offset: 0, size: row.length }
          const { badOffset } = await sampleTensor(source, tensor)
          expect((await scanTensor(source, tensor, new AbortController().signal)).badOffset).toBe(badOffset)
          expect(badOffset === null, `${type.name}, row ${j}`).toBe(want[i]![j])
          if (badOffset !== null && j < type.bytes) expect(Math.floor(badOffset / type.bytes)).toBe(1)
          seen.add(badOffset === null)
        }
        // Integers may be any bits, and so may the scales of nvfp4.
        expect(seen.size, type.name).toBe(/^i\d|^nvfp4$/.test(type.name) ? 1 : 2)
      }
    })
  },
)
