/**
 * The tokenizer files of transformers, made from a tokenizer of no format: for models that come without them. The format
 * is that of the tokenizers library (https://github.com/huggingface/tokenizers), whose class PreTrainedTokenizerFast
 * loads it in transformers 4 and 5.
 */
import type { ModelConfig, Token, Tokenizer } from '../../core/checkpoint.ts'
import { AppError } from '../../core/errors.ts'
import type { Json, JsonObject } from '../../core/json.ts'
import type { Finding } from '../../core/plan.ts'
import { preTokenizerJson } from './pretokenizer.ts'

/** The files to write, by path, and what they could not keep. */
export interface TokenizerFilesJson {
  readonly files: ReadonlyMap<string, JsonObject>
  readonly findings: readonly Finding[]
}

/** SentencePiece writes a space as this. */
const SPACE = '▁'

/** Pieces of SentencePiece have some 16 characters; longer ones would cost the square of their length. */
const MAX_PIECE = 512

const object = (...entries: readonly (readonly [string, Json])[]): JsonObject => new Map(entries)

/**
 * tokenizer.json, tokenizer_config.json and special_tokens_map.json for a tokenizer. Throws `unsupported` for byte-level
 * BPE whose pre-tokenizer is not known: text would be split otherwise than in training.
 */
export function tokenizerFiles(tokenizer: Tokenizer, config: ModelConfig): TokenizerFilesJson {
  const findings: Finding[] = []
  const vocabulary = uniqueTokens(tokenizer, findings)
  const special = specialTexts(tokenizer, vocabulary)
  const parts = PARTS[tokenizer.kind](tokenizer, vocabulary)
  const files = new Map<string, JsonObject>([
    [
      'tokenizer.json',
      object(
        ['version', '1.0'],
        ['truncation', null],
        ['padding', null],
        ['added_tokens', addedTokens(tokenizer, vocabulary)],
        ['normalizer', parts.normalizer],
        ['pre_tokenizer', parts.preTokenizer],
        ['post_processor', postProcessor(tokenizer)],
        ['decoder', parts.decoder],
        ['model', parts.model],
      ),
    ],
    ['tokenizer_config.json', tokenizerConfig(tokenizer, special, config)],
    ['special_tokens_map.json', special],
  ])
  return { files, findings }
}

/** Tokens by text, as a vocabulary needs them: fillers are left out, and of tokens with the same text all but one. */
function uniqueTokens({ tokens, ids }: Tokenizer, findings: Finding[]): ReadonlyMap<string, number> {
  const named = new Set(Object.values(ids))
  const found = new Map<string, number>()
  const lost: number[] = []
  for (const [id, token] of tokens.entries()) {
    if (token.text === '' || (token.type === 'unused' && token.text === `[PAD${id}]`)) continue
    const other = found.get(token.text)
    if (other === undefined) found.set(token.text, id)
    else if (rankOf(tokens[other], named.has(other)) < rankOf(token, named.has(id))) {
      found.set(token.text, id)
      lost.push(other)
    } else lost.push(id)
  }
  if (lost.length > 0) {
    findings.push({
      severity: 'warning',
      code: 'duplicate-token',
      message: `${lost.length} tokens have the text of another (id ${lost[0]}: ${JSON.stringify(tokens[lost[0] ?? 0]?.text)}) and are left out: tokenizer.json has one id for a text`,
    })
  }
  return new Map([...found].sort(([, a], [, b]) => a - b))
}

/** Of two tokens with the same text the one with the higher rank stays. */
function rankOf(token: Token | undefined, named: boolean): number {
  if (token === undefined || token.type === 'unused') return 0
  return named ? 3 : token.type === 'control' ? 2 : 1
}

interface Parts {
  readonly normalizer: Json
  readonly preTokenizer: Json
  readonly decoder: Json
  readonly model: JsonObject
}

const PARTS: Readonly<Record<Tokenizer['kind'], (tokenizer: Tokenizer, ids: ReadonlyMap<string, number>) => Parts>> = {
  bpe: byteLevelParts,
  spm: sentencePieceParts,
  wordpiece: wordPieceParts,
  unigram: unigramParts,
}

function wordPieceParts({ normalizer = {}, tokens, ids }: Tokenizer, vocabulary: ReadonlyMap<string, number>): Parts {
  const unknown = ids.unknown === null ? '[UNK]' : (tokens[ids.unknown]?.text ?? '[UNK]')
  return {
    normalizer: object(
      ['type', 'BertNormalizer'],
      ['clean_text', true],
      ['handle_chinese_chars', normalizer.splitIdeographs ?? true],
      ['strip_accents', normalizer.stripAccents ?? null],
      ['lowercase', normalizer.lowercase ?? true],
    ),
    preTokenizer: object(['type', 'BertPreTokenizer']),
    decoder: object(['type', 'WordPiece'], ['prefix', '##'], ['cleanup', true]),
    model: object(
      ['type', 'WordPiece'],
      ['unk_token', unknown],
      ['continuing_subword_prefix', '##'],
      // longer words are unknown as a whole: BERT's own bound
      ['max_input_chars_per_word', 100],
      ['vocab', vocabulary],
    ),
  }
}

function unigramParts({ normalizer = {}, tokens, ids, addSpacePrefix }: Tokenizer): Parts {
  const { charsmap, removeExtraSpaces } = normalizer
  const metaspace = object(
    ['type', 'Metaspace'],
    ['replacement', SPACE],
    ['prepend_scheme', addSpacePrefix === false ? 'never' : 'always'],
    ['split', true],
  )
  return {
    normalizer:
      charsmap === undefined ? null : object(['type', 'Precompiled'], ['precompiled_charsmap', toBase64(charsmap)]),
    preTokenizer:
      removeExtraSpaces === true
        ? object(['type', 'Sequence'], ['pretokenizers', [object(['type', 'WhitespaceSplit']), metaspace]])
        : metaspace,
    decoder: metaspace,
    model: object(
      ['type', 'Unigram'],
      ['unk_id', ids.unknown],
      ['vocab', tokens.map(({ text, score }) => [text, score])],
      ['byte_fallback', false],
    ),
  }
}

function byteLevelParts(tokenizer: Tokenizer, vocabulary: ReadonlyMap<string, number>): Parts {
  const { pre, preDescription } = tokenizer
  const steps = pre === null ? null : preTokenizerJson(pre)
  if (steps === null) {
    throw new AppError(
      'unsupported',
      `The tokenizer splits text in a way that is not known here: ${pre ?? preDescription}`,
      { hint: 'Put the tokenizer.json of the original model beside the converted one.' },
    )
  }
  return {
    normalizer: steps.normalizer,
    preTokenizer: steps.preTokenizer,
    decoder: object(['type', 'ByteLevel'], ['add_prefix_space', true], ['trim_offsets', true], ['use_regex', true]),
    model: bpeModel(tokenizer, vocabulary, tokenizer.merges, { byteFallback: false, ignoreMerges: steps.ignoreMerges }),
  }
}

function sentencePieceParts(tokenizer: Tokenizer, vocabulary: ReadonlyMap<string, number>): Parts {
  const replace = (from: string, to: string): JsonObject =>
    object(['type', 'Replace'], ['pattern', object(['String', from])], ['content', to])
  const prefix = tokenizer.addSpacePrefix ?? true
  const prepend = prefix ? [object(['type', 'Prepend'], ['prepend', SPACE])] : []
  const strip = prefix ? [object(['type', 'Strip'], ['content', ' '], ['start', 1], ['stop', 0])] : []
  const decoders = [replace(SPACE, ' '), object(['type', 'ByteFallback']), object(['type', 'Fuse']), ...strip]
  const merges = mergesOfScores(tokenizer.tokens, vocabulary)
  return {
    normalizer: object(['type', 'Sequence'], ['normalizers', [...prepend, replace(' ', SPACE)]]),
    preTokenizer: null,
    decoder: object(['type', 'Sequence'], ['decoders', decoders]),
    model: bpeModel(tokenizer, vocabulary, merges, { byteFallback: true, ignoreMerges: false }),
  }
}

function bpeModel(
  { tokens, ids }: Tokenizer,
  vocabulary: ReadonlyMap<string, number>,
  merges: readonly (readonly [string, string])[],
  { byteFallback, ignoreMerges }: { readonly byteFallback: boolean; readonly ignoreMerges: boolean },
): JsonObject {
  const unknown = ids.unknown === null ? undefined : tokens[ids.unknown]?.text
  // pairs are spelled "a b", which every version reads, unless a part has a space itself
  const spaced = merges.some(([left, right]) => left.includes(' ') || right.includes(' '))
  return object(
    ['type', 'BPE'],
    ['dropout', null],
    ['unk_token', unknown !== undefined && vocabulary.has(unknown) ? unknown : null],
    ['continuing_subword_prefix', null],
    ['end_of_word_suffix', null],
    ['fuse_unk', byteFallback],
    ['byte_fallback', byteFallback],
    ['ignore_merges', ignoreMerges],
    ['vocab', vocabulary],
    ['merges', spaced ? merges : merges.map(([left, right]) => `${left} ${right}`)],
  )
}

/**
 * The merges that scores stand for: every way to put a piece together from two others, best score first. Pieces of one
 * score go by length and ids, as in transformers' own conversion of SentencePiece models.
 */
export function mergesOfScores(
  tokens: readonly Token[],
  vocabulary: ReadonlyMap<string, number>,
): readonly (readonly [string, string])[] {
  const plain = (text: string): boolean => {
    const id = vocabulary.get(text)
    return id !== undefined && tokens[id]?.type === 'normal'
  }
  const found: { readonly pair: readonly [string, string]; readonly score: number; readonly order: number }[] = []
  for (const [text, id] of vocabulary) {
    const token = tokens[id]
    if (token?.type !== 'normal' || text.length > MAX_PIECE) continue
    const characters = [...text]
    const pairs: (readonly [string, string])[] = []
    let left = ''
    for (const character of characters.slice(0, -1)) {
      left += character
      const right = text.slice(left.length)
      if (plain(left) && plain(right)) pairs.push([left, right])
    }
    const idOf = (part: string): number => vocabulary.get(part) ?? 0
    pairs.sort((a, b) => idOf(a[0]) - idOf(b[0]) || idOf(a[1]) - idOf(b[1]))
    for (const pair of pairs) found.push({ pair, score: token.score, order: found.length })
  }
  const length = (text: string): number => [...text].length
  return found
    .sort(
      (a, b) =>
        b.score - a.score ||
        length(b.pair[0]) - length(a.pair[0]) ||
        length(b.pair[1]) - length(a.pair[1]) ||
        a.order - b.order,
    )
    .map(({ pair }) => pair)
}

const ADDED_TYPES: ReadonlySet<Token['type']> = new Set(['control', 'user', 'unknown'])

/** Tokens that are found in a text before it is split, in order of their ids. */
function addedTokens({ kind, tokens }: Tokenizer, vocabulary: ReadonlyMap<string, number>): readonly JsonObject[] {
  return [...vocabulary]
    .filter(([, id]) => ADDED_TYPES.has(tokens[id]?.type ?? 'normal'))
    .map(([text, id]) =>
      object(
        ['id', id],
        ['content', text],
        ['single_word', false],
        ['lstrip', false],
        ['rstrip', false],
        // a piece with SentencePiece's own space in it is in no text before that is normalised
        ['normalized', kind === 'spm' && text.includes(SPACE)],
        ['special', tokens[id]?.type !== 'user'],
      ),
    )
}

/** What is put around a text: bos and eos, where the model wants them. */
function postProcessor({ kind, tokens, ids, addBos, addEos, addSep }: Tokenizer): JsonObject {
  // BERT's put cls and sep around each text, whatever else is said
  const bert = kind === 'wordpiece'
  const bos = bert ? (ids.cls ?? ids.bos) : (addBos ?? kind === 'spm') ? ids.bos : null
  const eos = bert ? (ids.sep ?? ids.eos) : addEos === true ? ids.eos : null
  const text = (id: number): string => tokens[id]?.text ?? ''
  const one = (id: number | null, type: number): readonly JsonObject[] =>
    id === null ? [] : [object(['SpecialToken', object(['id', text(id)], ['type_id', type])])]
  const ended = (name: string, type: number): readonly JsonObject[] => [
    object(['Sequence', object(['id', name], ['type_id', type])]),
    ...one(eos, type),
  ]
  const around = (name: string, type: number): readonly JsonObject[] => [...one(bos, type), ...ended(name, type)]
  const separator = addSep === true ? (ids.sep ?? ids.eos) : null
  const second = bert || addSep === true ? ended('B', 1) : around('B', 1)
  const used = [...new Set([bos, eos, separator])].filter((id) => id !== null)
  return object(
    ['type', 'TemplateProcessing'],
    ['single', around('A', 0)],
    ['pair', [...around('A', 0), ...one(separator, 0), ...second]],
    [
      'special_tokens',
      new Map(used.map((id) => [text(id), object(['id', text(id)], ['ids', [id]], ['tokens', [text(id)]])])),
    ],
  )
}

const BASE64 = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/'

function toBase64(bytes: Uint8Array): string {
  let text = ''
  for (let i = 0; i < bytes.length; i += 3) {
    const [a = 0, b, c] = [bytes[i], bytes[i + 1], bytes[i + 2]]
    const word = (a << 16) | ((b ?? 0) << 8) | (c ?? 0)
    const digits = [word >> 18, (word >> 12) & 63, (word >> 6) & 63, word & 63].map((digit) => BASE64.charAt(digit))
    if (c === undefined) digits[3] = '='
    if (b === undefined) digits[2] = '='
    text += digits.join('')
  }
  return text
}

/** special_tokens_map.json: the special tokens by what they are for. */
function specialTexts({ tokens, ids }: Tokenizer, vocabulary: ReadonlyMap<string, number>): JsonObject {
  const all = [
    ['bos_token', ids.bos],
    ['eos_token', ids.eos],
    ['unk_token', ids.unknown],
    ['pad_token', ids.pad],
    ['sep_token', ids.sep ?? null],
    ['cls_token', ids.cls ?? null],
    ['mask_token', ids.mask ?? null],
  ] as const
  const named = all.flatMap(([key, id]): [string, Json][] => {
    const text = id === null ? undefined : tokens[id]?.text
    return text === undefined || !vocabulary.has(text) ? [] : [[key, text]]
  })
  return new Map(named)
}

function tokenizerConfig(tokenizer: Tokenizer, special: JsonObject, config: ModelConfig): JsonObject {
  const { kind, addBos, addEos, chatTemplates } = tokenizer
  const [only, ...others] = chatTemplates
  // BERT's classes know no bos and eos
  const flags: [string, Json][] =
    kind === 'wordpiece'
      ? []
      : [
          ['add_bos_token', addBos ?? kind === 'spm'],
          ['add_eos_token', addEos ?? false],
        ]
  const json = new Map<string, Json>([
    ...flags,
    ...special,
    ['clean_up_tokenization_spaces', false],
    ['model_max_length', config.contextLength],
    ['tokenizer_class', 'PreTrainedTokenizerFast'],
  ])
  if (kind === 'spm' && tokenizer.addSpacePrefix !== null) json.set('add_prefix_space', tokenizer.addSpacePrefix)
  // within this file: every version reads it here, chat_template.jinja only since 4.43
  if (only?.name === 'default' && others.length === 0) json.set('chat_template', only.template)
  else if (only !== undefined) {
    json.set(
      'chat_template',
      chatTemplates.map(({ name, template }) => object(['name', name], ['template', template])),
    )
  }
  return json
}
