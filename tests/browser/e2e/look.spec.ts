import { mkdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { AxeBuilder } from '@axe-core/playwright'
import type { Page } from '@playwright/test'
import { writeAdapter } from './adapter.ts'
import { drop, expect, openSample, showAll, test, visit, waitForReport } from './page.ts'

const SAMPLE = path.resolve(import.meta.dirname, '../../../sample')

/** In light and dark, wide and narrow: no rule of WCAG 2.2 AA or of good practice is broken, and nothing sticks out. */
async function look(page: Page, what: string): Promise<void> {
  for (const colorScheme of ['light', 'dark'] as const) {
    for (const width of [1280, 360]) {
      await page.emulateMedia({ colorScheme, reducedMotion: 'reduce' })
      await page.setViewportSize({ width, height: 900 })
      // Colours in the middle of a transition would be measured as they are. One that is cancelled, as by another
      // that takes its place, is over too.
      await page.evaluate(() => Promise.allSettled(document.getAnimations().map((animation) => animation.finished)))
      const { violations } = await new AxeBuilder({ page })
        .withTags(['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'])
        .analyze()
      const told = violations.flatMap(({ id, nodes }) => nodes.map((node) => `${id}: ${node.html.slice(0, 160)}`))
      expect(told, `axe on the ${what} screen, ${colorScheme}, ${width} px`).toEqual([])
      const over = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth)
      expect(over, `pixels that the ${what} screen is too wide at ${width}`).toBeLessThanOrEqual(0)
    }
  }
}

test('every screen is accessible and fits: light and dark, 1280 and 360 px', async ({ open, site, folder }) => {
  test.setTimeout(180_000)
  const page = await visit(await open(), site.url)
  await look(page, 'start')
  await page.getByText('What becomes what').click()
  await expect(page.getByRole('row', { name: /^GPTQ folder/ })).toBeVisible()
  await expect(page.getByText('Not into MLX: no class in mlx-lm.')).toBeVisible()
  await look(page, 'start with what becomes what')
  await openSample(page)
  await look(page, 'model')
  await showAll(page, 'GGUF')
  await page.getByText('More options').click()
  await page.getByLabel('Split by tensors').fill('0')
  await expect(page.getByText(/^It takes a whole number from 1/)).toBeVisible()
  await expect(page.getByRole('button', { name: 'Convert', exact: true })).toBeDisabled()
  await page.getByText(/^All \d+ tensors$/).click()
  await look(page, 'model with all choices and a wrong option')
  await page.getByRole('button', { name: 'All as usual' }).click()
  await page
    .getByRole('group', { name: 'HuggingFace' })
    .getByRole('radio', { name: /^Unchanged/ })
    .check()

  // Paused while it plans, the job stands still at once.
  await page.getByRole('button', { name: 'Convert', exact: true }).click()
  await page.getByRole('button', { name: 'Pause' }).click()
  await expect(page.getByRole('heading', { name: 'Paused' })).toBeVisible()
  await look(page, 'job')
  await page.getByRole('button', { name: 'Resume' }).click()
  await expect(page.getByRole('heading', { name: 'Converted and checked' })).toBeVisible()
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

test('what is asked for and added is accessible and fits', async ({ open, site, folder }) => {
  test.setTimeout(180_000)
  const adapter = path.join(folder, 'a-rather-long-name-of-an-adapter-v2')
  writeAdapter(adapter)
  const page = await visit(await open(), site.url)
  await drop(page, [path.join(SAMPLE, 'config.json')])
  await expect(page.getByRole('heading', { name: 'A model without its weights' })).toBeFocused()
  await look(page, 'model without weights')
  await page.getByRole('button', { name: 'Open something else' }).click()
  await drop(page, [adapter])
  await expect(page.getByRole('heading', { name: 'Now the model that it belongs to' })).toBeFocused()
  await look(page, 'adapter without a model')
  await drop(page, [path.join(SAMPLE, 'model.safetensors')])
  await page.getByLabel(/Weight of a-rather/).fill('')
  await expect(page.getByText(/has to be a number other than 0\.$/)).toBeVisible()
  await page.getByText('More options').click()
  await expect(page.getByText(/^Not for this model: LlamaForCausalLM is not a muP model/)).toBeVisible()
  await look(page, 'model with an adapter and a wrong weight')
})

test('what a check says is accessible and fits, and takes the focus', async ({ open, site, reference }) => {
  test.setTimeout(180_000)
  const page = await visit(await open(), site.url)
  await drop(page, [reference.path])
  await page.getByRole('button', { name: 'Check it' }).focus()
  await page.keyboard.press('Enter')
  const result = page.getByTestId('check-result')
  await expect(result).toBeVisible({ timeout: 60_000 })
  await expect(page.locator(':focus').getByTestId('check-result')).toBeVisible()
  await look(page, 'model that was run')
})

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
