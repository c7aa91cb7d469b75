import { createApi } from '../../../src/api/api.ts'
import type { ConvertRequest } from '../../../src/api/wire.ts'
import { AppError } from '../../../src/core/errors.ts'
import type { Report } from '../../../src/core/job.ts'
import type { OptionValues } from '../../../src/core/option.ts'
import type { Finding } from '../../../src/core/plan.ts'
import { mlx } from '../../../src/engines/mlx/engine.ts'
import { ANYWHERE, testHost } from '../../api/host.ts'
import { memoryFolder, MemoryOutput, type MemoryStats } from '../../contracts/memory.ts'
import { editWeights, jsonBytes, safetensors, tinyLlama, without, type Files, type RawTensor } from '../hf/folder.ts'
import { parseJson, type JsonObject } from '../../../src/core/json.ts'
import { architectureOf, normalizeConfig } from '../../../src/engines/transformers/config.ts'
import { expectedTensors, storedShape } from '../../../src/models/architecture.ts'
import type { Config } from './naive.ts'

export interface Converted {
  readonly files: Files
  readonly report: Report
  readonly stats: MemoryStats
}

/** Converts files in memory, through the whole API. */
export async function convertFiles(
  files: Files,
  target: ConvertRequest['target'],
  options: OptionValues = {},
  name = 'tiny',
): Promise<Converted> {
  const output = new MemoryOutput()
  const input = memoryFolder(files, { name })
  const api = createApi(testHost({ input, output }))
  const job = api.start({ input: ANYWHERE, target, options, output: ANYWHERE, name: null, overwrite: false })
  for (;;) {
    for (const event of await job.next()) {
      if (event.type === 'failed') throw AppError.fromData(event.error)
      if (event.type === 'done') {
        return { files: Object.fromEntries(output.files), report: event.report, stats: input.stats }
      }
    }
  }
}

/** A HuggingFace folder of a configuration, with weights of no sense. */
export async function madeUp(config: Record<string, unknown>): Promise<Files> {
  const raw = parseJson(JSON.stringify(config), 'config.json') as JsonObject
  const architecture = await architectureOf(raw, 'config.json')
  const rows = expectedTensors(architecture, normalizeConfig(raw, 'config.json', architecture).config)
  const tensors = rows.map(({ hf, shape, transposed }, index): RawTensor => {
    const count = shape.reduce((a, b) => a * b, 1)
    // the upper halves of numbers from 1 to 2, and their negatives
    const data = new Uint8Array(
      Uint16Array.from({ length: count }, (_, i) => 0x3f80 + ((i * 37 + index) % 128) + (i % 3 === 0 ? 0x8000 : 0))
        .buffer,
    )
    return { name: hf, dtype: 'bf16', shape: storedShape({ shape, transposed }), data }
  })
  return {
    ...without(tinyLlama(), 'config.json'),
    'config.json': jsonBytes(config),
    'model.safetensors': safetensors(tensors),
  }
}

export function configOf(files: Files): Config {
  return JSON.parse(new TextDecoder().decode(files['config.json'])) as Config
}

export async function findingsOf(files: Files): Promise<Finding[]> {
  const folder = memoryFolder(files, { name: 'tiny' })
  const match = { format: 'mlx', kind: 'mlx', confidence: 1, because: '', entry: 'model.safetensors' } as const
  const findings: Finding[] = []
  for await (const finding of mlx.validate(folder, match)) findings.push(finding)
  return findings
}

export const faultsOf = async (files: Files): Promise<Finding[]> =>
  (await findingsOf(files)).filter(({ severity }) => severity === 'error')

/** Rewrites the weights, keeping what the file says of itself. */
export function editMlx(files: Files, change: (tensors: RawTensor[]) => RawTensor[]): Files {
  let tensors: RawTensor[] = []
  editWeights(files, (all) => (tensors = change(all)))
  return { ...files, 'model.safetensors': safetensors(tensors, new Map([['format', 'mlx']])) }
}
