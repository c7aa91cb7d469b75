import { readFileSync } from 'node:fs'
import path from 'node:path'
import { Tokenizer } from '@huggingface/tokenizers'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Api } from '../../src/api/api.ts'
import { CORPUS } from './corpus.ts'
import { convertByProduct, productApi, temporaryFolder } from './gguf-files.ts'
import { judge, noLlama } from './llama.ts'
import { MODELS, noModels } from './models.ts'

const reason = noLlama ?? noModels

const NAMES = [
  'main',
  'llama-spm',
  'llama3-tied',
  'mistral',
  'mixtral',
  'minicpm',
  'gemma2',
  'phi3',
  'qwen2',
  'qwen3',
  'gpt2',
  'bert',
  't5',
]

interface Exception {
  /** Why llama.cpp, given the right vocabulary and keys, makes other ids of such a text. */
  readonly why: string
  readonly of: (text: string) => boolean
}

const NFC: Exception = {
  why: 'Qwen puts text into NFC first; llama.cpp has no normaliser for byte-level BPE',
  of: (text) => text !== text.normalize('NFC'),
}

/** Where llama.cpp itself differs. A text that is excepted must differ: when it no longer does, the entry goes. */
const EXCEPTIONS: Readonly<Record<string, readonly Exception[]>> = {
  qwen2: [NFC],
  qwen3: [NFC],
  bert: [
    {
      why: 'BERT takes words of more than 100 characters for unknown; llama.cpp has no such bound',
      of: (text) => /\S{101}/.test(text),
    },
    {
      why: 'BERT strips marks of the category Mn; llama.cpp all marks, the keycap (Me) too',
      of: (text) => /\p{Me}/u.test(text),
    },
  ],
  t5: [
    {
      why: 'Metaspace puts no space before a text, or a part after a special token, that begins with one; llama.cpp does',
      of: (text) => /^[ \u2581]|<(?:pad|unk|\/s)> (?!<(?:pad|unk|\/s)>)/.test(text) && !/^ *$/.test(text),
    },
  ],
}

describe.skipIf(reason !== null)(`token ids on our files${reason === null ? '' : ` (${reason})`}`, () => {
  let folder: Awaited<ReturnType<typeof temporaryFolder>>
  let api: Api
  beforeAll(async () => {
    folder = await temporaryFolder()
    api = productApi()
  })
  afterAll(async () => {
    await api.close()
    await folder.remove()
  })

  test.each(NAMES)('%s: llama.cpp gives those of @huggingface/tokenizers', async (model) => {
    const llama = await judge(await convertByProduct(api, model, 'f16', folder.path))
    const read = (name: string): object => JSON.parse(readFileSync(path.join(MODELS, model, name), 'utf8')) as object
    const tokenizer = new Tokenizer(read('tokenizer.json'), read('tokenizer_config.json'))
    try {
      const differ: unknown[] = []
      for (const text of CORPUS) {
        const found = await llama.tokenize(text)
        const expected = tokenizer.encode(text).ids
        const excepted = (EXCEPTIONS[model] ?? []).some(({ of }) => of(text))
        if ((found.join() === expected.join()) === excepted) differ.push({ text, excepted, found, expected })
      }
      expect(differ).toEqual([])
    } finally {
      await llama.close()
    }
  })
})
