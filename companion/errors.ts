import { AppError, type ErrorCode } from '../src/core/errors.ts'

/** The system's name of an error (`ENOENT`); null if it is not the system's. */
export function errnoOf(error: unknown): string | null {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : null
}

/** Why a file could not be opened or read, as an AppError: `missing-file` if it was never there, else `source-lost`. */
export function readError(error: unknown, file: string, step: 'open' | 'read'): AppError {
  if (error instanceof AppError || errnoOf(error) === null) return AppError.from(error, 'internal', { where: { file } })
  const errno = errnoOf(error)
  const details = { where: { file }, cause: error }
  if (step === 'open' && (errno === 'ENOENT' || errno === 'ENOTDIR' || errno === 'ELOOP')) {
    return new AppError('missing-file', `${file} is not there`, { ...details, hint: 'Check the spelling of the path.' })
  }
  if (errno === 'EACCES' || errno === 'EPERM') {
    return new AppError('source-lost', `${file} may not be read`, {
      ...details,
      hint: 'Ask for the right to read it, or copy the model elsewhere.',
    })
  }
  if (errno === 'EMFILE' || errno === 'ENFILE') {
    return new AppError('internal', `${file}: too many files are open`, {
      ...details,
      hint: 'Raise the limit of open files (ulimit -n).',
    })
  }
  return new AppError('source-lost', `${file} cannot be read any more (${errno})`, {
    ...details,
    hint: 'Check that the disk is attached and the file still there, then run again.',
  })
}

const WRITE_CODES: Readonly<Record<string, ErrorCode>> = {
  ENOSPC: 'no-space',
  EDQUOT: 'no-space',
  EFBIG: 'no-space',
}

/** Why a file could not be written, as an AppError: `no-space`, else `output-denied`. */
export function writeError(error: unknown, file: string): AppError {
  const errno = errnoOf(error)
  if (error instanceof AppError || errno === null) return AppError.from(error, 'internal', { where: { file } })
  const code = WRITE_CODES[errno] ?? 'output-denied'
  if (code === 'no-space') {
    const what = errno === 'EFBIG' ? 'the disk allows no file this large' : 'no space left on the disk'
    return new AppError(code, `${file}: ${what}`, {
      where: { file },
      hint: 'Make room, or choose another disk. What was written is kept for a later resume.',
      cause: error,
    })
  }
  const why =
    errno === 'EROFS' ? 'the disk is read-only' : errno === 'EACCES' || errno === 'EPERM' ? 'permission denied' : errno
  return new AppError(code, `${file} cannot be written: ${why}`, {
    where: { file },
    hint: 'Choose a folder that you may write to.',
    cause: error,
  })
}
