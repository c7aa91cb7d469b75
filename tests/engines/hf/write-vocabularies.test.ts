import { existsSync, readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { Tokenizer as Reference } from '@huggingface/tokenizers'
import { describe, expect, it } from 'vitest'
import type { ModelConfig } from '../../../src/core/checkpoint.ts'
import { formatJson } from '../../../src/core/json.ts'
import { readGguf } from '../../../src/engines/containers/gguf/reader.ts'
import { readTokenizer } from '../../../src/engines/gguf/read/tokenizer.ts'
import { tokenizerFiles } from '../../../src/engines/transformers/write-tokenizer.ts'
import { memoryFolder } from '../../contracts/memory.ts'
import { openFiles, tinyLlama } from './folder.ts'

/** Real vocabularies as GGUF, with texts and the ids that their own tokenizers give; no clone of the project has them. */
const VOCABULARIES = resolve(import.meta.dirname, '../../../../shared/vocab')

/**
 * The judge takes only 0 to 9 for digits where the library that it stands for takes every character of the class N: a
 * text with ½ tells them apart, and nothing else here.
 */
const NOT_JUDGED: Readonly<Record<string, RegExp>> = { starcoder: /½/, 'deepseek-coder': /½/ }

describe.skipIf(!existsSync(VOCABULARIES))('a tokenizer.json from a GGUF vocabulary (../shared/vocab)', () => {
  it.each(['llama-spm', 'phi-3', 'gpt-2', 'starcoder', 'deepseek-coder'])(
    'gives the expected ids: %s',
    async (name) => {
      const path = `${VOCABULARIES}/ggml-vocab-${name}.gguf`
      const folder = memoryFolder({ 'vocab.gguf': Uint8Array.from(readFileSync(path)) })
      const { metadata } = await readGguf(await folder.open('vocab.gguf'))
      const { tokenizer } = readTokenizer(metadata, 'vocab.gguf')
      const config: ModelConfig = (await openFiles(tinyLlama())).config
      const { files } = tokenizerFiles(tokenizer!, config)
      const json = (file: string): object => JSON.parse(formatJson(files.get(file)!)) as object
      const made = new Reference(json('tokenizer.json'), json('tokenizer_config.json'))
      const texts = readFileSync(`${path}.inp`, 'utf8').split('\n__ggml_vocab_test__\n')
      const expected = readFileSync(`${path}.out`, 'utf8').split('\n')
      expect(texts.length).toBeGreaterThan(40)
      let judged = 0
      for (const [at, text] of texts.entries()) {
        if (NOT_JUDGED[name]?.test(text) === true) continue
        const ids = (expected[at] ?? '').split(' ').filter((id) => id !== '')
        expect(made.encode(text, { add_special_tokens: false }).ids.map(String), JSON.stringify(text)).toEqual(ids)
        judged++
      }
      expect(judged).toBeGreaterThanOrEqual(texts.length - 1)
    },
  )
})
