import type { Inputs, Run } from '../../src/api/evaluate/node.ts'
import { Stack, stackBytes } from '../../src/api/evaluate/node.ts'
import { compile } from '../../src/api/evaluate/compile.ts'
import { kernels } from '../../src/api/kernels.ts'
import { bytesOf, elementCount } from '../../src/core/dtype.ts'
import type { Recipe } from '../../src/core/tensor.ts'
import { createReferenceBackend } from '../../src/kernels/reference/index.ts'

const computing = kernels([createReferenceBackend()])

/** Inputs over byte arrays, counting what is read. */
export class ArrayInputs implements Inputs {
  readonly files: Readonly<Record<string, Uint8Array>>
  bytesRead = 0
  calls = 0

  constructor(files: Readonly<Record<string, Uint8Array>>) {
    this.files = files
  }

  async read(file: string, offset: number, into: Uint8Array): Promise<void> {
    const bytes = this.files[file]!
    if (offset + into.length > bytes.length) throw new RangeError(`read past the end of ${file}`)
    into.set(bytes.subarray(offset, offset + into.length))
    this.bytesRead += into.length
    this.calls++
  }

  product(stage: string, key: string, offset: number, into: Uint8Array): Promise<void> {
    return this.read(`${stage}/${key}`, offset, into)
  }
}

/** A range of a recipe's elements, evaluated in a slab of exactly the size that it says it needs. */
export async function evaluate(
  recipe: Recipe,
  inputs: Inputs,
  start = 0,
  count: number = elementCount(recipe.shape),
): Promise<{ bytes: Uint8Array; scratch: number; used: number; reads: number }> {
  const evaluator = compile(recipe)
  const scratch = evaluator.scratch(start, count)
  const stack = new Stack(new Uint8Array(scratch))
  const buffer = new Uint8Array(stackBytes(bytesOf(recipe.dtype, count)))
  const into = buffer.subarray(0, bytesOf(recipe.dtype, count))
  const run: Run = { ...computing, inputs, signal: undefined, stack }
  await evaluator.fill(start, count, into, run)
  return { bytes: into, scratch, used: stack.highWater, reads: evaluator.reads(start, count) }
}
