import type { BytesCase } from './bytes-harness.ts'
import { readingCases } from './bytes-reading.ts'
import { writingCases } from './bytes-writing.ts'

export { pattern, type BytesCase, type BytesHarness, type OutputHarness } from './bytes-harness.ts'

/** What every host's folders must do. */
export const bytesCases: readonly BytesCase[] = [...readingCases, ...writingCases]
