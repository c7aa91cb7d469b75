import type { Finding } from '../../core/plan.ts'
import { ggufNumber, ggufString, type GgufHeader } from '../containers/gguf/reader.ts'
import type { GgufArray } from '../containers/gguf/types.ts'

const IDS: readonly string[] = ['bos', 'eos', 'eot', 'eom', 'unknown', 'padding', 'seperator', 'mask', 'cls']

/** Whether a file's tokenizer fits its embedding and itself: llama.cpp takes its vocabulary size from the token list. */
export function* tokenizerFindings(
  header: Pick<GgufHeader, 'metadata' | 'tensors'>,
  path: string,
): Generator<Finding, void, void> {
  const { metadata } = header
  const where = { file: path }
  const error = (code: string, message: string): Finding => ({ severity: 'error', code, message, where })
  const model = ggufString(metadata, 'tokenizer.ggml.model')
  if (model === null) {
    yield error('missing-key', 'There is no tokenizer.ggml.model')
    return
  }
  if (model === 'no_vocab' || model === 'none') {
    const message = 'The file has no tokenizer; it takes and gives token ids only'
    yield { severity: 'warning', code: 'no-tokenizer', message, where }
    return
  }
  const tokens = arrayOf(header, 'tokens')
  if (tokens === null || tokens.of !== 'string') {
    yield error('missing-key', 'tokenizer.ggml.tokens is no list of strings')
    return
  }
  const count = tokens.value.length
  const rows = header.tensors.find(({ name }) => name === 'token_embd.weight')?.shape[0]
  if (rows !== undefined && rows !== count)
    yield error('token-count', `tokenizer.ggml.tokens has ${count} tokens, token_embd.weight ${rows} rows`)
  for (const key of ['token_type', 'scores']) {
    const length = arrayOf(header, key)?.value.length
    if (length !== undefined && length !== count)
      yield error('token-count', `tokenizer.ggml.${key} has ${length} entries for ${count} tokens`)
  }
  if (model === 'gpt2') {
    if (arrayOf(header, 'merges')?.of !== 'string') yield error('missing-key', 'There are no tokenizer.ggml.merges')
    if (ggufString(metadata, 'tokenizer.ggml.pre') === null) {
      const message = 'There is no tokenizer.ggml.pre: llama.cpp will guess how text is split, and may guess wrong'
      yield { severity: 'warning', code: 'no-pre-tokenizer', message, where }
    }
  }
  if (model === 'llama' && arrayOf(header, 'scores') === null)
    yield error('missing-key', 'There are no tokenizer.ggml.scores')
  for (const id of IDS) {
    const key = `tokenizer.ggml.${id}_token_id`
    const value = ggufNumber(metadata, key)
    if (value !== null && !(value >= 0 && value < count))
      yield error('bad-token-id', `${key} is ${value}, which is none of the ${count} tokens`)
  }
}

function arrayOf(header: Pick<GgufHeader, 'metadata'>, key: string): GgufArray | null {
  const value = header.metadata.get(`tokenizer.ggml.${key}`)
  return value?.type === 'array' ? value : null
}
