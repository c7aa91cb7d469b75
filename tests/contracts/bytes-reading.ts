import { PART_SUFFIX } from '../../src/core/bytes.ts'
import { AppError } from '../../src/core/errors.ts'
import {
  check,
  content,
  fails,
  HOSTILE,
  pattern,
  same,
  sameBytes,
  SIZE,
  withSource,
  type BytesCase,
} from './bytes-harness.ts'

/** What every folder and source must do. */
export const readingCases: readonly BytesCase[] = [
  {
    name: 'reads exactly at any offset',
    run: (harness) => {
      const bytes = pattern(SIZE)
      return withSource(harness, bytes, async (source) => {
        same([source.name, source.size], ['model.bin', SIZE], 'name and size')
        const ranges: [number, number][] = [
          [0, 0],
          [0, 1],
          [0, SIZE],
          [1, 1023],
          [65535, 2],
          [SIZE - 1, 1],
          [SIZE, 0],
          [2 ** 20 - 1, 2 ** 20 + 2],
          [12345, 700_001],
        ]
        for (const [offset, length] of ranges) {
          // A view with a margin on both sides: nothing beside it may change.
          const room = new Uint8Array(length + 16).fill(0xa5)
          await source.read(offset, room.subarray(8, 8 + length))
          sameBytes(room.subarray(8, 8 + length), bytes.subarray(offset, offset + length), `${length} at ${offset}`)
          const margin = [...room.subarray(0, 8), ...room.subarray(8 + length)]
          check(
            margin.every((byte) => byte === 0xa5),
            `${length} at ${offset}: wrote outside of the view`,
          )
        }
      })
    },
  },
  {
    name: 'serves many reads at once',
    run: (harness) => {
      const bytes = pattern(SIZE)
      return withSource(harness, bytes, async (source) => {
        const reads = Array.from({ length: 64 }, (_, i) => {
          const offset = (i * 7919 * 31) % (SIZE - 70_000)
          const into = new Uint8Array(i % 3 === 0 ? 70_000 : 100 + i)
          return { offset, into, done: source.read(offset, into) }
        })
        for (const { offset, into, done } of reads) {
          await done
          sameBytes(into, bytes.subarray(offset, offset + into.length), `read at ${offset}`)
        }
      })
    },
  },
  {
    name: 'reads small pieces in order, as headers are read',
    run: (harness) => {
      const bytes = pattern(20_000)
      return withSource(harness, bytes, async (source) => {
        for (let offset = 0; offset + 13 <= bytes.length; offset += 13) {
          const into = new Uint8Array(13)
          await source.read(offset, into)
          sameBytes(into, bytes.subarray(offset, offset + 13), `piece at ${offset}`)
        }
      })
    },
  },
  {
    name: 'reads into views of shared memory',
    skip: () => (typeof SharedArrayBuffer === 'undefined' ? 'no SharedArrayBuffer here' : null),
    run: (harness) => {
      const bytes = pattern(SIZE)
      return withSource(harness, bytes, async (source) => {
        const into = new Uint8Array(new SharedArrayBuffer(SIZE + 32), 16, SIZE - 9)
        await source.read(9, into)
        sameBytes(into, bytes.subarray(9), 'shared view')
        const small = new Uint8Array(new SharedArrayBuffer(64), 8, 40)
        await source.read(100, small)
        sameBytes(small, bytes.subarray(100, 140), 'small shared view')
      })
    },
  },
  {
    name: 'says truncated past the end',
    run: (harness) =>
      withSource(harness, pattern(1000), async (source) => {
        await fails(source.read(990, new Uint8Array(11)), 'truncated', 'across the end')
        await fails(source.read(1000, new Uint8Array(1)), 'truncated', 'at the end')
        await fails(source.read(2 ** 40, new Uint8Array(1)), 'truncated', 'far beyond')
        await fails(source.read(0, new Uint8Array(2_000_000)), 'truncated', 'more than there is')
      }),
  },
  {
    name: 'refuses offsets that are none',
    run: (harness) =>
      withSource(harness, pattern(1000), async (source) => {
        for (const offset of [-1, 0.5, Number.NaN, 2 ** 53]) {
          await fails(source.read(offset, new Uint8Array(1)), 'malformed', String(offset))
        }
      }),
  },
  {
    name: 'notices a file that got shorter',
    skip: (harness) => (harness.shorten === null ? 'files cannot change here' : null),
    run: async (harness) => {
      const folder = await harness.folder({ 'model.bin': pattern(SIZE) })
      const source = await folder.open('model.bin')
      await harness.shorten?.('model.bin', 2 ** 20)
      try {
        await source.read(2 ** 20 + 5, new Uint8Array(10))
        check(false, 'read bytes that are no more')
      } catch (error) {
        check(error instanceof AppError, String(error))
        check(['truncated', 'source-lost'].includes(error.code), `${error.code}: ${error.message}`)
      }
      await source.close()
    },
  },
  {
    name: 'notices a file that is gone',
    skip: (harness) => (harness.vanish === null ? 'an open file stays readable here' : null),
    run: async (harness) => {
      const folder = await harness.folder({ 'model.bin': pattern(SIZE) })
      const source = await folder.open('model.bin')
      await harness.vanish?.('model.bin')
      await fails(source.read(2 ** 20, new Uint8Array(10)), 'source-lost', 'read')
      await source.close()
    },
  },
  {
    name: 'says missing-file for a file that is not there',
    run: async (harness) => {
      const folder = await harness.folder({ 'a/b.bin': pattern(3), 'c.bin': pattern(4) })
      for (const path of ['d.bin', 'a/c.bin', 'a', 'c.bin/x', 'x/y/z'])
        await fails(folder.open(path), 'missing-file', path)
    },
  },
  {
    name: 'lists sorted, nested, without bookkeeping',
    run: async (harness) => {
      const folder = await harness.folder({
        'b.txt': pattern(2),
        'a/z.bin': pattern(3),
        'a/b/c.bin': pattern(0),
        'a.txt': pattern(1),
        'Z.txt': pattern(5),
        'é.txt': pattern(6),
        '.gitattributes': pattern(4),
        '.git/objects/x': pattern(4),
        'a/.cache/y': pattern(4),
        [`model.gguf${PART_SUFFIX}`]: pattern(7),
        'model-00001-of-00002.safetensors': pattern(9),
      })
      const files = await folder.list()
      same(
        files.map((file) => [file.path, file.size]),
        [
          ['.gitattributes', 4],
          ['Z.txt', 5],
          ['a.txt', 1],
          ['a/b/c.bin', 0],
          ['a/z.bin', 3],
          ['b.txt', 2],
          ['model-00001-of-00002.safetensors', 9],
          ['é.txt', 6],
        ],
        'listing',
      )
      sameBytes(await content(folder, 'a/z.bin'), pattern(3), 'a nested file')
      sameBytes(await content(folder, 'a/.cache/y'), pattern(4), 'an unlisted file')
    },
  },
  {
    name: 'reads an empty file',
    run: (harness) =>
      withSource(harness, pattern(0), async (source) => {
        same(source.size, 0, 'size')
        await source.read(0, new Uint8Array(0))
        await fails(source.read(0, new Uint8Array(1)), 'truncated', 'a byte')
      }),
  },
  {
    name: 'refuses paths that lead out of the folder',
    run: async (harness) => {
      const folder = await harness.folder({ a: pattern(1) })
      for (const path of HOSTILE) await fails(folder.open(path), 'malformed', JSON.stringify(path))
    },
  },
  {
    name: 'stops reading on abort',
    run: (harness) =>
      withSource(harness, pattern(SIZE), async (source) => {
        const early = new AbortController()
        early.abort()
        await fails(source.read(0, new Uint8Array(10), early.signal), 'cancelled', 'aborted before')
        const midway = new AbortController()
        const reading = source.read(0, new Uint8Array(SIZE), midway.signal)
        midway.abort()
        await fails(reading, 'cancelled', 'aborted during')
        const into = new Uint8Array(10)
        await source.read(5, into)
        sameBytes(into, pattern(SIZE).subarray(5, 15), 'after an abort')
      }),
  },
]
