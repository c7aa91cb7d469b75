import { existsSync, readFileSync } from 'node:fs'
import { judge, noLlama } from '../../oracle/llama.ts'
import { convert, download, expect, openSample, sha256, test, visit } from './page.ts'
import { startPreview } from './serve.ts'

test('the sample becomes a Q4_K_M file with the bytes that the command makes', async ({
  open,
  site,
  folder,
  reference,
}) => {
  const page = await visit(await open(), site.url)
  expect(await page.evaluate(() => crossOriginIsolated)).toBe(true)
  await openSample(page)
  await expect(page.getByRole('radio', { name: /^Q4_K_M/ })).toBeChecked()
  const shown = await convert(page)
  const file = await download(page, folder)
  expect(file.name).toBe('sample-Q4_K_M.gguf')
  expect(file.sha256).toBe(shown)
  expect(file.sha256).toBe(reference.sha256)

  test.info().annotations.push({ type: 'llama.cpp', description: noLlama ?? 'loaded the file' })
  if (noLlama === null) {
    const llama = await judge(file.path)
    try {
      expect(llama.vocabSize).toBe(2048)
      const ids = await llama.tokenize('The quick brown fox')
      expect(ids.length).toBeGreaterThan(1)
      const next = await llama.greedy(ids, 8)
      expect(next.length).toBeGreaterThan(0)
      for (const id of next) expect(id).toBeLessThan(2048)
    } finally {
      await llama.close()
    }
  }
})

test('after the first load it works without a network', async ({ open, folder, reference }) => {
  const site = await startPreview()
  const context = await open()
  const page = await visit(context, site.url)
  await expect(page.getByTestId('offline')).toBeVisible()
  await site.close()
  await context.setOffline(true)

  await page.reload()
  await expect(page.getByTestId('device')).toContainText('Runs on')
  expect(await page.evaluate(() => crossOriginIsolated)).toBe(true)
  await openSample(page)
  expect(await convert(page)).toBe(reference.sha256)
  const file = await download(page, folder)
  expect(file.sha256).toBe(reference.sha256)

  // What was made is still there after another cold start.
  await page.goto(`${site.url}index.html`)
  await expect(page.getByRole('heading', { name: 'Finished, kept in this browser' })).toBeVisible()
  await page.getByRole('button', { name: /^Remove/ }).click()
  await expect(page.getByRole('heading', { name: 'Finished, kept in this browser' })).toBeHidden()
  expect(existsSync(file.path)).toBe(true)
})

test('one thread and several make the same bytes', async ({ open, site, reference }) => {
  const context = await open()
  for (const threads of [1, 3]) {
    const page = await visit(context, `${site.url}?threads=${threads}`)
    await expect(page.getByTestId('device')).toContainText(threads === 1 ? '1 thread' : `${threads} threads`)
    await openSample(page)
    expect(await convert(page), `${threads} threads`).toBe(reference.sha256)
  }
})

test('an output of several files is downloaded as one zip', async ({ open, site, folder }) => {
  const page = await visit(await open(), site.url)
  await openSample(page)
  await page
    .getByRole('group', { name: 'HuggingFace' })
    .getByRole('radio', { name: /^Unchanged/ })
    .check()
  await expect(page.getByText(/^sample-huggingface: \d files$/)).toBeVisible()
  await page.getByLabel('Folder name').fill('My model')
  await expect(page.getByText(/^My model: \d files$/)).toBeVisible()
  // What an earlier conversion left in the same place is no part of this one.
  await page.evaluate(async () => {
    let directory = await navigator.storage.getDirectory()
    for (const name of ['outputs', 'My model huggingface Unchanged', 'My model']) {
      directory = await directory.getDirectoryHandle(name, { create: true })
    }
    await (await (await directory.getFileHandle('stale.safetensors', { create: true })).createWritable()).close()
  })
  await page.getByRole('button', { name: 'Convert', exact: true }).click()
  await expect(page.getByRole('heading', { name: 'Converted and checked' })).toBeVisible()
  await page.getByRole('button', { name: /^All \d files$/ }).click()
  const shown = new Map<string, string>()
  for (const [index, name] of (await page.getByTestId('file').allInnerTexts()).entries()) {
    shown.set(`My model/${name}`, await page.getByTestId('sha256').nth(index).innerText())
  }
  const zip = await download(page, folder)
  expect(zip.name).toBe('My model.zip')
  const unpacked = new Map(unzipStored(readFileSync(zip.path)).map(([name, bytes]) => [name, sha256(bytes)]))
  expect(unpacked).toEqual(shown)
  expect(shown.has('My model/config.json')).toBe(true)
  const left = await page.evaluate(async () => {
    const outputs = await (await navigator.storage.getDirectory()).getDirectoryHandle('outputs')
    const place = await outputs.getDirectoryHandle('My model huggingface Unchanged')
    return Array.fromAsync((await place.getDirectoryHandle('My model')).keys())
  })
  expect(left.map((name) => `My model/${name}`).sort()).toEqual([...shown.keys()].sort())
})

/** The files of a stored zip, by its local headers (APPNOTE.TXT 4.3.7). */
function unzipStored(zip: Buffer): [string, Buffer][] {
  const files: [string, Buffer][] = []
  for (let at = 0; zip.readUInt32LE(at) === 0x04034b50;) {
    expect(zip.readUInt16LE(at + 8), 'stored').toBe(0)
    const size = zip.readUInt32LE(at + 18)
    const nameEnd = at + 30 + zip.readUInt16LE(at + 26)
    const begin = nameEnd + zip.readUInt16LE(at + 28)
    files.push([zip.toString('utf8', at + 30, nameEnd), zip.subarray(begin, begin + size)])
    at = begin + size
  }
  return files
}

test('the page can be installed', async ({ open, site }) => {
  const page = await visit(await open(), site.url)
  const href = await page.locator('link[rel=manifest]').getAttribute('href')
  const manifest = (await (await page.request.get(new URL(href ?? '', site.url).href)).json()) as {
    icons: { src: string; sizes: string; purpose?: string }[]
    display: string
  }
  expect(manifest.display).toBe('standalone')
  expect(manifest.icons.some((icon) => icon.purpose === 'maskable')).toBe(true)
  for (const { src } of manifest.icons) {
    expect((await page.request.get(new URL(src, site.url).href)).ok(), src).toBe(true)
  }
  const session = await page.context().newCDPSession(page)
  const { installabilityErrors } = await session.send('Page.getInstallabilityErrors')
  expect(installabilityErrors.map((error) => error.errorId).filter((id) => id !== 'in-incognito')).toEqual([])
})
