import type { Folder } from '../../core/bytes.ts'
import type { Finding } from '../../core/plan.ts'

export async function* validateGguf(folder: Folder, path: string): AsyncGenerator<Finding, void, void> {
  const source = await folder.open(path)
  await source.close()
  yield* []
}
