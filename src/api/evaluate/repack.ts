import { elementCount } from '../../core/dtype.ts'
import { AppError } from '../../core/errors.ts'
import type { Recipe } from '../../core/tensor.ts'
import { sequenceBytes, stackBytes, type Evaluator } from './node.ts'

/** Elements of an MXFP4 group, and the bytes of its codes. */
const GROUP = 32
const CODE_BYTES = 16
/** A `block_mxfp4` of ggml: the scale, then codes j and j + 16 in a byte. */
const BLOCK_BYTES = 17

/** A cast of MXFP4 in parts to MXFP4 in blocks, where codes and scales move and no value is rounded. */
export type Repack = Recipe & { readonly op: 'cast'; readonly of: Recipe & { readonly op: 'dequantize' } }

/** Whether a cast is one. */
export function isRepack(recipe: Recipe & { readonly op: 'cast' }): recipe is Repack {
  return recipe.dtype === 'mxfp4' && recipe.of.op === 'dequantize' && recipe.of.scheme.kind === 'mxfp4'
}

/** `partOf` makes the evaluator of a part. */
export function repackEvaluator(recipe: Repack, partOf: (part: Recipe) => Evaluator): Evaluator {
  const part = (name: string): Evaluator => {
    const found = recipe.of.parts[name]
    if (found === undefined) throw new AppError('internal', `MXFP4 without its ${name}`)
    return partOf(found)
  }
  const [codes, scales] = [part('codes'), part('scales')]
  const words = CODE_BYTES / 4
  return {
    info: recipe,
    elements: elementCount(recipe.shape),
    quantum: GROUP,
    scratch(start, count) {
      const [first, groups] = [start / GROUP, count / GROUP]
      return sequenceBytes([
        { kept: stackBytes(groups * CODE_BYTES), scratch: codes.scratch(first * words, groups * words) },
        { kept: stackBytes(groups), scratch: scales.scratch(first, groups) },
      ])
    },
    reads(start, count) {
      const [first, groups] = [start / GROUP, count / GROUP]
      return codes.reads(first * words, groups * words) + scales.reads(first, groups)
    },
    fill: (start, count, into, run) =>
      run.stack.scope(async () => {
        const [first, groups] = [start / GROUP, count / GROUP]
        const packed = run.stack.take(groups * CODE_BYTES)
        await run.stack.scope(() => codes.fill(first * words, groups * words, packed, run))
        const exponents = run.stack.take(groups)
        await run.stack.scope(() => scales.fill(first, groups, exponents, run))
        for (let group = 0; group < groups; group++) {
          const block = into.subarray(group * BLOCK_BYTES, (group + 1) * BLOCK_BYTES)
          block[0] = exponents[group] ?? 0
          shuffle(packed.subarray(group * CODE_BYTES, (group + 1) * CODE_BYTES), block.subarray(1))
        }
      }),
  }
}

/** From codes 2j and 2j + 1 in byte j to codes j and j + 16. */
function shuffle(from: Uint8Array, to: Uint8Array): void {
  const half = CODE_BYTES / 2
  for (let j = 0; j < half; j++) {
    const low = from[j] ?? 0
    const high = from[j + half] ?? 0
    to[2 * j] = (low & 15) | ((high & 15) << 4)
    to[2 * j + 1] = (low >>> 4) | (high & 0xf0)
  }
}
