import type { Folder } from '../../../src/core/bytes.ts'
import type { Checkpoint } from '../../../src/core/checkpoint.ts'
import type { OptionValues } from '../../../src/core/option.ts'
import { resolveOptions } from '../../../src/core/option.ts'
import type { Finding, Plan } from '../../../src/core/plan.ts'
import { gguf } from '../../../src/engines/gguf/engine.ts'
import { memoryFolder } from '../../contracts/memory.ts'
import { executeNaively } from '../../oracle/naive.ts'

/** Files by path. */
export type Files = Record<string, Uint8Array<ArrayBuffer>>

/** The plan of a checkpoint, its options resolved as the product does. */
export function planOf(checkpoint: Checkpoint, options: OptionValues): Promise<Plan> {
  return gguf.convert!(checkpoint, resolveOptions(gguf.options, options), new Map())
}

/** The files that a checkpoint becomes, by the naive executor. */
export async function filesOf(checkpoint: Checkpoint, source: Folder, options: OptionValues): Promise<Files> {
  const plan = await planOf(checkpoint, options)
  const files: Files = {}
  for (const file of plan.files) files[file.path] = await executeNaively({ ...plan, files: [file] }, source)
  return files
}

/** Files as a folder, opened. */
export async function openFiles(files: Files): Promise<{ checkpoint: Checkpoint; folder: Folder }> {
  const folder = memoryFolder(files)
  const match = await gguf.detect(folder)
  if (match === null) throw new Error('not detected')
  return { folder, checkpoint: await gguf.open!(folder, match) }
}

/** What validation finds in files. */
export async function findingsOf(files: Files): Promise<Finding[]> {
  const folder = memoryFolder(files)
  const found: Finding[] = []
  const match = await gguf.detect(folder)
  for await (const finding of gguf.validate(folder, match!)) found.push(finding)
  return found
}
