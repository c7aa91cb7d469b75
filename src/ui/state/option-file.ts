import { AppError } from '../../core/errors.ts'
import type { OptionSpec, OptionValue } from '../../core/option.ts'
import { formatBytes } from './format.ts'

/** Text from a file is a configuration; a larger one was chosen by mistake. */
const MAX_TEXT_BYTES = 16 * 1024 * 1024

/** Whether an option's value comes from a file. */
export function takesFile({ kind }: OptionSpec): boolean {
  return kind.kind === 'file' || (kind.kind === 'text' && kind.file === true)
}

/** A file as the value of an option that takes one. Throws `bad-option` if it is too large or cannot be read. */
export async function fileValue({ kind }: OptionSpec, file: File): Promise<OptionValue> {
  const most = kind.kind === 'file' ? kind.maxBytes : MAX_TEXT_BYTES
  if (file.size > most) {
    const message = `“${file.name}” has ${formatBytes(file.size)}; at most ${formatBytes(most)} can be taken.`
    throw new AppError('bad-option', message)
  }
  try {
    return kind.kind === 'file'
      ? { name: file.name, bytes: new Uint8Array(await file.arrayBuffer()) }
      : await file.text()
  } catch (cause) {
    throw new AppError('bad-option', `“${file.name}” cannot be read.`, { cause })
  }
}
