import { existsSync, readFileSync, readdirSync, statSync } from 'node:fs'
import { join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Checkpoint } from '../../../src/core/checkpoint.ts'
import type { DType } from '../../../src/core/dtype.ts'
import { AppError } from '../../../src/core/errors.ts'
import { safetensorsHeader } from '../../../src/engines/containers/safetensors.ts'
import { huggingface } from '../../../src/engines/hf/engine.ts'
import { memoryFolder, type MemoryFolder } from '../../contracts/memory.ts'

const SHARED = fileURLToPath(new URL('../../../../shared/models/', import.meta.url))
const FIXTURES = fileURLToPath(new URL('../../fixtures/', import.meta.url))

/** Tests on the shared models skip where they are not: a user's clone has none. */
export const noShared = !existsSync(SHARED)
export const SHARED_MODELS = ['llama-spm', 'main', 'llama3-tied', 'mistral', 'qwen2', 'qwen3']

export type Files = Record<string, Uint8Array>

/** All files of a folder on disk, by path. */
export function filesOf(folder: string): Files {
  const names = readdirSync(folder, { recursive: true }) as string[]
  const paths = names.map((name) => join(folder, name)).filter((path) => statSync(path).isFile())
  return Object.fromEntries(paths.map((path) => [relative(folder, path), Uint8Array.from(readFileSync(path))]))
}

export function sharedFiles(name: string): Files {
  return filesOf(join(SHARED, name))
}

/** The committed tiny Llama: change what is to be wrong. */
export function tinyLlama(): Files {
  return filesOf(join(FIXTURES, 'tiny-llama'))
}

export const utf8 = (text: string): Uint8Array => new TextEncoder().encode(text)
export const jsonBytes = (value: unknown): Uint8Array => utf8(JSON.stringify(value))

type JsonRecord = Record<string, unknown>

export function jsonOf(files: Files, path: string): JsonRecord {
  return JSON.parse(new TextDecoder().decode(files[path])) as JsonRecord
}

/** Changes keys of a JSON file; undefined removes one. */
export function edit(files: Files, path: string, changes: JsonRecord): Files {
  return { ...files, [path]: jsonBytes({ ...jsonOf(files, path), ...changes }) }
}

export function without(files: Files, ...paths: readonly string[]): Files {
  return Object.fromEntries(Object.entries(files).filter(([path]) => !paths.includes(path)))
}

export interface RawTensor {
  readonly name: string
  readonly dtype: DType
  readonly shape: readonly number[]
  readonly data: Uint8Array
}

/** Reads a safetensors file without any of the code under test. */
export function rawTensors(bytes: Uint8Array): RawTensor[] {
  const length = Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true))
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length))) as Record<
    string,
    { dtype: string; shape: number[]; data_offsets: [number, number] }
  >
  return Object.entries(header)
    .filter(([name]) => name !== '__metadata__')
    .map(
      ([
        name,
        {
          dtype,
          shape,
          data_offsets: [begin, end],
        },
      ]) => ({
        name,
        dtype: dtype.toLowerCase() as DType,
        shape,
        data: bytes.subarray(8 + length + begin, 8 + length + end),
      }),
    )
}

export function safetensors(tensors: readonly RawTensor[], metadata = new Map([['format', 'pt']])): Uint8Array {
  const { bytes, entries } = safetensorsHeader(tensors, metadata)
  const last = entries.at(-1)
  const file = new Uint8Array(last === undefined ? bytes.length : last.offset + last.bytes)
  file.set(bytes)
  for (const { name, offset } of entries) file.set(tensors.find((tensor) => tensor.name === name)!.data, offset)
  return file
}

/** Rewrites the weights of a folder. */
export function editWeights(files: Files, change: (tensors: RawTensor[]) => RawTensor[]): Files {
  return { ...files, 'model.safetensors': safetensors(change(rawTensors(files['model.safetensors']!))) }
}

/** The same weights in `count` shards with an index. */
export function sharded(files: Files, count: number): Files {
  const tensors = rawTensors(files['model.safetensors']!)
  const name = (shard: number): string =>
    `model-${String(shard + 1).padStart(5, '0')}-of-${String(count).padStart(5, '0')}.safetensors`
  const shardOf = (index: number): number => Math.floor((index * count) / tensors.length)
  const shards = Array.from({ length: count }, (_, shard): [string, Uint8Array] => [
    name(shard),
    safetensors(tensors.filter((_tensor, index) => shardOf(index) === shard)),
  ])
  const index = {
    metadata: { total_size: tensors.reduce((total, { data }) => total + data.length, 0) },
    weight_map: Object.fromEntries(tensors.map((tensor, at) => [tensor.name, name(shardOf(at))])),
  }
  const rest = without(files, 'model.safetensors')
  return { ...rest, ...Object.fromEntries(shards), 'model.safetensors.index.json': jsonBytes(index) }
}

export async function openFolder(folder: MemoryFolder): Promise<Checkpoint> {
  const match = await huggingface.detect(folder)
  if (match === null) throw new Error('not detected')
  return huggingface.open!(folder, match)
}

export function openFiles(files: Files): Promise<Checkpoint> {
  return openFolder(memoryFolder(files, { name: 'tiny' }))
}

/** The AppError that opening throws. */
export async function failure(files: Files): Promise<AppError> {
  const outcome: unknown = await openFiles(files).catch((error: unknown) => error)
  if (!(outcome instanceof AppError)) throw new Error(`no AppError, but ${String(outcome)}`)
  return outcome
}

export const codes = (checkpoint: Checkpoint): string[] => checkpoint.findings.map(({ code }) => code)
