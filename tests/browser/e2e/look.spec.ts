import { mkdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { AxeBuilder } from '@axe-core/playwright'
import type { Page } from '@playwright/test'
import { drop, expect, openSample, test, visit, waitForReport } from './page.ts'

/** No rule of WCAG 2.2 AA or of good practice is broken, and nothing sticks out to the side. */
async function look(page: Page, what: string): Promise<void> {
  // Colours in the middle of a transition would be measured as they are.
  await page.evaluate(() => Promise.all(document.getAnimations().map((animation) => animation.finished)))
  const { violations } = await new AxeBuilder({ page })
    .withTags(['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'])
    .analyze()
  const told = violations.flatMap(({ id, nodes }) => nodes.map((node) => `${id}: ${node.html.slice(0, 160)}`))
  expect(told, `axe on the ${what} screen`).toEqual([])
  const over = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth)
  expect(over, `pixels that the ${what} screen is too wide`).toBeLessThanOrEqual(0)
}

for (const scheme of ['light', 'dark'] as const) {
  for (const width of [1280, 360]) {
    test(`every screen is accessible and fits: ${scheme}, ${width} px`, async ({ open, site, folder }) => {
      const page = await visit(await open({ scheme, width }), site.url)
      await look(page, 'start')
      await openSample(page)
      await page.getByText(/^All \d+ tensors$/).click()
      await look(page, 'model')

      // Paused while it plans, the job stands still at once.
      await page.getByRole('button', { name: 'Convert', exact: true }).click()
      await page.getByRole('button', { name: 'Pause' }).click()
      await expect(page.getByRole('heading', { name: 'Paused' })).toBeVisible()
      await look(page, 'job')
      await page.getByRole('button', { name: 'Resume' }).click()
      await waitForReport(page)
      await look(page, 'done')

      const empty = path.join(folder, 'empty')
      mkdirSync(empty)
      writeFileSync(path.join(empty, 'note.txt'), 'nothing to see')
      await drop(page, [empty])
      await expect(page.getByRole('heading', { name: 'No model found there' })).toBeVisible()
      await page.getByText('Details').click()
      await look(page, 'error')
      await page.getByRole('button', { name: 'Open another model' }).click()
      await expect(page.getByRole('heading', { name: 'Finished, kept in this browser' })).toBeVisible()
      await look(page, 'start with kept files')
    })
  }
}

test('the whole way can be gone by keyboard', async ({ open, site }) => {
  const page = await visit(await open(), site.url)
  const tabTo = async (name: string | RegExp): Promise<void> => {
    for (let step = 0; step < 20; step++) {
      await page.keyboard.press('Tab')
      const focused = page.locator(':focus')
      const label = await focused.evaluate((node) => (node.closest('label') ?? node).textContent?.trim() ?? '')
      if (typeof name === 'string' ? label === name : name.test(label)) return
    }
    throw new Error(`Tab does not reach ${String(name)}`)
  }
  await tabTo('Try the sample')
  await page.keyboard.press('Enter')
  await expect(page.getByRole('heading', { level: 1 })).toBeFocused()
  await expect(page.getByRole('heading', { name: 'What it will hold' })).toBeVisible()
  await tabTo(/^Q4_K_M/)
  await page.keyboard.press('ArrowDown')
  await expect(page.getByRole('radio', { name: /^Q4_K_M/ })).not.toBeChecked()
  await page.keyboard.press('ArrowUp')
  await expect(page.getByRole('radio', { name: /^Q4_K_M/ })).toBeChecked()
  await expect(page.getByText('sample-Q4_K_M.gguf')).toBeVisible()
  await tabTo('Convert')
  await page.keyboard.press('Enter')
  await waitForReport(page)
  await expect(page.getByRole('heading', { level: 1 })).toBeFocused()
})
