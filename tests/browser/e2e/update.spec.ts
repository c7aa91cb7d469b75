import { expect, openSample, test, visit } from './page.ts'
import { startStatic } from './serve.ts'

test('a new version is offered, waits until it is wanted, and takes over with a reload', async ({ open }) => {
  let version = ''
  const site = await startStatic({ isolated: true, addToWorker: () => version })
  const context = await open()
  const page = await visit(context, site.url)
  await expect(page.getByTestId('offline')).toBeVisible()
  const offer = page.getByText('A new version is ready.')
  await page.reload()
  await expect(page.getByTestId('device')).toContainText('Runs on')
  await expect(offer).toBeHidden()

  version = '\nself.newVersion = true'
  await page.reload()
  await expect(offer).toBeVisible()
  // Later is a choice, and what is at hand is not disturbed.
  await openSample(page)
  await page.getByRole('button', { name: 'Later' }).click()
  await expect(offer).toBeHidden()
  await page.reload()
  await expect(offer).toBeVisible()

  const before = await page.evaluate(() => performance.timeOrigin)
  await page.getByRole('button', { name: 'Reload' }).click()
  await expect.poll(() => page.evaluate(() => performance.timeOrigin).catch(() => before)).toBeGreaterThan(before)
  await expect(page.getByTestId('device')).toContainText('Runs on')
  await expect(offer).toBeHidden()
  const [worker] = context.serviceWorkers().slice(-1)
  expect(await worker?.evaluate(() => Reflect.get(globalThis, 'newVersion'))).toBe(true)
  await site.close()
})
