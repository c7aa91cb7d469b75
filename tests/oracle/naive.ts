import { type Folder } from '../../src/core/bytes.ts'
import { bytesOf, dtypeInfo, elementCount } from '../../src/core/dtype.ts'
import type { Plan } from '../../src/core/plan.ts'
import { tensorBytes, type Recipe } from '../../src/core/tensor.ts'
import { createReferenceBackend } from '../../src/kernels/reference/index.ts'

/**
 * Executes a plan in the plainest way: a whole tensor at a time, in memory, by the reference kernels. For tests only: an
 * independent check of the real loop, which tiles, overlaps and reorders.
 */

const backend = createReferenceBackend()

/** All bytes of one recipe, of the operations that GGUF plans use. */
export async function evaluateNaively(recipe: Recipe, folder: Folder): Promise<Uint8Array> {
  switch (recipe.op) {
    case 'read': {
      const bytes = new Uint8Array(tensorBytes(recipe))
      const source = await folder.open(recipe.file)
      await source.read(recipe.offset, bytes)
      await source.close()
      return bytes
    }
    case 'literal':
      return recipe.bytes
    case 'reshape':
      return evaluateNaively(recipe.of, folder)
    case 'cast': {
      const input = await evaluateNaively(recipe.of, folder)
      const output = new Uint8Array(tensorBytes(recipe))
      const kernel = backend.prepare({ kind: 'cast', from: recipe.of.dtype, to: recipe.dtype })
      const { bad } = await kernel.run(input, output, elementCount(recipe.shape))
      if (bad !== null) throw new Error(`element ${bad} cannot be cast to ${recipe.dtype}`)
      return output
    }
    case 'permute':
      return permuteNaively(await evaluateNaively(recipe.of, folder), recipe)
    default:
      throw new Error(`the naive executor does not know ${recipe.op}`)
  }
}

function permuteNaively(input: Uint8Array, recipe: Recipe & { readonly op: 'permute' }): Uint8Array {
  const { block, bytes: width } = dtypeInfo(recipe.dtype)
  if (block !== 1) throw new Error('only scalar types')
  const from = recipe.of.shape
  const strides = from.map((_, axis) => from.slice(axis + 1).reduce((product, size) => product * size, 1))
  const output = new Uint8Array(input.length)
  const index = recipe.shape.map(() => 0)
  for (let at = 0; at < elementCount(recipe.shape); at++) {
    let source = 0
    recipe.axes.forEach((axis, position) => (source += index[position]! * strides[axis]!))
    output.set(input.subarray(source * width, (source + 1) * width), at * width)
    for (let axis = index.length - 1; axis >= 0; axis--) {
      index[axis]!++
      if (index[axis]! < recipe.shape[axis]!) break
      index[axis] = 0
    }
  }
  return output
}

/** The bytes of a plan's only file. */
export async function executeNaively(plan: Plan, folder: Folder): Promise<Uint8Array<ArrayBuffer>> {
  const [file] = plan.files
  if (file === undefined || plan.files.length > 1) throw new Error('one file expected')
  const bytes = new Uint8Array(file.size)
  for (const segment of file.segments) {
    if (segment.kind === 'outputs' || segment.kind === 'seal') throw new Error('no producers or checksums here')
    const content = segment.kind === 'bytes' ? segment.bytes : await evaluateNaively(segment.recipe, folder)
    if (segment.kind === 'tensor' && content.length !== segment.size) throw new Error(`${segment.name}: wrong size`)
    bytes.set(content, segment.offset)
  }
  return bytes
}

/** A tensor's bytes in float32, by the reference kernels. */
export async function dequantizeNaively(bytes: Uint8Array, dtype: Recipe['dtype'], count: number): Promise<Uint8Array> {
  if (dtype === 'f32') return bytes
  const output = new Uint8Array(bytesOf('f32', count))
  const { bad } = await backend.prepare({ kind: 'cast', from: dtype, to: 'f32' }).run(bytes, output, count)
  if (bad !== null) throw new Error(`element ${bad} is not finite`)
  return output
}
