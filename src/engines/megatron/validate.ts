import { readFile, type Folder } from '../../core/bytes.ts'
import { AppError } from '../../core/errors.ts'
import { parseJsonObject, type JsonObject } from '../../core/json.ts'
import type { Finding } from '../../core/plan.ts'
import { readsOf, type Recipe } from '../../core/tensor.ts'
import type { StoredTensor } from '../containers/safetensors-files.ts'
import { checkTensors, firstDifference } from '../containers/sample-weights.ts'
import { torchName } from './config.ts'
import type { MegatronFolder } from './files.ts'
import { loadMegatron, type LoadedMegatron } from './open.ts'
import { EMBEDDING, HEAD } from './prepared.ts'
import { fileOf } from './stored.ts'

const MAX_JSON_BYTES = 1 << 20

/** What is wrong with a checkpoint, short of training it. Weights are sampled. */
export async function* validateMegatron(folder: Folder): AsyncGenerator<Finding, void, void> {
  let loaded: LoadedMegatron
  try {
    loaded = await loadMegatron(folder)
  } catch (error) {
    yield asFinding(error)
    return
  }
  for (const finding of loaded.checkpoint.findings) {
    yield finding.code === 'tensor-ignored' ? { ...finding, severity: 'error' } : finding
  }
  yield* backendFindings(folder, loaded.found)
  yield* typeFindings(loaded)
  yield* tieFindings(folder, loaded)
  yield* copyFindings(folder, loaded)
  const seen = new Set<string>()
  const parts: (readonly [string, StoredTensor])[] = []
  for (const { name, recipe } of loaded.weights.parts) {
    for (const read of readsOf(recipe)) {
      const place = `${read.offset} ${read.file}`
      if (seen.has(place)) continue
      seen.add(place)
      parts.push([name, read])
    }
  }
  yield* checkTensors(folder, parts)
}

function asFinding(error: unknown): Finding {
  const { code, message, where, hint } = AppError.from(error)
  return { severity: 'error', code, message, where, ...(hint === null ? {} : { hint }) }
}

/** Megatron knows a distributed checkpoint by its metadata.json. */
async function* backendFindings(
  folder: Folder,
  { weights, dir, root, files }: MegatronFolder,
): AsyncGenerator<Finding, void, void> {
  if (weights.kind !== 'dist') return
  const file = `${dir}metadata.json`
  const where = { file }
  if (!files.has(file.slice(root.length))) {
    const message = `${file} is not there: Megatron takes the folder for torch_dcp, not for torch_dist`
    yield { severity: 'warning', code: 'no-backend', message, where }
    return
  }
  let json: JsonObject
  try {
    json = parseJsonObject(await readFile(folder, file, MAX_JSON_BYTES), file)
  } catch (error) {
    yield asFinding(error)
    return
  }
  const backend = json.get('sharded_backend')
  if (backend === 'torch_dist') return
  const message = `${file} says that tensors are stored by ${JSON.stringify(backend ?? null)}; they are by "torch_dist"`
  yield { severity: 'error', code: 'bad-index', message, where }
}

/** A type that is not that of the run. */
function* typeFindings({ weights, checkpoint }: LoadedMegatron): Generator<Finding, void, void> {
  const said = weights.args.get('params_dtype')
  const odd = weights.parts.filter(({ recipe }) => typeof said === 'string' && torchName(recipe.dtype) !== said)
  const [first] = odd
  // norms of higher precision are usual; a checkpoint of one other type was converted
  if (first === undefined || odd.length === weights.parts.length) return
  const names = new Set(odd.map(({ name }) => name))
  yield {
    severity: 'warning',
    code: 'dtype-mismatch',
    message: `The arguments of ${checkpoint.name} say ${String(said)}, but ${first.name}${names.size > 1 ? ` and ${names.size - 1} more` : ''} is ${first.recipe.dtype}`,
    where: { file: fileOf(first.recipe) ?? '', tensor: first.name },
  }
}

/** With tied weights the last stage has a copy of the embedding; anything else contradicts the tie. */
async function* tieFindings(
  folder: Folder,
  { weights, checkpoint }: LoadedMegatron,
): AsyncGenerator<Finding, void, void> {
  const head = weights.tensors.get(HEAD)
  const embedding = weights.tensors.get(EMBEDDING)
  if (!checkpoint.config.tied || head === undefined || embedding === undefined) return
  const alike = head.dtype === embedding.dtype && head.shape.join() === embedding.shape.join()
  const at = alike ? await differenceOf(folder, embedding, head) : { file: fileOf(head) ?? '' }
  if (at === null) return
  yield {
    severity: 'error',
    code: 'tie-contradicts',
    message: `The head is tied to the embedding, but ${HEAD} is another tensor`,
    where: { ...at, tensor: HEAD },
    hint: 'If the head was trained apart, set "tie_word_embeddings": false in the config.json (untie_embeddings_and_output_weights in the arguments).',
  }
}

/** What is not divided is the same on all ranks. */
async function* copyFindings(folder: Folder, { weights }: LoadedMegatron): AsyncGenerator<Finding, void, void> {
  for (const { name, one, other } of weights.copies) {
    const at = await differenceOf(folder, one, other)
    if (at === null) continue
    yield {
      severity: 'error',
      code: 'ranks-disagree',
      message: `${name} differs between ${fileOf(one) ?? ''} and ${at.file}, which should have the same`,
      where: { ...at, tensor: name },
      hint: 'The ranks are of different checkpoints: copy all files of one iteration.',
    }
  }
}

/** Where the second of two tensors of one shape differs from the first, as far as both lie in their files as they are. */
async function differenceOf(
  folder: Folder,
  one: Recipe,
  other: Recipe,
): Promise<{ readonly file: string; readonly offset: number } | null> {
  const [ones, others] = [[...readsOf(one)], [...readsOf(other)]]
  if (ones.length !== others.length) return null
  for (const [index, first] of ones.entries()) {
    const second = others[index]
    if (second === undefined || second.shape.join() !== first.shape.join()) return null
    const at = await firstDifference(folder, first, second)
    if (at !== null) return { file: second.file, offset: second.offset + at }
  }
  return null
}
