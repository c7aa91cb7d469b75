/** Plans safetensors files: one, or shards with an index, as huggingface_hub splits and names them. */
import type { Checkpoint } from '../../core/checkpoint.ts'
import { dtypeInfo, elementCount, type DType } from '../../core/dtype.ts'
import { AppError } from '../../core/errors.ts'
import type { OptionSpec, OptionValues } from '../../core/option.ts'
import type { Finding, PlannedFile, Segment } from '../../core/plan.ts'
import { cast, inputsOf, readsOf, tensorBytes, transpose, type Recipe } from '../../core/tensor.ts'
import { listed } from './safetensors-files.ts'
import { compareUtf8, safetensorsHeader } from './safetensors.ts'

/** A tensor and the name it will have. */
export interface NamedTensor {
  readonly name: string
  readonly recipe: Recipe
}

/** The files of a checkpoint's weights. */
export interface ShardFiles {
  readonly weights: readonly PlannedFile[]
  /** What says which tensor is in which file; null where there is only one. */
  readonly index: PlannedFile | null
}

/** Bytes of tensors in a file before another is begun, where nobody says otherwise: transformers 4's default. */
const DEFAULT_SHARD_SIZE = '5GB'

/** Shards are numbered with five digits. */
const MAX_SHARDS = 99_999

/** `--max-shard-size`, for every format that is written as safetensors. */
export const SHARD_OPTION: OptionSpec = {
  name: 'max-shard-size',
  title: 'Largest file',
  help: 'Weights beyond this size are split into several files: 5GB, 500MB (decimal) or 2GiB (binary).',
  kind: { kind: 'text', default: DEFAULT_SHARD_SIZE },
}

const UNITS: ReadonlyMap<string, number> = new Map([
  ['', 1],
  ['B', 1],
  ...['K', 'M', 'G', 'T'].flatMap((letter, index): [string, number][] => [
    [`${letter}B`, 1000 ** (index + 1)],
    [`${letter}IB`, 1024 ** (index + 1)],
  ]),
])

/** `5GB` (decimal), `2GiB` (binary), or plain bytes, as a number of bytes. Throws `bad-option`. */
export function parseShardSize(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([a-z]*)$/i.exec(text.trim())
  const unit = UNITS.get((match?.[2] ?? '?').toUpperCase())
  const size = match === null || unit === undefined ? Number.NaN : Math.floor(Number(match[1]) * unit)
  if (Number.isSafeInteger(size) && size > 0) return size
  throw new AppError('bad-option', `--${SHARD_OPTION.name} cannot be ${JSON.stringify(text)}`, {
    hint: 'Give a size such as 5GB, 500MB or 2GiB.',
  })
}

/** The limit among a format's options. */
export function shardSizeOf(options: OptionValues): number {
  const text = options[SHARD_OPTION.name]
  return parseShardSize(typeof text === 'string' ? text : DEFAULT_SHARD_SIZE)
}

/**
 * Splits tensors, in the order given, into runs of at most `limit` bytes; one that is larger alone gets a file of its
 * own.
 */
export function splitShards<T extends NamedTensor>(tensors: readonly T[], limit: number): readonly (readonly T[])[] {
  const shards: T[][] = []
  let current: T[] = []
  let bytes = 0
  for (const tensor of tensors) {
    const size = tensorBytes(tensor.recipe)
    if (current.length > 0 && bytes + size > limit) {
      shards.push(current)
      current = []
      bytes = 0
    }
    current.push(tensor)
    bytes += size
  }
  if (current.length > 0 || shards.length === 0) shards.push(current)
  return shards
}

/** The files named `STEM.safetensors`, or `STEM-00001-of-00002.safetensors` and `STEM.safetensors.index.json`. */
export function planShards(
  tensors: readonly NamedTensor[],
  stem: string,
  limit: number,
  metadata: ReadonlyMap<string, string>,
): ShardFiles {
  const shards = splitShards(tensors, limit)
  if (shards.length > MAX_SHARDS) {
    throw new AppError('bad-option', `--${SHARD_OPTION.name} would make ${shards.length} files of these weights`, {
      hint: 'Take a larger size.',
    })
  }
  const [only, ...others] = shards
  if (only !== undefined && others.length === 0) {
    return { weights: [planFile(`${stem}.safetensors`, only, metadata)], index: null }
  }
  const digits = (value: number): string => String(value).padStart(5, '0')
  const name = (shard: number): string => `${stem}-${digits(shard + 1)}-of-${digits(shards.length)}.safetensors`
  const map = shards.flatMap((shard, at) => shard.map((tensor): [string, string] => [tensor.name, name(at)]))
  return {
    weights: shards.map((shard, at) => planFile(name(at), shard, metadata)),
    index: bytesFile(`${stem}.safetensors.index.json`, indexJson(tensors, map)),
  }
}

function indexJson(tensors: readonly NamedTensor[], map: readonly (readonly [string, string])[]): string {
  const sum = (of: (recipe: Recipe) => number): number => tensors.reduce((total, { recipe }) => total + of(recipe), 0)
  const metadata = { total_parameters: sum(({ shape }) => elementCount(shape)), total_size: sum(tensorBytes) }
  // written by hand: an object would put a name like "7" first, and lose "__proto__"
  const entries = map
    .toSorted(([a], [b]) => compareUtf8(a, b))
    .map(([tensor, file]) => `    ${JSON.stringify(tensor)}: ${JSON.stringify(file)}`)
  const head = JSON.stringify({ metadata }, null, 2).slice(0, -2)
  return `${head},\n  "weight_map": {\n${entries.join(',\n')}\n  }\n}\n`
}

function planFile(path: string, tensors: readonly NamedTensor[], metadata: ReadonlyMap<string, string>): PlannedFile {
  const recipes = new Map(tensors.map(({ name, recipe }) => [name, recipe]))
  const { bytes, entries } = safetensorsHeader(
    tensors.map(({ name, recipe }) => ({ name, dtype: recipe.dtype, shape: recipe.shape })),
    metadata,
  )
  const segments: Segment[] = [{ kind: 'bytes', offset: 0, bytes }]
  let size = bytes.length
  for (const entry of entries) {
    const recipe = recipes.get(entry.name)
    if (recipe === undefined || entry.bytes === 0) continue
    segments.push({ kind: 'tensor', offset: entry.offset, size: entry.bytes, name: entry.name, recipe })
    size = entry.offset + entry.bytes
  }
  return { path, size, segments }
}

/** A file of bytes known now. */
export function bytesFile(path: string, text: string): PlannedFile {
  const bytes = new TextEncoder().encode(text)
  return { path, size: bytes.length, segments: bytes.length === 0 ? [] : [{ kind: 'bytes', offset: 0, bytes }] }
}

/** A file carried over as it is, from its `u8` recipe. */
export function copiedFile(path: string, recipe: Recipe): PlannedFile {
  const size = tensorBytes(recipe)
  return { path, size, segments: size === 0 ? [] : [{ kind: 'tensor', offset: 0, size, name: path, recipe }] }
}

/** The `dtype` choice of what is written as safetensors; the first is the default. */
export const DTYPE_OPTION: OptionSpec = {
  name: 'dtype',
  title: 'Weights',
  help: 'The type that the weights are stored as.',
  kind: {
    kind: 'choice',
    choices: [
      {
        value: 'keep',
        title: 'Unchanged',
        help: 'Every weight bit for bit as it is; quantised ones become F32, which holds them exactly.',
        featured: true,
      },
      {
        value: 'f32',
        title: 'F32',
        help: 'Four bytes a weight and exact: for training, or for tools that take no other.',
      },
      { value: 'f16', title: 'F16', help: 'Two bytes a weight; runs on every GPU. A weight beyond 65504 is an error.' },
      {
        value: 'bf16',
        title: 'BF16',
        help: 'Two bytes a weight with the range of F32: what most models are trained in.',
      },
    ],
    default: 'keep',
  },
}

/** What `--dtype` names; null for `keep`. */
export function dtypeOption(options: OptionValues): 'f32' | 'f16' | 'bf16' | null {
  const value = options[DTYPE_OPTION.name]
  return value === 'f32' || value === 'f16' || value === 'bf16' ? value : null
}

/** The checkpoint as `keep` has it: what is computed in f32 from a smaller type goes back to that. `dtype` is what was asked for. */
export function withKeptTypes(checkpoint: Checkpoint, dtype: DType | null): Checkpoint {
  const { tensors, kept } = checkpoint
  if (dtype !== null || kept === undefined) return checkpoint
  return {
    ...checkpoint,
    tensors: new Map([...tensors].map(([role, recipe]) => [role, cast(recipe, kept.get(role) ?? recipe.dtype)])),
  }
}

/** Scalar types that kernels cast from. */
const CASTABLE: ReadonlySet<DType> = new Set(['f32', 'f16', 'bf16'])

/** Whether a tensor of this type can be stored as another. */
export function isCastable(dtype: DType): boolean {
  return CASTABLE.has(dtype) || dtypeInfo(dtype).kind === 'quant'
}

/**
 * Undoes the transposition that a reader made, without moving anything where it did. Blocks cannot be turned: those of a
 * quantised tensor are dequantised first.
 */
export function transposedBack(recipe: Recipe): Recipe {
  if (dtypeInfo(recipe.dtype).kind === 'quant') return transpose(cast(recipe, DEQUANTIZED))
  const back = transpose(recipe)
  return recipe.op === 'permute' && back.op === 'permute' && recipe.axes.join() === back.axes.join() ? recipe.of : back
}

/** Bytes that the tensors of a file are read from. */
export function readBytes(file: PlannedFile): number {
  let sum = 0
  for (const segment of file.segments) {
    if (segment.kind === 'tensor') for (const source of readsOf(segment.recipe)) sum += tensorBytes(source)
  }
  return sum
}

/** Whether a tensor's values come from quantised ones. */
export function isQuantized(recipe: Recipe): boolean {
  return recipe.op === 'dequantize' || dtypeInfo(recipe.dtype).kind === 'quant' || inputsOf(recipe).some(isQuantized)
}

/** That tensors had to be dequantised; null if none were. `dtype` is what was asked for. */
export function dequantizedFinding(names: readonly string[], dtype: DType | null): Finding | null {
  if (names.length === 0) return null
  const written = (dtype ?? DEQUANTIZED).toUpperCase()
  return {
    severity: 'warning',
    code: 'dequantized',
    message:
      names.length === 1
        ? `${names[0]} is quantised in the source: it is written as ${written}, but what quantisation lost stays lost`
        : `${names.length} tensors are quantised in the source: they are written as ${written}, but what quantisation lost stays lost`,
    ...(dtype === null ? { hint: '--dtype bf16 halves the size.' } : {}),
  }
}

/**
 * Tensors as stored, cast to `dtype` where they are floats, in their own types if it is null; what is quantised becomes
 * floats in any case. What that means for them is added to `findings`.
 */
export function castStored(
  tensors: readonly NamedTensor[],
  dtype: DType | null,
  findings: Finding[],
): readonly NamedTensor[] {
  const dequantized: string[] = []
  const kept: string[] = []
  const result = tensors.map(({ name, recipe }): NamedTensor => {
    if (isQuantized(recipe)) dequantized.push(name)
    if (dtype !== null && !isCastable(recipe.dtype)) {
      kept.push(name)
      return { name, recipe }
    }
    const own = dtypeInfo(recipe.dtype).kind === 'quant' ? DEQUANTIZED : recipe.dtype
    return { name, recipe: cast(recipe, dtype ?? own) }
  })
  const finding = dequantizedFinding(dequantized, dtype)
  if (finding !== null) findings.push(finding)
  if (kept.length > 0) {
    findings.push({
      severity: 'info',
      code: 'type-kept',
      message: `${listed(kept)} ${kept.length === 1 ? 'keeps its type' : 'keep their types'}: only F32, F16 and BF16 are cast`,
    })
  }
  return result
}

/** What holds every value of a quantised tensor exactly. */
export const DEQUANTIZED = 'f32' satisfies DType

/** A model's name as a file's: without the characters that some file system refuses. */
export function fileStem(name: string): string {
  // oxlint-disable-next-line no-control-regex -- control characters are among those refused
  const safe = name.replaceAll(/[\u0000-\u001f\u007f<>:"/\\|?*]+/g, '-').replaceAll(/^[. -]+|[. -]+$/g, '')
  return safe === '' ? 'model' : safe
}
