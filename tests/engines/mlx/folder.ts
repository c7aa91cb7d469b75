import { createApi } from '../../../src/api/api.ts'
import type { ConvertRequest } from '../../../src/api/wire.ts'
import { AppError } from '../../../src/core/errors.ts'
import type { Report } from '../../../src/core/job.ts'
import type { OptionValues } from '../../../src/core/option.ts'
import type { Finding } from '../../../src/core/plan.ts'
import { mlx } from '../../../src/engines/mlx/engine.ts'
import { ANYWHERE, testHost } from '../../api/host.ts'
import { memoryFolder, MemoryOutput, type MemoryStats } from '../../contracts/memory.ts'
import { editWeights, safetensors, type Files, type RawTensor } from '../hf/folder.ts'
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

export function configOf(files: Files): Config {
  return JSON.parse(new TextDecoder().decode(files['config.json'])) as Config
}

export async function findingsOf(files: Files): Promise<Finding[]> {
  const folder = memoryFolder(files, { name: 'tiny' })
  const match = { format: 'mlx', confidence: 1, because: '', entry: 'model.safetensors' } as const
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
