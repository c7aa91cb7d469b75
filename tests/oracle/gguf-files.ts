import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { expect } from 'vitest'
import { openPath } from '../../companion/bytes.ts'
import { createNodeHost } from '../../companion/host.ts'
import { createApi, type Api } from '../../src/api/api.ts'
import type { Checkpoint } from '../../src/core/checkpoint.ts'
import { elementCount, type DType } from '../../src/core/dtype.ts'
import type { OptionValues } from '../../src/core/option.ts'
import type { Plan } from '../../src/core/plan.ts'
import { readGguf, type GgufHeader } from '../../src/engines/containers/gguf/reader.ts'
import { ggufLayout } from '../../src/engines/containers/gguf/writer.ts'
import { gguf } from '../../src/engines/gguf/engine.ts'
import { huggingface } from '../../src/engines/hf/engine.ts'
import { MODELS } from './models.ts'
import { dequantizeNaively, executeNaively } from './naive.ts'

/** A folder that goes when the tests are done. */
export async function temporaryFolder(): Promise<{ path: string; remove: () => Promise<void> }> {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'modelconvert-oracle-'))
  return { path: folder, remove: () => rm(folder, { recursive: true, force: true }) }
}

/** Opens one of the test models. */
export async function openModel(model: string): Promise<Checkpoint> {
  const folder = await openPath(path.join(MODELS, model))
  const match = await huggingface.detect(folder)
  if (match === null || huggingface.open === null) throw new Error(`${model} is not recognised`)
  return huggingface.open(folder, match)
}

/** The plan of one of the test models. */
export async function planModel(model: string, quant: string): Promise<Plan> {
  if (gguf.convert === null) throw new Error('no writer')
  return gguf.convert(await openModel(model), { quant, pre: null }, new Map())
}

/** The product itself, as the command runs it. */
export function productApi(): Api {
  return createApi(createNodeHost({ threads: 2 }))
}

/** Converts a test model into `folder` by the product and returns the file's path. */
export async function convertByProduct(
  api: Api,
  model: string,
  quant: string,
  folder: string,
  options: OptionValues = {},
): Promise<string> {
  const control = api.start({
    input: { kind: 'path', path: path.join(MODELS, model) },
    target: 'gguf',
    options: { quant, ...options },
    output: { kind: 'path', path: folder },
    name: `${model}-${quant}`,
    overwrite: true,
  })
  for (;;) {
    for (const event of await control.next()) {
      if (event.type === 'failed') throw new Error(`${event.error.code}: ${event.error.message}`)
      if (event.type === 'done') return path.join(folder, event.report.files[0]!.path)
    }
  }
}

/** Converts a test model into `folder` by the naive executor and returns the file's path. */
export async function convertNaively(model: string, quant: string, folder: string): Promise<string> {
  const plan = await planModel(model, quant)
  const bytes = await executeNaively(plan, await openPath(path.join(MODELS, model)))
  const file = path.join(folder, plan.files[0]!.path)
  await writeFile(file, bytes)
  return file
}

/** A GGUF file's header and its bytes. */
export async function readFileAndHeader(file: string): Promise<{ header: GgufHeader; bytes: Buffer }> {
  const folder = await openPath(file)
  const source = await folder.open(path.basename(file))
  try {
    return { header: await readGguf(source), bytes: await readFile(file) }
  } finally {
    await source.close()
  }
}

/** Writes the F32 twin of a quantised file: the same header keys, every tensor as our own kernels read it. */
export async function writeTwin(file: string): Promise<string> {
  const { header, bytes } = await readFileAndHeader(file)
  const metadata = new Map(header.metadata)
  metadata.set('general.file_type', { type: 'u32', value: 0 })
  const layout = ggufLayout(
    metadata,
    header.tensors.map(({ name, shape }) => ({ name, shape, dtype: 'f32' as DType })),
  )
  const twin = new Uint8Array(layout.size)
  twin.set(layout.header)
  for (const [index, { name, type, shape, offset, size }] of header.tensors.entries()) {
    if (type.dtype === null) throw new Error(`${name} is ${type.name}`)
    const stored = Uint8Array.from(bytes.subarray(offset, offset + size))
    twin.set(await dequantizeNaively(stored, type.dtype, elementCount(shape)), layout.tensors[index]!.offset)
  }
  const target = file.replace(/\.gguf$/, '-twin.gguf')
  await writeFile(target, twin)
  return target
}

/** A file's tensors by name: type, shape and bytes. */
export async function tensorsOf(file: string): Promise<Map<string, { type: string; shape: string; bytes: Buffer }>> {
  const { header, bytes } = await readFileAndHeader(file)
  return new Map(
    header.tensors.map(({ name, type, shape, offset, size }) => [
      name,
      { type: type.name, shape: shape.join('x'), bytes: bytes.subarray(offset, offset + size) },
    ]),
  )
}

/** Expects two files to hold the same tensors, type by type and byte by byte. */
export async function expectSameTensors(a: string, b: string): Promise<void> {
  const [left, right] = [await tensorsOf(a), await tensorsOf(b)]
  const outline = (tensors: typeof left): string[] =>
    [...tensors].map(([name, { type, shape }]) => `${name} ${type} ${shape}`).sort()
  expect(outline(left)).toEqual(outline(right))
  const different = [...left].filter(([name, { bytes }]) => !bytes.equals(right.get(name)!.bytes)).map(([name]) => name)
  expect(different).toEqual([])
}
