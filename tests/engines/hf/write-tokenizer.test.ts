import { Tokenizer as Reference } from '@huggingface/tokenizers'
import { describe, expect, it } from 'vitest'
import type { Token, Tokenizer } from '../../../src/core/checkpoint.ts'
import { formatJson } from '../../../src/core/json.ts'
import { preTokenizerJson } from '../../../src/engines/transformers/pretokenizer.ts'
import { mergesOfScores, tokenizerFiles } from '../../../src/engines/transformers/write-tokenizer.ts'
import { noModels, readReference } from '../../oracle/models.ts'
import {
  jsonOf,
  noShared,
  openFiles,
  SHARED_MODELS,
  sharedFiles,
  tinyLlama,
  utf8,
  without,
  type Files,
} from './folder.ts'

/** What tokenizers get wrong: spaces, digits, scripts, marks that NFC joins, bytes without a token, special tokens. */
const TEXTS = [
  '',
  ' ',
  '  two  spaces, and a tab\t.',
  "Hello, world! I'll say it's 3.14159 or 1234567.",
  'line\n\nbreaks\r\n and   trailing ',
  'camelCase snake_case UPPER lower MiXeD',
  'naïve café — “quoted” … 中文字符 日本語 한국어 العربية עברית',
  'e\u0301 combining, \u00e9 composed',
  '👩‍👩‍👧 emoji 🎉 \u0000\u0001 controls',
  '<s>inside</s> <|im_start|>user\nhi<|im_end|>',
  'def f(x):\n    return x ** 2  # comment\n',
  '▁ already there ▁▁',
]

function rebuild(files: Files, tokenizer: Tokenizer, config: Parameters<typeof tokenizerFiles>[1]): Files {
  const made = tokenizerFiles(tokenizer, config).files
  const rest = without(
    files,
    ...Object.keys(files).filter((path) => /token|chat_template|merges|vocab|spiece/.test(path)),
  )
  return { ...rest, ...Object.fromEntries([...made].map(([path, json]) => [path, utf8(formatJson(json))])) }
}

function reference(files: Files): Reference {
  return new Reference(jsonOf(files, 'tokenizer.json'), jsonOf(files, 'tokenizer_config.json'))
}

describe.skipIf(noShared)('a tokenizer made anew (../shared)', () => {
  it.each(SHARED_MODELS)('gives the ids of the original: %s', async (name) => {
    const source = sharedFiles(name)
    const { tokenizer, config } = await openFiles(source)
    const [original, made] = [reference(source), reference(rebuild(source, tokenizer!, config))]
    let compared = 0
    for (const text of TEXTS) {
      const ids = made.encode(text).ids
      expect(ids, text).toEqual(original.encode(text).ids)
      if (ids.length > 0) expect(made.decode(ids)).toBe(original.decode(ids))
      compared += ids.length
    }
    expect(compared).toBeGreaterThan(250)
  })

  it.skipIf(noModels !== null).each(SHARED_MODELS)('gives the ids that transformers gave: %s', async (name) => {
    const source = sharedFiles(name)
    const { tokenizer, config } = await openFiles(source)
    const made = reference(rebuild(source, tokenizer!, config))
    for (const { text, ids } of readReference(name)) expect(made.encode(text).ids).toEqual(ids)
  })

  it.each(SHARED_MODELS)('is read back as what it was made from: %s', async (name) => {
    const source = sharedFiles(name)
    const { tokenizer, config } = await openFiles(source)
    const again = await openFiles(rebuild(source, tokenizer!, config))
    const order = ({ kind, tokens }: Tokenizer): unknown =>
      kind === 'bpe' ? tokens : tokens.map(({ text, type }) => ({ text, type }))
    expect(order(again.tokenizer!)).toEqual(order(tokenizer!))
    const { tokens: _a, ...rest } = again.tokenizer!
    const { tokens: _b, ...expected } = tokenizer!
    // what is not said of a separator and none are one
    const plain = (one: Partial<Tokenizer>): object => ({ ...one, preDescription: '', addSep: one.addSep ?? false })
    expect(plain(rest)).toEqual(plain(expected))
  })
})

const token = (text: string, score: number, type: Token['type'] = 'normal'): Token => ({ text, score, type })

describe('merges from scores', () => {
  const merges = (tokens: Token[]) => mergesOfScores(tokens, new Map(tokens.map(({ text }, id) => [text, id])))

  it('puts each piece together in every way there is, best score first', () => {
    const tokens = [token('a', -9), token('b', -9), token('c', -9), token('ab', -1), token('bc', -2), token('abc', -3)]
    expect(merges(tokens)).toEqual([
      ['a', 'b'],
      ['b', 'c'],
      ['ab', 'c'],
      ['a', 'bc'],
    ])
  })

  it('joins only plain pieces, and splits between characters', () => {
    const tokens = [token('a', 0), token('<s>', 0, 'control'), token('a<s>', -1), token('😀', -2), token('a😀', -3)]
    expect(merges(tokens)).toEqual([['a', '😀']])
  })
})

describe('odd vocabularies', () => {
  const base = async () => {
    const { tokenizer, config } = await openFiles(tinyLlama())
    return { tokenizer: tokenizer!, config }
  }

  it('leaves fillers out, and all but one of the tokens with the same text', async () => {
    const { tokenizer, config } = await base()
    const count = tokenizer.tokens.length
    const tokens: Token[] = [
      ...tokenizer.tokens,
      { text: `[PAD${count}]`, type: 'unused', score: 0 },
      { ...tokenizer.tokens[100]!, type: 'normal' },
    ]
    const { files, findings } = tokenizerFiles({ ...tokenizer, tokens }, config)
    const json = JSON.parse(formatJson(files.get('tokenizer.json')!)) as { model: { vocab: Record<string, number> } }
    expect(json.model.vocab[`[PAD${count}]`]).toBeUndefined()
    expect(json.model.vocab[tokenizer.tokens[100]!.text]).toBe(100)
    expect(findings).toMatchObject([{ code: 'duplicate-token' }])
  })

  it('refuses to guess how text is split', async () => {
    const { tokenizer, config } = await base()
    const odd: Tokenizer = { ...tokenizer, kind: 'bpe', pre: 'never-heard-of' }
    expect(() => tokenizerFiles(odd, config)).toThrow(/never-heard-of/)
  })

  it('writes several chat templates by name', async () => {
    const { tokenizer, config } = await base()
    const chatTemplates = [
      { name: 'default', template: 'a' },
      { name: 'tool_use', template: 'b' },
    ]
    const { files } = tokenizerFiles({ ...tokenizer, chatTemplates }, config)
    const json = JSON.parse(formatJson(files.get('tokenizer_config.json')!)) as Record<string, unknown>
    expect(json['chat_template']).toEqual(chatTemplates)
  })
})

describe('families of pre-tokenizers', () => {
  it.each([
    'llama-bpe',
    'smaug-bpe',
    'qwen2',
    'tekken',
    'gpt-2',
    'smollm',
    'falcon',
    'bloom',
    'viking',
    'deepseek-coder',
    'deepseek-v3',
    'starcoder',
    'llama3',
  ])('has %s', (name) => {
    expect(preTokenizerJson(name)).not.toBeNull()
  })

  it('has none that it cannot write whole', () => {
    expect(preTokenizerJson('deepseek-llm')).toBeNull()
    expect(preTokenizerJson('default')).toBeNull()
  })
})
