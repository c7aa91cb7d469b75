import { bytesOf, dtypeInfo, elementCount, takesImportance, type DType } from './dtype.ts'
import { matrixFields, type MatrixScheme } from './matrix-scheme.ts'

/** What is known of a tensor without reading it. Shapes are row-major, slowest axis first, as HuggingFace writes them. */
export interface TensorInfo {
  readonly dtype: DType
  readonly shape: readonly number[]
}

/**
 * How to get a tensor's values, as data: it crosses workers, hashes, prints, and resumes. Build with the functions
 * below, which check shapes; `api/evaluate.ts` turns it into bytes, tile by tile.
 */
export type Recipe = TensorInfo & RecipeOp

export type RecipeOp =
  /** Bytes as they lie in a file: contiguous, row-major, little endian. */
  | { readonly op: 'read'; readonly file: string; readonly offset: number }
  /** Small constant bytes. */
  | { readonly op: 'literal'; readonly bytes: Uint8Array }
  /**
   * Other dtype, same values as near as it can: rounds half to even; quantises or dequantises if either is a block type.
   * `importance`: how much each column counts, f32 of the shape [columns], or [experts, columns] where `of` is a stack.
   */
  | { readonly op: 'cast'; readonly of: Recipe; readonly importance?: Recipe }
  /** Indices `start` to `start + length` of one axis. */
  | { readonly op: 'slice'; readonly of: Recipe; readonly axis: number; readonly start: number }
  /** Tensors joined along an axis. */
  | { readonly op: 'concat'; readonly of: readonly Recipe[]; readonly axis: number }
  /** Axes reordered: output axis i is input axis `axes[i]`. */
  | { readonly op: 'permute'; readonly of: Recipe; readonly axes: readonly number[] }
  /** The same elements in the same order under another shape. */
  | { readonly op: 'reshape'; readonly of: Recipe }
  /** `of * mul + add` in f32, where a recipe broadcasts as in NumPy. */
  | { readonly op: 'affine'; readonly of: Recipe; readonly mul: number | Recipe; readonly add: number | Recipe }
  /** `of + scale * up · down` in f32, of matrices: what a LoRA adapter makes of one. */
  | {
      readonly op: 'low-rank'
      readonly of: Recipe
      /** [rows, rank]. */
      readonly up: Recipe
      /** [rank, columns]. */
      readonly down: Recipe
      readonly scale: number
    }
  /** Chosen indices of one axis, in the order given. */
  | { readonly op: 'gather'; readonly of: Recipe; readonly axis: number; readonly indices: readonly number[] }
  /** A constant before and after along one axis. */
  | { readonly op: 'pad'; readonly of: Recipe; readonly axis: number; readonly before: number; readonly value: number }
  /** Values from the parts of a quantisation that keeps codes, scales and zeros in tensors of their own. */
  | { readonly op: 'dequantize'; readonly scheme: Scheme; readonly parts: Readonly<Record<string, Recipe>> }
  /** One field of a producer with several outputs; the producer is evaluated once for all of them. */
  | { readonly op: 'part'; readonly of: Producer; readonly field: string }
  /** A fold over one axis, which becomes 1. */
  | { readonly op: 'reduce'; readonly of: Recipe; readonly axis: number; readonly how: Reduction }
  /** Values made from nothing. */
  | { readonly op: 'generate'; readonly how: Generation }
  /** What an earlier stage of the plan made and left in scratch. */
  | { readonly op: 'product'; readonly stage: string; readonly key: string }

/** `inverse-norm` is 1 over the root of the sum of squares. */
export type Reduction = 'sum' | 'mean' | 'max' | 'min' | 'absmax' | 'inverse-norm'

export type Generation =
  | { readonly kind: 'constant'; readonly value: number }
  /** Seeded, the same bytes everywhere: a counter-based generator, so that any tile can be made alone. */
  | { readonly kind: 'uniform'; readonly seed: number; readonly low: number; readonly high: number }
  /** The same, of mean 0: one of 2^16 values of equal probability each. */
  | { readonly kind: 'normal'; readonly seed: number; readonly std: number }

/** A quantisation whose parts are tensors of their own. Formats add theirs here, and to {@link schemeFields}. */
export type Scheme = GroupScheme | MatrixScheme

/** One whose groups of consecutive values can each be coded alone. */
export type GroupScheme = AffineScheme | FloatScheme

/** Whether it is one of groups along the last axis. */
export function isGroupScheme(scheme: Scheme): scheme is GroupScheme {
  return scheme.kind === 'affine' || scheme.kind === 'mxfp4' || scheme.kind === 'mxfp8' || scheme.kind === 'nvfp4'
}

/**
 * Groups of `group` along the last axis, `code * scale + bias`, codes of `bits` packed little endian into u32, as MLX
 * stores them. Parts: codes u32 [..., n * bits / 32], scales and biases [..., n / group].
 */
export interface AffineScheme {
  readonly kind: 'affine'
  readonly bits: number
  readonly group: number
}

/**
 * Groups along the last axis, `element * scale` with both of them small floats: E2M1 elements and E8M0 scales in groups
 * of 32 (`mxfp4`), E4M3 and E8M0 in 32 (`mxfp8`), E2M1 and E4M3 in 16 (`nvfp4`). Parts: codes u32, packed as in
 * {@link AffineScheme}, and scales u8 [..., n / group]. Source: OCP Microscaling Formats 1.0; ml-explore/mlx.
 */
export interface FloatScheme {
  readonly kind: 'mxfp4' | 'mxfp8' | 'nvfp4'
}

/** Bits of a code and codes in a group. */
export function schemeGroups(scheme: GroupScheme): { readonly bits: number; readonly group: number } {
  switch (scheme.kind) {
    case 'affine':
      return scheme
    case 'mxfp4':
      return { bits: 4, group: 32 }
    case 'mxfp8':
      return { bits: 8, group: 32 }
    case 'nvfp4':
      return { bits: 4, group: 16 }
  }
}

/** Several tensors made in one evaluation. */
export interface Producer {
  readonly op: 'quantize'
  readonly of: Recipe
  readonly scheme: GroupScheme
  /** The outputs, by field name. */
  readonly fields: Readonly<Record<string, TensorInfo>>
}

function fail(op: string, why: string): never {
  throw new RangeError(`${op}: ${why}`)
}

function axisSize(op: string, of: TensorInfo, axis: number): number {
  const size = of.shape[axis]
  if (size === undefined) fail(op, `axis ${axis} of shape [${of.shape.join(', ')}]`)
  return size
}

function withAxis(shape: readonly number[], axis: number, size: number): readonly number[] {
  return shape.map((old, index) => (index === axis ? size : old))
}

function isCount(value: number): boolean {
  return Number.isSafeInteger(value) && value >= 0
}

/** A block type's blocks lie along the last axis: what moves elements along it must move whole blocks, so is refused. */
function requireScalar(op: string, of: TensorInfo): void {
  if (dtypeInfo(of.dtype).block !== 1) fail(op, `needs a scalar type, not ${of.dtype}`)
}

export function read(info: TensorInfo, file: string, offset: number): Recipe {
  if (!isCount(offset)) fail('read', `offset ${offset}`)
  return { dtype: info.dtype, shape: info.shape, op: 'read', file, offset }
}

export function literal(info: TensorInfo, bytes: Uint8Array): Recipe {
  const expected = tensorBytes(info)
  if (bytes.length !== expected) fail('literal', `${bytes.length} bytes for ${expected}`)
  return { dtype: info.dtype, shape: info.shape, op: 'literal', bytes }
}

/** An f32 literal from numbers. */
export function literalF32(shape: readonly number[], values: ArrayLike<number>): Recipe {
  const array = Float32Array.from(values)
  return literal({ dtype: 'f32', shape }, new Uint8Array(array.buffer))
}

/**
 * The recipe itself if it has that type already. `importance` is left out where the type does not make use of it. Its
 * shape is that of `of` without the rows, or the columns alone, which then go for all matrices of a stack.
 */
export function cast(of: Recipe, dtype: DType, importance?: Recipe): Recipe {
  if (of.dtype === dtype) return of
  tensorBytes({ dtype, shape: of.shape })
  if (importance === undefined || !takesImportance(dtype)) return { dtype, shape: of.shape, op: 'cast', of }
  requireScalar('cast', of)
  const columns = of.shape.slice(-1).join()
  const own = of.shape.filter((_, axis) => axis !== of.shape.length - 2).join()
  const given = importance.shape.join()
  if (importance.dtype !== 'f32' || columns === '' || (given !== columns && given !== own)) {
    fail('cast', `importances ${importance.dtype} [${given}] for [${of.shape.join(', ')}]`)
  }
  return { dtype, shape: of.shape, op: 'cast', of, importance }
}

export function slice(of: Recipe, axis: number, start: number, length: number): Recipe {
  const size = axisSize('slice', of, axis)
  if (!isCount(start) || !isCount(length) || start + length > size) fail('slice', `${start}+${length} of ${size}`)
  if (axis === of.shape.length - 1) requireScalar('slice', of)
  if (start === 0 && length === size) return of
  return { dtype: of.dtype, shape: withAxis(of.shape, axis, length), op: 'slice', of, axis, start }
}

export function concat(of: readonly Recipe[], axis: number): Recipe {
  const first = of[0]
  if (first === undefined) fail('concat', 'nothing to join')
  let total = 0
  for (const part of of) {
    if (part.dtype !== first.dtype) fail('concat', `${part.dtype} beside ${first.dtype}`)
    const size = axisSize('concat', part, axis)
    const same = withAxis(part.shape, axis, 0).join() === withAxis(first.shape, axis, 0).join()
    if (!same) fail('concat', `[${part.shape.join(', ')}] beside [${first.shape.join(', ')}]`)
    total += size
  }
  if (axis === first.shape.length - 1) requireScalar('concat', first)
  if (of.length === 1) return first
  return { dtype: first.dtype, shape: withAxis(first.shape, axis, total), op: 'concat', of, axis }
}

export function permute(of: Recipe, axes: readonly number[]): Recipe {
  const sorted = [...axes].sort((a, b) => a - b)
  if (axes.length !== of.shape.length || sorted.some((axis, index) => axis !== index))
    fail('permute', `axes ${axes.join()}`)
  if (axes.every((axis, index) => axis === index)) return of
  if (axes.at(-1) !== axes.length - 1) requireScalar('permute', of)
  return { dtype: of.dtype, shape: axes.map((axis) => axisSize('permute', of, axis)), op: 'permute', of, axes }
}

/** A matrix's transpose, or that of each matrix in a stack. */
export function transpose(of: Recipe): Recipe {
  const rank = of.shape.length
  return permute(of, [...Array.from({ length: rank - 2 }, (_, axis) => axis), rank - 1, rank - 2])
}

export function reshape(of: Recipe, shape: readonly number[]): Recipe {
  if (elementCount(shape) !== elementCount(of.shape))
    fail('reshape', `[${of.shape.join(', ')}] to [${shape.join(', ')}]`)
  tensorBytes({ dtype: of.dtype, shape })
  if (shape.join() === of.shape.join()) return of
  return { dtype: of.dtype, shape, op: 'reshape', of: of.op === 'reshape' ? of.of : of }
}

/** Result in f32. A recipe given for `mul` or `add` must broadcast to the shape of `of`. */
export function affine(of: Recipe, mul: number | Recipe, add: number | Recipe = 0): Recipe {
  requireScalar('affine', of)
  for (const operand of [mul, add]) {
    if (typeof operand === 'number') continue
    requireScalar('affine', operand)
    const offset = of.shape.length - operand.shape.length
    const fits = offset >= 0 && operand.shape.every((size, index) => size === 1 || size === of.shape[index + offset])
    if (!fits) fail('affine', `[${operand.shape.join(', ')}] does not broadcast to [${of.shape.join(', ')}]`)
  }
  return { dtype: 'f32', shape: of.shape, op: 'affine', of, mul, add }
}

/** Result in f32. */
export function lowRank(of: Recipe, up: Recipe, down: Recipe, scale: number): Recipe {
  for (const one of [of, up, down]) {
    if (one.shape.length !== 2) fail('low-rank', `[${one.shape.join(', ')}] is no matrix`)
  }
  requireScalar('low-rank', up)
  requireScalar('low-rank', down)
  const [rows, columns] = of.shape
  if (up.shape[0] !== rows || down.shape[1] !== columns || up.shape[1] !== down.shape[0]) {
    fail('low-rank', `[${up.shape.join(', ')}] times [${down.shape.join(', ')}] for [${of.shape.join(', ')}]`)
  }
  if (!Number.isFinite(scale)) fail('low-rank', `a scale of ${scale}`)
  return { dtype: 'f32', shape: of.shape, op: 'low-rank', of, up, down, scale }
}

export function gather(of: Recipe, axis: number, indices: readonly number[]): Recipe {
  const size = axisSize('gather', of, axis)
  if (indices.some((index) => !isCount(index) || index >= size)) fail('gather', `index outside 0..${size - 1}`)
  if (axis === of.shape.length - 1) requireScalar('gather', of)
  return { dtype: of.dtype, shape: withAxis(of.shape, axis, indices.length), op: 'gather', of, axis, indices }
}

export function pad(of: Recipe, axis: number, before: number, after: number, value = 0): Recipe {
  requireScalar('pad', of)
  const size = axisSize('pad', of, axis)
  if (!isCount(before) || !isCount(after)) fail('pad', `${before}, ${after}`)
  if (before === 0 && after === 0) return of
  return { dtype: of.dtype, shape: withAxis(of.shape, axis, before + size + after), op: 'pad', of, axis, before, value }
}

export function reduce(of: Recipe, axis: number, how: Reduction): Recipe {
  requireScalar('reduce', of)
  axisSize('reduce', of, axis)
  return { dtype: 'f32', shape: withAxis(of.shape, axis, 1), op: 'reduce', of, axis, how }
}

export function generate(info: TensorInfo, how: Generation): Recipe {
  requireScalar('generate', info)
  tensorBytes(info)
  return { dtype: info.dtype, shape: info.shape, op: 'generate', how }
}

export function product(info: TensorInfo, stage: string, key: string): Recipe {
  return { dtype: info.dtype, shape: info.shape, op: 'product', stage, key }
}

/**
 * The parts of a scheme for values of this shape: what `quantize` makes and `dequantize` takes. `scales` is the type of
 * those parts whose type the scheme leaves open.
 */
export function schemeFields(scheme: Scheme, shape: readonly number[], scales: DType): Record<string, TensorInfo> {
  if (!isGroupScheme(scheme)) return matrixFields(scheme, shape, scales, (why) => fail(scheme.kind, why))
  const columns = shape.at(-1) ?? fail('quantize', 'a scalar has no groups')
  const { bits, group } = schemeGroups(scheme)
  if (columns % group !== 0) fail('quantize', `rows of ${columns} are not whole groups of ${group}`)
  if ((group * bits) % 32 !== 0) fail('quantize', `${group} codes of ${bits} bits are not whole u32 words`)
  const rows = shape.slice(0, -1)
  const codes: TensorInfo = { dtype: 'u32', shape: [...rows, (columns * bits) / 32] }
  const perGroup = [...rows, columns / group]
  if (scheme.kind !== 'affine') return { codes, scales: { dtype: 'u8', shape: perGroup } }
  const info: TensorInfo = { dtype: scales, shape: perGroup }
  return { codes, scales: info, biases: info }
}

/** Several outputs from one evaluation; take each with {@link part}. Scales are of the type given, if they may be. */
export function quantize(of: Recipe, scheme: GroupScheme, scales: DType): Producer {
  requireScalar('quantize', of)
  return { op: 'quantize', of, scheme, fields: schemeFields(scheme, of.shape, scales) }
}

export function part(of: Producer, field: string): Recipe {
  const info = of.fields[field]
  if (info === undefined) fail('part', `no field ${field}`)
  return { dtype: info.dtype, shape: info.shape, op: 'part', of, field }
}

/** Result in f32, of the given shape. */
export function dequantize(scheme: Scheme, shape: readonly number[], parts: Readonly<Record<string, Recipe>>): Recipe {
  const scales = parts['scales'] ?? fail('dequantize', 'no scales')
  for (const [name, info] of Object.entries(schemeFields(scheme, shape, scales.dtype))) {
    const given = parts[name]
    const typed = given?.dtype === info.dtype || dtypeInfo(info.dtype).kind === 'float'
    if (given?.shape.join() !== info.shape.join() || !typed)
      fail('dequantize', `${name} must be ${info.dtype} [${info.shape.join(', ')}]`)
  }
  return { dtype: 'f32', shape, op: 'dequantize', scheme, parts }
}

/** Bytes of a tensor as it is stored. Throws RangeError if its rows are not whole blocks. */
export function tensorBytes(info: TensorInfo): number {
  bytesOf(info.dtype, info.shape.at(-1) ?? 1)
  return bytesOf(info.dtype, elementCount(info.shape))
}

/** The recipes that this one is made from. */
export function inputsOf(recipe: Recipe): readonly Recipe[] {
  switch (recipe.op) {
    case 'read':
    case 'literal':
    case 'generate':
    case 'product':
      return []
    case 'cast':
      return recipe.importance === undefined ? [recipe.of] : [recipe.of, recipe.importance]
    case 'concat':
      return recipe.of
    case 'affine':
      return [recipe.of, recipe.mul, recipe.add].filter((operand) => typeof operand !== 'number')
    case 'low-rank':
      return [recipe.of, recipe.up, recipe.down]
    case 'dequantize':
      return Object.values(recipe.parts)
    case 'part':
      return [recipe.of.of]
    default:
      return [recipe.of]
  }
}

/** Every `read` below a recipe, once for each time it occurs. */
export function* readsOf(recipe: Recipe): Generator<Recipe & { readonly op: 'read' }, void, void> {
  if (recipe.op === 'read') yield recipe
  for (const input of inputsOf(recipe)) yield* readsOf(input)
}
