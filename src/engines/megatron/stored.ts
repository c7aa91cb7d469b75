import type { SourceFile } from '../../core/checkpoint.ts'
import { AppError } from '../../core/errors.ts'
import type { Recipe } from '../../core/tensor.ts'
import type { Args } from './pickled.ts'

/** A checkpoint put together: every tensor whole, under its canonical name, with its layer's number in the model. */
export interface MegatronWeights {
  readonly tensors: ReadonlyMap<string, Recipe>
  readonly args: Args
  /** Files that were read. */
  readonly files: readonly SourceFile['path'][]
  /** Where the arguments were found, for messages. */
  readonly argsFile: string
}

/** Throws unless all parts of a tensor have one type and shape. `places` name the parts. */
export function requireAlike(name: string, parts: readonly Recipe[], places: readonly string[]): void {
  const [first] = parts
  const shown = (recipe: Recipe | undefined): string =>
    recipe === undefined ? 'nothing' : `${recipe.dtype} [${recipe.shape.join(', ')}]`
  const odd = parts.findIndex((part) => shown(part) !== shown(first))
  if (odd < 0) return
  throw new AppError(
    'bad-tensor',
    `${name} is ${shown(first)} in ${places[0] ?? ''}, but ${shown(parts[odd])} in ${places[odd] ?? ''}`,
    {
      where: { file: places[odd] ?? '', tensor: name },
      hint: 'The ranks are of different checkpoints: copy all files of one iteration.',
    },
  )
}
