import { readFileSync } from 'node:fs'
import path from 'node:path'

/** Texts that tokenizers differ in: a JSON string a line, so that spaces and controls are seen. */
export const CORPUS: readonly string[] = readFileSync(path.join(import.meta.dirname, '../fixtures/corpus.txt'), 'utf8')
  .trimEnd()
  .split('\n')
  .map((line) => JSON.parse(line) as string)
