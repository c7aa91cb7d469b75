import { closeSync, cpSync, openSync, readdirSync, readSync, rmSync, statSync } from 'node:fs'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Report } from '../../src/core/job.ts'
import { noRoom, runCommand, workspace, type Workspace } from './command.ts'
import { writeSynthetic } from './synthetic.mjs'
import { toTorchShards } from './torch-shards.ts'

const GIB = 2 ** 30
const MIB = 2 ** 20

/** The promise: whatever the formats, a checkpoint far larger than this is converted within it. */
const LIMIT = 512 * MIB

/**
 * What is read besides the weights: the program itself, headers, and what four tiles of each file were made from, which
 * may be a matrix each.
 */
const BESIDES = 320 * MIB

/** A source, another made of it, an output, and some air. */
const DISK = 16 * GIB

const noProc = process.platform === 'linux' ? null : `peak memory is read from /proc, which ${process.platform} has not`
const why = noProc ?? noRoom(DISK)

// Megatron's rows, merged and split, are in memory.test.ts
describe.skipIf(why !== null)(`4 GiB from format to format${why === null ? '' : ` (skipped: ${why})`}`, () => {
  let space: Workspace
  let model: string
  beforeAll(() => {
    space = workspace()
    model = at('synthetic-4g')
    expect(writeSynthetic(model, 4 * GIB, { shards: 5 }).weightBytes).toBeGreaterThanOrEqual(4 * GIB)
  })
  afterAll(() => space.remove())

  const at = (name: string): string => path.join(space.path, name)
  const remove = (...folders: readonly string[]): void => {
    for (const folder of folders) rmSync(folder, { recursive: true, force: true })
  }

  /** Converts, and expects memory and reading to be bounded. */
  async function convert(input: string, output: string, ...args: readonly string[]): Promise<void> {
    const ended = await runCommand(['convert', input, ...args, '-o', `${output}/`, '--json', '--quiet'], space.path)
    expect(ended.code, ended.stderr).toBe(0)
    const { report } = JSON.parse(ended.stdout) as { report: Report }
    const { peakBytes, readBytes } = ended
    const seconds = report.elapsedMs / 1000
    const size = sizeOf(input)
    say(`${path.basename(input)} to ${args.join(' ')}: ${mib(peakBytes ?? Infinity)} resident at the most,`)
    say(
      `  ${mib(readBytes ?? Infinity)} read of ${mib(size)}, ${mib(report.writeBytes)} written, ${seconds.toFixed(0)} s`,
    )
    expect(peakBytes).toBeLessThan(LIMIT)
    // each weight once, whatever is made of it
    expect(readBytes).toBeLessThan(size + BESIDES)
  }

  test('HuggingFace: cast and resharded', async () => {
    await convert(model, at('cast'), 'huggingface', '--dtype', 'f16', '--max-shard-size', '1GB')
    expect(readdirSync(at('cast')).filter((file) => file.endsWith('.safetensors')).length).toBeGreaterThan(4)
    remove(at('cast'))
  })

  test('HuggingFace to MLX, quantised, and back', async () => {
    await convert(model, at('mlx-4bit'), 'mlx', '--quant', '4bit')
    await convert(at('mlx-4bit'), at('from-mlx'), 'huggingface', '--dtype', 'bf16')
    expect(sizeOf(at('from-mlx'))).toBeGreaterThan(4 * GIB)
    remove(at('mlx-4bit'), at('from-mlx'))
  })

  test('HuggingFace to MLX as it is, and back', async () => {
    await convert(model, at('mlx'), 'mlx', '--quant', 'none')
    await convert(at('mlx'), at('from-mlx'), 'huggingface')
    expectSame(at('from-mlx'), model)
    remove(at('mlx'), at('from-mlx'))
  })

  test('HuggingFace to GGUF as it is, and back', async () => {
    await convert(model, at('gguf'), 'gguf', '--quant', 'bf16')
    await convert(at('gguf'), at('from-gguf'), 'huggingface', '--dtype', 'bf16')
    expectSame(at('from-gguf'), model)
    remove(at('gguf'), at('from-gguf'))
  })

  test('pytorch_model.bin to HuggingFace', async () => {
    cpSync(model, at('torch'), { recursive: true })
    toTorchShards(at('torch'))
    await convert(at('torch'), at('from-torch'), 'huggingface')
    expectSame(at('from-torch'), model)
    remove(at('torch'), at('from-torch'))
  })

  test('GPTQ to GGUF', async () => {
    writeSynthetic(at('gptq'), 4 * GIB, { shards: 4, gptq: true })
    await convert(at('gptq'), at('from-gptq'), 'gguf', '--quant', 'q4_0')
    remove(at('gptq'), at('from-gptq'))
  })
})

/** Bytes of all files below a folder. */
function sizeOf(folder: string): number {
  const names = readdirSync(folder, { recursive: true }) as string[]
  return names.reduce((sum, name) => sum + statSync(path.join(folder, name)).size, 0)
}

/** Bytes compared at both ends of a tensor. */
const SAMPLE = 4096

/** Expects the same tensors, type by type, and the same bytes at both ends of each. */
function expectSame(found: string, source: string): void {
  const [ours, theirs] = [tensorsOf(found), tensorsOf(source)]
  expect([...ours.keys()].sort()).toEqual([...theirs.keys()].sort())
  const different = [...theirs].filter(([name, ends]) => ours.get(name) !== ends).map(([name]) => name)
  expect(different).toEqual([])
}

/** By name: type, shape and the bytes at both ends. */
function tensorsOf(folder: string): ReadonlyMap<string, string> {
  const found = new Map<string, string>()
  for (const file of readdirSync(folder).filter((name) => name.endsWith('.safetensors'))) {
    const source = openSync(path.join(folder, file), 'r')
    const read = (start: number, length: number): Buffer => {
      const bytes = Buffer.alloc(length)
      readSync(source, bytes, 0, length, start)
      return bytes
    }
    const length = Number(read(0, 8).readBigUInt64LE())
    const header = JSON.parse(read(8, length).toString()) as Record<
      string,
      { dtype: string; shape: number[]; data_offsets: [number, number] }
    >
    for (const [name, entry] of Object.entries(header)) {
      if (name === '__metadata__') continue
      const [begin, end] = entry.data_offsets.map((offset) => offset + 8 + length) as [number, number]
      const size = Math.min(SAMPLE, end - begin)
      const ends = [read(begin, size), read(end - size, size)].map((bytes) => bytes.toString('base64'))
      found.set(name, `${entry.dtype} ${entry.shape.join('x')} ${ends.join(' ')}`)
    }
    closeSync(source)
  }
  return found
}

function mib(bytes: number): string {
  return `${(bytes / MIB).toFixed(0)} MiB`
}

function say(line: string): void {
  process.stdout.write(`  ${line}\n`)
}
