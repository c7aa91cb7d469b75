import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { createApi } from '../../../src/api/api.ts'
import type { ConvertRequest } from '../../../src/api/wire.ts'
import { AppError } from '../../../src/core/errors.ts'
import type { Report } from '../../../src/core/job.ts'
import type { OptionValues } from '../../../src/core/option.ts'
import type { Transforms } from '../../../src/core/transform.ts'
import { ANYWHERE, testHost } from '../../api/host.ts'
import { memoryFolder, MemoryOutput } from '../../contracts/memory.ts'
import { parseJson, type JsonObject } from '../../../src/core/json.ts'
import { architectureOf, normalizeConfig } from '../../../src/engines/transformers/config.ts'
import { expectedTensors, storedShape } from '../../../src/models/architecture.ts'
import {
  filesOf,
  jsonBytes,
  rawTensors,
  safetensors,
  tinyLlama,
  without,
  type Files,
  type RawTensor,
} from '../hf/folder.ts'

const SHARED = fileURLToPath(new URL('../../../../shared/megatron/', import.meta.url))

/** Tests on the shared checkpoints skip where they are not. */
export const noMegatron = !existsSync(SHARED)

export function megatronFiles(name: string): Files {
  return filesOf(SHARED + name)
}

/** Converts files in memory, through the whole API. */
export async function convert(
  files: Files,
  target: ConvertRequest['target'],
  options: OptionValues = {},
  transforms: Transforms = {},
): Promise<{ readonly files: Files; readonly report: Report }> {
  const output = new MemoryOutput()
  const api = createApi(testHost({ input: memoryFolder(files, { name: 'tiny' }), output }))
  const request = { input: ANYWHERE, target, options, output: ANYWHERE, name: null, overwrite: false, transforms }
  const job = api.start(request)
  for (;;) {
    for (const event of await job.next()) {
      if (event.type === 'failed') throw AppError.fromData(event.error)
      if (event.type === 'done') return { files: Object.fromEntries(output.files), report: event.report }
    }
  }
}

/** The AppError that converting to HuggingFace throws. */
export async function failure(files: Files, transforms: Transforms = {}): Promise<AppError> {
  const outcome: unknown = await convert(files, 'huggingface', {}, transforms).catch((error: unknown) => error)
  if (!(outcome instanceof AppError)) throw new Error(`no AppError, but ${String(outcome)}`)
  return outcome
}

/** A HuggingFace folder's weights by name: type, shape and bytes. */
export function weightsOf(files: Files): ReadonlyMap<string, string> {
  const paths = Object.keys(files).filter((path) => path.endsWith('.safetensors') && path !== 'reference.safetensors')
  const tensors = paths.flatMap((path) => rawTensors(files[path]!))
  return new Map(
    tensors.map(({ name, dtype, shape, data }) => [
      name,
      `${dtype} ${shape.join('x')} ${Buffer.from(data).toString('base64')}`,
    ]),
  )
}

/** A HuggingFace folder of a configuration, with weights of no sense, no two rows of which are the same. */
export async function madeUp(config: Record<string, unknown>): Promise<Files> {
  const raw = parseJson(JSON.stringify(config), 'config.json') as JsonObject
  const architecture = await architectureOf(raw, 'config.json')
  const rows = expectedTensors(architecture, normalizeConfig(raw, 'config.json', architecture).config)
  let state = 1
  const tensors = rows.map(({ hf, shape, transposed }): RawTensor => {
    const count = shape.reduce((a, b) => a * b, 1)
    // bf16 from 1 to 2, by a linear congruential generator
    const values = Uint16Array.from({ length: count }, () => {
      state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
      return 0x3f80 + (state >>> 25)
    })
    return {
      name: hf,
      dtype: 'bf16',
      shape: storedShape({ shape, transposed }),
      data: new Uint8Array(values.buffer),
    }
  })
  return {
    ...without(tinyLlama(), 'config.json'),
    'config.json': jsonBytes(config),
    'model.safetensors': safetensors(tensors),
  }
}
