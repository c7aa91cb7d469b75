import { PART_SUFFIX, type Folder, type OutputFolder, type Source } from '../../src/core/bytes.ts'
import { AppError, type ErrorCode } from '../../src/core/errors.ts'

/**
 * What every host's folders must do, as cases without a test framework: they also run inside a browser's worker.
 */
export interface BytesHarness {
  /** A folder for reading that holds these files. */
  folder(files: Readonly<Record<string, Uint8Array>>): Promise<Folder>
  /** A fresh output folder; null where the host only reads. */
  output: (() => Promise<OutputHarness>) | null
  /** Cuts a file of the folder last made to `size` bytes, behind its back; null where that cannot be. */
  shorten: ((path: string, size: number) => Promise<void>) | null
  /** Removes a file of the folder last made; null where that cannot be (or an open file stays readable, as on POSIX). */
  vanish: ((path: string) => Promise<void>) | null
  /** Whether files of more than 4 GiB may be made (sparse). */
  readonly large: boolean
}

export interface OutputHarness {
  readonly folder: OutputFolder
  /** Every name there is, unfinished ones too, sorted, seen past the folder's own methods. */
  names(): Promise<readonly string[]>
  /** Puts a file there past the folder's own methods. */
  put(path: string, bytes: Uint8Array): Promise<void>
  /** Another process writes and flushes `bytes` to `path`, dies without closing, and the folder is opened anew. */
  interrupted(path: string, bytes: Uint8Array): Promise<OutputFolder>
}

export interface BytesCase {
  readonly name: string
  /** Why this host does not run it, or null. */
  readonly skip?: (harness: BytesHarness) => string | null
  readonly run: (harness: BytesHarness) => Promise<void>
}

/** Bytes that tell where they are from. */
export function pattern(size: number, seed = 1): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(size)
  let state = seed >>> 0
  for (let i = 0; i < size; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    bytes[i] = state >>> 24
  }
  return bytes
}

function check(condition: boolean, message: string): asserts condition {
  if (!condition) throw new Error(message)
}

function same(actual: unknown, expected: unknown, what: string): void {
  const [a, b] = [JSON.stringify(actual), JSON.stringify(expected)]
  check(a === b, `${what}: ${a} instead of ${b}`)
}

function sameBytes(actual: Uint8Array, expected: Uint8Array, what: string): void {
  check(actual.length === expected.length, `${what}: ${actual.length} bytes instead of ${expected.length}`)
  const at = actual.findIndex((byte, i) => byte !== expected[i])
  check(at < 0, `${what}: byte ${at} is ${actual[at]} instead of ${expected[at]}`)
}

async function fails(promise: Promise<unknown>, code: ErrorCode, what: string): Promise<void> {
  try {
    await promise
  } catch (error) {
    check(error instanceof AppError, `${what}: ${String(error)} is no AppError`)
    check(error.code === code, `${what}: ${error.code} instead of ${code} (${error.message})`)
    return
  }
  throw new Error(`${what}: did not fail with ${code}`)
}

async function content(folder: Folder, path: string): Promise<Uint8Array> {
  const source = await folder.open(path)
  try {
    const bytes = new Uint8Array(source.size)
    await source.read(0, bytes)
    return bytes
  } finally {
    await source.close()
  }
}

async function write(folder: OutputFolder, path: string, bytes: Uint8Array): Promise<void> {
  const sink = await folder.create(path, { keep: 0 })
  await sink.write(bytes, 0)
  await sink.close()
}

async function withSource(harness: BytesHarness, bytes: Uint8Array, use: (s: Source) => Promise<void>): Promise<void> {
  const folder = await harness.folder({ 'model.bin': bytes })
  const source = await folder.open('model.bin')
  try {
    await use(source)
  } finally {
    await source.close()
  }
}

const SIZE = 3 * 2 ** 20 + 77
const HOSTILE = [
  '../up',
  'a/../../up',
  '/etc/passwd',
  'a\\b',
  '..\\up',
  'C:/x',
  'C:x',
  '',
  '.',
  'a//b',
  'a/',
  './a',
  'a\0b',
]

const reading: readonly BytesCase[] = [
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

/** A case for hosts that write. */
function writing(
  name: string,
  run: (output: OutputHarness, folder: OutputFolder, harness: BytesHarness) => Promise<void>,
  skip: (harness: BytesHarness) => string | null = () => null,
): BytesCase {
  return {
    name,
    skip: (harness) => (harness.output === null ? 'this host only reads' : skip(harness)),
    run: async (harness) => {
      const output = await harness.output?.()
      check(output !== undefined, 'no output')
      await run(output, output.folder, harness)
    },
  }
}

const outputs: readonly BytesCase[] = [
  writing('writes, flushes, closes and publishes', async (output, folder) => {
    same(await output.names(), [], 'names at first')
    same(await folder.list(), [], 'listing at first')
    const bytes = pattern(SIZE)
    const sink = await folder.create('sub/dir/model.gguf', { keep: 0 })
    same([sink.name, sink.kept], ['sub/dir/model.gguf', 0], 'name and kept')
    await sink.write(bytes.subarray(1000, 200_000), 1000)
    await sink.write(bytes.subarray(0, 1000), 0)
    await sink.flush()
    await sink.write(bytes.subarray(200_000), 200_000)
    await sink.write(bytes.subarray(0, 0), 0)
    check(!(await output.names()).includes('sub/dir/model.gguf'), 'visible while it is written')
    await sink.close()
    await sink.close()
    check(!(await output.names()).includes('sub/dir/model.gguf'), 'visible before it is published')
    same(await folder.exists('sub/dir/model.gguf'), false, 'exists before')
    same(await folder.list(), [], 'listing before')
    await fails(folder.open('sub/dir/model.gguf'), 'missing-file', 'open before')
    await folder.publish(['sub/dir/model.gguf'], false)
    same(await folder.exists('sub/dir/model.gguf'), true, 'exists after')
    same(await output.names(), ['sub/dir/model.gguf'], 'names after')
    same(
      (await folder.list()).map((file) => [file.path, file.size]),
      [['sub/dir/model.gguf', SIZE]],
      'listing after',
    )
    sameBytes(await content(folder, 'sub/dir/model.gguf'), bytes, 'content')
  }),
  writing('writes from views of shared memory', async (_, folder) => {
    if (typeof SharedArrayBuffer === 'undefined') return
    const shared = new Uint8Array(new SharedArrayBuffer(100_064), 32, 100_000)
    shared.set(pattern(100_000))
    await write(folder, 'a', shared)
    await folder.publish(['a'], false)
    sameBytes(await content(folder, 'a'), pattern(100_000), 'content')
    await folder.replace('b', shared.subarray(10, 20))
    sameBytes(await content(folder, 'b'), pattern(100_000).subarray(10, 20), 'replaced')
  }),
  writing('writes many pieces at once, and fills holes with zeros', async (_, folder) => {
    const bytes = pattern(400_000)
    const sink = await folder.create('a', { keep: 0 })
    const pieces = [3, 0, 7, 1, 2, 6, 4]
    await Promise.all(pieces.map((i) => sink.write(bytes.subarray(i * 50_000, (i + 1) * 50_000), i * 50_000)))
    await sink.close()
    await folder.publish(['a'], false)
    sameBytes(await content(folder, 'a'), bytes.fill(0, 250_000, 300_000), 'content')
  }),
  writing('writes an empty file', async (_, folder) => {
    await write(folder, 'a', pattern(0))
    await folder.publish(['a'], false)
    same(
      (await folder.list()).map((file) => [file.path, file.size]),
      [['a', 0]],
      'listing',
    )
  }),
  writing('keeps what a dead process flushed', async (output, folder) => {
    const bytes = pattern(300_000)
    const again = await output.interrupted('d/a', bytes)
    check(!(await output.names()).includes('d/a'), 'visible under its final name')
    same(await again.exists('d/a'), false, 'exists')
    const sink = await again.create('d/a', { keep: 200_000 })
    same(sink.kept, folder.resumable ? 200_000 : 0, 'kept')
    await sink.write(bytes.subarray(sink.kept, 250_000), sink.kept)
    await sink.close()
    await again.publish(['d/a'], false)
    sameBytes(await content(again, 'd/a'), bytes.subarray(0, 250_000), 'content')
    same(await output.names(), ['d/a'], 'names')
  }),
  writing('keeps no more than there is, and nothing if not asked to', async (output, folder) => {
    const again = await output.interrupted('a', pattern(1000))
    const more = await again.create('a', { keep: 5000 })
    same(more.kept, folder.resumable ? 1000 : 0, 'kept of 1000')
    await more.close()
    const fresh = await again.create('a', { keep: 0 })
    same(fresh.kept, 0, 'kept afresh')
    await fresh.write(pattern(10, 2), 0)
    await fresh.close()
    await again.publish(['a'], false)
    sameBytes(await content(again, 'a'), pattern(10, 2), 'content')
    const none = await again.create('b', { keep: 7 })
    same(none.kept, 0, 'kept of nothing')
    await none.abort()
  }),
  writing('keeps a closed, unpublished file', async (_, folder) => {
    await write(folder, 'a', pattern(1000))
    const sink = await folder.create('a', { keep: 400 })
    same(sink.kept, folder.resumable ? 400 : 0, 'kept')
    await sink.write(pattern(1000).subarray(sink.kept, 600), sink.kept)
    await sink.close()
    await folder.publish(['a'], false)
    sameBytes(await content(folder, 'a'), pattern(1000).subarray(0, 600), 'content')
  }),
  writing('leaves nothing after an abort', async (output, folder) => {
    const sink = await folder.create('x/y/a', { keep: 0 })
    await sink.write(pattern(1000), 0)
    await sink.abort()
    await sink.abort()
    same(await output.names(), [], 'names')
    await fails(folder.publish(['x/y/a'], true), 'missing-file', 'publish after an abort')
    await fails(sink.write(pattern(1), 0), 'internal', 'write after an abort')
    await write(folder, 'x/y/a', pattern(5))
    await folder.publish(['x/y/a'], false)
    sameBytes(await content(folder, 'x/y/a'), pattern(5), 'written afresh')
  }),
  writing('publishes only whole sets, and never over a file unasked', async (output, folder) => {
    await output.put('b', pattern(3, 9))
    for (const path of ['a', 'b', 'c']) await write(folder, path, pattern(100, path.charCodeAt(0)))
    await fails(folder.publish(['a', 'b', 'c'], false), 'output-exists', 'taken name')
    check(!(await output.names()).includes('a'), 'one was named all the same')
    sameBytes(await content(folder, 'b'), pattern(3, 9), 'the old file')
    await fails(folder.publish(['a', 'nothing', 'b'], true), 'missing-file', 'unwritten name')
    check(!(await output.names()).includes('a'), 'one was named all the same')
    await folder.publish(['a', 'b', 'c'], true)
    same(await output.names(), ['a', 'b', 'c'], 'names')
    for (const path of ['a', 'b', 'c']) sameBytes(await content(folder, path), pattern(100, path.charCodeAt(0)), path)
  }),
  writing('says busy for a file that is being written', async (_, folder) => {
    const sink = await folder.create('a', { keep: 0 })
    await sink.write(pattern(10), 0)
    await fails(folder.create('a', { keep: 0 }), 'busy', 'create')
    await fails(folder.publish(['a'], true), 'busy', 'publish')
    await fails(folder.remove('a'), 'busy', 'remove')
    await sink.close()
    await folder.publish(['a'], false)
    sameBytes(await content(folder, 'a'), pattern(10), 'content')
  }),
  writing('removes finished and unfinished files', async (output, folder) => {
    await write(folder, 'a', pattern(10))
    await folder.publish(['a'], false)
    await write(folder, 'd/b', pattern(10))
    await folder.remove('a')
    await folder.remove('d/b')
    await folder.remove('never/was')
    same(await output.names(), [], 'names')
    same(await folder.exists('a'), false, 'exists')
  }),
  writing('replaces in one step', async (output, folder) => {
    await folder.replace('j/journal.json', pattern(100, 1))
    sameBytes(await content(folder, 'j/journal.json'), pattern(100, 1), 'new')
    await folder.replace('j/journal.json', pattern(7, 2))
    sameBytes(await content(folder, 'j/journal.json'), pattern(7, 2), 'shorter')
    // Several at once: one after the other, and the last one stays.
    const sizes = Array.from({ length: 8 }, (_, i) => 10 + i)
    await Promise.all(sizes.map((size) => folder.replace('j/journal.json', pattern(size, 3))))
    sameBytes(await content(folder, 'j/journal.json'), pattern(17, 3), 'the last')
    same(await output.names(), ['j/journal.json'], 'names')
    same(await folder.exists('j/journal.json'), true, 'exists')
  }),
  writing('never shows a half replaced file', async (_, folder) => {
    await folder.replace('a', pattern(50_000, 1))
    const wrong: string[] = []
    const replacing = { done: false }
    const watch = (async () => {
      while (!replacing.done) {
        const bytes = await content(folder, 'a').catch((error: unknown) => AppError.from(error))
        // Lost between opening and reading is honest: the file that was opened is no more.
        if (
          bytes instanceof AppError
            ? bytes.code !== 'source-lost' && bytes.code !== 'truncated'
            : bytes.length % 50_000 !== 0
        ) {
          wrong.push(bytes instanceof AppError ? bytes.message : String(bytes.length))
        }
      }
    })()
    for (let i = 1; i <= 20; i++) await folder.replace('a', pattern(50_000 * (1 + (i % 2)), i))
    replacing.done = true
    await watch
    same(wrong, [], 'seen meanwhile')
  }),
  writing('replaces an unfinished file of the same name without harm', async (_, folder) => {
    const sink = await folder.create('a', { keep: 0 })
    await sink.write(pattern(10), 0)
    await folder.replace('a', pattern(3))
    await sink.close()
    await folder.publish(['a'], true)
    sameBytes(await content(folder, 'a'), pattern(10), 'content')
  }),
  writing('refuses paths that lead out of the folder', async (output, folder) => {
    for (const path of HOSTILE) {
      const what = JSON.stringify(path)
      await fails(folder.create(path, { keep: 0 }), 'malformed', `create ${what}`)
      await fails(folder.publish([path], true), 'malformed', `publish ${what}`)
      await fails(folder.exists(path), 'malformed', `exists ${what}`)
      await fails(folder.remove(path), 'malformed', `remove ${what}`)
      await fails(folder.replace(path, pattern(1)), 'malformed', `replace ${what}`)
    }
    same(await output.names(), [], 'names')
  }),
  writing('stops writing on abort', async (_, folder) => {
    const sink = await folder.create('a', { keep: 0 })
    const controller = new AbortController()
    controller.abort()
    await fails(sink.write(pattern(10), 0, controller.signal), 'cancelled', 'write')
    await fails(sink.write(pattern(10), -1), 'malformed', 'negative position')
    await sink.abort()
  }),
  writing('tells the free bytes or null', async (_, folder) => {
    const free = await folder.freeBytes()
    check(free === null || (Number.isFinite(free) && free > 0), `free: ${free}`)
  }),
  writing(
    'reads and writes beyond 4 GiB',
    async (_, folder) => {
      const position = 5 * 2 ** 30 + 123
      const sink = await folder.create('large', { keep: 0 })
      await sink.write(pattern(1000), position)
      await sink.close()
      await folder.publish(['large'], false)
      const source = await folder.open('large')
      same(source.size, position + 1000, 'size')
      const into = new Uint8Array(1010)
      await source.read(position - 10, into)
      await source.close()
      sameBytes(into, Uint8Array.from([...new Uint8Array(10), ...pattern(1000)]), 'content')
      await folder.remove('large')
    },
    (harness) => (harness.large ? null : 'no sparse files here'),
  ),
]

/** Every case, for reading and for writing. */
export const bytesCases: readonly BytesCase[] = [...reading, ...outputs]
