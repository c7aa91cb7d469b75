import type { DType } from '../../core/dtype.ts'
import { AppError, unreachable } from '../../core/errors.ts'
import { cast, isGroupScheme, type Producer, type Recipe } from '../../core/tensor.ts'
import { affineEvaluator, castEvaluator, reduceEvaluator, reshapeEvaluator } from './elementwise.ts'
import { generateEvaluator } from './generate.ts'
import type { HeldParts } from './held.ts'
import { literalEvaluator, productEvaluator, readEvaluator } from './leaf.ts'
import { weightedCastEvaluator } from './importance.ts'
import { lowRankEvaluator } from './low-rank.ts'
import { matrixEvaluator } from './matrices.ts'
import type { Evaluator } from './node.ts'
import { permuteEvaluator } from './permute.ts'
import { isRepack, repackEvaluator } from './repack.ts'
import { concatEvaluator, gatherEvaluator, padEvaluator, sliceEvaluator } from './runs.ts'
import { dequantizeEvaluator, partEvaluator, producerEvaluator, type ProducerEvaluator } from './schemes.ts'

/** Deeper than any chain of transforms; a cyclic or hostile recipe would not end. */
const MAX_DEPTH = 64

/** Makes a recipe ready to run. `held` has what of it is in memory by then. */
export function compile(recipe: Recipe, held: HeldParts | null = null, depth = 0): Evaluator {
  if (depth > MAX_DEPTH) throw new AppError('internal', `a recipe of more than ${MAX_DEPTH} levels`)
  const inner = (of: Recipe): Evaluator => compile(of, held, depth + 1)
  const inF32 = (of: Recipe): Evaluator => inner(cast(of, 'f32'))
  switch (recipe.op) {
    case 'read':
      return readEvaluator(recipe)
    case 'literal':
      return literalEvaluator(recipe)
    case 'generate':
      return generateEvaluator(recipe)
    case 'product':
      return productEvaluator(recipe)
    case 'cast':
      if (isRepack(recipe)) return repackEvaluator(recipe, inner)
      return recipe.importance === undefined
        ? castEvaluator(recipe, inner(recipe.of))
        : weightedCastEvaluator(recipe, inner(recipe.of), inF32(recipe.importance))
    case 'slice':
      return sliceEvaluator(recipe, inner(recipe.of))
    case 'concat':
      return concatEvaluator(recipe, recipe.of.map(inner))
    case 'gather':
      return gatherEvaluator(recipe, inner(recipe.of))
    case 'pad':
      return padEvaluator(recipe, inner(recipe.of))
    case 'permute':
      return permuteEvaluator(recipe, inner(recipe.of))
    case 'reshape':
      return reshapeEvaluator(recipe, inner(recipe.of))
    case 'affine': {
      const operand = (value: number | Recipe): number | Evaluator => (typeof value === 'number' ? value : inF32(value))
      return affineEvaluator(recipe, inF32(recipe.of), operand(recipe.mul), operand(recipe.add))
    }
    case 'low-rank':
      return lowRankEvaluator(recipe, inF32)
    case 'reduce':
      return reduceEvaluator(recipe, inF32(recipe.of))
    case 'dequantize': {
      const { scheme } = recipe
      return isGroupScheme(scheme)
        ? dequantizeEvaluator(recipe, scheme, (part, { dtype }) => inner(cast(part, dtype)))
        : matrixEvaluator(recipe, scheme, held, (part, { dtype }) => inner(cast(part, dtype)))
    }
    case 'part':
      return partEvaluator(recipe, compileProducer(recipe.of, held, depth + 1))
    default:
      return unreachable(recipe, 'recipe')
  }
}

/** Types that kernels quantise as they are; others pass through f32. */
const QUANTISED: ReadonlySet<DType> = new Set<DType>(['f32', 'f16', 'bf16'])

/** Makes a producer ready to run. */
export function compileProducer(producer: Producer, held: HeldParts | null = null, depth = 0): ProducerEvaluator {
  const { of } = producer
  return producerEvaluator(producer, compile(QUANTISED.has(of.dtype) ? of : cast(of, 'f32'), held, depth + 1))
}
