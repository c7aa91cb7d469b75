import { execFileSync } from 'node:child_process'
import { cpSync, mkdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { CheckReport, Comparison } from '../../src/core/check.ts'
import type { Report } from '../../src/core/job.ts'
import { noLlama } from '../oracle/llama.ts'
import { command, temporary, tinyModel, type Ran } from './command.ts'

const ROOT = path.resolve(import.meta.dirname, '../..')

let space: ReturnType<typeof temporary>
let folder: string
const run = (...args: readonly string[]): Promise<Ran> => command(folder, ...args)

beforeAll(async () => {
  space = temporary()
  folder = space.path
  tinyModel(folder)
  await run('convert', 'tiny', 'gguf', '--quant', 'q8_0', '-o', 'tiny.gguf')
  await run('convert', 'tiny', 'gguf', '--quant', 'f16', '-o', 'tiny-F16.gguf')
})
afterAll(() => space.remove())

describe('check', () => {
  test('a folder that nothing runs is judged by validation alone, and says so', async () => {
    const { code, stdout, stderr } = await run('check', 'tiny')
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect(stdout).toContain('not run: nothing here runs HuggingFace')
    expect(stdout).toContain('nothing is wrong, judged by validation alone')
  })

  test('a truncated file is told, with status 1 and one object on stdout', async () => {
    cpSync(path.join(folder, 'tiny.gguf'), path.join(folder, 'short.gguf'))
    truncateSync(path.join(folder, 'short.gguf'), 50_000)
    const { code, stdout, stderr } = await run('check', 'short.gguf', '--json')
    expect({ code, stderr }).toEqual({ code: 1, stderr: '' })
    const { ok, check } = JSON.parse(stdout) as { ok: boolean; check: CheckReport }
    expect(ok).toBe(false)
    expect(check).toMatchObject({ passed: false, run: null, judges: ['validation'] })
    expect(check.findings).toEqual([expect.objectContaining({ severity: 'error', code: 'truncated' })])
    const words = await run('check', 'short.gguf')
    expect(words.stdout).toMatch(/error: short\.gguf has 50,000 bytes[^]*not run: [^]*one thing is wrong/)
  })

  test('--no-run validates only', async () => {
    const { code, stdout } = await run('check', 'tiny.gguf', '--no-run')
    expect(code).toBe(0)
    expect(stdout).toContain('judged by validation alone')
  })

  test('--format must fit', async () => {
    expect(await run('check', 'tiny', '--format', 'gguf')).toMatchObject({
      code: 1,
      stdout: '',
      stderr: expect.stringMatching(/^error\[not-a-model\]/) as string,
    })
    expect((await run('check', 'tiny', '--format', 'hf')).code).toBe(0)
  })

  const usage: readonly (readonly [string, readonly string[], string])[] = [
    ['no model', ['check'], 'MODEL'],
    ['two models', ['check', 'tiny.gguf', 'tiny'], 'MODEL'],
    ['an unknown format', ['check', 'tiny', '--format', 'gogo'], '"gogo"'],
    ['a bad count', ['check', 'tiny.gguf', '--windows', 'all'], '--windows'],
    ['one model to compare', ['compare', 'tiny.gguf'], 'A and B'],
  ]
  test.each(usage)('%s is wrong usage', async (_, args, word) => {
    const { code, stdout, stderr } = await run(...args)
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
    expect(stderr).toMatch(/^error\[bad-option\]/)
    expect(stderr).toContain(word)
  })

  test('a text that is none is told', async () => {
    writeFileSync(path.join(folder, 'noise.txt'), Buffer.from([0xff, 0xfe, 0xff]))
    const { code, stderr } = await run('check', 'tiny.gguf', '--text', 'noise.txt')
    expect(code).toBe(2)
    expect(stderr).toContain('noise.txt is no text in UTF-8')
  })

  test('without node-llama-cpp it says what to install, and blames nobody', async () => {
    // the built command by itself, where no package can be found
    const alone = path.join(folder, 'alone')
    mkdirSync(alone)
    cpSync(path.join(ROOT, 'dist/node'), path.join(alone, 'dist/node'), { recursive: true })
    writeFileSync(path.join(alone, 'package.json'), readFileSync(path.join(ROOT, 'package.json')))
    const args = [path.join(alone, 'dist/node/cli.js'), 'check', path.join(folder, 'tiny.gguf')]
    const said = execFileSync(process.execPath, args, { encoding: 'utf8', cwd: alone })
    expect(said).toContain('not run: node-llama-cpp is not installed')
    expect(said).toContain('npm install node-llama-cpp')
    expect(said).toContain('nothing is wrong, judged by validation alone')
  })
})

describe.skipIf(noLlama !== null)(`what llama.cpp runs${noLlama === null ? '' : ` (${noLlama})`}`, () => {
  test('in words', async () => {
    const { code, stdout, stderr } = await run('check', 'tiny.gguf', '--threads', '1', '--quiet', '--prompt', 'Hello')
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect(stdout).toMatch(/run by llama\.cpp 0\.5\.0 \(node-llama-cpp [\d.]+\) on 1 thread\n {2}"Hello" -> "/)
    expect(stdout).toMatch(/perplexity \d+\.\d{4} over [\d,]+ tokens of a short text that comes along/)
    expect(stdout).toMatch(
      /loaded in \d+\.\d\d s, prompt at \d+ tokens\/s, then [\d.]+ tokens\/s, at most .*MiB of memory/,
    )
    expect(stdout).toContain('nothing is wrong, judged by validation and llama.cpp')
  })

  test('--json', async () => {
    writeFileSync(path.join(folder, 'words.txt'), 'one two three\n\nfour five six\n'.repeat(40))
    const { code, stdout, stderr } = await run(
      'check',
      'tiny.gguf',
      '--json',
      '--quiet',
      '--threads',
      '1',
      '--text',
      'words.txt',
    )
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    const { ok, check } = JSON.parse(stdout) as { ok: boolean; check: CheckReport }
    expect(ok).toBe(true)
    expect(check.run).toMatchObject({ kind: 'decoder', threads: 1, prompt: 'Once upon a time' })
    expect(check.run?.generated?.ids).toHaveLength(16)
    expect(check.run?.perplexity?.builtIn).toBe(false)
    expect(check.run!.perplexity!.value).toBeGreaterThan(1)
  })

  test('convert --check says that the output runs', async () => {
    const args = ['convert', 'tiny', 'gguf', '--check', '--threads', '1', '--overwrite', '-o', 'checked.gguf']
    const { code, stdout } = await run(...args)
    expect(code).toBe(0)
    expect(stdout).toMatch(/sha256 [0-9a-f]{64}\n[^]*checked: [^]*run by llama\.cpp[^]*perplexity /)
    const json = JSON.parse((await run(...args, '--json')).stdout) as { ok: boolean; report: Report }
    expect(json.ok).toBe(true)
    expect(json.report.check).toMatchObject({ passed: true, validated: false, run: { threads: 1 } })
  })

  test('compare, in words and as JSON', async () => {
    const { code, stdout } = await run('compare', 'tiny-F16.gguf', 'tiny.gguf', '--threads', '1')
    expect(code).toBe(0)
    expect(stdout).toMatch(/^ +MODEL +SIZE +PERPLEXITY\nA +tiny-F16 [^]*\nB +tiny /)
    expect(stdout).toMatch(/KL divergence \d\.\d\de-\d+ on average/)
    const json = await run('compare', 'tiny-F16.gguf', 'tiny.gguf', '--threads', '1', '--json', '--quiet')
    const { ok, comparison } = JSON.parse(json.stdout) as { ok: boolean; comparison: Comparison }
    expect(ok).toBe(true)
    expect(comparison.meanKl).toBeGreaterThan(0)
    expect(comparison.topAgreement).toBeGreaterThan(0.8)
    expect(comparison.a.perplexity).toBeCloseTo(comparison.b.perplexity, -1)
  })

  test('what cannot be compared is told', async () => {
    const { code, stderr } = await run('compare', 'tiny', 'tiny.gguf')
    expect(code).toBe(1)
    expect(stderr).toMatch(/error\[unsupported\]: tiny cannot be compared: [^]*hint: Convert it to GGUF/)
  })
})
