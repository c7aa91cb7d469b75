import { copyFileSync, cpSync, mkdirSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { writeAdapter } from './adapter.ts'
import { command, convert, drop, expect, openSample, test, visit } from './page.ts'

/** What is given with a model, or asked for because it lacks something: to the bytes that the command makes. */

const SAMPLE = path.resolve(import.meta.dirname, '../../../sample')
const CONFIG = path.join(SAMPLE, 'config.json')

test('an adapter that is dropped onto a model is merged into it, as much as is said', async ({
  open,
  site,
  folder,
  reference,
}) => {
  const adapter = path.join(folder, 'pirate')
  writeAdapter(adapter)
  const page = await visit(await open(), site.url)
  await openSample(page)
  await drop(page, [adapter])
  const weight = page.getByLabel('Weight of pirate')
  await expect(weight).toHaveValue('1')
  await expect(page.getByText('pirate, a LoRA adapter, is merged')).toBeVisible()
  await weight.fill('0')
  await expect(page.getByText('The weight of “pirate” has to be a number other than 0.')).toBeVisible()
  await expect(page.getByRole('button', { name: 'Convert', exact: true })).toBeDisabled()
  await weight.fill('0.5')
  await expect(page.getByText('sample-pirate-Q4_K_M.gguf')).toBeVisible()
  const merged = await command(folder, 'convert', 'sample', 'gguf', '--adapter', `${adapter}=0.5`)
  expect(await convert(page)).toBe(merged)

  await page.getByRole('button', { name: 'Another target' }).click()
  await page.getByRole('button', { name: 'Take pirate away' }).click()
  await expect(weight).toBeHidden()
  await expect(page.getByText('sample-Q4_K_M.gguf')).toBeVisible()
  expect(await convert(page)).toBe(reference.sha256)
})

test('an adapter by itself asks for its model; one that does not fit says so, and costs nothing', async ({
  open,
  site,
  folder,
}) => {
  const adapter = path.join(folder, 'pirate')
  writeAdapter(adapter)
  const copy = path.join(folder, 'sample')
  cpSync(SAMPLE, copy, { recursive: true })
  const page = await visit(await open(), site.url)
  await drop(page, [adapter])
  await expect(page.getByRole('heading', { level: 1 })).toHaveText('Now the model that it belongs to')
  await expect(page.getByText('a LoRA adapter (rank 4, alpha 8 on q_proj) for modelconvert/sample')).toBeVisible()
  await drop(page, [copy])
  await expect(page.getByText('sample-pirate-Q4_K_M.gguf')).toBeVisible()
  expect(await convert(page)).toBe(await command(folder, 'convert', 'sample', 'gguf', '--adapter', adapter))

  await page.getByRole('button', { name: 'Another target' }).click()
  const other = path.join(folder, 'other')
  mkdirSync(other)
  copyFileSync(path.join(adapter, 'adapter_config.json'), path.join(other, 'adapter_config.json'))
  await drop(page, [other])
  await expect(page.getByRole('status').getByText(/adapter_model\.safetensors is not there/)).toBeVisible()
  await expect(page.getByLabel('Weight of pirate')).toBeVisible()
  await expect(page.getByLabel('Weight of other')).toBeHidden()
})

test('a Megatron checkpoint that does not say enough asks for a config.json', async ({ open, site, folder }) => {
  const checkpoint = path.join(folder, 'run')
  await command(checkpoint, 'convert', 'sample', 'megatron')
  rmSync(path.join(checkpoint, 'config.json'))
  rmSync(path.join(checkpoint, 'iter_0000001/common.pt'))
  const page = await visit(await open(), site.url)
  await drop(page, [checkpoint])
  await expect(page.getByRole('heading', { level: 1 })).toHaveText('It needs its config.json')
  await page.getByTestId('config-input').setInputFiles(CONFIG)
  await expect(page.getByRole('button', { name: 'Take config.json away' })).toBeVisible()
  const told = await command(folder, 'convert', checkpoint, 'gguf', '--hf-config', CONFIG)
  expect(await convert(page)).toBe(told)
})

test('a config.json alone becomes a model of made-up weights, as a file says if there is one', async ({
  open,
  site,
  folder,
}) => {
  const page = await visit(await open(), site.url)
  await drop(page, [CONFIG])
  await expect(page.getByRole('heading', { level: 1 })).toHaveText('A model without its weights')
  await expect(page.getByText(/LlamaForCausalLM of 5\.77.M parameters/)).toBeVisible()
  await page.getByRole('button', { name: 'Make weights up' }).click()
  await expect(page.getByText('The weights are made up (normal random numbers, seed 0)')).toBeVisible()
  expect(await convert(page)).toBe(await command(folder, 'convert', CONFIG, 'gguf', '--fake-weight'))

  const fake = path.join(folder, 'fake.json')
  writeFileSync(fake, '{"seed": 7, "std": 0.05, "tensors": {"lm_head.weight": {"value": 0.25}}}')
  await page.getByRole('button', { name: 'Another target' }).click()
  await page.getByText('More options').click()
  await expect(page.getByRole('switch', { name: 'Make the weights up' })).toBeDisabled()
  await drop(page, [fake])
  await expect(page.getByText('“fake.json” is taken as: Configuration of the made-up weights.')).toBeVisible()
  const told = await command(path.join(folder, 'told'), 'convert', CONFIG, 'gguf', '--fake-weight-config', fake)
  expect(await convert(page)).toBe(told)
})

test('weights that come after their config.json, or before it, make one model', async ({ open, site, folder }) => {
  const whole = path.join(folder, 'model')
  mkdirSync(whole)
  for (const name of ['config.json', 'model.safetensors']) {
    copyFileSync(path.join(SAMPLE, name), path.join(whole, name))
  }
  const told = await command(folder, 'convert', whole, 'gguf')
  const page = await visit(await open(), site.url)
  await drop(page, [path.join(SAMPLE, 'model.safetensors')])
  await expect(page.getByText('Safetensors (weights only)')).toBeVisible()
  await drop(page, [CONFIG])
  await expect(page.getByText('LlamaForCausalLM, from config.json with model.safetensors.')).toBeVisible()
  expect(await convert(page)).toBe(told)

  await page.getByRole('button', { name: 'Another model' }).click()
  await drop(page, [CONFIG])
  await page.getByTestId('missing-input').setInputFiles(path.join(SAMPLE, 'model.safetensors'))
  await expect(page.getByText('LlamaForCausalLM, from config.json with model.safetensors.')).toBeVisible()
})
