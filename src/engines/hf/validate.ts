import { readFile, type Folder } from '../../core/bytes.ts'
import type { DType } from '../../core/dtype.ts'
import { AppError } from '../../core/errors.ts'
import { parseJsonObject, type Json } from '../../core/json.ts'
import type { Finding } from '../../core/plan.ts'
import { tensorBytes } from '../../core/tensor.ts'
import { checkWeights, firstDifference } from '../containers/sample-weights.ts'
import { GENERATION_CONFIG, MAX_CONFIG_BYTES } from '../transformers/outline.ts'
import { loadModel, type LoadedModel } from './open.ts'

/** What opening takes with a warning, but a well-formed output does not have. */
const FAULTS: ReadonlySet<string> = new Set(['index-incomplete', 'id-out-of-range', 'tensor-ignored'])

/** What is wrong with a HuggingFace folder, short of running it. Weights are sampled. */
export async function* validateModel(folder: Folder): AsyncGenerator<Finding, void, void> {
  let loaded: LoadedModel
  try {
    loaded = await loadModel(folder)
  } catch (error) {
    yield asFinding(error)
    return
  }
  for (const finding of loaded.checkpoint.findings) {
    if (finding.code === 'tie-ignored') yield* checkTie(folder, loaded, finding)
    else yield FAULTS.has(finding.code) ? { ...finding, severity: 'error' } : finding
  }
  yield* checkHeaders(loaded)
  yield* checkGeneration(folder, loaded)
  yield* checkWeights(folder, loaded.stored)
}

function asFinding(error: unknown): Finding {
  const { code, message, where, hint } = AppError.from(error)
  const finding: Finding = { severity: 'error', code, message, where }
  return hint === null ? finding : { ...finding, hint }
}

/** A head that is the embedding once more does no harm; any other was trained, and would be lost. */
async function* checkTie(
  folder: Folder,
  { checkpoint, stored }: LoadedModel,
  finding: Finding,
): AsyncGenerator<Finding, void, void> {
  const head = stored.tensors.get(finding.where?.tensor ?? '')
  const embedding = checkpoint.tensors.get('embed.weight')
  if (head === undefined || embedding?.op !== 'read') {
    yield finding
    return
  }
  const alike = embedding.dtype === head.dtype && embedding.shape.join() === head.shape.join()
  if (alike && (await firstDifference(folder, embedding, head)) === null) return
  yield {
    ...finding,
    severity: 'error',
    code: 'tie-contradicts',
    message: `config.json ties the head to the embedding, but ${finding.where?.tensor ?? ''} is another tensor`,
  }
}

function* checkHeaders({ checkpoint, model, stored }: LoadedModel): Generator<Finding, void, void> {
  for (const file of stored.withoutFormat) {
    yield {
      severity: 'warning',
      code: 'no-format',
      message: `${file} has no "format" in its metadata, which transformers before 4.47 ask for`,
      where: { file },
    }
  }
  let bytes = 0
  const dtypes = new Set<DType>()
  const places = new Set<string>()
  for (const tensor of stored.tensors.values()) {
    // tied tensors of a PyTorch file have one place
    const place = `${tensor.offset} ${tensor.file}`
    if (!places.has(place)) bytes += tensorBytes(tensor)
    places.add(place)
    dtypes.add(tensor.dtype)
  }
  if (stored.totalSize !== null && stored.totalSize !== bytes) {
    yield {
      severity: 'error',
      code: 'total-size',
      message: `The index says total_size ${stored.totalSize}; the tensors have ${bytes} bytes`,
      where: { file: model.root + (model.weights?.path ?? '') },
    }
  }
  // where weights are quantised, config.json names the type of their values
  if (![...dtypes].every((dtype) => isFloat(dtype))) return
  if (!dtypes.has(checkpoint.config.dtype)) {
    yield {
      severity: 'warning',
      code: 'dtype-mismatch',
      message: `config.json says ${checkpoint.config.dtype}; the weights are ${[...dtypes].join(', ')}`,
      where: { file: `${model.root}config.json` },
    }
  }
}

function isFloat(dtype: DType): boolean {
  return dtype === 'f32' || dtype === 'f16' || dtype === 'bf16' || dtype === 'f64'
}

/** transformers refuses to save what samples by its numbers, but not by its flag. */
async function* checkGeneration(folder: Folder, { model }: LoadedModel): AsyncGenerator<Finding, void, void> {
  if (!model.files.has(GENERATION_CONFIG)) return
  const file = model.root + GENERATION_CONFIG
  const json = parseJsonObject(await readFile(folder, file, MAX_CONFIG_BYTES), file)
  const neutral = new Map<string, Json>([
    ['temperature', 1],
    ['top_p', 1],
    ['top_k', 50],
  ])
  const set = [...neutral].filter(([key, value]) => (json.get(key) ?? value) !== value).map(([key]) => key)
  if (json.get('do_sample') === true || set.length === 0) return
  yield {
    severity: 'warning',
    code: 'generation-config',
    message: `${file} sets ${set.join(', ')} without do_sample: transformers ignores them, and refuses to save them`,
    where: { file },
  }
}
