import type { SourceFile } from '../../core/checkpoint.ts'
import { AppError } from '../../core/errors.ts'
import { readsOf, type Recipe } from '../../core/tensor.ts'
import type { Args } from './pickled.ts'

/** A checkpoint put together: every tensor whole, under its canonical name, with its layer's number in the model. */
export interface MegatronWeights {
  readonly tensors: ReadonlyMap<string, Recipe>
  readonly args: Args
  /** Files that were read. */
  readonly files: readonly SourceFile['path'][]
  /** Where the arguments were found, or should have been, for messages. */
  readonly argsFile: string
  /** What the files hold, by the names it has there. */
  readonly parts: readonly StoredPart[]
  /** What several ranks hold the same of. */
  readonly copies: readonly Copies[]
}

/** A tensor as one file has it. */
export interface StoredPart {
  readonly name: string
  readonly recipe: Recipe
}

/** Of what should be the same: one and another. */
export interface Copies {
  readonly name: string
  readonly one: Recipe
  readonly other: Recipe
}

/** The file that a tensor is in, or the first of several; null for one that is in none. */
export function fileOf(recipe: Recipe | undefined): string | null {
  for (const { file } of recipe === undefined ? [] : readsOf(recipe)) return file
  return null
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
