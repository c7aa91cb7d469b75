import path from 'node:path'
import type { Api } from '../../src/api/api.ts'
import type { OptionValues } from '../../src/core/option.ts'
import type { Transforms } from '../../src/core/transform.ts'

export { productApi, temporaryFolder } from './gguf-files.ts'

/** Converts a folder to GGUF in `output` by the product and returns the file's path. */
export async function convertFolder(
  api: Api,
  input: string,
  options: OptionValues,
  output: string,
  transforms: Transforms = {},
  name = 'model',
): Promise<string> {
  const control = api.start({
    input: { kind: 'path', path: input },
    target: 'gguf',
    options,
    output: { kind: 'path', path: output },
    name,
    overwrite: true,
    transforms,
  })
  for (;;) {
    for (const event of await control.next()) {
      if (event.type === 'failed') throw new Error(`${event.error.code}: ${event.error.message}`)
      if (event.type === 'done') return path.join(output, event.report.files[0]!.path)
    }
  }
}

/** The largest difference, relative to the largest magnitude of the reference. */
export function relativeError(found: ArrayLike<number>, reference: ArrayLike<number>): number {
  if (found.length !== reference.length) return Number.POSITIVE_INFINITY
  let difference = 0
  let largest = 0
  for (let i = 0; i < reference.length; i++) {
    difference = Math.max(difference, Math.abs(found[i]! - reference[i]!))
    largest = Math.max(largest, Math.abs(reference[i]!))
  }
  return difference / largest
}
