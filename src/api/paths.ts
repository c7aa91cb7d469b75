import { PART_SUFFIX } from '../core/bytes.ts'
import { AppError } from '../core/errors.ts'

/**
 * The parts of a path within a folder. Throws `malformed` for anything that could lead out of the folder on any
 * platform: `..`, absolute paths, backslashes, drive letters, empty parts, NUL.
 */
export function splitPath(path: string): readonly string[] {
  const parts = path.split('/')
  const bad =
    path.includes('\\') ||
    path.includes('\0') ||
    /^[A-Za-z]:/.test(path) ||
    parts.some((part) => part === '' || part === '.' || part === '..')
  if (bad) {
    throw new AppError('malformed', `${JSON.stringify(path)} is not a path within the folder`, {
      where: { file: path },
      hint: 'Only plain relative paths are followed. The file that names this one may have been made to do harm.',
    })
  }
  return parts
}

/** The ending of the files that Chromium writes to until a writable stream is closed. */
const SWAP_SUFFIX = '.crswap'

/**
 * Whether a listing leaves this path out: unfinished files, and what is in hidden folders (`.git`, `.cache`), which
 * hold the bookkeeping of other tools and never a model. `open` finds them all the same.
 */
export function isUnlisted(path: string): boolean {
  return path.endsWith(PART_SUFFIX) || path.endsWith(SWAP_SUFFIX) || /(^|\/)\.[^/]*\//.test(path)
}

/** Orders paths by UTF-16 code units, the same on every machine and in every locale. */
export function comparePaths(a: { readonly path: string }, b: { readonly path: string }): number {
  return a.path < b.path ? -1 : a.path > b.path ? 1 : 0
}

/** Throws `malformed` unless `value` is a whole number of bytes that a double holds exactly. */
export function checkOffset(value: number, file: string): void {
  if (Number.isSafeInteger(value) && value >= 0) return
  throw new AppError('malformed', `${file}: ${value} is no byte offset`, { where: { file } })
}
