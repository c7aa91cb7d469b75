import { closeSync, mkdirSync, openSync, readdirSync, readSync, rmSync } from 'node:fs'
import path from 'node:path'
import { chromium, type BrowserContext, type Page } from 'playwright'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { PlanSummary } from '../../src/api/wire.ts'
import type { Report } from '../../src/core/job.ts'
import { startPreview } from '../browser/e2e/serve.ts'
import { CHROMIUM_HINT, findChromium } from '../setup/chromium.ts'
import { highWater, noRoom, runCommand, sha256Of, workspace, type Workspace } from './command.ts'
import { writeSynthetic } from './synthetic.mjs'

const GIB = 2 ** 30
const MIB = 2 ** 20

/** The promise: a checkpoint far larger than this is converted within it. */
const LIMIT = 512 * MIB

/** The checkpoint, as another format and as itself again (a Q4_K_M twice takes less), and some air. */
const DISK = 14 * GIB

/** Formats that the checkpoint is converted to and back from, bit for bit: a title, the format, and its options. */
const THERE_AND_BACK: readonly (readonly [title: string, target: string, options: readonly string[]])[] = [
  ['Megatron, two ranks by two stages', 'megatron', ['--tp', '2', '--pp', '2']],
  ['Megatron, distributed', 'megatron', ['--checkpoint-format', 'torch_dist']],
]

const noProc = process.platform === 'linux' ? null : `peak memory is read from /proc, which ${process.platform} has not`
const why = noProc ?? noRoom(DISK)
const executablePath = why === null ? findChromium() : null

describe.skipIf(why !== null)(`4 GiB in bounded memory${why === null ? '' : ` (skipped: ${why})`}`, () => {
  let space: Workspace
  let model: string
  let sha256 = ''

  beforeAll(() => {
    space = workspace()
    model = path.join(space.path, 'synthetic-4g')
    // twelve layers, which two stages divide
    const { weightBytes } = writeSynthetic(model, 4.25 * GIB, { shards: 5 })
    expect(weightBytes).toBeGreaterThanOrEqual(4 * GIB)
  })
  afterAll(() => space.remove())

  test('by the command', async () => {
    const out = path.join(space.path, 'out')
    mkdirSync(out)
    const args = ['convert', model, 'gguf', '--quant', 'q4_k_m', '-o', out, '--json', '--quiet']
    const dry = await runCommand([...args, '--dry-run'], space.path)
    expect(dry.code, dry.stderr).toBe(0)
    const { plan } = JSON.parse(dry.stdout) as { plan: PlanSummary }

    const ended = await runCommand(args, space.path)
    expect(ended.code, ended.stderr).toBe(0)
    const { report } = JSON.parse(ended.stdout) as { report: Report }
    const [file] = report.files
    const peak = ended.peakBytes ?? Infinity
    say(`command: ${mib(peak)} resident at the most`)
    say(`buffers: ${mib(report.peakBytes)} used, ${mib(plan.peakBytes)} planned`)
    say(`${(report.elapsedMs / 1000).toFixed(1)} s, ${mib((report.readBytes * 1000) / report.elapsedMs)}/s`)
    expect(peak).toBeLessThan(LIMIT)
    expect(Math.abs(report.peakBytes - plan.peakBytes)).toBeLessThanOrEqual(plan.peakBytes * 0.1)
    expect(file?.size).toBe(plan.writeBytes)
    sha256 = await sha256Of(path.join(out, file?.path ?? ''))
    expect(file?.sha256).toBe(sha256)
    rmSync(out, { recursive: true })
  })

  test.each(THERE_AND_BACK)('to %s and back, by the command', async (title, target, options) => {
    const [there, back] = ['there', 'back'].map((name) => path.join(space.path, name))
    try {
      for (const args of [
        ['convert', model, target, ...options, '-o', there!],
        ['convert', there!, 'huggingface', '-o', back!],
      ]) {
        const ended = await runCommand([...args, '--json', '--quiet'], space.path)
        expect(ended.code, ended.stderr).toBe(0)
        const { report } = JSON.parse(ended.stdout) as { report: Report }
        const peak = ended.peakBytes ?? Infinity
        const speed = (report.writeBytes * 1000) / report.elapsedMs
        say(`${title}, to ${args[2]}: ${mib(peak)} resident at the most, ${mib(speed)}/s`)
        expect(peak).toBeLessThan(LIMIT)
        expect(report.writeBytes).toBeGreaterThanOrEqual(4 * GIB)
      }
      expect(await tensorHashes(back!)).toEqual(await tensorHashes(model))
    } finally {
      for (const folder of [there!, back!]) rmSync(folder, { recursive: true, force: true })
    }
  })

  test.skipIf(executablePath === null)(
    `in the tab${executablePath === null ? ` (${CHROMIUM_HINT})` : ''}`,
    async () => {
      const site = await startPreview()
      const context = await chromium.launchPersistentContext(path.join(space.path, 'profile'), {
        executablePath: executablePath ?? '',
        args: ['--no-sandbox', '--disable-dev-shm-usage'],
      })
      try {
        const page = context.pages()[0] ?? (await context.newPage())
        await page.goto(site.url)
        await page.getByTestId('device').getByText('Runs on').waitFor()
        // what the page takes by itself, with its worker started and its code compiled
        await page.waitForTimeout(3000)
        const idle = new Map((await renderers(context)).map((pid) => [pid, highWater(pid) ?? 0]))

        await drop(page, model)
        await page.getByRole('heading', { name: 'What the file will hold' }).waitFor()
        const began = performance.now()
        await page.getByRole('button', { name: 'Convert', exact: true }).click()
        const done = page.getByRole('heading', { name: 'Converted and checked' })
        await done.waitFor({ timeout: 25 * 60_000 })
        const seconds = (performance.now() - began) / 1000
        const found = await page.getByTestId('sha256').innerText()
        // one of them is the page's
        const [most] = (await renderers(context))
          .map((pid) => ({ peak: highWater(pid) ?? 0, idle: idle.get(pid) ?? 0 }))
          .map((one) => ({ ...one, grown: one.peak - one.idle }))
          .sort((a, b) => b.grown - a.grown)
        if (most === undefined) throw new Error('Chromium names no renderer')
        say(`tab: ${mib(most.grown)} above the ${mib(most.idle)} of the idle page, in ${seconds.toFixed(1)} s`)
        expect(most.idle).toBeGreaterThan(0)
        expect(most.grown).toBeLessThan(LIMIT)
        if (sha256 !== '') expect(found).toBe(sha256)
      } finally {
        await context.close()
        await site.close()
      }
    },
  )
})

/** SHA-256 of every tensor's bytes in a folder of safetensors files, read without any of the code under test. */
async function tensorHashes(folder: string): Promise<Record<string, string>> {
  const hashes: Record<string, string> = {}
  for (const name of readdirSync(folder).filter((file) => file.endsWith('.safetensors'))) {
    const file = path.join(folder, name)
    const handle = openSync(file, 'r')
    const size = Buffer.alloc(8)
    readSync(handle, size, 0, 8, 0)
    const header = Buffer.alloc(Number(size.readBigUInt64LE()))
    readSync(handle, header, 0, header.length, 8)
    closeSync(handle)
    const tensors = JSON.parse(header.toString()) as Record<string, { shape: number[]; data_offsets: [number, number] }>
    for (const [tensor, { shape, data_offsets }] of Object.entries(tensors)) {
      if (tensor === '__metadata__') continue
      const [start, end] = data_offsets.map((offset) => 8 + header.length + offset)
      hashes[`${tensor} [${shape.join(', ')}]`] = await sha256Of(file, { start: start!, end: end! - 1 })
    }
  }
  return hashes
}

async function renderers(context: BrowserContext): Promise<number[]> {
  const browser = context.browser()
  const session = await (browser === null ? Promise.reject(new Error('no browser')) : browser.newBrowserCDPSession())
  const { processInfo } = await session.send('SystemInfo.getProcessInfo')
  await session.detach()
  return processInfo.filter(({ type }) => type === 'renderer').map(({ id }) => id)
}

/** Drops a folder onto the page, as a file manager does: a real handle arrives. */
async function drop(page: Page, folder: string): Promise<void> {
  const session = await page.context().newCDPSession(page)
  const data = { items: [], files: [folder], dragOperationsMask: 1 }
  for (const type of ['dragEnter', 'dragOver', 'drop'] as const) {
    await session.send('Input.dispatchDragEvent', { type, x: 640, y: 400, data })
  }
  await session.detach()
}

function mib(bytes: number): string {
  return `${(bytes / MIB).toFixed(0)} MiB`
}

function say(line: string): void {
  process.stdout.write(`  ${line}\n`)
}
