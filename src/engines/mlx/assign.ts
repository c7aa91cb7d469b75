/** Finds a model's tensors among those stored, and says all that is not as mlx-lm's strict loader wants it. */
import type { Role } from '../../core/checkpoint.ts'
import type { DType } from '../../core/dtype.ts'
import type { ErrorCode, ErrorPlace } from '../../core/errors.ts'
import { dequantize, reshape, schemeFields, slice, type Recipe } from '../../core/tensor.ts'
import type { StoredTensor } from '../containers/safetensors-files.ts'
import type { MlxModel, MlxTensor } from './names.ts'
import { FIELDS, schemeOf, type MlxQuant, type Quantization } from './quantization.ts'

/** One thing that is wrong. */
export interface Fault {
  readonly code: ErrorCode
  readonly message: string
  readonly where: ErrorPlace
  readonly hint: string
}

export interface Assigned {
  readonly tensors: ReadonlyMap<Role, Recipe>
  readonly faults: readonly Fault[]
  /** Stored tensors that the model has no place for. */
  readonly extra: readonly string[]
}

const FLOATS: ReadonlySet<DType> = new Set(['f32', 'f16', 'bf16'])

/** Looks up every tensor of the model; `file` is where the quantisation is told. */
export function assignTensors(
  model: MlxModel,
  stored: ReadonlyMap<string, StoredTensor>,
  quantization: Quantization | null,
  file: string,
): Assigned {
  const tensors = new Map<Role, Recipe>()
  const faults: Fault[] = []
  const used = new Set<string>()
  for (const tensor of model.tensors) {
    const quant = tensor.matrix ? quantOf(tensor, stored, quantization, file, faults) : null
    const names = quant === null ? [tensor.name] : quantNames(tensor, quant)
    for (const name of names) used.add(name)
    const whole = quant === null ? plain(tensor, stored, faults) : quantized(tensor, quant, stored, faults, file)
    if (whole === null) continue
    for (const [index, role] of tensor.roles.entries()) {
      // a tied head that mlx-lm wants for itself comes second: the embedding is the role's tensor
      if (!tensors.has(role)) tensors.set(role, tensor.roles.length === 1 ? whole(null) : whole(index))
    }
  }
  return { tensors, faults, extra: [...stored.keys()].filter((name) => !used.has(name)) }
}

/** Makes the recipe of one expert of a stack, or of the whole. */
type Take = (expert: number | null) => Recipe

/** How a module is quantised, by mlx-lm's rule: its own key, or whether there are scales. */
function quantOf(
  { module, shape }: MlxTensor,
  stored: ReadonlyMap<string, StoredTensor>,
  quantization: Quantization | null,
  file: string,
  faults: Fault[],
): MlxQuant | null {
  const scales = stored.get(`${module}.scales`)
  if (quantization === null) {
    if (scales === undefined) return null
    faults.push({
      code: 'malformed',
      message: `${module} is quantised, but ${file} says nothing of how`,
      where: { file: scales.file, tensor: `${module}.scales` },
      hint: 'Bits and group size cannot be told from the weights alone: get the config.json that belongs to them.',
    })
    return null
  }
  const own = quantization.modules.get(module)
  const quant =
    own === undefined ? (scales === undefined ? null : quantization.all) : own === true ? quantization.all : own
  if (quant === null || quant === false) return null
  const columns = shape.at(-1) ?? 0
  if (columns % quant.group === 0) return quant
  faults.push({
    code: 'bad-tensor',
    message: `${module} has rows of ${columns}, which are not whole groups of ${quant.group}`,
    where: { file, tensor: `${module}.weight` },
    hint: 'The group_size in config.json is not the one that the weights were made with.',
  })
  return null
}

function quantNames({ module, shape }: MlxTensor, quant: MlxQuant): readonly string[] {
  return Object.keys(schemeFields(schemeOf(quant), shape, 'f32')).map((field) => `${module}.${FIELDS[field] ?? field}`)
}

function plain(tensor: MlxTensor, stored: ReadonlyMap<string, StoredTensor>, faults: Fault[]): Take | null {
  const found = lookUp(tensor.name, tensor.shape, stored, faults, null)
  if (found === null) return null
  if (!FLOATS.has(found.dtype)) {
    faults.push({
      code: 'bad-tensor',
      message: `${tensor.name} is stored as ${found.dtype}, which weights never are`,
      where: { file: found.file, offset: found.offset, tensor: tensor.name },
      hint: `If it is quantised, ${tensor.module}.scales is missing, or config.json does not say so.`,
    })
    return null
  }
  return (expert) => one(found, expert)
}

function quantized(
  { module, shape }: MlxTensor,
  quant: MlxQuant,
  stored: ReadonlyMap<string, StoredTensor>,
  faults: Fault[],
  file: string,
): Take | null {
  const scheme = schemeOf(quant)
  const hint = `${file} says ${quant.bits} bits in groups of ${quant.group} (${quant.mode}): are config.json and weights of the same model?`
  const parts = new Map<string, StoredTensor>()
  const fields = Object.entries(schemeFields(scheme, shape, 'f32'))
  for (const [field, info] of fields) {
    const name = `${module}.${FIELDS[field] ?? field}`
    const found = lookUp(name, info.shape, stored, faults, hint)
    if (found === null) continue
    const good = info.dtype === 'f32' ? FLOATS.has(found.dtype) : found.dtype === info.dtype
    if (good) parts.set(field, found)
    else {
      faults.push({
        code: 'bad-tensor',
        message: `${name} is stored as ${found.dtype}, not ${info.dtype === 'f32' ? 'as a float' : `as ${info.dtype}`}`,
        where: { file: found.file, offset: found.offset, tensor: name },
        hint,
      })
    }
  }
  if (parts.size < fields.length) return null
  return (expert) => {
    const own = [...parts].map(([field, recipe]): [string, Recipe] => [field, one(recipe, expert)])
    return dequantize(scheme, expert === null ? shape : shape.slice(1), Object.fromEntries(own))
  }
}

/** One expert's part of a stacked tensor. */
function one(recipe: Recipe, expert: number | null): Recipe {
  return expert === null ? recipe : reshape(slice(recipe, 0, expert, 1), recipe.shape.slice(1))
}

function lookUp(
  name: string,
  shape: readonly number[],
  stored: ReadonlyMap<string, StoredTensor>,
  faults: Fault[],
  hint: string | null,
): StoredTensor | null {
  const found = stored.get(name)
  if (found === undefined) {
    faults.push({
      code: 'missing-tensor',
      message: `The weights lack ${name}`,
      where: { tensor: name },
      hint: hint ?? 'The model is incomplete, or config.json is of another one.',
    })
    return null
  }
  if (found.shape.join() === shape.join()) return found
  faults.push({
    code: 'bad-tensor',
    message: `${name} has the shape [${found.shape.join(', ')}] instead of [${shape.join(', ')}]`,
    where: { file: found.file, offset: found.offset, tensor: name },
    hint: hint ?? 'Config and weights are of different models: get both from the same place.',
  })
  return null
}
