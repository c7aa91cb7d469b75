import { existsSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { JournalData } from '../../src/api/journal.ts'
import type { Report } from '../../src/core/job.ts'
import {
  countedEvents,
  noRoom,
  runCommand,
  runCrashing,
  sha256Of,
  startCommand,
  workspace,
  type Crash,
  type EventKind,
  type Workspace,
} from './command.ts'
import { writeSynthetic, xorshift } from './synthetic.mjs'

const GIB = 2 ** 30
const KILLS = 30

/** After so many kills a conversion is left to finish, so that several are seen through. */
const KILLS_EACH = 6

const why = process.platform === 'win32' ? 'SIGKILL and /proc-like state are not to be had' : noRoom(4 * GIB)

describe.skipIf(why !== null)(`crashes on 1 GiB${why === null ? '' : ` (skipped: ${why})`}`, () => {
  let space: Workspace
  let out: string
  let args: readonly string[]
  let events: Record<EventKind, number>
  let sha256 = ''

  const final = (): string => path.join(out, 'synthetic-1g-Q4_K_M.gguf')
  const journal = (): JournalData | null => {
    const name = existsSync(out) ? readdirSync(out).find((file) => /^\.modelconvert-.*\.json$/.test(file)) : undefined
    return name === undefined ? null : (JSON.parse(readFileSync(path.join(out, name), 'utf8')) as JournalData)
  }
  const watermark = (): number => journal()?.files.reduce((sum, file) => sum + file.watermark, 0) ?? 0

  beforeAll(async () => {
    space = workspace()
    const model = path.join(space.path, 'synthetic-1g')
    writeSynthetic(model, GIB)
    out = path.join(space.path, 'out')
    args = ['convert', model, 'gguf', '--quant', 'q4_k_m', '-o', out, '--json']
    const whole = await runCrashing(args, space.path, null)
    expect(whole.code, whole.stderr).toBe(0)
    events = countedEvents(whole)
    sha256 = await sha256Of(final())
    rmSync(final())
    say(`uninterrupted: ${JSON.stringify(events)}, sha256 ${sha256}`)
  })
  afterAll(() => space.remove())

  test.each([
    ['killed', false, 20_251_123],
    ['killed, and unflushed writes lost', true, 20_251_124],
  ])(`%s ${KILLS} times, it ends with the same bytes`, async (_, lose, seed) => {
    const random = xorshift(seed)
    const pick = <T>(from: readonly T[]): T => from[Math.floor(random() * from.length)]!
    let killed = 0
    let unreached = 0
    let resumedFromMiddle = 0
    const kept: number[] = []
    while (killed < KILLS) {
      let here = 0
      for (;;) {
        const last = here >= KILLS_EACH || killed >= KILLS
        const crash = last ? null : nextCrash(random, pick, events, lose, watermark() > 0)
        const before = watermark()
        if (before > 0) resumedFromMiddle++
        const ended = await runCrashing(args, space.path, crash)
        // what the journal vouches for is there, whatever was lost behind it
        expect(ended.stderr).not.toContain('from its beginning')
        if (ended.signal === 'SIGKILL') {
          killed++
          here++
          const at = `${crash?.when} ${crash?.kind} ${crash?.count}`
          say(`kill ${killed}: ${at}, resumed from ${before}, left ${watermark()}`)
          // either nothing has the final name, or the whole does
          if (existsSync(final())) expect(await sha256Of(final()), at).toBe(sha256)
          if (existsSync(final())) expect(journal()?.publishing ?? true, at).toBe(true)
          if (existsSync(final()) && journal() === null) break
          continue
        }
        expect(ended.code, ended.stderr).toBe(0)
        if (crash !== null) unreached++
        const { report } = JSON.parse(ended.stdout) as { report: Report }
        kept.push(report.keptBytes)
        expect(report.files[0]?.sha256).toBe(sha256)
        break
      }
      expect(await sha256Of(final())).toBe(sha256)
      expect(readdirSync(out).filter((name) => name.endsWith('.part') || name.startsWith('.modelconvert'))).toEqual([])
      rmSync(final())
    }
    say(`seed ${seed}: ${killed} kills, ${unreached} not reached, ${resumedFromMiddle} runs found kept bytes`)
    say(`conversions finished with kept bytes: ${kept.join(', ')}`)
    expect(resumedFromMiddle).toBeGreaterThan(0)
    expect(Math.max(...kept)).toBeGreaterThan(0)
  })

  test('Ctrl-C keeps what was written, and the same command goes on', async () => {
    const running = startCommand(args, space.path)
    let over = false
    void running.ended.then(() => (over = true))
    while (watermark() === 0 && !over) await sleep(20)
    running.child.kill('SIGINT')
    const stopped = await running.ended
    expect(stopped.code, stopped.stderr).toBe(130)
    expect(stopped.stderr).toContain('Run the same command again')
    expect(JSON.parse(stopped.stdout)).toMatchObject({ ok: false, error: { code: 'cancelled' } })
    expect(existsSync(final())).toBe(false)
    expect(readdirSync(out).filter((name) => name.endsWith('.part'))).toHaveLength(1)

    const ended = await runCommand(args, space.path)
    expect(ended.code, ended.stderr).toBe(0)
    const { report } = JSON.parse(ended.stdout) as { report: Report }
    expect(report.keptBytes).toBeGreaterThan(0)
    expect(await sha256Of(final())).toBe(sha256)
    say(`after Ctrl-C ${report.keptBytes} of ${report.writeBytes} bytes were kept`)
  })
})

/** Half of the crashes hit a write, the others an event of any kind, all of them at random. */
function nextCrash(
  random: () => number,
  pick: <T>(from: readonly T[]) => T,
  events: Record<EventKind, number>,
  lose: boolean,
  resumed: boolean,
): Crash {
  const kinds = (Object.keys(events) as EventKind[]).filter((kind) => events[kind] > 0)
  const kind = random() < 0.5 ? 'write' : pick(kinds)
  // a resumed run has fewer of each
  const most = Math.max(1, Math.floor(events[kind] * (resumed ? 0.5 : 1)))
  return {
    kind,
    count: 1 + Math.floor(random() * most),
    when: kind === 'write' ? pick(['before', 'after', 'torn']) : pick(['before', 'after']),
    lose,
    seed: 1 + Math.floor(random() * 2 ** 30),
  }
}

function say(line: string): void {
  process.stdout.write(`  ${line}\n`)
}
