/** A tensor that is a view of a storage, as a recipe: reads, slices and permutations in place of strides. */
import { bytesOf, type DType } from '../../core/dtype.ts'
import { concat, gather, permute, read, reshape, slice, type Recipe } from '../../core/tensor.ts'

/** Where a tensor's elements lie: in a storage of `numel` elements from byte `start` of `file` on. */
export interface View {
  readonly dtype: DType
  readonly shape: readonly number[]
  /** In elements, one an axis. */
  readonly strides: readonly number[]
  /** In elements, of the first one. */
  readonly offset: number
  readonly file: string
  readonly start: number
  readonly numel: number
}

/** Indices of a gather: beyond this a plan would be larger than the weights it saves. */
const MAX_INDICES = 1 << 16

interface Axis {
  readonly size: number
  readonly stride: number
}

/** Whether the elements lie one after the other, row by row; axes of one element have no say. */
export function isContiguous(view: Pick<View, 'shape' | 'strides'>): boolean {
  if (view.shape.includes(0)) return true
  let expected = 1
  for (let axis = view.shape.length - 1; axis >= 0; axis--) {
    const size = view.shape[axis] ?? 1
    if (size !== 1 && view.strides[axis] !== expected) return false
    expected *= size
  }
  return true
}

/** Elements from the first to the last, both counted. */
function span(axes: readonly Axis[]): number {
  return axes.reduce((sum, { size, stride }) => sum + (size - 1) * stride, 1)
}

/** Elements that a view reaches, from its first one on; 0 if it has none. */
export function viewSpan(view: Pick<View, 'shape' | 'strides'>): number {
  if (view.shape.includes(0)) return 0
  return span(view.shape.map((size, axis) => ({ size, stride: view.strides[axis] ?? 0 })))
}

/**
 * The recipe of a view that lies within its storage; null where no recipe gives it (windows that overlap, or strides
 * that fit no grid).
 */
export function viewRecipe(view: View): Recipe | null {
  const { dtype, shape } = view
  if (isContiguous(view)) return read({ dtype, shape }, view.file, view.start + bytesOf(dtype, view.offset))
  const axes = shape.map((size, axis) => ({ size, stride: view.strides[axis] ?? 0, axis }))
  const moving = axes.filter(({ size, stride }) => size > 1 && stride > 0).sort((a, b) => b.stride - a.stride)
  const dense = boxed(view, view.offset, moving)
  if (dense === null) return null
  // in the order of the view's own axes, those that do not move as ones
  const order = moving.map(({ axis }, index) => ({ axis, index })).sort((a, b) => a.axis - b.axis)
  const ordered = permute(
    dense,
    order.map(({ index }) => index),
  )
  let recipe = reshape(
    ordered,
    axes.map(({ size, stride }) => (stride > 0 ? size : 1)),
  )
  for (const { size, stride, axis } of axes) {
    if (stride > 0 || size === 1) continue
    if (size > MAX_INDICES) return null
    recipe = gather(
      recipe,
      axis,
      Array.from({ length: size }, () => 0),
    )
  }
  return recipe
}

/** Elements of the axes, from the outermost in, starting at element `offset` of the storage. */
function boxed(view: View, offset: number, axes: readonly Axis[]): Recipe | null {
  const { dtype, file } = view
  const at = (element: number): number => view.start + bytesOf(dtype, element)
  const sizes = axes.map(({ size }) => size)
  if (isContiguous({ shape: sizes, strides: axes.map(({ stride }) => stride) })) {
    return read({ dtype, shape: sizes }, file, at(offset))
  }
  const [outer, ...inner] = axes
  if (outer === undefined) return null
  const { size, stride } = outer
  const within = span(inner)
  if (within > stride) return null
  const phase = offset % stride
  const starts = phase + within <= stride ? [phase, 0] : [0]
  for (const start of starts) {
    if (offset - start + size * stride > view.numel) continue
    const rows = read({ dtype, shape: [size, stride] }, file, at(offset - start))
    return chosen(rows, start, inner)
  }
  // the last row ends with the storage: it is read on its own
  const head = boxed(view, offset, [{ size: size - 1, stride }, ...inner])
  const last = boxed(view, offset + (size - 1) * stride, inner)
  if (head === null || last === null) return null
  const shape = inner.map((axis) => axis.size)
  return concat([reshape(head, [size - 1, ...shape]), reshape(last, [1, ...shape])], 0)
}

/** Replaces the last axis of `rows` by the elements that `axes` choose of it, from `start` on. */
function chosen(rows: Recipe, start: number, axes: readonly Axis[]): Recipe | null {
  const lead = rows.shape.slice(0, -1)
  const last = lead.length
  const length = rows.shape[last] ?? 0
  const [outer, ...inner] = axes
  if (outer === undefined) return reshape(slice(rows, last, start, 1), lead)
  const { size, stride } = outer
  if (stride === 1 && inner.length === 0) return slice(rows, last, start, size)
  const first = Math.floor(start / stride)
  const phase = start % stride
  if (length % stride === 0 && first + size <= length / stride && phase + span(inner) <= stride) {
    const grid = reshape(rows, [...lead, length / stride, stride])
    return chosen(slice(grid, last, first, size), phase, inner)
  }
  let indices = [start]
  for (const axis of axes) {
    if (indices.length * axis.size > MAX_INDICES) return null
    indices = indices.flatMap((index) => Array.from({ length: axis.size }, (_, i) => index + i * axis.stride))
  }
  return reshape(gather(rows, last, indices), [...lead, ...axes.map((axis) => axis.size)])
}
