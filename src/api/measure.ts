import { dtypeInfo, elementCount, type DType } from '../core/dtype.ts'
import { cast, gather, literalF32, reduce, reshape, slice, type Recipe } from '../core/tensor.ts'
import type { Evidence, Measurement } from '../engines/engine.ts'
import type { Opened } from './api.ts'
import { kernels } from './kernels.ts'
import { stackBytes, Stack, type Run } from './evaluate/node.ts'
import type { Host } from './host.ts'
import { JobInputs } from './sources.ts'
import { compile } from './evaluate/compile.ts'
import { tensorTiles } from './tiles.ts'

/** Answers what an engine must know of the weights before it can plan, in bounded memory. */
export async function measure(
  host: Host,
  source: Pick<Opened, 'folder' | 'checkpoint'>,
  needed: readonly Measurement[],
  signal?: AbortSignal,
): Promise<Evidence> {
  const evidence = new Map<string, boolean | number>()
  if (needed.length === 0) return evidence
  const inputs = new JobInputs(source.folder, source.checkpoint.sources, null)
  const context = { ...kernels(await host.backends()), inputs, signal }
  try {
    for (const one of needed) {
      switch (one.kind) {
        case 'equal':
          evidence.set(one.id, await equal(one.a, one.b, context))
          break
        case 'absmax':
          evidence.set(one.id, await absmax(one.of, context))
          break
        case 'rounding':
          for (const [type, error] of await rounding(one, context)) evidence.set(`${one.id} ${type}`, error)
          break
      }
    }
  } finally {
    await inputs.close()
  }
  return evidence
}

type Context = Omit<Run, 'stack'>

/** Whether two recipes have the same shape and the same values, bit for bit once both are in the first one's type. */
async function equal(a: Recipe, b: Recipe, context: Context): Promise<boolean> {
  if (a.shape.join() !== b.shape.join()) return false
  const left = tensorTiles('a', a, 0)
  const right = compile(cast(b, a.dtype))
  const { block, bytes } = dtypeInfo(a.dtype)
  let start = 0
  for (const tile of left) {
    const count = (tile.size / bytes) * block
    const one = await tile.compute(new Uint8Array(tile.slab), context)
    const slab = new Uint8Array(stackBytes(tile.size) + right.scratch(start, count))
    const stack = new Stack(slab)
    const two = stack.take(tile.size)
    await right.fill(start, count, two, { ...context, stack })
    if (one.some((byte, index) => byte !== two[index])) return false
    start += count
  }
  return true
}

async function absmax(of: Recipe, context: Context): Promise<number> {
  const flat = reshape(of, [elementCount(of.shape)])
  const [tile] = tensorTiles('absmax', reduce(flat, 0, 'absmax'), 0)
  if (tile === undefined) return 0
  const bytes = await tile.compute(new Uint8Array(tile.slab), context)
  return new Float32Array(bytes.buffer, bytes.byteOffset, 1)[0] ?? 0
}

/** Weights of a matrix that are rounded to see what it costs: the error's own error is then below one in a hundred. */
const SAMPLE_ELEMENTS = 1 << 17
/** Matrices of a stack that are looked at. */
const SAMPLE_MATRICES = 4

/** The relative error of each type, over rows picked evenly. */
async function rounding(
  { of, to, importance }: Measurement & { readonly kind: 'rounding' },
  context: Context,
): Promise<ReadonlyMap<DType, number>> {
  const sums = new Map(to.map((type) => [type, 0]))
  let energy = 0
  for (const { values, weights } of sampleMatrices(of, importance)) {
    const exact = await floats(cast(values, 'f32'), context)
    const known = literalF32(values.shape, exact)
    const columns = values.shape.at(-1) ?? 1
    const counts = weights === undefined ? null : await floats(weights, context)
    energy += weighted(exact, null, counts, columns)
    for (const type of to) {
      // it stays as it is
      if (type === of.dtype) continue
      const rounded = await floats(cast(cast(known, type, weights), 'f32'), context)
      sums.set(type, (sums.get(type) ?? 0) + weighted(exact, rounded, counts, columns))
    }
  }
  return new Map([...sums].map(([type, sum]) => [type, energy === 0 ? 0 : sum / energy]))
}

/** The sum of squares of the values, or of their differences, each times its column's weight. */
function weighted(a: Float32Array, b: Float32Array | null, weights: Float32Array | null, columns: number): number {
  let sum = 0
  for (let i = 0; i < a.length; i++) {
    const difference = (a[i] ?? 0) - (b?.[i] ?? 0)
    sum += difference * difference * (weights?.[i % columns] ?? 1)
  }
  return sum
}

/** Some rows of a matrix, or of some matrices of a stack, each with its importances. */
function sampleMatrices(
  of: Recipe,
  importance: Recipe | undefined,
): readonly { readonly values: Recipe; readonly weights: Recipe | undefined }[] {
  const columns = of.shape.at(-1) ?? 1
  const rows = of.shape.at(-2) ?? 1
  const matrices = elementCount(of.shape.slice(0, -2))
  const stack = reshape(of, [matrices, rows, columns])
  const picked = spread(matrices, SAMPLE_MATRICES)
  const most = Math.max(1, Math.floor(SAMPLE_ELEMENTS / columns / picked.length))
  return picked.map((index) => {
    const matrix = reshape(slice(stack, 0, index, 1), [rows, columns])
    const own = importance !== undefined && importance.shape.length > 1
    const weights = own ? reshape(slice(reshape(importance, [matrices, columns]), 0, index, 1), [columns]) : importance
    return { values: gather(matrix, 0, spread(rows, most)), weights }
  })
}

/** At most `most` of `count` indices, evenly, the first and the last among them. */
function spread(count: number, most: number): readonly number[] {
  if (count <= most) return Array.from({ length: count }, (_, i) => i)
  return Array.from({ length: most }, (_, i) => Math.floor((i * (count - 1)) / Math.max(1, most - 1)))
}

/** All values of a small recipe in f32. */
async function floats(recipe: Recipe, context: Context): Promise<Float32Array> {
  const values = new Float32Array(elementCount(recipe.shape))
  const bytes = new Uint8Array(values.buffer)
  for (const tile of tensorTiles('sample', recipe, 0))
    bytes.set(await tile.compute(new Uint8Array(tile.slab), context), tile.offset)
  return values
}
