import type { OutputFolder } from '../../src/core/bytes.ts'
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
  write,
  type BytesCase,
  type BytesHarness,
  type OutputHarness,
} from './bytes-harness.ts'

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

/** What every output folder and sink must do. */
export const writingCases: readonly BytesCase[] = [
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
  writing('removes what a replacement that was cut off left', async (output, folder) => {
    await folder.replace('journal', pattern(10))
    // as a crash in the middle of the next one leaves it
    const cut = await folder.create('journal.new', { keep: 0 })
    await cut.write(pattern(5), 0)
    await cut.close()
    await folder.remove('journal')
    same(await output.names(), [], 'names')
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
