import { describe, expect, test } from 'vitest'
import { Control } from '../../src/api/control.ts'
import type { AppError } from '../../src/core/errors.ts'
import type { Progress, Report } from '../../src/core/job.ts'
import { AppError as Failure } from '../../src/core/errors.ts'
import { findingsText } from '../../companion/findings.ts'
import { follow, progressLine } from '../../companion/progress.ts'
import { formatBytes, formatCount, formatRanges, formatSeconds, table, wrap } from '../../companion/text.ts'

const PROGRESS: Progress = {
  state: 'running',
  phase: 'write',
  bytesDone: 3 << 20,
  bytesTotal: 4 << 20,
  bytesKept: 0,
  rate: 2 << 20,
  eta: 200,
  item: 'blk.0.attn_q.weight',
  elapsedMs: 1000,
}

const REPORT: Report = {
  target: 'gguf',
  files: [],
  findings: [],
  readBytes: 0,
  writeBytes: 0,
  keptBytes: 0,
  elapsedMs: 0,
  peakBytes: 0,
  backends: [],
}

/** A stream that remembers. */
function stream(
  isTTY: boolean,
  columns = 60,
): { isTTY: boolean; columns: number; text: string; write(text: string): void } {
  return {
    isTTY,
    columns,
    text: '',
    write(text) {
      this.text += text
    },
  }
}

/** What a terminal shows in the end: carriage returns and erasures carried out. */
function screen(text: string): string[] {
  return text.split('\n').map((line) => (line.split('\r').at(-1) ?? '').replace('\x1b[K', ''))
}

describe('the line', () => {
  test('bar, part, bytes, rate, time left, tensor', () => {
    expect(progressLine(PROGRESS)).toBe(
      `Converting ${'█'.repeat(18)}${'░'.repeat(6)} 75%  3.00 MiB of 4.00 MiB  2.00 MiB/s  3 min 20 s left  blk.0.attn_q.weight`,
    )
  })
  test('what is not known is left out', () => {
    const line = progressLine({ ...PROGRESS, rate: null, eta: null, item: null })
    expect(line).toBe(`Converting ${'█'.repeat(18)}${'░'.repeat(6)} 75%  3.00 MiB of 4.00 MiB`)
  })
  test('a pause says so', () => {
    expect(progressLine({ ...PROGRESS, state: 'paused' })).toMatch(/^Paused /)
  })
  test('phases without an amount', () => {
    expect(progressLine({ ...PROGRESS, phase: 'validate', item: null })).toBe('Validating')
    expect(progressLine({ ...PROGRESS, phase: 'plan', bytesTotal: 0, bytesDone: 0, item: null })).toBe('Planning')
  })
})

describe('following', () => {
  test('on a terminal one line is rewritten, within its width, and gone at the end', async () => {
    let now = 0
    const job = new Control(() => now)
    const out = stream(true, 40)
    const followed = follow(job, out)
    for (const part of [1, 2, 3]) {
      now += 1000
      job.report({ state: 'running', phase: 'write', bytesDone: part << 20, bytesTotal: 4 << 20, item: 'blk.0' })
      await new Promise((resolve) => setImmediate(resolve))
    }
    expect(out.text).not.toContain('\n')
    expect(out.text).toContain('75%')
    for (const line of out.text.split('\r\x1b[K')) expect(line.length).toBeLessThan(40)
    job.log({ severity: 'warning', code: 'odd', message: 'This is odd', hint: 'Look at it.' })
    job.done(REPORT)
    expect(await followed).toBe(REPORT)
    expect(screen(out.text)).toEqual(['warning: This is odd. Look at it.', ''])
  })

  test('elsewhere a line comes every few seconds', async () => {
    let now = 0
    const job = new Control(() => now)
    const out = stream(false)
    const followed = follow(job, out)
    for (let second = 1; second <= 20; second++) {
      now += 1000
      job.report({ state: 'running', phase: 'write', bytesDone: second, bytesTotal: 20, item: null })
      await new Promise((resolve) => setImmediate(resolve))
    }
    job.done(REPORT)
    await followed
    const lines = out.text.trimEnd().split('\n')
    expect(lines).toHaveLength(4)
    expect(out.text).not.toContain('\r')
    expect(lines[0]).toContain('25%')
  })

  test('quiet says nothing', async () => {
    const job = new Control(() => 0)
    const followed = follow(job, null)
    job.log({ severity: 'warning', code: 'odd', message: 'This is odd' })
    job.done(REPORT)
    expect(await followed).toBe(REPORT)
  })

  test('a failure arrives as the error it was', async () => {
    const job = new Control(() => 0)
    const out = stream(true)
    const followed = follow(job, out)
    job.report({ phase: 'write', bytesTotal: 10 })
    job.failed(new Failure('no-space', 'full', { hint: 'Make room.', where: { file: 'x' } }))
    const error = (await followed.catch((thrown: unknown) => thrown)) as AppError
    expect(error).toMatchObject({ code: 'no-space', hint: 'Make room.', where: { file: 'x' } })
    expect(screen(out.text)).toEqual([''])
  })
})

describe('words', () => {
  test('findings of one kind are summed up', () => {
    const many = Array.from({ length: 9 }, (_, i) => ({ severity: 'warning' as const, code: 'a', message: `no ${i}` }))
    const other = { severity: 'info' as const, code: 'b', message: 'fine.' }
    expect(findingsText([...many, other], false).split('\n')).toEqual([
      'warning: no 0',
      'warning: no 1',
      'warning: no 2',
      '  and 6 more of this kind (--verbose lists them)',
      'info: fine.',
      '',
    ])
    expect(findingsText(many, true).match(/warning/g)).toHaveLength(9)
    expect(findingsText(many.slice(0, 4), false).match(/warning/g)).toHaveLength(4)
    expect(findingsText([], false)).toBe('')
  })

  test.each([
    [0, '0 B'],
    [1023, '1023 B'],
    [1024, '1.00 KiB'],
    [1.5 * 2 ** 30, '1.50 GiB'],
    [2048 * 2 ** 40, '2048.00 TiB'],
  ])('%d bytes', (bytes, text) => expect(formatBytes(bytes)).toBe(text))

  test.each([
    [0.4, '0 s'],
    [59.6, '1 min 00 s'],
    [200, '3 min 20 s'],
    [7500, '2 h 05 min'],
  ])('%d seconds', (seconds, text) => expect(formatSeconds(seconds)).toBe(text))

  test.each([
    [999, '999'],
    [5_770_496, '5.77 M'],
    [8_030_261_248, '8.03 B'],
  ])('%d things', (count, text) => expect(formatCount(count)).toBe(text))

  test('ranges', () => {
    expect(formatRanges([0, 1, 2, 5, 7, 8])).toBe('0-2,5,7-8')
    expect(formatRanges([])).toBe('')
  })

  test('tables put numbers to the right, whatever their heads', () => {
    const rows = [
      ['a', '1 B'],
      ['long', '10 B'],
    ]
    expect(table(rows, ['NAME', 'SIZE'])).toBe('NAME  SIZE\na      1 B\nlong  10 B')
    expect(table([])).toBe('')
  })

  test('wrapping keeps words whole', () => {
    expect(wrap('to be or not to be', 8)).toEqual(['to be or', 'not to', 'be'])
    expect(wrap('unbreakable', 3)).toEqual(['unbreakable'])
  })
})
