import { bytesOf, elementCount } from '../../core/dtype.ts'
import type { Recipe } from '../../core/tensor.ts'
import { elementRange, type Evaluator } from './node.ts'

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
