import { AppError } from '../../core/errors.ts'

/** The browser's name of an error (`NotFoundError`); an empty string if it is not the browser's. */
export function domName(error: unknown): string {
  return error instanceof DOMException ? error.name : ''
}

/** Why a file could not be opened or read, as an AppError: `missing-file` if it was never there, else `source-lost`. */
export function readError(error: unknown, file: string, step: 'open' | 'read'): AppError {
  if (!(error instanceof DOMException) || error.name === 'AbortError') {
    return AppError.from(error, 'source-lost', { where: { file } })
  }
  const details = { where: { file }, cause: error }
  if (step === 'open' && (error.name === 'NotFoundError' || error.name === 'TypeMismatchError')) {
    return new AppError('missing-file', `${file} is not there`, { ...details, hint: 'Choose the whole folder.' })
  }
  if (error.name === 'NotAllowedError' || error.name === 'SecurityError') {
    return new AppError('source-lost', `${file} may not be read any more`, {
      ...details,
      hint: 'Choose the folder again and allow reading.',
    })
  }
  return new AppError('source-lost', `${file} cannot be read any more: it was moved, changed, or its disk is gone`, {
    ...details,
    hint: 'Check that the disk is attached and the file unchanged, then choose the folder again.',
  })
}

/** Why a file could not be written, as an AppError: `no-space`, `busy`, `output-exists`, else `output-denied`. */
export function writeError(error: unknown, file: string): AppError {
  if (error instanceof AppError || domName(error) === 'AbortError') return AppError.from(error)
  const details = { where: { file }, cause: error }
  switch (domName(error)) {
    case 'QuotaExceededError':
      return noSpace(file, error)
    case 'NoModificationAllowedError':
      return busy(file, error)
    case 'NotAllowedError':
    case 'SecurityError':
      return new AppError('output-denied', `${file} may not be written any more`, {
        ...details,
        hint: 'Choose the folder again and allow writing.',
      })
    case 'NotFoundError':
      return new AppError('output-denied', `${file} cannot be written: its folder is gone`, {
        ...details,
        hint: 'Choose another folder.',
      })
    default:
      return new AppError('output-denied', `${file} cannot be written: ${String(error)}`, {
        ...details,
        hint: 'Choose another folder.',
      })
  }
}

export function noSpace(file: string, cause: unknown): AppError {
  return new AppError('no-space', `${file}: the browser has no more space for this site`, {
    where: { file },
    hint: 'Free space on the disk, remove earlier results, or write into a folder of your own.',
    cause,
  })
}

export function busy(file: string, cause?: unknown): AppError {
  return new AppError('busy', `${file} is being written`, {
    where: { file },
    hint: 'Wait for the other conversion (it may run in another tab), or choose another name.',
    cause,
  })
}

export function alreadyThere(file: string): AppError {
  return new AppError('output-exists', `${file} is already there`, {
    where: { file },
    hint: 'Choose another name or folder, or ask for overwriting.',
  })
}

export function unwritten(file: string): AppError {
  return new AppError('missing-file', `${file} cannot be named: it has not been written`, {
    where: { file },
    hint: 'Something removed the unfinished file. Convert again.',
  })
}
