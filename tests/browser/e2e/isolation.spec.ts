import { convert, expect, openSample, test, visit } from './page.ts'
import { startStatic } from './serve.ts'

test('without cross-origin isolation it runs on one thread, says so, and makes the same bytes', async ({
  open,
  reference,
}) => {
  const site = await startStatic({ isolated: false })
  const page = await visit(await open({ serviceWorkers: 'block' }), site.url)
  expect(await page.evaluate(() => crossOriginIsolated)).toBe(false)
  await expect(page.getByTestId('device')).toContainText(/one thread|1 thread/i)
  await expect(page.getByTestId('device')).toContainText(/isolated/i)
  await openSample(page)
  expect(await convert(page)).toBe(reference.sha256)
  await site.close()
})

test('on a static host below a path, the service worker brings isolation with one reload', async ({
  open,
  reference,
}) => {
  const site = await startStatic({ isolated: false, base: '/apps/modelconvert/' })
  const context = await open()
  const page = await visit(context, site.url)
  await expect.poll(() => page.evaluate(() => crossOriginIsolated).catch(() => false)).toBe(true)
  await expect(page.getByTestId('offline')).toBeVisible()
  await expect(page.getByTestId('device')).not.toContainText(/isolated/i)
  // It settles: no second reload.
  const loadedAt = await page.evaluate(() => performance.timeOrigin)
  await page.waitForTimeout(1000)
  expect(await page.evaluate(() => performance.timeOrigin)).toBe(loadedAt)

  await site.close()
  await context.setOffline(true)
  await page.reload()
  await openSample(page)
  expect(await convert(page)).toBe(reference.sha256)
})
