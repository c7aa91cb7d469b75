import type { ModelConfig, Role } from '../../core/checkpoint.ts'
import type { DType } from '../../core/dtype.ts'
import { AppError } from '../../core/errors.ts'
import type { Finding } from '../../core/plan.ts'
import { transpose, type Recipe } from '../../core/tensor.ts'
import { expectedTensors, storedShape, type Architecture, type ExpectedTensor } from '../../models/architecture.ts'
import type { Dequantizer } from '../transformers/dequantize.ts'
import { listed, LISTED, type StoredTensor, type StoredWeights } from '../containers/safetensors-files.ts'

export interface RoleTensors {
  readonly tensors: ReadonlyMap<Role, Recipe>
  readonly findings: readonly Finding[]
}

/** What kernels convert from. */
const WEIGHT_TYPES: ReadonlySet<DType> = new Set(['f32', 'f16', 'bf16'])

const EMBEDDING: Role = 'embed.weight'
const HEAD: Role = 'lm_head.weight'

/**
 * The stored tensors by role. Throws `missing-tensor` and `bad-tensor` where they are not what the configuration says;
 * what it does not name is left out, with a finding. `dequantizer` knows those that are stored quantised, if any are.
 */
export function assignRoles(
  stored: StoredWeights,
  architecture: Architecture,
  config: ModelConfig,
  dequantizer: Dequantizer | null = null,
): RoleTensors {
  const expected = expectedTensors(architecture, config)
  const nameOf = namer(stored, architecture)
  const findings: Finding[] = []
  const tensors = new Map<Role, Recipe>()
  const missing: ExpectedTensor[] = []
  const used = new Set<string>()
  for (const row of expected) {
    const quantized = dequantizer === null ? null : quantizedOf(row, nameOf, dequantizer)
    if (quantized !== null) {
      tensors.set(row.role, quantized)
      continue
    }
    const name = [row.hf, ...row.aliases].map(nameOf).find((candidate) => stored.tensors.has(candidate))
    const tensor = name === undefined ? undefined : stored.tensors.get(name)
    if (name === undefined || tensor === undefined) {
      if (!row.optional) missing.push(row)
      continue
    }
    used.add(name)
    requireShape(tensor, name, row, config)
    requireWeights(tensor, name)
    const recipe = stored.views.get(name)?.() ?? tensor
    tensors.set(row.role, row.transposed ? transpose(recipe) : recipe)
  }
  if (missing.length > 0) throw missingTensors(missing, stored, architecture, config)
  const head = nameOf(headName(architecture))
  if (config.tied && stored.tensors.has(head)) {
    used.add(head)
    if (!isSamePlace(stored.tensors.get(head), tensors.get(EMBEDDING)))
      findings.push({
        severity: 'warning',
        code: 'tie-ignored',
        message: `config.json ties the head to the embedding, so ${head} is not used, whatever it holds`,
        where: { file: stored.tensors.get(head)?.file ?? '', tensor: head },
        hint: 'If the head was trained apart, set "tie_word_embeddings": false in config.json.',
      })
  }
  const ignored = [...stored.tensors.keys()].filter(
    (name) =>
      !used.has(name) &&
      dequantizer?.used.has(name) !== true &&
      !architecture.ignored.some((pattern) => pattern.test(name)),
  )
  const beyond = ignored.filter((name) => predicts(name, config))
  if (beyond.length > 0) {
    findings.push({
      severity: 'info',
      code: 'prediction-left-out',
      message: `${listed(beyond)} predict further tokens (multi-token prediction) and are left out: the model runs without them`,
      where: { file: stored.tensors.get(beyond[0] ?? '')?.file ?? '', tensor: beyond[0] ?? '' },
    })
  }
  const unknown = ignored.filter((name) => !beyond.includes(name))
  const [first] = unknown
  if (first !== undefined) {
    findings.push({
      severity: 'warning',
      code: 'tensor-ignored',
      message: `The architecture has no place for ${listed(unknown)}: left out`,
      where: { file: stored.tensors.get(first)?.file ?? '', tensor: first },
    })
  }
  return { tensors, findings: [...findings, ...(dequantizer?.findings() ?? [])] }
}

/** Whether a tensor is of the blocks behind the last, which models have that were trained to predict several tokens. */
function predicts(name: string, { raw, layers }: ModelConfig): boolean {
  const block = /^(?:model\.)?layers\.(\d+)\./.exec(name)?.[1]
  const more = raw.get('num_nextn_predict_layers')
  return block !== undefined && typeof more === 'number' && Number(block) >= layers && Number(block) < layers + more
}

/** Quantised weights are matrices [outputs, inputs], those of transposed layers too. */
function quantizedOf(row: ExpectedTensor, nameOf: (hf: string) => string, dequantizer: Dequantizer): Recipe | null {
  for (const hf of [row.hf, ...row.aliases]) {
    const recipe = dequantizer.recipe(nameOf(hf), row.shape)
    if (recipe !== null) return recipe
  }
  return null
}

/** PyTorch's own files hold a tied tensor under both names, once. */
function isSamePlace(a: StoredTensor | undefined, b: Recipe | undefined): boolean {
  return b?.op === 'read' && a?.file === b.file && a.offset === b.offset && a.shape.join() === b.shape.join()
}

function headName(architecture: Architecture): string {
  return architecture.tensors.find((row) => row.role === HEAD)?.hf ?? HEAD
}

/** How the checkpoint spells the names: those of a headless class lack the prefix that the others share. */
function namer(stored: StoredWeights, architecture: Architecture): (hf: string) => string {
  const embedding = architecture.tensors.find((row) => row.role === EMBEDDING)?.hf ?? ''
  const prefix = embedding.slice(0, embedding.indexOf('.') + 1)
  const bare = embedding.slice(prefix.length)
  if (stored.tensors.has(embedding) || !stored.tensors.has(bare)) return (hf) => hf
  return (hf) => (hf.startsWith(prefix) ? hf.slice(prefix.length) : hf)
}

function requireShape(tensor: StoredTensor, name: string, row: ExpectedTensor, config: ModelConfig): void {
  const expected = storedShape(row)
  if (tensor.shape.length === expected.length && tensor.shape.every((size, axis) => size === expected[axis])) return
  const rows = tensor.shape[0]
  const vocabulary = (row.role === EMBEDDING || row.role === HEAD) && tensor.shape[1] === row.shape[1]
  throw new AppError(
    'bad-tensor',
    `${name} has the shape [${tensor.shape.join(', ')}]; config.json makes it [${expected.join(', ')}]`,
    {
      where: { file: tensor.file, offset: tensor.offset, tensor: name },
      hint: vocabulary
        ? `config.json says vocab_size ${config.vocabSize}, but there are ${rows} rows: set vocab_size to ${rows}.`
        : 'Config and weights are of different models: get both from the same place.',
    },
  )
}

function requireWeights(tensor: StoredTensor, name: string): void {
  if (WEIGHT_TYPES.has(tensor.dtype)) return
  const where = { file: tensor.file, offset: tensor.offset, tensor: name }
  if (tensor.dtype.startsWith('f')) {
    throw new AppError('unsupported', `${name} is stored as ${tensor.dtype}, which cannot be read yet`, {
      where,
      hint: 'Save the model as F32, F16 or BF16 first.',
    })
  }
  throw new AppError('bad-tensor', `${name} is stored as ${tensor.dtype}, which weights never are`, {
    where,
    hint: 'The model may be quantised: use the one it was made from.',
  })
}

function missingTensors(
  missing: readonly ExpectedTensor[],
  stored: StoredWeights,
  architecture: Architecture,
  config: ModelConfig,
): AppError {
  const names = missing.map((row) => row.hf)
  const onlyHead = names.length === 1 && missing[0]?.role === HEAD
  const found = [...stored.tensors.keys()].slice(0, LISTED).join(', ')
  const hint = onlyHead
    ? `config.json does not tie the head to the embedding. If the model shares them, set "tie_word_embeddings": true; a ${architecture.baseClassName} without a head cannot be converted.`
    : found === ''
      ? 'The weights are empty.'
      : `${config.className} of ${config.layers} layers needs them. The weights hold ${found} and so on: is config.json of the same model?`
  return new AppError('missing-tensor', `The weights lack ${listed(names)}`, {
    where: { file: stored.files[0] ?? '', tensor: names[0] ?? '' },
    hint,
  })
}
