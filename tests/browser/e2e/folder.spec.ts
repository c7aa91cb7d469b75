import { cpSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import type { Page } from '@playwright/test'
import { convert, drop, expect, openSample, test, visit } from './page.ts'

const SAMPLE = path.resolve(import.meta.dirname, '../../../sample')

/** A copy of the sample under its own name: the name is part of the file, so of its SHA-256. */
function copySample(folder: string): string {
  const copy = path.join(folder, 'sample')
  cpSync(SAMPLE, copy, { recursive: true })
  return copy
}

/** Gives the page a folder of OPFS where it asks for one: headless there is nobody to pick. */
async function pickFromStorage(page: Page, name: string): Promise<void> {
  await page.addInitScript((name) => {
    Object.assign(globalThis, {
      showDirectoryPicker: async () =>
        (await navigator.storage.getDirectory()).getDirectoryHandle(name, { create: true }),
    })
  }, name)
}

test('a dropped folder is converted to the same bytes', async ({ open, site, folder, reference }) => {
  const page = await visit(await open(), site.url)
  await drop(page, [copySample(folder)])
  await expect(page.getByRole('heading', { name: 'Convert it to' })).toBeVisible()
  await expect(page.getByRole('heading', { level: 1 })).toHaveText('sample')
  await expect(page.getByRole('heading', { name: 'What it will hold' })).toBeVisible()
  expect(await convert(page)).toBe(reference.sha256)
})

test('where there is no folder picker, an input takes the folder', async ({ open, site, folder, reference }) => {
  const context = await open()
  await context.addInitScript(() => Reflect.deleteProperty(globalThis, 'showDirectoryPicker'))
  const page = await visit(context, site.url)
  const [chooser] = await Promise.all([
    page.waitForEvent('filechooser'),
    page.getByRole('button', { name: 'Choose folder' }).click(),
  ])
  await chooser.setFiles(copySample(folder))
  await expect(page.getByRole('heading', { name: 'What it will hold' })).toBeVisible()
  const intoFolder = page.getByRole('radio', { name: /^Save into a folder/ })
  await expect(intoFolder).toBeDisabled()
  await expect(page.getByText('This browser cannot write into a folder')).toBeVisible()
  expect(await convert(page)).toBe(reference.sha256)
})

test('loose files will do too', async ({ open, site }) => {
  const page = await visit(await open(), site.url)
  await drop(
    page,
    readdirSync(SAMPLE).map((name) => path.join(SAMPLE, name)),
  )
  await expect(page.getByRole('heading', { name: 'Convert it to' })).toBeVisible()
})

test('the file goes straight into a picked folder, and is not overwritten unasked', async ({
  open,
  site,
  reference,
}) => {
  const context = await open()
  const page = context.pages()[0] ?? (await context.newPage())
  await pickFromStorage(page, 'picked')
  await visit(context, site.url)
  await openSample(page)
  await page.getByRole('radio', { name: /^Save into a folder/ }).check()
  await expect(page.getByRole('radio', { name: /^Save into “picked”/ })).toBeChecked()
  await expect(page.getByText('free space unknown')).toBeVisible()
  expect(await convert(page)).toBe(reference.sha256)
  await expect(page.getByText('It is in “picked”.')).toBeVisible()
  expect(await storedFiles(page, 'picked')).toEqual([{ name: 'sample-Q4_K_M.gguf', sha256: reference.sha256 }])

  await page.getByRole('button', { name: 'Another model' }).click()
  await openSample(page)
  await page.getByRole('radio', { name: /^Save into a folder/ }).check()
  await expect(page.getByText('free space unknown')).toBeVisible()
  await page.getByRole('button', { name: 'Convert', exact: true }).click()
  await expect(page.getByRole('heading', { name: 'A file of that name is already there' })).toBeVisible()
  await page.getByRole('button', { name: 'Replace it' }).click()
  await expect(page.getByRole('heading', { name: 'Converted and checked' })).toBeVisible()
})

test('a finished file is copied into a picked folder', async ({ open, site, reference }) => {
  const context = await open()
  const page = context.pages()[0] ?? (await context.newPage())
  await pickFromStorage(page, 'copies')
  await visit(context, site.url)
  await openSample(page)
  await convert(page)
  await page.getByRole('button', { name: 'Save to folder' }).click()
  await expect(page.getByText('Saved into “copies”.')).toBeVisible()
  expect(await storedFiles(page, 'copies')).toEqual([{ name: 'sample-Q4_K_M.gguf', sha256: reference.sha256 }])
  await page.getByRole('button', { name: 'Save to folder' }).click()
  await expect(page.getByText('“copies” already has a file of that name.')).toBeVisible()
  await page.getByRole('button', { name: 'Replace it' }).click()
  await expect(page.getByText('Saved into “copies”.')).toBeVisible()
})

test('a single GGUF file is opened; several files go into a folder of their own in a picked one', async ({
  open,
  site,
  reference,
}) => {
  const context = await open()
  const page = context.pages()[0] ?? (await context.newPage())
  await pickFromStorage(page, 'models')
  await visit(context, site.url)
  await drop(page, [reference.path])
  await expect(page.getByRole('heading', { name: 'Convert it to' })).toBeVisible()
  // Its own format comes first: nothing is lost by leaving its quantised weights alone.
  await expect(page.locator('fieldset').getByRole('heading', { level: 3 }).first()).toHaveText(/^GGUF/)
  await expect(page.getByRole('radio', { name: /^As it is/ })).toBeChecked()
  await page.getByRole('radio', { name: /^Q8_0/ }).check()
  await page.getByText('More options').click()
  await page.getByLabel('Split by tensors').fill('30')
  await page.getByRole('radio', { name: /^Save into a folder/ }).check()
  await expect(page.getByText('sample-gguf-q8_0: 2 files')).toBeVisible()
  await page.getByLabel('Folder name').fill('parts')
  await expect(page.getByText('parts: 2 files')).toBeVisible()
  await page.getByRole('button', { name: 'Convert', exact: true }).click()
  await expect(page.getByRole('heading', { name: 'Converted and checked' })).toBeVisible()
  await expect(page.getByText('It is in “models”.')).toBeVisible()
  const written = await storedFiles(page, 'models/parts')
  expect(written.map(({ name }) => name)).toEqual([
    expect.stringMatching(/-00001-of-00002\.gguf$/),
    expect.stringMatching(/-00002-of-00002\.gguf$/),
  ])
  expect(written.map(({ sha256 }) => sha256)).toEqual(await page.getByTestId('sha256').allInnerTexts())
})

test('a folder that is no model says so, and what to do', async ({ open, site, folder }) => {
  const photos = path.join(folder, 'Holiday photos')
  mkdirSync(photos)
  writeFileSync(path.join(photos, 'beach.jpg'), 'not really')
  const page = await visit(await open(), site.url)
  await drop(page, [photos])
  await expect(page.getByRole('heading', { name: 'No model found there' })).toBeVisible()
  await expect(page.getByRole('heading', { name: 'What to do' })).toBeVisible()
  await page.getByText('Details').click()
  await expect(page.getByText('error[not-a-model]')).toBeVisible()

  // Once it is put right, the same place can be tried again.
  cpSync(SAMPLE, photos, { recursive: true })
  await page.getByRole('button', { name: 'Try again' }).click()
  await expect(page.getByRole('heading', { name: 'Convert it to' })).toBeVisible()
})

test('a truncated shard is named', async ({ open, site, folder }) => {
  const copy = copySample(folder)
  writeFileSync(path.join(copy, 'model.safetensors'), Buffer.alloc(100))
  const page = await visit(await open(), site.url)
  await drop(page, [copy])
  await expect(page.getByRole('group').getByText('model.safetensors').first()).toBeVisible()
  await expect(page.getByRole('heading', { name: 'What to do' })).toBeVisible()
})

/** The files of a folder of OPFS with their SHA-256. */
async function storedFiles(page: Page, folder: string): Promise<{ name: string; sha256: string }[]> {
  return await page.evaluate(async (folder) => {
    const found: { name: string; sha256: string }[] = []
    let directory = await navigator.storage.getDirectory()
    for (const name of folder.split('/')) directory = await directory.getDirectoryHandle(name)
    for await (const [name, handle] of directory.entries()) {
      if (!(handle instanceof FileSystemFileHandle)) continue
      const digest = await crypto.subtle.digest('SHA-256', await (await handle.getFile()).arrayBuffer())
      const hex = [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, '0')).join('')
      found.push({ name, sha256: hex })
    }
    return found.sort((a, b) => (a.name < b.name ? -1 : 1))
  }, folder)
}
