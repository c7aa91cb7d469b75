/** Bare tensors: a safetensors file, or shards of one, with no config.json to say what they are. */
import type { Folder } from '../../core/bytes.ts'
import { AppError } from '../../core/errors.ts'
import type { Finding } from '../../core/plan.ts'
import { tensorBytes } from '../../core/tensor.ts'
import { checkWeights } from '../containers/sample-weights.ts'
import type { Engine, Match, Verdict } from '../engine.ts'
import { findTensorFiles } from './files.ts'
import { loadTensors, openTensors, type LoadedTensors } from './open.ts'
import { planSafetensors, WRITE_OPTIONS } from './write.ts'

/** Above that of a HuggingFace model without its config.json, below all formats that say more of themselves. */
const CONFIDENCE = 0.5

async function detect(folder: Folder): Promise<Match | null> {
  const found = await findTensorFiles(folder)
  if (found === null) return null
  const { root, weights, what } = found
  const entry = root + (weights.kind === 'set' ? (weights.paths[0] ?? '') : weights.path)
  return {
    format: 'safetensors',
    kind: 'safetensors',
    confidence: CONFIDENCE,
    because: `${what} without config.json`,
    entry,
  }
}

async function* validate(folder: Folder): AsyncGenerator<Finding, void, void> {
  let loaded: LoadedTensors
  try {
    loaded = await loadTensors(folder)
  } catch (error) {
    const { code, message, where, hint } = AppError.from(error)
    yield { severity: 'error', code, message, where, ...(hint === null ? {} : { hint }) }
    return
  }
  const { found, stored } = loaded
  for (const finding of stored.findings) yield { ...finding, severity: 'error' }
  const bytes = [...stored.tensors.values()].reduce((sum, tensor) => sum + tensorBytes(tensor), 0)
  if (stored.totalSize !== null && stored.totalSize !== bytes) {
    yield {
      severity: 'error',
      code: 'total-size',
      message: `The index says total_size ${stored.totalSize}; the tensors have ${bytes} bytes`,
      where: { file: found.root + (found.weights.kind === 'index' ? found.weights.path : '') },
    }
  }
  // tensors of any kind may be masks, where infinity is meant
  for await (const finding of checkWeights(folder, stored)) yield { ...finding, severity: 'warning' }
}

function canInfer(): Verdict {
  return { can: false, because: 'only GGUF files can be run so far' }
}

/** A safetensors file by itself. */
export const safetensors: Engine = {
  id: 'safetensors',
  title: 'Safetensors (weights only)',
  options: WRITE_OPTIONS,
  inputs: [
    {
      id: 'safetensors',
      title: 'Bare safetensors',
      help: 'A file or shards without config.json: the model is found by names and shapes.',
      otherwise: 'Tensors of no model known here become safetensors only, unless --config says what they are.',
    },
  ],
  refuses: () => null,
  detect,
  open: openTensors,
  needs: () => [],
  convert: planSafetensors,
  validate,
  canInfer,
}
