/**
 * Tensors that HuggingFace keeps in one and other formats apart: gate and up of experts, the two uses of a latent. A row
 * says how its tensor falls into parts; the formats that want them get each under a role of its own.
 */
import type { ModelConfig, Role } from '../core/checkpoint.ts'
import { dtypeInfo } from '../core/dtype.ts'
import {
  cast,
  concat,
  dequantize,
  isGroupScheme,
  permute,
  reshape,
  slice,
  transpose,
  type Recipe,
  type RecipeOp,
} from '../core/tensor.ts'
import { expectedTensors, type Architecture, type ExpectedTensor } from './architecture.ts'

/** How a tensor falls into parts: seen under another shape, each takes a stretch of one axis. */
export interface Parts {
  readonly view: readonly number[]
  readonly axis: number
  /** In their order along the axis. */
  readonly of: readonly Part[]
}

export interface Part {
  /** `{i}` is the block's index, as in rows. */
  readonly role: Role
  readonly length: number
  /** Order of the view's axes in the part, where it is another. */
  readonly axes?: readonly number[]
  readonly shape: readonly number[]
}

/** Gate and up of all experts of a block in one matrix each, the one's rows after the other's or in turns with them. */
export function gateAndUp(
  kind: 'weight' | 'bias',
  order: 'halves' | 'turns',
  count: number,
  width: number,
  columns: number,
): Parts {
  const rest = kind === 'weight' ? [columns] : []
  const shape = [count, width, ...rest]
  return {
    view: order === 'halves' ? [count, 2, width, ...rest] : [count, width, 2, ...rest],
    axis: order === 'halves' ? 1 : 2,
    of: ['gate', 'up'].map((name) => ({ role: `blocks.{i}.mlp.experts.${name}.${kind}`, length: 1, shape })),
  }
}

/** What wholes were joined of: taken apart again they are that, and not what is left of it after two detours. */
const JOINED = new WeakMap<Recipe, readonly Recipe[]>()

/** The tensors of a model with those that have parts replaced by them. */
export function dividedTensors(architecture: Architecture, config: ModelConfig): readonly ExpectedTensor[] {
  return expectedTensors(architecture, config).flatMap((tensor) => {
    const { parts, block } = tensor
    if (parts === undefined) return [tensor]
    const { parts: _, ...rest } = tensor
    return parts.of.map(({ role, shape }) => ({ ...rest, role: named(role, block), shape, transposed: false }))
  })
}

/** A checkpoint's tensors with those that have parts replaced by them. */
export function divide(
  architecture: Architecture,
  config: ModelConfig,
  tensors: ReadonlyMap<Role, Recipe>,
): ReadonlyMap<Role, Recipe> {
  const divided = new Map(tensors)
  for (const { role, parts, block } of expectedTensors(architecture, config)) {
    const whole = tensors.get(role)
    if (parts === undefined || whole === undefined) continue
    divided.delete(role)
    for (const [index, part] of parts.of.entries()) divided.set(named(part.role, block), take(whole, parts, index))
  }
  return divided
}

/** The inverse of {@link divide}: wholes in place of their parts, where all of them are there. */
export function join(
  architecture: Architecture,
  config: ModelConfig,
  tensors: ReadonlyMap<Role, Recipe>,
): ReadonlyMap<Role, Recipe> {
  const joined = new Map(tensors)
  for (const { role, parts, block, shape } of expectedTensors(architecture, config)) {
    if (parts === undefined) continue
    const found = parts.of.flatMap((part) => {
      const recipe = tensors.get(named(part.role, block))
      return recipe === undefined ? [] : [viewed(recipe, part, parts)]
    })
    if (found.length < parts.of.length) continue
    const whole = reshape(concat(alike(found), parts.axis), shape)
    JOINED.set(
      whole,
      parts.of.map((part) => tensors.get(named(part.role, block)) ?? whole),
    )
    for (const part of parts.of) joined.delete(named(part.role, block))
    joined.set(role, whole)
  }
  return joined
}

/** Parts that were quantised in different ways have values in common alone. */
function alike(recipes: readonly Recipe[]): readonly Recipe[] {
  return new Set(recipes.map(({ dtype }) => dtype)).size === 1 ? recipes : recipes.map((recipe) => cast(recipe, 'f32'))
}

function named(role: Role, block: number | null): Role {
  return role.replace('{i}', String(block))
}

function take(whole: Recipe, parts: Parts, index: number): Recipe {
  const part = parts.of[index]
  if (part === undefined) throw new RangeError(`part ${index}`)
  const known = JOINED.get(whole)?.[index]
  if (known !== undefined) return known
  const start = parts.of.slice(0, index).reduce((sum, { length }) => sum + length, 0)
  const cut = (of: Recipe, columns: (shape: readonly number[]) => readonly number[]): Recipe => {
    const one = slice(reshape(of, columns(parts.view)), parts.axis, start, part.length)
    return reshape(part.axes === undefined ? one : permute(scalar(one), part.axes), columns(part.shape))
  }
  // codes and scales of whole rows, so that they can be kept
  if (isOfGroups(whole) && parts.axis < parts.view.length - 1 && part.axes === undefined) {
    const own = Object.entries(whole.parts).map(([field, recipe]): [string, Recipe] => [
      field,
      cut(recipe, (shape) => [...shape.slice(0, -1), recipe.shape.at(-1) ?? 1]),
    ])
    return dequantize(whole.scheme, part.shape, Object.fromEntries(own))
  }
  if (isTransposed(whole) && parts.axis < parts.view.length - 1 && part.axes === undefined)
    return takeTransposed(whole, parts, start, part)
  return cut(whole, (shape) => shape)
}

type Transposed = Recipe & Extract<RecipeOp, { op: 'permute' }>

function isTransposed(recipe: Recipe): recipe is Transposed {
  if (recipe.op !== 'permute' || recipe.of.shape.length < 2) return false
  const back = transpose(recipe.of)
  return back.op === 'permute' && back.axes.join() === recipe.axes.join()
}

/** Rows are cut out before they are turned: the other way round each of them would read all. */
function takeTransposed({ of }: Transposed, { view, axis }: Parts, start: number, { length, shape }: Part): Recipe {
  const stack = of.shape.slice(0, -2)
  const columns = of.shape.slice(-2, -1)
  const rows = view.slice(stack.length, -1)
  const cut = slice(reshape(of, [...stack, ...columns, ...rows]), axis + 1, start, length)
  return transpose(reshape(cut, [...stack, ...columns, ...shape.slice(stack.length, -1)]))
}

function isOfGroups(recipe: Recipe): recipe is Recipe & Extract<RecipeOp, { op: 'dequantize' }> {
  return recipe.op === 'dequantize' && isGroupScheme(recipe.scheme)
}

/** Blocks lie along rows, and cannot be turned. */
function scalar(recipe: Recipe): Recipe {
  return dtypeInfo(recipe.dtype).kind === 'quant' ? cast(recipe, 'f32') : recipe
}

/** A part as it lies in the whole's view. */
function viewed(recipe: Recipe, { length, axes }: Part, { view, axis }: Parts): Recipe {
  const cut = view.map((size, index) => (index === axis ? length : size))
  if (axes === undefined) return reshape(recipe, cut)
  const inverse = axes.map((_, index) => axes.indexOf(index))
  return permute(
    reshape(
      scalar(recipe),
      axes.map((from) => cut[from] ?? 1),
    ),
    inverse,
  )
}
