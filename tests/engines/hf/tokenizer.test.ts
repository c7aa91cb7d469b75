import { beforeAll, describe, expect, it } from 'vitest'
import type { Checkpoint, Tokenizer } from '../../../src/core/checkpoint.ts'
import { parseJsonObject } from '../../../src/core/json.ts'
import { recognisePreTokenizer } from '../../../src/engines/transformers/pretokenizer.ts'
import { BPE_PRE_TOKENIZERS } from '../../../src/engines/gguf/tokenizer.ts'
import {
  codes,
  edit,
  failure,
  jsonBytes,
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

interface RawTokenizer {
  added_tokens: { id: number; content: string; special: boolean }[]
  model: { vocab: Record<string, number>; merges: [string, string][] }
}

const TOKENIZER = 'tokenizer.json'
const CONFIG = 'tokenizer_config.json'

let tiny: Files
beforeAll(() => {
  tiny = tinyLlama()
})

const rawOf = (files: Files): RawTokenizer => jsonOf(files, TOKENIZER) as unknown as RawTokenizer

async function tokenizerOf(files: Files): Promise<Tokenizer> {
  const { tokenizer } = await openFiles(files)
  if (tokenizer === null) throw new Error('no tokenizer')
  return tokenizer
}

/** Changes the model of a tokenizer.json. */
function editModel(files: Files, changes: Record<string, unknown>): Files {
  return edit(files, TOKENIZER, { model: { ...rawOf(files).model, ...changes } })
}

describe.skipIf(noShared)('the shared models (../shared)', () => {
  it.each(SHARED_MODELS)('%s: texts, merges and special ids are those of the files', async (name) => {
    const files = sharedFiles(name)
    const raw = rawOf(files)
    const { tokenizer, config } = await openFiles(files)
    const { tokens, merges, ids, kind } = tokenizer!
    expect(tokens).toHaveLength(config.vocabSize)
    const texts = new Map(Object.entries(raw.model.vocab).map(([text, id]) => [id, text]))
    for (const { id, content } of raw.added_tokens) texts.set(id, content)
    expect(tokens.map(({ text }) => text)).toEqual(tokens.map((_, id) => texts.get(id)))
    expect(merges).toEqual(kind === 'bpe' ? raw.model.merges : [])
    for (const { id } of raw.added_tokens) expect(tokens[id]!.type).toBe(id === ids.unknown ? 'unknown' : 'control')
    const told = jsonOf(files, CONFIG)
    expect(tokens[ids.eos!]!.text).toBe(told['eos_token'])
    if (told['bos_token'] !== undefined) expect(tokens[ids.bos!]!.text).toBe(told['bos_token'])
    if (told['pad_token'] !== undefined) expect(tokens[ids.pad!]!.text).toBe(told['pad_token'])
    expect(tokenizer!.chatTemplates).toEqual([
      { name: 'default', template: new TextDecoder().decode(files['chat_template.jinja']) },
    ])
    // the first id of every prompt tells whether a bos is added
    const reference = jsonOf(files, 'reference.json') as { prompts: { input_ids: number[] }[] }
    expect(tokenizer!.addBos).toBe(reference.prompts.every(({ input_ids: [first] }) => first === ids.bos))
    expect(tokenizer!.addEos).toBe(false)
  })

  it.each([
    ['main', 'bpe', 'smaug-bpe', 3],
    ['llama3-tied', 'bpe', 'smaug-bpe', 3],
    ['qwen2', 'bpe', 'qwen2', null],
    ['qwen3', 'bpe', 'qwen2', null],
    ['llama-spm', 'spm', 'default', null],
    ['mistral', 'spm', 'default', null],
  ])('%s is %s, %s', async (name, kind, pre, eot) => {
    expect(await tokenizerOf(sharedFiles(name))).toMatchObject({ kind, pre, ids: { eot } })
  })

  it('ranks tokenizer.json’s pieces as tokenizer.model does', async () => {
    const files = sharedFiles('llama-spm')
    const trained = await tokenizerOf(files)
    const ranked = await tokenizerOf(without(files, 'tokenizer.model'))
    expect({ ...ranked, tokens: null }).toEqual({ ...trained, tokens: null })
    expect(ranked.tokens.map(({ text, type }) => [text, type])).toEqual(
      trained.tokens.map(({ text, type }) => [text, type]),
    )
    const merged = new Set(rawOf(files).model.merges.map((pair) => pair.join('')))
    const order = ({ tokens }: Tokenizer): string[] =>
      tokens
        .filter(({ text }) => merged.has(text))
        .sort((a, b) => b.score - a.score)
        .map(({ text }) => text)
    expect(merged.size).toBeGreaterThan(500)
    expect(order(ranked)).toEqual(order(trained))
    expect(ranked.tokens.every(({ score }) => Object.is(Math.fround(score), score) && !Object.is(score, -0))).toBe(true)
  })

  it('reads tokenizer.model alone', async () => {
    const files = sharedFiles('llama-spm')
    const both = await tokenizerOf(files)
    expect(await tokenizerOf(without(files, TOKENIZER))).toEqual({ ...both, addBos: null, addEos: null })
    const classed = edit(without(files, TOKENIZER), CONFIG, { tokenizer_class: 'LlamaTokenizer' })
    expect(await tokenizerOf(classed)).toEqual(both)
  })

  it('goes by an edited tokenizer.json, with a warning', async () => {
    const files = sharedFiles('llama-spm')
    const vocab = Object.fromEntries(
      Object.entries(rawOf(files).model.vocab).map(([text, id]) => [text === '…' ? '☃' : text, id]),
    )
    const checkpoint = await openFiles(editModel(files, { vocab }))
    expect(checkpoint.findings).toMatchObject([{ code: 'tokenizer-file-ignored', where: { file: 'tokenizer.model' } }])
    expect(checkpoint.tokenizer!.tokens[1023]!.text).toBe('☃')
    const broken = await openFiles({ ...files, 'tokenizer.model': utf8('not a model') })
    expect(codes(broken)).toEqual(['tokenizer-file-ignored'])
    expect(broken.tokenizer?.kind).toBe('spm')
  })
})

describe('the tiny byte-level BPE', () => {
  it('is read whole', async () => {
    const tokenizer = await tokenizerOf(tiny)
    const raw = rawOf(tiny)
    const texts = Object.entries(raw.model.vocab).sort(([, a], [, b]) => a - b)
    expect(tokenizer.tokens.map(({ text }) => text)).toEqual(texts.map(([text]) => text))
    expect(tokenizer.tokens.map(({ type }) => type)).toEqual(
      Array.from({ length: 300 }, (_, id) => (id < 4 ? 'control' : 'normal')),
    )
    expect(tokenizer.merges).toEqual(raw.model.merges)
    expect(tokenizer).toMatchObject({
      kind: 'bpe',
      pre: 'llama-bpe',
      ids: { bos: 0, eos: 1, eot: 3, unknown: null, pad: null },
      addBos: true,
      addEos: false,
      addSpacePrefix: null,
    })
    expect(tokenizer.chatTemplates[0]!.template).toContain('<|im_end|>')
  })

  it('takes merges as text too', async () => {
    const merges = rawOf(tiny).model.merges.map((pair) => pair.join(' '))
    expect((await tokenizerOf(editModel(tiny, { merges }))).merges).toEqual(rawOf(tiny).model.merges)
  })

  it('is read from vocab.json and merges.txt', async () => {
    const { vocab, merges } = rawOf(tiny).model
    const files = {
      ...without(edit(tiny, CONFIG, { tokenizer_class: 'Qwen2Tokenizer' }), TOKENIZER),
      'vocab.json': jsonBytes(vocab),
      'merges.txt': utf8(`#version: 0.2\n${merges.map((pair) => pair.join(' ')).join('\n')}\n`),
      'added_tokens.json': jsonBytes({ '<|im_end|>': 3, '<|im_start|>': 2, '<|begin_of_text|>': 0 }),
    }
    const tokenizer = await tokenizerOf(files)
    const whole = await tokenizerOf(tiny)
    expect(tokenizer.merges).toEqual(merges)
    expect(tokenizer.tokens.map(({ text }) => text)).toEqual(whole.tokens.map(({ text }) => text))
    expect(tokenizer).toMatchObject({ pre: 'qwen2', ids: whole.ids, addBos: null })
    const unknown = await tokenizerOf(edit(files, CONFIG, { tokenizer_class: 'FooTokenizer' }))
    expect(unknown.pre).toBeNull()
    expect(unknown.preDescription).toContain('FooTokenizer')
  })

  it('fills gaps and the end with unused tokens', async () => {
    const vocab = { ...rawOf(tiny).model.vocab }
    const gone = Object.keys(vocab).filter((text) => text === '~' || vocab[text] === 299)
    for (const text of gone) delete vocab[text]
    const merges = rawOf(tiny).model.merges.slice(0, -1)
    const checkpoint = await openFiles(editModel(tiny, { vocab, merges }))
    const { tokens } = checkpoint.tokenizer!
    const hole = rawOf(tiny).model.vocab['~']!
    expect(tokens).toHaveLength(300)
    expect(tokens[hole]).toEqual({ text: `[PAD${hole}]`, type: 'unused', score: 0 })
    expect(tokens[299]).toEqual({ text: '[PAD299]', type: 'unused', score: 0 })
    expect(checkpoint.findings).toMatchObject([{ severity: 'info', code: 'vocab-padded' }])
    expect(checkpoint.findings[0]!.message).toContain('298 tokens')
  })

  it('refuses more tokens than rows', async () => {
    const added = [...rawOf(tiny).added_tokens, { id: 300, content: '<new>', special: true }]
    const error = await failure(edit(tiny, TOKENIZER, { added_tokens: added }))
    expect(error).toMatchObject({ code: 'malformed', where: { file: TOKENIZER } })
    expect(error.message).toContain('ids up to 300')
    expect(error.hint).toContain('<new>')
  })

  it.each([
    ['two tokens with one id', { vocab: { a: 0, b: 0 }, merges: [] }],
    ['an id of text', { vocab: { a: '0' }, merges: [] }],
    ['an id below zero', { vocab: { a: -1 }, merges: [] }],
    ['an id of 1e15 rows', { vocab: { a: 1e15 }, merges: [] }],
    ['no vocabulary', { vocab: {} }],
    ['a vocabulary of a list', { vocab: [] }],
    ['no merges', { merges: undefined }],
    ['a merge of three', { merges: ['t h e'] }],
    ['a merge of one', { merges: [['t']] }],
    ['a merge of numbers', { merges: [[1, 2]] }],
    ['a merge of what is no token', { merges: [['q', 'q']] }],
  ])('refuses %s', async (_, changes) => {
    const error = await failure(editModel(tiny, changes))
    expect(error).toMatchObject({ code: 'malformed', where: { file: TOKENIZER } })
    expect(error.hint).not.toBeNull()
  })

  it('refuses a tokenizer.json that is no JSON, or has no model', async () => {
    expect(await failure({ ...tiny, [TOKENIZER]: utf8('{') })).toMatchObject({ code: 'malformed' })
    expect(await failure({ ...tiny, [TOKENIZER]: utf8('{}') })).toMatchObject({ code: 'malformed' })
  })
})

describe('added tokens', () => {
  it('are control if special or if they look so, else of the user', async () => {
    const contents = ['<a>', '<|b|>', '<｜c｜>', '<unused7>', '[d]']
    const added_tokens = contents.map((content, index) => ({ id: 295 + index, content, special: content === '[d]' }))
    const vocab = Object.fromEntries(Object.entries(rawOf(tiny).model.vocab).filter(([, id]) => id < 295))
    const files = edit(editModel(tiny, { vocab, merges: rawOf(tiny).model.merges.slice(0, -5) }), TOKENIZER, {
      added_tokens,
    })
    const { tokens } = await tokenizerOf(files)
    expect(tokens.slice(295).map(({ text, type }) => [text, type])).toEqual([
      ['<a>', 'user'],
      ['<|b|>', 'control'],
      ['<｜c｜>', 'control'],
      ['<unused7>', 'control'],
      ['[d]', 'control'],
    ])
  })

  it('come from tokenizer_config.json and added_tokens.json too; tokenizer.json decides', async () => {
    const vocab = Object.fromEntries(Object.entries(rawOf(tiny).model.vocab).filter(([, id]) => id < 298))
    const files = editModel(tiny, { vocab, merges: rawOf(tiny).model.merges.slice(0, -2) })
    const decoder = { 0: { content: 'other' }, 298: { content: '<b>', special: true }, '1e1': { content: 'no' } }
    const { tokens } = await tokenizerOf({
      ...edit(files, CONFIG, { added_tokens_decoder: decoder }),
      'added_tokens.json': jsonBytes({ '<b2>': 298, '<c>': 299 }),
    })
    expect(tokens[0]!.text).toBe('<|begin_of_text|>')
    expect(tokens.slice(298)).toEqual([
      { text: '<b>', type: 'control', score: 0 },
      { text: '<c>', type: 'user', score: 0 },
    ])
  })
})

describe('special ids', () => {
  const idsOf = async (files: Files): Promise<Tokenizer['ids']> => (await tokenizerOf(files)).ids

  it('are named by text, or by objects, or in special_tokens_map.json, or else by config.json', async () => {
    const content = (text: string): object => ({ content: text, lstrip: false })
    expect(await idsOf(edit(tiny, CONFIG, { bos_token: content('<|im_start|>') }))).toMatchObject({ bos: 2 })
    const map = {
      'special_tokens_map.json': jsonBytes({ bos_token: '<|im_start|>', pad_token: content('<|im_end|>') }),
    }
    expect(await idsOf({ ...tiny, ...map })).toMatchObject({ bos: 0, pad: 3 })
    expect(await idsOf({ ...edit(tiny, CONFIG, { bos_token: null }), ...map })).toMatchObject({ bos: 2 })
    const nothing = edit(tiny, CONFIG, { bos_token: undefined, eos_token: undefined })
    expect(await idsOf(edit(nothing, 'config.json', { bos_token_id: 7, eos_token_id: [8, 9] }))).toMatchObject({
      bos: 7,
      eos: 8,
    })
    expect(await idsOf(edit(tiny, CONFIG, { bos_token: 'no such token' }))).toMatchObject({ bos: 0 })
  })

  it('find the end of a turn where it is not eos', async () => {
    expect(await idsOf(tiny)).toMatchObject({ eos: 1, eot: 3 })
    expect(await idsOf(edit(tiny, CONFIG, { eos_token: '<|im_end|>' }))).toMatchObject({ eos: 3, eot: null })
    expect(await idsOf(edit(tiny, CONFIG, { eot_token: '<|im_start|>' }))).toMatchObject({ eot: 2 })
    // told by the list of ids rather than by the template
    const silent = edit(tiny, CONFIG, { chat_template: undefined })
    expect(await idsOf(silent)).toMatchObject({ eot: 3 })
  })
})

describe('what is put around a text', () => {
  const endsOf = async (files: Files): Promise<readonly (boolean | null)[]> => {
    const { addBos, addEos } = await tokenizerOf(files)
    return [addBos, addEos]
  }
  const template = (...pieces: string[]): object => ({
    type: 'TemplateProcessing',
    single: pieces.map((id) => (id === 'A' ? { Sequence: { id, type_id: 0 } } : { SpecialToken: { id, type_id: 0 } })),
  })

  it('is told by tokenizer_config.json first', async () => {
    expect(await endsOf(edit(tiny, CONFIG, { add_bos_token: false, add_eos_token: true }))).toEqual([false, true])
  })

  it('then by the template, also inside a Sequence', async () => {
    const both = template('<|begin_of_text|>', 'A', '<|end_of_text|>')
    expect(await endsOf(edit(tiny, TOKENIZER, { post_processor: both }))).toEqual([true, true])
    const sequence = { type: 'Sequence', processors: [{ type: 'ByteLevel' }, both] }
    expect(await endsOf(edit(tiny, TOKENIZER, { post_processor: sequence }))).toEqual([true, true])
    expect(await endsOf(edit(tiny, TOKENIZER, { post_processor: template('A') }))).toEqual([false, false])
  })

  it('then by the class', async () => {
    const plain = edit(tiny, TOKENIZER, { post_processor: null })
    expect(await endsOf(plain)).toEqual([false, false])
    expect(await endsOf(edit(plain, CONFIG, { tokenizer_class: 'LlamaTokenizerFast' }))).toEqual([true, false])
  })

  it('is nothing where there is no such token', async () => {
    const none = edit(tiny, CONFIG, { bos_token: null, add_bos_token: true })
    expect(await endsOf(edit(none, 'config.json', { bos_token_id: null }))).toEqual([false, false])
  })
})

describe('chat templates', () => {
  const templatesOf = async (files: Files): Promise<Record<string, string>> =>
    Object.fromEntries((await tokenizerOf(files)).chatTemplates.map(({ name, template }) => [name, template]))

  it('may be a text, a list, files', async () => {
    const list = [
      { name: 'default', template: 'A' },
      { name: 'tool_use', template: 'B' },
    ]
    const listed = edit(tiny, CONFIG, { chat_template: list })
    expect(await templatesOf(listed)).toEqual({ default: 'A', tool_use: 'B' })
    const files = { ...listed, 'chat_template.jinja': utf8('C'), 'additional_chat_templates/rag.jinja': utf8('D') }
    expect(await templatesOf(files)).toEqual({ default: 'C', rag: 'D', tool_use: 'B' })
    const none = edit(tiny, CONFIG, { chat_template: undefined })
    expect(await templatesOf(none)).toEqual({})
    expect(await templatesOf({ ...none, 'chat_template.json': jsonBytes({ chat_template: 'E' }) })).toEqual({
      default: 'E',
    })
  })
})

describe('WordPiece', () => {
  const VOCABULARY = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', 'the', '##s', 'cat']
  const bert = (normalizer: object): Record<string, unknown> => ({
    added_tokens: VOCABULARY.slice(0, 5).map((content, id) => ({ id, content, special: true })),
    normalizer: { type: 'BertNormalizer', ...normalizer },
    pre_tokenizer: { type: 'BertPreTokenizer' },
    post_processor: null,
    decoder: { type: 'WordPiece', prefix: '##' },
    model: {
      type: 'WordPiece',
      unk_token: '[UNK]',
      continuing_subword_prefix: '##',
      vocab: Object.fromEntries(VOCABULARY.map((text, id) => [text, id])),
    },
  })
  const special = { sep_token: '[SEP]', cls_token: '[CLS]', mask_token: '[MASK]', pad_token: '[PAD]' }

  it('of tokenizer.json: marks, flags and special tokens', async () => {
    const flags = { lowercase: false, strip_accents: null, handle_chinese_chars: true }
    const files = edit(edit(tiny, TOKENIZER, bert(flags)), CONFIG, special)
    const { tokenizer } = await openFiles(files)
    expect(tokenizer!.kind).toBe('wordpiece')
    expect(tokenizer!.normalizer).toEqual({ lowercase: false, stripAccents: false, splitIdeographs: true })
    expect(tokenizer!.tokens.slice(0, 8).map(({ text }) => text)).toEqual(VOCABULARY)
    expect(tokenizer!.tokens.slice(0, 8).map(({ type }) => type)).toEqual([
      'control',
      'unknown',
      'control',
      'control',
      'control',
      'normal',
      'normal',
      'normal',
    ])
    expect(tokenizer!.ids).toMatchObject({ pad: 0, unknown: 1, cls: 2, sep: 3, mask: 4 })
  })

  it('of vocab.txt, with the flags of its configuration', async () => {
    const files = { ...without(tiny, TOKENIZER), 'vocab.txt': utf8(`${VOCABULARY.join('\n')}\n`) }
    const { tokenizer } = await openFiles(
      edit(files, CONFIG, { ...special, do_lower_case: true, strip_accents: false }),
    )
    expect(tokenizer!.kind).toBe('wordpiece')
    expect(tokenizer!.normalizer).toEqual({ lowercase: true, stripAccents: false, splitIdeographs: true })
    expect(tokenizer!.tokens[2]).toEqual({ text: '[CLS]', type: 'control', score: 0 })
    expect(tokenizer!.ids).toMatchObject({ cls: 2, sep: 3 })
  })

  it('of a vocab.txt with a word twice is malformed', async () => {
    const files = { ...without(tiny, TOKENIZER), 'vocab.txt': utf8('a\nb\na\n') }
    await expect(openFiles(files)).rejects.toMatchObject({ code: 'malformed' })
  })
})

describe('Unigram', () => {
  const unigram = (changes: object): Record<string, unknown> => ({
    added_tokens: [{ id: 1, content: '</s>', special: true }],
    normalizer: { type: 'Precompiled', precompiled_charsmap: 'AQIDBA==' },
    pre_tokenizer: { type: 'Metaspace', replacement: '▁', prepend_scheme: 'always' },
    post_processor: null,
    decoder: null,
    model: {
      type: 'Unigram',
      unk_id: 0,
      vocab: [
        ['<unk>', 0],
        ['</s>', 0],
        ['▁a', -1.5],
      ],
    },
    ...changes,
  })

  it('has scores, a table and flags', async () => {
    const { tokenizer } = await openFiles(edit(tiny, TOKENIZER, unigram({})))
    expect(tokenizer).toMatchObject({ kind: 'unigram', addSpacePrefix: true })
    expect(tokenizer!.normalizer).toEqual({ removeExtraSpaces: false, charsmap: Uint8Array.of(1, 2, 3, 4) })
    expect(tokenizer!.tokens.slice(0, 3)).toEqual([
      { text: '<unk>', type: 'unknown', score: 0 },
      { text: '</s>', type: 'control', score: 0 },
      { text: '▁a', type: 'normal', score: -1.5 },
    ])
  })

  it('that splits at spaces first has no runs of them', async () => {
    const metaspace = { type: 'Metaspace', replacement: '▁', prepend_scheme: 'always' }
    const pre_tokenizer = { type: 'Sequence', pretokenizers: [{ type: 'WhitespaceSplit' }, metaspace] }
    const { tokenizer } = await openFiles(edit(tiny, TOKENIZER, unigram({ pre_tokenizer })))
    expect(tokenizer!.normalizer).toMatchObject({ removeExtraSpaces: true })
  })
})

describe('fill in the middle', () => {
  it('has ids of its own', async () => {
    const texts = ['<|fim_prefix|>', '<|fim_suffix|>', '<|fim_middle|>', '<|fim_pad|>', '<|repo_name|>', '<|file_sep|>']
    const { added_tokens: old } = rawOf(tiny)
    // in the place of the last tokens: the embedding has no rows for more
    const first = (jsonOf(tiny, 'config.json')['vocab_size'] as number) - texts.length
    const added = texts.map((content, index) => ({ id: first + index, content, special: true }))
    const { tokenizer } = await openFiles(edit(tiny, TOKENIZER, { added_tokens: [...old, ...added] }))
    expect(tokenizer!.ids).toMatchObject({
      fimPrefix: first,
      fimSuffix: first + 1,
      fimMiddle: first + 2,
      fimPad: first + 3,
      fimRepo: first + 4,
      fimSeparator: first + 5,
    })
  })
})

describe('tokenizers that are not carried', () => {
  const unsupported = (checkpoint: Checkpoint): string => {
    expect(checkpoint.tokenizer).toBeNull()
    expect(checkpoint.findings).toMatchObject([{ severity: 'warning', code: 'tokenizer-unsupported' }])
    expect(checkpoint.tensors.size).toBe(21)
    return checkpoint.findings[0]!.message
  }

  it.each([
    ['WordPiece', { type: 'WordPiece' }],
    ['Unigram', { type: 'Unigram', vocab: [['a', 0]] }],
    ['WordLevel', { type: 'WordLevel' }],
    ['end_of_word_suffix', { end_of_word_suffix: '</w>' }],
  ])('do not stop the model: %s', async (says, changes) => {
    expect(unsupported(await openFiles(editModel(tiny, changes)))).toContain(says)
  })

  it('do not stop the model: BPE of neither kind', async () => {
    const files = edit(tiny, TOKENIZER, { pre_tokenizer: { type: 'Whitespace' }, decoder: null })
    expect(unsupported(await openFiles(files))).toContain('without bytes')
  })

  it.each([
    ['tekken.json', utf8('{}')],
    ['tokenizer.model', utf8('IQ== 0\nIg== 1\n')],
  ])('do not stop the model: %s', async (path, bytes) => {
    expect(unsupported(await openFiles({ ...without(tiny, TOKENIZER), [path]: bytes }))).toContain(path)
  })

  it('do not stop the model: none at all', async () => {
    expect(unsupported(await openFiles(without(tiny, TOKENIZER)))).toContain('without tokenizer files')
  })
})

describe('pre-tokenizers', () => {
  const bytes = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false }
  const gpt2 = { ...bytes, use_regex: true }
  const split = (Regex: string, behavior = 'Isolated', invert = false): object => ({
    type: 'Split',
    pattern: { Regex },
    behavior,
    invert,
  })
  const digits = (individual_digits: boolean): object => ({ type: 'Digits', individual_digits })
  const sequence = (...pretokenizers: object[]): object => ({ type: 'Sequence', pretokenizers })
  // As the tokenizer.json files of these models have them.
  const QWEN =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
  const LLAMA = QWEN.replace('\\p{N}|', '\\p{N}{1,3}|')
  const TEKKEN =
    '[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+'
  const GPT4O =
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
  const DEEPSEEK =
    '[!"#$%&\'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+'

  const familyOf = (pre_tokenizer: unknown, ignore_merges = false, normalizer: unknown = null): string | null =>
    recognisePreTokenizer(
      parseJsonObject(jsonBytes({ pre_tokenizer, normalizer, model: { ignore_merges } }), TOKENIZER),
    ).family

  it.each([
    ['llama-bpe', sequence(split(LLAMA), bytes), true],
    ['smaug-bpe', sequence(split(LLAMA), bytes), false],
    ['qwen2', sequence(split(QWEN), bytes), false],
    ['qwen2', sequence(split(QWEN, 'Removed', true), bytes), false],
    ['tekken', sequence(split(TEKKEN), bytes), true],
    ['gpt-4o', sequence(split(GPT4O), bytes), true],
    ['gpt-4o', sequence(split(GPT4O), bytes), false],
    ['gpt-2', gpt2, false],
    ['gpt-2', { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true }, false],
    ['smollm', sequence(digits(true), gpt2), false],
    [
      'falcon',
      sequence({ type: 'Punctuation', behavior: 'Contiguous' }, gpt2, digits(false), split('[0-9][0-9][0-9]')),
      false,
    ],
    ['bloom', sequence(split(' ?[^(\\s|[.,!?…。，、।۔،])]+'), bytes), false],
    ['deepseek-v3', sequence(split('\\p{N}{1,3}'), split('[一-龥぀-ゟ゠-ヿ]+'), split(DEEPSEEK), bytes), false],
    [
      'deepseek-coder',
      sequence(
        split('[\r\n]'),
        split('\\s?\\p{L}+'),
        split('\\s?\\p{P}+'),
        split('[一-龥ࠀ-一가-퟿]+'),
        digits(true),
        bytes,
      ),
      false,
    ],
  ] as const)('%s', (family, json, ignoreMerges) => {
    expect(familyOf(json, ignoreMerges)).toBe(family)
    expect(BPE_PRE_TOKENIZERS).toContain(family)
  })

  it.each([
    ['another expression', sequence(split(`${QWEN}x`), bytes), false],
    ['another behaviour', sequence(split(QWEN, 'MergedWithNext'), bytes), false],
    ['inverted', sequence(split(QWEN, 'Isolated', true), bytes), false],
    [
      'a string in place of an expression',
      sequence({ type: 'Split', pattern: { String: QWEN }, behavior: 'Isolated' }, bytes),
      false,
    ],
    ['one step more', sequence(digits(true), split(QWEN), bytes), false],
    ['a space before', { ...gpt2, add_prefix_space: true }, false],
    ['whole words first', sequence(split(QWEN), bytes), true],
    ['merges only', sequence(split(TEKKEN), bytes), false],
    ['nothing', null, false],
  ])('does not take %s for one it knows', (_, json, ignoreMerges) => {
    expect(familyOf(json, ignoreMerges)).toBeNull()
  })

  it('passes over NFC, but no other normaliser', () => {
    const qwen = sequence(split(QWEN), bytes)
    expect(familyOf(qwen, false, { type: 'NFC' })).toBe('qwen2')
    expect(familyOf(qwen, false, { type: 'Sequence', normalizers: [{ type: 'NFC' }] })).toBe('qwen2')
    expect(familyOf(qwen, false, { type: 'Sequence', normalizers: [] })).toBe('qwen2')
    expect(familyOf(qwen, false, { type: 'Lowercase' })).toBeNull()
  })

  it('names what it did not recognise', async () => {
    const odd = edit(tiny, TOKENIZER, { pre_tokenizer: sequence(split('[a-z]+'), bytes), normalizer: { type: 'NFKC' } })
    const tokenizer = await tokenizerOf(odd)
    expect(tokenizer.pre).toBeNull()
    expect(tokenizer.preDescription).toBe('normalizer NFKC; split /[a-z]+/; bytes; whole words first (ignore_merges)')
    expect(tokenizer.preCandidates).toHaveLength(3)
    expect((await tokenizerOf(tiny)).preCandidates).toBeUndefined()
  })

  it.each([
    ['qwen2', QWEN.replace('\\p{N}|', '\\p{N}{1,2}|')],
    ['tekken', TEKKEN.replace('|\\p{N}|', '|\\p{N}{2}|')],
  ])('finds that what is like %s is most like it', async (name, regex) => {
    const odd = edit(tiny, TOKENIZER, { pre_tokenizer: sequence(split(regex), bytes) })
    const { pre, preCandidates } = await tokenizerOf(odd)
    expect(pre).toBeNull()
    expect(preCandidates).toContain(name)
  })
})

describe('a BPE with byte fallback', () => {
  const spm = (changes: Record<string, unknown> = {}): Files => {
    const bytes = Array.from({ length: 256 }, (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`)
    const texts = ['<unk>', '<s>', '</s>', ...bytes, '▁', 'a', 'b', '▁a', 'ab', '▁ab', 'aab']
    const json = {
      added_tokens: [0, 1, 2].map((id) => ({ id, content: texts[id], special: true })),
      normalizer: {
        type: 'Sequence',
        normalizers: [
          { type: 'Prepend', prepend: '▁' },
          { type: 'Replace', pattern: { String: ' ' }, content: '▁' },
        ],
      },
      pre_tokenizer: null,
      post_processor: null,
      decoder: { type: 'Sequence', decoders: [{ type: 'ByteFallback' }] },
      model: {
        type: 'BPE',
        unk_token: '<unk>',
        byte_fallback: true,
        vocab: Object.fromEntries(texts.map((text, id) => [text, id])),
        merges: ['a b', '▁ a', '▁ ab', '▁a b', 'a ab'],
      },
      ...changes,
    }
    return {
      ...tiny,
      [TOKENIZER]: jsonBytes(json),
      [CONFIG]: jsonBytes({ bos_token: '<s>', eos_token: '</s>', unk_token: '<unk>' }),
    }
  }

  it('is SentencePiece, with minus the rank for a score', async () => {
    const checkpoint = await openFiles(spm())
    const { tokens, ...rest } = checkpoint.tokenizer!
    expect(rest).toMatchObject({
      kind: 'spm',
      pre: 'default',
      merges: [],
      addSpacePrefix: true,
      ids: { bos: 1, eos: 2, eot: null, unknown: 0, pad: null },
    })
    expect(tokens.slice(0, 4).map(({ type }) => type)).toEqual(['unknown', 'control', 'control', 'byte'])
    expect(Object.fromEntries(tokens.slice(259, 266).map(({ text, score }) => [text, score]))).toEqual({
      '▁': -5,
      a: -5,
      b: -5,
      ab: 0,
      '▁a': -1,
      '▁ab': -2,
      aab: -4,
    })
    expect(tokens[266]).toEqual({ text: '[PAD266]', type: 'unused', score: -10_000 })
  })

  it('is told by Metaspace too whether a space goes before', async () => {
    const metaspace = (prepend_scheme: string): Record<string, unknown> => ({
      normalizer: null,
      pre_tokenizer: { type: 'Metaspace', replacement: '▁', prepend_scheme, split: false },
    })
    expect((await tokenizerOf(spm(metaspace('first')))).addSpacePrefix).toBe(true)
    expect((await tokenizerOf(spm(metaspace('never')))).addSpacePrefix).toBe(false)
    expect((await tokenizerOf(spm({ normalizer: null }))).addSpacePrefix).toBe(false)
  })

  it('scores what was added later far below', async () => {
    const added_tokens = [{ id: 270, content: '<extra>', special: false }]
    expect((await tokenizerOf(spm({ added_tokens }))).tokens[270]).toEqual({
      text: '<extra>',
      type: 'user',
      score: -1000,
    })
  })
})
