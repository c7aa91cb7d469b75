import { bytesOf, elementCount, type DType } from '../../core/dtype.ts'
import { AppError } from '../../core/errors.ts'
import type { Generation, Recipe } from '../../core/tensor.ts'
import { elementRange, stackBytes, type Evaluator } from './node.ts'

export function readEvaluator(recipe: Recipe & { op: 'read' }): Evaluator {
  return {
    info: recipe,
    elements: elementCount(recipe.shape),
    quantum: 1,
    scratch: () => 0,
    reads: (_, count) => bytesOf(recipe.dtype, count),
    fill: (start, _count, into, run) =>
      run.inputs.read(recipe.file, recipe.offset + bytesOf(recipe.dtype, start), into, run.signal),
  }
}

export function productEvaluator(recipe: Recipe & { op: 'product' }): Evaluator {
  return {
    info: recipe,
    elements: elementCount(recipe.shape),
    quantum: 1,
    scratch: () => 0,
    reads: (_, count) => bytesOf(recipe.dtype, count),
    fill: (start, _count, into, run) =>
      run.inputs.product(recipe.stage, recipe.key, bytesOf(recipe.dtype, start), into, run.signal),
  }
}

export function literalEvaluator(recipe: Recipe & { op: 'literal' }): Evaluator {
  return {
    info: recipe,
    elements: elementCount(recipe.shape),
    quantum: 1,
    scratch: () => 0,
    reads: () => 0,
    async fill(start, count, into) {
      into.set(elementRange(recipe, recipe.bytes, start, count))
    },
  }
}

/** Values are made in f32 and cast to the recipe's type. */
export function generateEvaluator(recipe: Recipe & { op: 'generate' }): Evaluator {
  const direct = recipe.dtype === 'f32'
  return {
    info: recipe,
    elements: elementCount(recipe.shape),
    quantum: 1,
    scratch: (_, count) => (direct ? 0 : stackBytes(count * 4)),
    reads: () => 0,
    fill: (start, count, into, run) =>
      run.stack.scope(async () => {
        const buffer = direct ? into : run.stack.take(count * 4)
        generateF32(recipe.how, start, new Float32Array(buffer.buffer, buffer.byteOffset, count))
        if (direct) return
        const { bad } = await castKernel(run, 'f32', recipe.dtype).run(buffer, into, count, run.signal)
        if (bad !== null) throw new AppError('bad-weights', `A generated value does not fit ${recipe.dtype}`)
      }),
  }
}

function castKernel(run: Parameters<Evaluator['fill']>[3], from: DType, to: DType) {
  return run.kernel({ kind: 'cast', from, to })
}

/** Element i depends on the seed and i alone, and on integer arithmetic only: the same everywhere, tile by tile. */
function generateF32(how: Generation, start: number, into: Float32Array): void {
  if (how.kind === 'constant') {
    into.fill(how.value)
    return
  }
  const { low, high, seed } = how
  const span = Math.fround(high - low)
  for (let i = 0; i < into.length; i++) {
    const index = start + i
    const bits = mix(mix(seed ^ 0x9e3779b9, index % 2 ** 32), Math.floor(index / 2 ** 32))
    into[i] = Math.fround(low + Math.fround(span * ((bits >>> 8) / 2 ** 24)))
  }
}

/** One round of a 32-bit integer hash (MurmurHash3's finaliser) over state and word. */
function mix(state: number, word: number): number {
  let h = (state + Math.imul(word, 0x85ebca6b)) | 0
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b)
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35)
  return (h ^ (h >>> 16)) | 0
}
