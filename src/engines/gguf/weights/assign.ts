import { dtypeInfo, elementCount, requiresImportance, takesImportance, type DType } from '../../../core/dtype.ts'
import { AppError } from '../../../core/errors.ts'
import type { Finding } from '../../../core/plan.ts'
import { cast, literalF32, type Recipe } from '../../../core/tensor.ts'
import type { GgufValue } from '../../containers/gguf/types.ts'
import type { Placed } from '../lay.ts'
import { chooseTypes, type Choice, type MixModel } from './mix.ts'
import type { Mix } from './mixes.ts'
import type { Importances, WeightOptions } from './options.ts'
import { writableDType, type WeightType } from './types.ts'

/**
 * The tensors of a file in the types that a mixture gives them, or those of `chosen`. `keep` is the type of those that are never quantised.
 * Throws `unsupported` for types that cannot be written, and for those that need importances and have none.
 */
export function typeWeights(
  mix: Mix,
  { settings, importances }: WeightOptions,
  model: MixModel,
  tensors: readonly Placed[],
  keep: (tensor: Placed) => DType,
  findings: Finding[],
  chosen: ReadonlyMap<string, DType> = new Map(),
): readonly Placed[] {
  const seen = tensors.map(({ name, recipe }) => ({ name, shape: recipe.shape }))
  const choices = chooseTypes(mix, model, seen, settings)
  let weighted = 0
  const lacking: string[] = []
  const placed = tensors.map((tensor): Placed => {
    const { name, recipe } = tensor
    const choice = choices.get(name)
    if (choice === undefined || choice.type === null) return { name, recipe: converted(recipe, keep(tensor)) }
    const free = chosen.get(name)
    if (free === undefined) noteChoice(name, recipe.shape, choice, findings)
    const dtype = free ?? writable(choice.type, name)
    const importance = importances === null ? null : importanceFor(tensor, dtype, importances)
    const needed = requiresImportance(dtype) || (free === undefined && choice.needsImportance)
    if (importance === null && needed && recipe.dtype !== dtype) throw importanceNeeded(name, choice.type, importances)
    if (importance !== null) weighted++
    else if (takesImportance(dtype) && recipe.dtype !== dtype) lacking.push(name)
    return { name, recipe: converted(recipe, dtype, importance) }
  })
  if (importances !== null) findings.push(...importanceFindings(importances, weighted, lacking))
  return placed
}

/** Kernels go from and to F32: between two block types, or from one to a shorter float, it lies in the middle. */
export function converted(of: Recipe, type: DType, importance: Recipe | null = null): Recipe {
  if (of.dtype === type) return of
  return cast(dtypeInfo(of.dtype).kind === 'quant' ? cast(of, 'f32') : of, type, importance ?? undefined)
}

function writable(type: WeightType, name: string): DType {
  const dtype = writableDType(type)
  if (dtype !== null) return dtype
  throw new AppError('unsupported', `${name} would be ${type.toUpperCase()}, which cannot be written yet`, {
    where: { tensor: name },
    hint: 'Choose another mixture, or give this tensor a type with --tensor-type.',
  })
}

/** A matrix's importances, if the type (null for any) heeds them and the file has some. Throws `malformed` if there are too few or too many. */
export function importanceFor({ name, recipe }: Placed, dtype: DType | null, { of, file }: Importances): Recipe | null {
  if (dtype !== null && (!takesImportance(dtype) || recipe.dtype === dtype)) return null
  const found = of.get(name)
  if (found === undefined) return null
  const shape = recipe.shape.filter((_, axis) => axis !== recipe.shape.length - 2)
  if (found.length === elementCount(shape)) return literalF32(shape, found)
  // the embedding's are those of another place where it is the output matrix too
  if (name === 'token_embd.weight') return null
  const wanted = `${elementCount(shape)} for a shape of [${recipe.shape.join(', ')}]`
  throw new AppError('malformed', `${file} has ${found.length} importances for ${name}, not ${wanted}`, {
    where: { file, tensor: name },
    hint: 'It was made with another model. Make one with this model.',
  })
}

function importanceNeeded(name: string, type: WeightType, importances: Importances | null): AppError {
  const title = type.toUpperCase()
  const message =
    importances === null
      ? `${title} is worthless without an importance matrix, and ${name} would be ${title}`
      : `${importances.file} has no importances for ${name}, and ${title} is worthless without`
  return new AppError('unsupported', message, {
    where: { tensor: name },
    hint: 'Give one with --imatrix: llama-imatrix of llama.cpp makes it from some text. Or choose a larger type.',
  })
}

/** What a file of importances holds, and which of the matrices that would heed it are not in it. */
function importanceFindings(
  { of, file, source }: Importances,
  weighted: number,
  lacking: readonly string[],
): readonly Finding[] {
  const { datasets, chunkCount, chunkSize } = source
  const chunks = chunkCount === 0 ? '' : `${chunkCount} chunks${chunkSize === 0 ? '' : ` of ${chunkSize} tokens`}`
  const texts = datasets.join(', ')
  const on = texts === '' || chunks === '' ? texts + chunks : `${chunks} from ${texts}`
  const about = { where: { file }, option: 'imatrix' } as const
  const whole: Finding = {
    ...about,
    severity: weighted === 0 ? 'warning' : 'info',
    code: 'importance',
    message: `${file} has ${of.size} entries${on === '' ? '' : `, measured on ${on}`}: ${weighted} matrices are rounded by it`,
    ...(weighted === 0 ? { hint: 'No name in it is that of a matrix that would heed it: is it of this model?' } : {}),
  }
  if (weighted === 0) return [whole]
  const missing = lacking.map((name): Finding => {
    const usual = name === 'token_embd.weight' || name === 'output.weight'
    const message = `${name} has no entry in ${file}${usual ? ', as is usual,' : ''} and is rounded without`
    return { ...about, severity: usual ? 'info' : 'warning', code: 'no-importance', message }
  })
  return [whole, ...missing]
}

/** Says where a tensor's type is not what its mixture would give it. */
function noteChoice(name: string, shape: readonly number[], { type, wanted }: Choice, findings: Finding[]): void {
  if (type === wanted || type === null || wanted === null) return
  findings.push({
    severity: 'warning',
    code: 'row-fallback',
    message:
      `${name} is ${type.toUpperCase()} instead of ${wanted.toUpperCase()}: ` +
      `its rows of ${shape.at(-1)} are not whole blocks`,
    where: { tensor: name },
    hint: 'llama.cpp does the same. The file is a little larger for it.',
  })
}

/** What llama-quantize writes of the importances. */
export function importanceMetadata(importances: Importances | null): readonly (readonly [string, GgufValue])[] {
  if (importances === null) return []
  const { file, of, source } = importances
  const [dataset] = source.datasets
  const keys: [string, GgufValue][] = [['quantize.imatrix.file', { type: 'string', value: file }]]
  if (dataset !== undefined) keys.push(['quantize.imatrix.dataset', { type: 'string', value: dataset }])
  keys.push(['quantize.imatrix.entries_count', { type: 'u32', value: of.size }])
  if (source.chunkCount > 0) keys.push(['quantize.imatrix.chunks_count', { type: 'u32', value: source.chunkCount }])
  return keys
}
