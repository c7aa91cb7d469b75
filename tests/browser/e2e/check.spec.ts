import { execFile } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { promisify } from 'node:util'
import type { Locator, Page } from '@playwright/test'
import type { CheckReport } from '../../../src/core/check.ts'
import { noLlama } from '../../oracle/llama.ts'
import { convert, drop, expect, openSample, test, visit } from './page.ts'
import { startPreview, startStatic } from './serve.ts'

const CLI = path.resolve(import.meta.dirname, '../../../dist/node/cli.js')

/** llama.cpp is eight megabytes to compile, and other things run. */
const LONG = 60_000

/** Waits for the words that the model on the page says. */
async function spoken(page: Page): Promise<string> {
  await expect(page.getByTestId('check-result')).toBeVisible({ timeout: LONG })
  return page.getByTestId('spoken').innerText()
}

/** What llama.cpp outside of the browser makes the model of a file say; null where it is not installed. */
async function saidOutside(file: string): Promise<string | null> {
  if (noLlama !== null) return null
  const args = [CLI, 'check', file, '--json', '--quiet', '--threads', '1']
  const { stdout } = await promisify(execFile)(process.execPath, args)
  return (JSON.parse(stdout) as { check: CheckReport }).check.run?.generated?.text ?? null
}

/** How many characters two texts begin with in common. */
function common(a: string, b: string): number {
  let length = 0
  while (length < a.length && a[length] === b[length]) length++
  return length
}

const button = (page: Page, name: string): Locator => page.getByRole('button', { name, exact: true })

test('what was converted runs in the page, and says what llama.cpp outside of it says', async ({
  open,
  site,
  reference,
}) => {
  test.setTimeout(120_000)
  const page = await visit(await open(), site.url)
  await openSample(page)
  await convert(page)
  await expect(page.getByRole('heading', { name: 'Does it run?' })).toBeVisible()
  await button(page, 'Run it').click()
  const text = await spoken(page)
  const result = page.getByTestId('check-result')
  await expect(result).toContainText('Once upon a time')
  await expect(result).toContainText(/llama\.cpp \S+ \(wllama\) loads and runs it/)
  await expect(result).toContainText(/Judged by llama\.cpp \S+ \(wllama\)\./)
  await expect(result).toContainText(/Speaks at[\d.,\s]+tokens\/s/)
  const outside = await saidOutside(reference.path)
  test.info().annotations.push({ type: 'llama.cpp', description: noLlama ?? `says ${JSON.stringify(outside)}` })
  expect(text.trim().length).toBeGreaterThan(3)
  // processors round differently: from some word on another may be as likely
  if (outside !== null) expect(common(text, outside), `${text} / ${outside}`).toBeGreaterThanOrEqual(7)
})

test('offline, where nothing was run before', async ({ open, reference }) => {
  test.setTimeout(120_000)
  const site = await startPreview()
  const context = await open()
  const page = await visit(context, site.url)
  await expect(page.getByTestId('offline')).toBeVisible()
  await site.close()
  await context.setOffline(true)
  await page.reload()
  await expect(page.getByTestId('device')).toContainText('Runs on')
  await drop(page, [reference.path])
  await expect(page.getByText('Then llama.cpp runs it in this tab.')).toBeVisible()
  await button(page, 'Check it').click()
  expect((await spoken(page)).length).toBeGreaterThan(3)
  await expect(page.getByTestId('check-result')).toContainText('Judged by validation and llama.cpp')
})

test('chosen beforehand, it runs before the report; a split model too', async ({ open, site }) => {
  test.setTimeout(120_000)
  const page = await visit(await open(), site.url)
  await openSample(page)
  await page.getByRole('checkbox', { name: /^Run it when it is finished/ }).check()
  await page.getByText('More options').click()
  await page.getByLabel('Split by tensors').fill('30')
  await expect(page.getByText(/: 2 files$/)).toBeVisible()
  await page.getByRole('button', { name: 'Convert', exact: true }).click()
  await expect(page.getByRole('heading', { name: 'Converted and checked' })).toBeVisible({ timeout: LONG })
  await expect(page.getByRole('heading', { name: 'How it ran' })).toBeVisible()
  expect((await spoken(page)).length).toBeGreaterThan(3)
  await expect(page.getByTestId('file')).toHaveCount(2)
})

test('without isolation it runs on one thread', async ({ open, reference }) => {
  test.setTimeout(120_000)
  const site = await startStatic({ isolated: false })
  const page = await visit(await open({ serviceWorkers: 'block' }), site.url)
  expect(await page.evaluate(() => crossOriginIsolated)).toBe(false)
  await drop(page, [reference.path])
  await button(page, 'Check it').click()
  expect((await spoken(page)).length).toBeGreaterThan(3)
  await expect(page.getByTestId('check-result')).toContainText('1 thread')
  await site.close()
})

test('it runs on several threads', async ({ open, site, reference }) => {
  test.setTimeout(180_000)
  const page = await visit(await open(), `${site.url}?threads=2`)
  await drop(page, [reference.path])
  await button(page, 'Check it').click()
  await expect(page.getByTestId('check-result')).toContainText('2 threads', { timeout: 2 * LONG })
  expect((await spoken(page)).length).toBeGreaterThan(3)
})

test('a model with NaN in it is found out', async ({ open, site, folder }) => {
  test.setTimeout(120_000)
  // where activations are quantised, NaN among them gets lost: in F16 it reaches the logits
  const file = path.join(folder, 'damaged.gguf')
  await promisify(execFile)(process.execPath, [CLI, 'convert', 'sample', 'gguf', '--quant', 'f16', '-o', file])
  const bytes = readFileSync(file)
  bytes.writeFloatLE(Number.NaN, offsetOf(bytes, 'output_norm.weight') + 28)
  writeFileSync(file, bytes)
  const page = await visit(await open(), site.url)
  await drop(page, [file])
  await button(page, 'Check it').click()
  const result = page.getByTestId('check-result')
  await expect(result).toContainText('The logits of 16 of 16 tokens are no finite numbers', { timeout: LONG })
  await expect(result).toContainText('output_norm.weight holds a value that is NaN or infinite')
  await expect(result).not.toContainText('loads and runs it')
})

test('what is no GGUF is validated, and says why it is not run', async ({ open, site }) => {
  const page = await visit(await open(), site.url)
  await openSample(page)
  await button(page, 'Check it').click()
  const result = page.getByTestId('check-result')
  await expect(result).toContainText('It is well formed')
  await expect(result).toContainText('It was not run: nothing here runs HuggingFace')
  await expect(result).toContainText('Judged by validation alone.')
})

test('a run can be stopped, and begun again', async ({ open, site, reference }) => {
  test.setTimeout(120_000)
  const page = await visit(await open(), site.url)
  await drop(page, [reference.path])
  await button(page, 'Check it').click()
  await button(page, 'Stop').click()
  await expect(button(page, 'Check it')).toBeVisible()
  await button(page, 'Check it').click()
  expect((await spoken(page)).length).toBeGreaterThan(3)
})

/** Where a tensor's data begin in a GGUF file of ours, whose data are the last thing in it. */
function offsetOf(bytes: Buffer, name: string): number {
  const infos = [...bytes.toString('latin1').matchAll(/(?:blk\.\d+\.[a-z_]+|output_norm|output|token_embd)\.weight/g)]
  const found = infos.map((match) => {
    const end = match.index + match[0].length
    const dimensions = bytes.readUInt32LE(end)
    const shape = Array.from({ length: dimensions }, (_, i) => Number(bytes.readBigUInt64LE(end + 4 + 8 * i)))
    const type = bytes.readUInt32LE(end + 4 + 8 * dimensions)
    return { name: match[0], shape, type, offset: Number(bytes.readBigUInt64LE(end + 8 + 8 * dimensions)), end }
  })
  const wanted = found.find((info) => info.name === name)!
  expect(wanted.type, 'f32').toBe(0)
  const last = found.reduce((a, b) => (b.end > a.end ? b : a))
  // the header ends behind the last info: name, dimensions, type, offset
  const header = last.end + 4 + 8 * last.shape.length + 4 + 8
  return Math.ceil(header / 32) * 32 + wanted.offset
}
