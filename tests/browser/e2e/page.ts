import { execFile } from 'node:child_process'
import { createServer, type Server } from 'node:http'
import { createHash } from 'node:crypto'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { promisify } from 'node:util'
import { test as base, chromium, expect, type BrowserContext, type Page } from '@playwright/test'
import { CHROMIUM_HINT, findChromium } from '../../setup/chromium.ts'
import { startPreview, type Site } from './serve.ts'

const ROOT = path.resolve(import.meta.dirname, '../../..')
const CLI = path.join(ROOT, 'dist/node/cli.js')

/**
 * What a Chromium asks for on its own account, whatever page it shows: its updater, its sign-in, and its autofill, which
 * asks of every page with a text field what such fields are for.
 */
const BROWSERS_OWN =
  /^(CONNECT |POST http:\/\/)(update\.googleapis\.com|content-autofill\.googleapis\.com|accounts\.google\.com|clients2\.google\.com)[:/]/

/** How a context is opened. */
export interface OpenOptions {
  readonly scheme?: 'light' | 'dark'
  readonly width?: number
  readonly serviceWorkers?: 'allow' | 'block'
}

interface TestFixtures {
  /** An empty folder, removed afterwards. */
  readonly folder: string
  /** Opens a browser of its own: OPFS in Playwright's default context lies in memory and loses bytes. */
  readonly open: (options?: OpenOptions) => Promise<BrowserContext>
}

interface WorkerFixtures {
  /** The page as `npm start` serves it. */
  readonly site: Site
  /** What the command makes of the sample. */
  readonly reference: { readonly path: string; readonly sha256: string }
}

/** Tests of the built page. Each fails if anything asks for a host other than this machine. */
export const test = base.extend<TestFixtures, WorkerFixtures>({
  site: [
    // oxlint-disable-next-line no-empty-pattern -- Playwright reads the pattern
    async ({}, use) => {
      const site = await startPreview()
      await use(site)
      await site.close()
    },
    { scope: 'worker' },
  ],
  reference: [
    // oxlint-disable-next-line no-empty-pattern -- Playwright reads the pattern
    async ({}, use) => {
      const folder = mkdtempSync(path.join(tmpdir(), 'modelconvert-cli-'))
      await use(await convertSample(folder))
      rmSync(folder, { recursive: true, force: true })
    },
    { scope: 'worker', timeout: 120_000 },
  ],
  // oxlint-disable-next-line no-empty-pattern -- Playwright reads the pattern
  folder: async ({}, use) => {
    const folder = mkdtempSync(path.join(tmpdir(), 'modelconvert-e2e-'))
    await use(folder)
    rmSync(folder, { recursive: true, force: true })
  },
  open: async ({ folder }, use) => {
    const executablePath = findChromium()
    if (executablePath === null) throw new Error(CHROMIUM_HINT)
    const outside = await startTrap()
    const contexts: BrowserContext[] = []
    const faults: string[] = []
    const leaks: string[] = []
    await use(async ({ scheme = 'light', width = 1280, serviceWorkers = 'allow' } = {}) => {
      const context = await chromium.launchPersistentContext(path.join(folder, `profile-${contexts.length}`), {
        executablePath,
        args: ['--no-sandbox', '--disable-dev-shm-usage'],
        colorScheme: scheme,
        viewport: { width, height: 900 },
        serviceWorkers,
        acceptDownloads: true,
        // Whatever does not go to this machine ends in the trap: the page, its workers, and the browser alike.
        proxy: { server: outside.url, bypass: '127.0.0.1' },
      })
      contexts.push(context)
      context.on('request', (request) => {
        const { protocol, hostname } = new URL(request.url())
        if (/^(https?|wss?):$/.test(protocol) && hostname !== '127.0.0.1') leaks.push(request.url())
      })
      context.on('weberror', (error) => faults.push(String(error.error())))
      context.on('console', (message) => {
        if (message.type() === 'error' && /Content.Security.Policy/i.test(message.text())) faults.push(message.text())
      })
      return context
    })
    for (const context of contexts) await context.close()
    await outside.close()
    expect(
      outside.asked.filter((line) => !BROWSERS_OWN.test(line)),
      'requests that left the origin',
    ).toEqual([])
    expect(leaks, 'requests of the page that left the origin').toEqual([])
    expect(faults, 'uncaught errors and breaches of the policy').toEqual([])
  },
})

export { expect }

/** A proxy that refuses everything and remembers what it was asked for. */
async function startTrap(): Promise<Site & { readonly asked: readonly string[] }> {
  const asked: string[] = []
  const server: Server = createServer((request, response) => {
    asked.push(`${request.method ?? ''} ${request.url ?? ''}`)
    response.writeHead(502).end()
  })
  server.on('connect', (request, socket) => {
    asked.push(`CONNECT ${request.url ?? ''}`)
    socket.end('HTTP/1.1 502 Refused\r\n\r\n')
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return {
    asked,
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    close: () => new Promise((resolve) => void server.close(() => resolve())),
  }
}

/** Runs the command into a folder. Returns the SHA-256 of the first file that it wrote. */
export async function command(folder: string, ...args: readonly string[]): Promise<string> {
  return (await written([...args, '-o', `${folder}/`])).sha256
}

async function written(args: readonly string[]): Promise<{ path: string; sha256: string }> {
  if (!existsSync(CLI)) throw new Error('There is no dist/node/cli.js: run "npm run build" first.')
  const { stdout } = await promisify(execFile)(process.execPath, [CLI, ...args, '--json'], { maxBuffer: 2 ** 26 })
  const { report } = JSON.parse(stdout) as { report: { files: [{ path: string; sha256: string }] } }
  return report.files[0]
}

async function convertSample(folder: string): Promise<{ path: string; sha256: string }> {
  const file = await written(['convert', 'sample', 'gguf', '--quant', 'q4_k_m', '-o', folder])
  return { path: path.join(folder, file.path), sha256: file.sha256 }
}

/** Opens the page and waits until it knows what it runs on. */
export async function visit(context: BrowserContext, url: string, tab?: Page): Promise<Page> {
  const page = tab ?? context.pages()[0] ?? (await context.newPage())
  await page.goto(url)
  await expect(page.getByTestId('device')).toContainText('Runs on')
  return page
}

/** Opens the sample and waits for the plan of what is preselected. */
export async function openSample(page: Page): Promise<void> {
  await page.getByRole('button', { name: 'Try the sample' }).click()
  await expect(page.getByRole('heading', { name: 'Convert it to' })).toBeVisible()
  await expect(page.getByRole('heading', { name: 'What it will hold' })).toBeVisible()
}

/** Shows every choice of a format, not only the few that are usually wanted. */
export async function showAll(page: Page, format: string): Promise<void> {
  await page.getByRole('button', { name: new RegExp(`^All \\d+ choices of ${format}$`) }).click()
}

/** Presses "Convert" and waits for the report. Returns the SHA-256 that it shows. */
export async function convert(page: Page): Promise<string> {
  await page.getByRole('button', { name: 'Convert', exact: true }).click()
  return await waitForReport(page)
}

/** Waits for the report of a running conversion. Returns the SHA-256 that it shows. */
export async function waitForReport(page: Page): Promise<string> {
  await expect(page.getByRole('heading', { name: 'Converted and checked' })).toBeVisible({ timeout: 45_000 })
  return await page.getByTestId('sha256').innerText()
}

/** Presses "Download" and keeps the file. Returns its path and the SHA-256 of its bytes. */
export async function download(page: Page, folder: string): Promise<{ path: string; sha256: string; name: string }> {
  const [started] = await Promise.all([
    page.waitForEvent('download'),
    page.getByRole('button', { name: 'Download' }).click(),
  ])
  const saved = path.join(folder, started.suggestedFilename())
  await started.saveAs(saved)
  return { path: saved, sha256: sha256(readFileSync(saved)), name: started.suggestedFilename() }
}

/** SHA-256 in hex. */
export function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}

/** Drops files or folders of the machine onto the page, as a file manager does: real handles arrive. */
export async function drop(page: Page, paths: readonly string[]): Promise<void> {
  const session = await page.context().newCDPSession(page)
  const data = { items: [], files: [...paths], dragOperationsMask: 1 }
  const { width, height } = page.viewportSize() ?? { width: 0, height: 0 }
  for (const type of ['dragEnter', 'dragOver', 'drop'] as const) {
    // a screen that is being drawn swallows what comes at once, as no hand can let it
    await page.evaluate(() => new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn))))
    await session.send('Input.dispatchDragEvent', { type, x: width / 2, y: height / 2, data })
  }
  await session.detach()
}
