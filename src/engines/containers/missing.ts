import { AppError } from '../../core/errors.ts'

/** Of many missing files these are named. */
const NAMED = 3

/** The error for files of a set of `count` that are not there. `missing` are their paths, at least one. */
export function missingFiles(missing: readonly string[], count: number): AppError {
  const [first = ''] = missing
  const more = missing.length - NAMED
  const named = missing.slice(0, NAMED).join(', ') + (more > 0 ? ` and ${more} more` : '')
  const message =
    missing.length === 1
      ? `${first} is missing: the model is split into ${count} files`
      : `${missing.length} of the ${count} files that the model is split into are missing: ${named}`
  return new AppError('missing-file', message, {
    where: { file: first, missing },
    hint: 'Put all of the files into one folder and open the folder.',
  })
}
