import type { Folder } from '../../src/core/bytes.ts'
import type { Plan } from '../../src/core/plan.ts'
import { ArrayInputs, evaluate } from '../api/run.ts'

/** The bytes of a plan of one file, each tensor in one piece by the product's own evaluator: for plans made wrong on purpose. */
export async function tensorPlanBytes(plan: Plan, folder: Folder): Promise<Uint8Array> {
  const files: Record<string, Uint8Array> = {}
  for (const { path } of await folder.list()) {
    const source = await folder.open(path)
    files[path] = new Uint8Array(source.size)
    await source.read(0, files[path])
    await source.close()
  }
  const inputs = new ArrayInputs(files)
  const [file] = plan.files
  const bytes = new Uint8Array(file!.size)
  for (const segment of file!.segments) {
    if (segment.kind === 'bytes') bytes.set(segment.bytes, segment.offset)
    else if (segment.kind === 'tensor') bytes.set((await evaluate(segment.recipe, inputs)).bytes, segment.offset)
  }
  return bytes
}
