import type { Folder } from '../../core/bytes.ts'
import type { ModelConfig, Tokenizer } from '../../core/checkpoint.ts'
import type { Finding } from '../../core/plan.ts'
import type { ModelFiles } from './files.ts'

export interface ReadTokenizer {
  readonly tokenizer: Tokenizer | null
  readonly findings: readonly Finding[]
}

export async function readTokenizer(_folder: Folder, _model: ModelFiles, _config: ModelConfig): Promise<ReadTokenizer> {
  return { tokenizer: null, findings: [] }
}
