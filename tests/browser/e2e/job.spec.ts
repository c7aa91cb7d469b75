import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import type { Page } from '@playwright/test'
import { writeBigModel } from './big-model.ts'
import { expect, openSample, showAll, test as base, visit, waitForReport } from './page.ts'
import { startStatic, type Site } from './serve.ts'

/** The page with a larger model in place of the sample: long enough to be stopped in the middle. */
const test = base.extend<object, { readonly slow: Site }>({
  slow: [
    // oxlint-disable-next-line no-empty-pattern -- Playwright reads the pattern
    async ({}, use) => {
      const sample = mkdtempSync(path.join(tmpdir(), 'modelconvert-big-'))
      writeBigModel(sample)
      const site = await startStatic({ isolated: true, sample })
      await use(site)
      await site.close()
      rmSync(sample, { recursive: true, force: true })
    },
    { scope: 'worker' },
  ],
})

/** The largest target: 260 MB, several checkpoints. */
async function chooseF32(page: Page): Promise<void> {
  await openSample(page)
  await showAll(page, 'GGUF')
  await page.getByRole('group', { name: 'GGUF' }).getByRole('radio', { name: /^F32/ }).check()
  await expect(page.getByText('sample-F32.gguf')).toBeVisible()
}

async function percent(page: Page): Promise<number> {
  return Number(await page.getByRole('progressbar').getAttribute('aria-valuenow'))
}

async function outputs(page: Page): Promise<string[]> {
  return await page.evaluate(async () => {
    const walk = async (directory: FileSystemDirectoryHandle, prefix: string): Promise<string[]> => {
      const found: string[] = []
      for await (const [name, handle] of directory.entries()) {
        if (handle instanceof FileSystemDirectoryHandle) found.push(...(await walk(handle, `${prefix}${name}/`)))
        else found.push(prefix + name)
      }
      return found
    }
    return await walk(await navigator.storage.getDirectory(), '')
  })
}

test('a conversion pauses, goes on, and can be cancelled without a trace', async ({ open, slow }) => {
  const page = await visit(await open({ serviceWorkers: 'block' }), slow.url)
  await chooseF32(page)
  await page.getByRole('button', { name: 'Convert', exact: true }).click()
  await expect.poll(() => percent(page)).toBeGreaterThan(3)
  await page.getByRole('button', { name: 'Pause' }).click()
  await expect(page.getByRole('heading', { name: 'Paused' })).toBeVisible()
  // What was in flight is still written; then it stands.
  await page.waitForTimeout(1000)
  const held = await percent(page)
  expect(held).toBeLessThan(100)
  await page.waitForTimeout(1000)
  expect(await percent(page)).toBe(held)

  await page.getByRole('button', { name: 'Resume' }).click()
  await expect.poll(() => percent(page)).toBeGreaterThan(held)
  await page.getByRole('button', { name: 'Cancel' }).click()
  await expect(page.getByText('Cancelled. What was written has been removed.')).toBeVisible()
  await expect(page.getByRole('heading', { name: 'Convert it to' })).toBeVisible()
  expect(await outputs(page)).toEqual([])
})

test('a closed tab is taken up where it stopped, to the same bytes', async ({ open, slow }) => {
  const context = await open({ serviceWorkers: 'block' })
  const page = await visit(context, slow.url)
  await chooseF32(page)
  await page.getByRole('button', { name: 'Convert', exact: true }).click()
  const whole = await waitForReport(page)
  await page.goto(slow.url)
  await page.getByRole('button', { name: /^Remove/ }).click()
  await expect(page.getByRole('heading', { name: 'Finished, kept in this browser' })).toBeHidden()

  await chooseF32(page)
  await page.getByRole('button', { name: 'Convert', exact: true }).click()
  await expect.poll(() => percent(page), { intervals: [50] }).toBeGreaterThan(30)
  // Another tab does not offer what still runs.
  await page.getByRole('button', { name: 'Pause' }).click()
  const next = await visit(context, slow.url, await context.newPage())
  await expect(next.getByText(/Interrupted at/)).toBeHidden()
  await page.close()
  await next.reload()
  await expect(next.getByText(/Interrupted at \d+/)).toBeVisible()
  await next.getByRole('button', { name: 'Resume' }).click()
  expect(await waitForReport(next)).toBe(whole)
  await expect(next.getByText('were kept from the run that was interrupted')).toBeVisible()
})

test('an interrupted conversion can be discarded', async ({ open, slow }) => {
  const context = await open({ serviceWorkers: 'block' })
  const page = await visit(context, slow.url)
  await chooseF32(page)
  await page.getByRole('button', { name: 'Convert', exact: true }).click()
  await expect.poll(() => percent(page), { intervals: [50] }).toBeGreaterThan(30)
  const next = await context.newPage()
  await page.close()
  await next.goto(slow.url)
  await next.getByRole('button', { name: 'Discard' }).click()
  await expect(next.getByText('The unfinished conversion was removed.')).toBeVisible()
  await expect(next.getByText(/Interrupted at/)).toBeHidden()
  expect(await outputs(next)).toEqual([])
})
