import type { PlannedFile, Stage } from '../core/plan.ts'
import { tensorBytes } from '../core/tensor.ts'

/** Where a stage's product lies in scratch. */
export function productPath(stage: string, key: string): string {
  return `${encodeURIComponent(stage)}/${encodeURIComponent(key)}`
}

/** The scratch files that stages write, as plans of one tensor each: the loop that writes outputs writes them too. */
export function stageFiles(stages: readonly Stage[]): readonly PlannedFile[] {
  return stages.flatMap((stage) =>
    stage.products.map(({ key, recipe }): PlannedFile => {
      const size = tensorBytes(recipe)
      const path = productPath(stage.id, key)
      return { path, size, segments: [{ kind: 'tensor', offset: 0, size, name: key, recipe }] }
    }),
  )
}
