import { existsSync, readdirSync, rmSync } from 'node:fs'
import path from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { runCrashing, sha256Of, type Crash } from '../long/command.ts'
import { temporary, TINY } from './command.ts'

// The same on a GiB, at random, is tests/long/crash.test.ts.
let space: ReturnType<typeof temporary>
let args: readonly string[]
let sha256 = ''
const out = (): string => path.join(space.path, 'out')
const final = (): string => path.join(out(), 'tiny.gguf')

beforeAll(async () => {
  space = temporary()
  args = ['convert', TINY, 'gguf', '--quant', 'q8_0', '-o', final(), '--json']
  const whole = await runCrashing(args, space.path, null)
  expect(whole.code, whole.stderr).toBe(0)
  sha256 = await sha256Of(final())
  rmSync(final())
})
afterAll(() => space.remove())

const points: readonly Pick<Crash, 'kind' | 'count' | 'when'>[] = [
  { kind: 'write', count: 1, when: 'before' },
  { kind: 'write', count: 9, when: 'torn' },
  { kind: 'close', count: 1, when: 'before' },
  { kind: 'replace', count: 1, when: 'after' },
  { kind: 'rename', count: 2, when: 'before' },
  { kind: 'rename', count: 3, when: 'after' },
]

test.skipIf(process.platform === 'win32')('killed at every stage, each run goes on from the last', async () => {
  for (const point of points) {
    const at = `${point.when} ${point.kind} ${point.count}`
    const ended = await runCrashing(args, space.path, { ...point, lose: point.kind === 'write', seed: point.count })
    expect(ended.signal, `${at}: ${ended.stderr}`).toBe('SIGKILL')
    if (existsSync(final())) expect(await sha256Of(final()), at).toBe(sha256)
    else expect(readdirSync(out()), at).toContain('tiny.gguf.part')
  }
  const ended = await runCrashing(args, space.path, null)
  expect(ended.code, ended.stderr).toBe(0)
  expect(JSON.parse(ended.stdout)).toMatchObject({ report: { files: [{ path: 'tiny.gguf', sha256 }] } })
  expect(await sha256Of(final())).toBe(sha256)
  expect(readdirSync(out())).toEqual(['tiny.gguf'])
})
