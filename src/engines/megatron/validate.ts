import type { Folder } from '../../core/bytes.ts'
import { AppError } from '../../core/errors.ts'
import type { Finding } from '../../core/plan.ts'
import { readsOf } from '../../core/tensor.ts'
import type { StoredTensor } from '../containers/safetensors-files.ts'
import { checkWeights } from '../containers/sample-weights.ts'
import { loadMegatron, type LoadedMegatron } from './open.ts'

/** What is wrong with a checkpoint, short of training it. Weights are sampled. */
export async function* validateMegatron(folder: Folder): AsyncGenerator<Finding, void, void> {
  let loaded: LoadedMegatron
  try {
    loaded = await loadMegatron(folder)
  } catch (error) {
    const { code, message, where, hint } = AppError.from(error)
    yield { severity: 'error', code, message, where, ...(hint === null ? {} : { hint }) }
    return
  }
  const { checkpoint, weights } = loaded
  for (const finding of checkpoint.findings) {
    yield finding.code === 'tensor-ignored' ? { ...finding, severity: 'error' } : finding
  }
  const parts = new Map<string, StoredTensor>()
  for (const [name, recipe] of weights.tensors) {
    for (const read of readsOf(recipe)) parts.set(`${name} at ${read.file}:${read.offset}`, read as StoredTensor)
  }
  const files = [...new Set([...parts.values()].map(({ file }) => file))]
  yield* checkWeights(folder, {
    tensors: parts,
    files,
    withoutFormat: [],
    metadata: new Map(),
    totalSize: null,
    findings: [],
    views: new Map(),
  })
}
