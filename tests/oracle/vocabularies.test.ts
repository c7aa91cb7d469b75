import { existsSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { Tokenizer } from '@huggingface/tokenizers'
import { describe, expect, test } from 'vitest'
import { openPath } from '../../companion/bytes.ts'
import type { Json } from '../../src/core/json.ts'
import { readGguf } from '../../src/engines/containers/gguf/reader.ts'
import type { GgufValue } from '../../src/engines/containers/gguf/types.ts'
import { readTokenizer } from '../../src/engines/gguf/read/tokenizer.ts'
import { tokenizerMetadata } from '../../src/engines/gguf/tokenizer.ts'
import { fingerprint } from '../../src/engines/transformers/fingerprint.ts'
import { tokenizerFiles } from '../../src/engines/transformers/write-tokenizer.ts'
import { CORPUS } from './corpus.ts'
import { noLlama, judge } from './llama.ts'

const FOLDER = path.resolve(import.meta.dirname, '../../../shared/vocab')
const reason = existsSync(FOLDER) ? null : 'the vocabularies (../shared/vocab) are not here'

const NAMES = ['bert-bge', 'deepseek-coder', 'gpt-2', 'llama-spm', 'phi-3', 'starcoder']

/** What llama.cpp's converter knows these by. */
const FINGERPRINTS = new Map([
  ['gpt-2', '3ce83efda5659b07b1ad37ca97ca5797ea4285d9b9ab0dc679e4a720c9da7454'],
  ['starcoder', '35d91631860c815f952d711435f48d356ebac988362536bed955d43bfa436e34'],
  ['deepseek-coder', '347715f544604f9118bb75ed199f68779f423cabb20db6de6f31b908d04d7821'],
])

const fileOf = (name: string): string => path.join(FOLDER, `ggml-vocab-${name}.gguf`)

async function readVocabulary(name: string) {
  const folder = await openPath(fileOf(name))
  const source = await folder.open(path.basename(fileOf(name)))
  const { metadata } = await readGguf(source)
  await source.close()
  const { tokenizer } = readTokenizer(metadata, name)
  return { metadata, tokenizer: tokenizer! }
}

function plain(json: Json): unknown {
  if (json instanceof Map) return Object.fromEntries([...json].map(([key, value]) => [key, plain(value)]))
  return Array.isArray(json) ? json.map(plain) : json
}

async function rebuilt(name: string): Promise<{ tokenizer: string; config: string }> {
  const { tokenizer } = await readVocabulary(name)
  const { files } = tokenizerFiles(tokenizer, { contextLength: 512 } as never)
  return {
    tokenizer: JSON.stringify(plain(files.get('tokenizer.json')!)),
    config: JSON.stringify(plain(files.get('tokenizer_config.json')!)),
  }
}

/** The texts that come with a vocabulary, and the ids expected of each. */
function cases(name: string): { text: string; ids: number[] }[] {
  const texts = readFileSync(`${fileOf(name)}.inp`, 'utf8').split('\n__ggml_vocab_test__\n')
  const lines = readFileSync(`${fileOf(name)}.out`, 'utf8').split('\n')
  return texts.map((text, index) => ({ text, ids: lines[index]!.split(' ').filter(Boolean).map(Number) }))
}

function values(metadata: ReadonlyMap<string, GgufValue>, key: string): unknown {
  const value = metadata.get(`tokenizer.ggml.${key}`)
  return value?.type === 'array' ? Array.from(value.value as ArrayLike<unknown>) : value
}

/** Texts of the corpus of which the two make different ids, and which of them is to blame. */
const EXCEPTIONS: Readonly<Record<string, readonly { why: string; of: RegExp }[]>> = {
  'bert-bge': [
    { why: 'BERT takes words of more than 100 characters for unknown; llama.cpp has no such bound', of: /\S{101}/ },
    // only where the letters around are in the vocabulary: of others the whole word is unknown
    {
      why: 'BERT strips marks of the category Mn; llama.cpp all marks (Mc of Devanagari, the keycap)',
      of: /\p{Me}|[\u0903\u093e-\u0940\u0949-\u094c]/u,
    },
    { why: 'llama.cpp keeps the first letter of what a syllable is decomposed into', of: /\p{Script=Hangul}/u },
    {
      why: 'JavaScript lowercases the last sigma of a word to ς, the tokenizers library and llama.cpp to σ',
      of: /Σ(?!\p{L})/u,
    },
  ],
  'phi-3': [{ why: 'llama.cpp drops spaces after special tokens in a model called Phi-3', of: /<(?:unk|\/s)> / }],
}

describe.skipIf(reason !== null)(`real vocabularies${reason === null ? '' : ` (${reason})`}`, () => {
  test.each(NAMES)('%s: the tokenizer.json made from it gives the ids expected', async (name) => {
    const { tokenizer, config } = await rebuilt(name)
    const encoder = new Tokenizer(JSON.parse(tokenizer) as object, JSON.parse(config) as object)
    const differ = cases(name).flatMap(({ text, ids }) => {
      const found = encoder.encode(text, { add_special_tokens: false }).ids
      return found.join() === ids.join() ? [] : [{ text, found, ids }]
    })
    expect(differ).toEqual([])
  })

  test.each(NAMES)('%s: written as keys again it is the same', async (name) => {
    const { metadata, tokenizer } = await readVocabulary(name)
    const written = tokenizerMetadata(tokenizer, tokenizer.tokens.length, null).metadata
    for (const key of ['model', 'tokens', 'merges', 'token_type'])
      expect(values(written, key), key).toEqual(values(metadata, key))
  })

  test.each([...FINGERPRINTS])('%s: its check string has the digest that llama.cpp knows', async (name, digest) => {
    const { tokenizer, config } = await rebuilt(name)
    expect(await fingerprint(tokenizer, config)).toBe(digest)
  })

  test.skipIf(noLlama !== null).each(NAMES)(
    `%s: over the corpus as llama.cpp${noLlama === null ? '' : ` (${noLlama})`}`,
    async (name) => {
      const { tokenizer, config } = await rebuilt(name)
      const encoder = new Tokenizer(JSON.parse(tokenizer) as object, JSON.parse(config) as object)
      const llama = await judge(fileOf(name), { vocabularyOnly: true })
      try {
        const differ: unknown[] = []
        for (const text of CORPUS) {
          const found = encoder.encode(text).ids
          const ids = await llama.tokenize(text)
          const excepted = (EXCEPTIONS[name] ?? []).some(({ of }) => of.test(text))
          if ((found.join() === ids.join()) === excepted) differ.push({ text, excepted, found, ids })
        }
        expect(differ).toEqual([])
      } finally {
        await llama.close()
      }
    },
  )
})
