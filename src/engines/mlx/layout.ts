/** Plans an MLX folder: shards in the order of mlx-lm's module tree, its index, its config.json. */
import { requireArchitecture, type Checkpoint } from '../../core/checkpoint.ts'
import { dtypeInfo, elementCount, type DType } from '../../core/dtype.ts'
import { AppError } from '../../core/errors.ts'
import type { Json } from '../../core/json.ts'
import type { OptionValues } from '../../core/option.ts'
import type { Finding, Plan, PlannedFile, Segment } from '../../core/plan.ts'
import {
  cast,
  concat,
  part,
  quantize,
  readsOf,
  reshape,
  tensorBytes,
  type Recipe,
  type GroupScheme,
  type Scheme,
  type TensorInfo,
} from '../../core/tensor.ts'
import { architectureFor } from '../../models/index.ts'
import { divide } from '../../models/parts.ts'
import { listed } from '../containers/safetensors-files.ts'
import { compareUtf8, safetensorsHeader } from '../containers/safetensors.ts'
import { bytesFile, isCastable, shardSizeOf } from '../containers/shards.ts'
import { companionFiles } from '../transformers/companions.ts'
import { CONFIG_FILE } from '../transformers/files.ts'
import { MODEL_CARD } from '../transformers/model-card.ts'
import { configJson } from '../transformers/write-config.ts'
import { mlxConfig, pythonJson } from './config.ts'
import { mlxModel, type MlxModel, type MlxTensor } from './names.ts'
import { dtypeChoice, quantizerFor } from './options.ts'
import { FIELDS, schemeOf } from './quantization.ts'

const METADATA: ReadonlyMap<string, string> = new Map([['format', 'mlx']])

/** A module's tensors, which stay in one file: the segments that make them, from an offset on. */
interface Unit {
  readonly tensors: readonly (TensorInfo & { readonly name: string })[]
  readonly bytes: number
  segments(offset: number): readonly Segment[]
  /** Bytes that it is made from. */
  readonly reads: number
}

/** The plan of a folder. Throws `unsupported` for models that mlx-lm has no class for, `bad-option`. */
export async function planMlx(checkpoint: Checkpoint, options: OptionValues): Promise<Plan> {
  requireArchitecture(checkpoint, 'an MLX model')
  const { config } = checkpoint
  const architecture = await architectureFor(checkpoint.architecture, checkpoint.name)
  const model = mlxModel(architecture, config)
  const divided = { ...checkpoint, tensors: divide(architecture, config, checkpoint.tensors) }
  const quantizer = quantizerFor(model, config.layers, options)
  const dtype = dtypeChoice(options) ?? ownType(config.dtype)
  const findings: Finding[] = []
  const units: Unit[] = []
  const whole: string[] = []
  for (const tensor of model.tensors) {
    const quant = quantizer.of(tensor)
    const sources = tensor.roles.map((role) => sourceOf(divided, role))
    if (quant !== null) units.push(quantizedUnit(tensor, sources, schemeOf(quant), dtype))
    else units.push(plainUnit(tensor, sources, dtype))
    if (quant === null && tensor.matrix && quantizer.quantization !== null) whole.push(tensor.module)
  }
  findings.push(...windowFindings(checkpoint, model), ...yarnFindings(checkpoint))
  if (whole.length > 0) findings.push(wholeFinding(whole))
  const shards = splitUnits(units, shardSizeOf(options))
  const weights = shards.map((shard, at) => shardFile(shard, shardName(at, shards.length)))
  const hf = configJson(checkpoint, architecture, dtype)
  const parameters = model.tensors.reduce((sum, { shape }) => sum + elementCount(shape), 0)
  const companions = companionFiles(checkpoint, findings)
  const files = [
    ...weights,
    ...companions,
    ...(companions.some(({ path }) => path === MODEL_CARD) ? [] : [bytesFile(MODEL_CARD, CARD)]),
    indexFile(shards, parameters),
    bytesFile(CONFIG_FILE, pythonJson(mlxConfig(hf, config, architecture, model, quantizer.quantization))),
  ]
  const copied = files.slice(weights.length).flatMap(({ segments }) => segments)
  return {
    target: 'mlx',
    stages: [],
    files,
    findings,
    readBytes:
      units.reduce((sum, { reads }) => sum + reads, 0) +
      copied.reduce((sum, segment) => sum + (segment.kind === 'tensor' ? readBytes(segment.recipe) : 0), 0),
    writeBytes: files.reduce((sum, { size }) => sum + size, 0),
  }
}

/** What the Hub shows of a model, in the words of mlx-lm. */
const CARD = '---\nlibrary_name: mlx\npipeline_tag: text-generation\ntags:\n- mlx\n---\n'

/** A type that MLX computes in. */
function ownType(declared: DType): DType {
  if (declared === 'bf16' || declared === 'f16' || declared === 'f32') return declared
  return declared === 'f64' ? 'f32' : 'bf16'
}

function sourceOf({ tensors, config }: Checkpoint, role: string): Recipe {
  const recipe = tensors.get(role)
  if (recipe === undefined) {
    throw new AppError('missing-tensor', `The checkpoint has no ${role}, which ${config.className} needs`, {
      where: { tensor: role },
      hint: 'The checkpoint is incomplete. Download it again.',
    })
  }
  if (isCastable(recipe.dtype)) return recipe
  throw new AppError('unsupported', `${role} is stored as ${recipe.dtype}, which cannot be converted yet`, {
    where: { tensor: role },
    hint: 'Save the model as F32, F16 or BF16 first.',
  })
}

/** What mlx-lm leaves in its own type: it decides which experts are taken. */
const KEPT = /\.e_score_correction_bias$/

/** Experts along a new first axis. */
function stacked(recipes: readonly Recipe[], tensor: MlxTensor): Recipe {
  const [only] = recipes
  if (only !== undefined && tensor.roles.length === 1) return only
  return concat(
    recipes.map((recipe) => reshape(recipe, [1, ...recipe.shape])),
    0,
  )
}

function plainUnit(tensor: MlxTensor, sources: readonly Recipe[], dtype: DType): Unit {
  return tensorsUnit([
    {
      name: tensor.name,
      recipe: stacked(
        sources.map((source) => (KEPT.test(tensor.name) ? source : cast(source, dtype))),
        tensor,
      ),
    },
  ])
}

function tensorsUnit(tensors: readonly { readonly name: string; readonly recipe: Recipe }[]): Unit {
  return {
    tensors: tensors.map(({ name, recipe }) => ({ name, dtype: recipe.dtype, shape: recipe.shape })),
    bytes: tensors.reduce((sum, { recipe }) => sum + tensorBytes(recipe), 0),
    reads: tensors.reduce((sum, { recipe }) => sum + readBytes(recipe), 0),
    segments(offset) {
      let end = offset
      return tensors.map(({ name, recipe }): Segment => {
        const size = tensorBytes(recipe)
        end += size
        return { kind: 'tensor', offset: end - size, size, name, recipe }
      })
    },
  }
}

/** Codes, scales and biases of one evaluation; those of the source as they are where it has the same. */
function quantizedUnit(tensor: MlxTensor, sources: readonly Recipe[], scheme: GroupScheme, dtype: DType): Unit {
  const copied = sameParts(tensor, sources, scheme, dtype)
  if (copied !== null) return tensorsUnit(copied)
  const of = stacked(
    sources.map((source) => cast(source, dtype)),
    tensor,
  )
  const producer = quantize(of, scheme, dtype)
  const outputs = Object.keys(producer.fields).map((field) => ({ field, name: fieldName(tensor, field) }))
  const tensors = outputs.map(({ field, name }) => {
    const { dtype: stored, shape } = part(producer, field)
    return { name, dtype: stored, shape }
  })
  const bytes = tensors.reduce((sum, info) => sum + tensorBytes(info), 0)
  return {
    tensors,
    bytes,
    reads: readBytes(of),
    segments: (offset) => [{ kind: 'outputs', offset, size: bytes, producer, outputs }],
  }
}

function fieldName({ module }: MlxTensor, field: string): string {
  return `${module}.${FIELDS[field] ?? field}`
}

/** The source's own parts, if it is quantised in the way that is asked for. */
function sameParts(
  tensor: MlxTensor,
  sources: readonly Recipe[],
  scheme: Scheme,
  dtype: DType,
): readonly { readonly name: string; readonly recipe: Recipe }[] | null {
  const parts = sources.map((source) =>
    source.op === 'dequantize' && sameScheme(source.scheme, scheme) ? source.parts : null,
  )
  const fields = Object.keys(parts[0] ?? {})
  const columns: { readonly name: string; readonly recipe: Recipe }[] = []
  for (const field of fields) {
    const recipes = parts.flatMap((own) => own?.[field] ?? [])
    const typed = recipes.every((recipe) => dtypeInfo(recipe.dtype).kind === 'int' || recipe.dtype === dtype)
    if (recipes.length < sources.length || !typed) return null
    columns.push({ name: fieldName(tensor, field), recipe: stacked(recipes, tensor) })
  }
  return columns.length === 0 ? null : columns
}

function sameScheme(a: Scheme, b: Scheme): boolean {
  return a.kind === b.kind && (a.kind !== 'affine' || (b.kind === 'affine' && a.bits === b.bits && a.group === b.group))
}

function readBytes(recipe: Recipe): number {
  let sum = 0
  for (const source of readsOf(recipe)) sum += tensorBytes(source)
  return sum
}

function windowFindings({ config }: Checkpoint, { windowed }: MlxModel): readonly Finding[] {
  const { slidingWindow, contextLength } = config
  if (windowed || slidingWindow === null || slidingWindow >= contextLength) return []
  return [
    {
      severity: 'info',
      code: 'window-ignored',
      message: `mlx-lm lets every position see all before it: beyond ${slidingWindow} tokens results differ from the original's sliding window`,
    },
  ]
}

function yarnFindings({ config }: Checkpoint): readonly Finding[] {
  const { scaling } = config.rope
  if (scaling.kind !== 'yarn' || scaling.truncate !== false) return []
  return [
    {
      severity: 'info',
      code: 'yarn-truncate-ignored',
      message:
        'The model does not round the bounds of its YaRN (truncate false); mlx-lm always does: logits differ a little',
    },
  ]
}

function wholeFinding(modules: readonly string[]): Finding {
  return {
    severity: 'info',
    code: 'not-quantised',
    message: `Not quantised, since rows are not whole groups or by your choice: ${listed(modules)}`,
    where: { tensor: `${modules[0] ?? ''}.weight` },
  }
}

/** Greedy, in order; what is larger alone gets a file of its own. A module is not torn apart, unlike in mlx-lm. */
function splitUnits(units: readonly Unit[], limit: number): readonly (readonly Unit[])[] {
  const shards: Unit[][] = []
  let current: Unit[] = []
  let size = 0
  for (const unit of units) {
    if (current.length > 0 && size + unit.bytes > limit) {
      shards.push(current)
      current = []
      size = 0
    }
    current.push(unit)
    size += unit.bytes
  }
  shards.push(current)
  return shards
}

/** Shards are numbered with five digits. */
const MAX_SHARDS = 99_999

function shardName(at: number, count: number): string {
  if (count === 1) return 'model.safetensors'
  if (count > MAX_SHARDS) {
    throw new AppError('bad-option', `--max-shard-size would make ${count} files of these weights`, {
      hint: 'Take a larger size.',
    })
  }
  const digits = (value: number): string => String(value).padStart(5, '0')
  return `model-${digits(at + 1)}-of-${digits(count)}.safetensors`
}

/** Alignment up to which units are sorted, so that each starts on a multiple of its elements' size. */
const ALIGNMENT = 8

function alignmentOf({ bytes }: Unit): number {
  let alignment = ALIGNMENT
  while (bytes % alignment !== 0) alignment /= 2
  return alignment
}

function shardFile(units: readonly Unit[], path: string): PlannedFile {
  const placed = units.toSorted((a, b) => alignmentOf(b) - alignmentOf(a))
  const header = safetensorsHeader(
    placed.flatMap(({ tensors }) => tensors),
    METADATA,
    'given',
  )
  const segments: Segment[] = [{ kind: 'bytes', offset: 0, bytes: header.bytes }]
  let size = header.bytes.length
  for (const unit of placed) {
    if (unit.bytes > 0) segments.push(...unit.segments(size))
    size += unit.bytes
  }
  return { path, size, segments }
}

/** Written even where there is one file only, as mlx-lm does. */
function indexFile(shards: readonly (readonly Unit[])[], parameters: number): PlannedFile {
  const files = new Map(
    shards.flatMap((units, at) =>
      units.flatMap(({ tensors }) => tensors.map(({ name }): [string, Json] => [name, shardName(at, shards.length)])),
    ),
  )
  const metadata = new Map<string, Json>([
    ['total_size', shards.flat().reduce((sum, { bytes }) => sum + bytes, 0)],
    ['total_parameters', parameters],
  ])
  const index = new Map<string, Json>([
    ['metadata', metadata],
    ['weight_map', new Map([...files].sort(([a], [b]) => compareUtf8(a, b)))],
  ])
  return bytesFile('model.safetensors.index.json', pythonJson(index))
}
