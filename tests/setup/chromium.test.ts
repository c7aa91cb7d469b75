import { existsSync } from 'node:fs'
import { afterEach, expect, test, vi } from 'vitest'

afterEach(() => {
  vi.unstubAllEnvs()
  vi.restoreAllMocks()
  vi.resetModules()
})

async function fresh(): Promise<typeof import('./chromium.ts')> {
  vi.resetModules()
  return import('./chromium.ts')
}

test('CHROMIUM_PATH goes before all', async () => {
  vi.stubEnv('CHROMIUM_PATH', process.execPath)
  expect((await fresh()).findChromium()).toBe(process.execPath)
})

test('a wrong CHROMIUM_PATH is said in one line, once', async () => {
  vi.stubEnv('CHROMIUM_PATH', '/nowhere/chromium')
  const said = vi.spyOn(process.stderr, 'write').mockReturnValue(true)
  const { findChromium } = await fresh()
  expect(findChromium()).toBeNull()
  expect(findChromium()).toBeNull()
  expect(said.mock.calls.map(([line]) => line)).toEqual([
    'CHROMIUM_PATH is /nowhere/chromium, where there is no program.\n',
  ])
})

test('what is found is there', async () => {
  vi.stubEnv('CHROMIUM_PATH', '')
  vi.spyOn(process.stderr, 'write').mockReturnValue(true)
  const found = (await fresh()).findChromium()
  if (found !== null) expect(existsSync(found)).toBe(true)
})
