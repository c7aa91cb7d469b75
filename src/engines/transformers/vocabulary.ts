/** What a tokenizer's files say of its tokens, before anything is made of the special ones. */
import type { TextNormalizer, Token, Tokenizer, TokenType } from '../../core/checkpoint.ts'
import { AppError } from '../../core/errors.ts'
import { isArray, isObject, type Json, type JsonObject } from '../../core/json.ts'
import type { SentencePieceModel } from '../containers/sentencepiece.ts'
import { preTokenizerOfClass, recognisePreTokenizer } from './pretokenizer.ts'
import { unigramOfJson, wordPieceOfJson } from './vocabulary-kinds.ts'

export interface Vocabulary {
  readonly kind: Tokenizer['kind']
  /** By id, with gaps. */
  readonly tokens: ReadonlyMap<number, Token>
  readonly merges: readonly (readonly [string, string])[]
  readonly pre: string | null
  readonly preDescription: string
  /** Of a pre-tokenizer that is not recognised. */
  readonly preCandidates?: readonly string[]
  readonly addSpacePrefix: boolean | null
  /** WordPiece and Unigram. */
  readonly normalizer?: TextNormalizer
  readonly unknownId: number | null
  readonly bosId: number | null
  readonly eosId: number | null
  readonly padId: number | null
}

/** A tokenizer that is of no kind we carry; the reason is for people. */
export interface Unsupported {
  readonly unsupported: string
}

/** A token added to a vocabulary after its training. */
export interface AddedToken {
  readonly id: number
  readonly text: string
  readonly special: boolean
}

const BYTE_TOKEN = /^<0x[0-9A-F]{2}>$/
const SPACE = '▁'

/** The vocabulary of a tokenizer.json. Throws `malformed`. */
export function vocabularyOfJson(json: JsonObject, file: string): Vocabulary | Unsupported {
  const model = json.get('model')
  if (!isObject(model)) throw malformed(file, 'it has no model')
  const type = model.get('type') ?? (model.has('merges') ? 'BPE' : 'of an unnamed kind')
  if (type === 'WordPiece') return wordPieceOfJson(json, model, file)
  if (type === 'Unigram') return unigramOfJson(json, model, file)
  if (type !== 'BPE') return { unsupported: `a ${String(type)} tokenizer` }
  for (const key of ['continuing_subword_prefix', 'end_of_word_suffix']) {
    if ((model.get(key) ?? '') !== '') return { unsupported: `a BPE tokenizer with ${key}` }
  }
  const ids = idsByText(model.get('vocab'), file)
  const merges = parseMerges(model.get('merges'), ids, file)
  const unknown = model.get('unk_token')
  const unknownId = typeof unknown === 'string' ? (ids.get(unknown) ?? null) : null
  if (hasStep(json.get('pre_tokenizer'), 'ByteLevel') || hasStep(json.get('decoder'), 'ByteLevel')) {
    const { family, description, candidates } = recognisePreTokenizer(json)
    const vocabulary = byteLevel(ids, merges, family, description, unknownId)
    return candidates === undefined ? vocabulary : { ...vocabulary, preCandidates: candidates }
  }
  if (model.get('byte_fallback') !== true) return { unsupported: 'a BPE tokenizer without bytes' }
  return sentencePieceLike(ids, merges, unknownId, spacePrefix(json))
}

/** The vocabulary of vocab.json and merges.txt, the files of slow byte-level tokenizers. Throws `malformed`. */
export function vocabularyOfParts(
  vocab: JsonObject,
  vocabFile: string,
  merges: string,
  mergesFile: string,
  className: string | null,
): Vocabulary {
  const ids = idsByText(vocab, vocabFile)
  const lines = merges
    .split(/\r?\n/)
    .filter((line, index) => line !== '' && !(index === 0 && line.startsWith('#version')))
  const { family, description } = preTokenizerOfClass(className)
  return byteLevel(ids, parseMerges(lines, ids, mergesFile), family, description, null)
}

/** The vocabulary of a SentencePiece model. */
export function vocabularyOfSentencePiece(model: SentencePieceModel): Vocabulary | Unsupported {
  if (model.kind !== 'bpe' && model.kind !== 'unigram')
    return { unsupported: `a SentencePiece ${model.kind} tokenizer` }
  const { addDummyPrefix, unknownId, bosId, eosId, padId, charsmap, removeExtraWhitespaces } = model
  const normalizer = { removeExtraSpaces: removeExtraWhitespaces, ...(charsmap === null ? {} : { charsmap }) }
  return {
    kind: model.kind === 'bpe' ? 'spm' : 'unigram',
    ...(model.kind === 'bpe' ? {} : { normalizer }),
    tokens: new Map(model.pieces.map((piece, id) => [id, piece])),
    merges: [],
    pre: 'default',
    preDescription: '',
    addSpacePrefix: addDummyPrefix,
    unknownId,
    bosId,
    eosId,
    padId,
  }
}

/** Whether two vocabularies give the tokens that text becomes the same ids. */
export function agree(a: Vocabulary, b: Vocabulary): boolean {
  const plain = (type: TokenType | undefined): boolean => type === 'normal' || type === 'byte'
  return [...a.tokens].every(([id, token]) => !plain(token.type) || b.tokens.get(id)?.text === token.text)
}

function byteLevel(
  ids: ReadonlyMap<string, number>,
  merges: readonly (readonly [string, string])[],
  pre: string | null,
  preDescription: string,
  unknownId: number | null,
): Vocabulary {
  const tokens = new Map([...ids].map(([text, id]): [number, Token] => [id, { text, type: 'normal', score: 0 }]))
  const none = { addSpacePrefix: null, bosId: null, eosId: null, padId: null }
  return { kind: 'bpe', tokens, merges, pre, preDescription, unknownId, ...none }
}

/**
 * SentencePiece joins the neighbours whose piece has the highest score, BPE those whose merge has the lowest rank: with
 * minus the rank as score both do the same. A piece made by several merges takes the first.
 */
function sentencePieceLike(
  ids: ReadonlyMap<string, number>,
  merges: readonly (readonly [string, string])[],
  unknownId: number | null,
  addSpacePrefix: boolean,
): Vocabulary {
  const ranks = new Map<string, number>()
  for (const [rank, [left, right]] of merges.entries()) {
    if (!ranks.has(left + right)) ranks.set(left + right, rank)
  }
  const last = merges.length
  const tokens = new Map<number, Token>()
  for (const [text, id] of ids) {
    const byte = BYTE_TOKEN.test(text)
    const type: TokenType = id === unknownId ? 'unknown' : byte ? 'byte' : 'normal'
    const rank = ranks.get(text)
    // -0 would be written as such
    const score = type !== 'normal' ? 0 : rank === 0 ? 0 : -(rank ?? last)
    tokens.set(id, { text, type, score })
  }
  const none = { bosId: null, eosId: null, padId: null }
  return { kind: 'spm', tokens, merges: [], pre: 'default', preDescription: '', addSpacePrefix, unknownId, ...none }
}

/** Ids by the text of their tokens. Throws `malformed` for ids that are none, or of two tokens. */
export function idsByText(vocab: Json | undefined, file: string): ReadonlyMap<string, number> {
  if (!isObject(vocab) || vocab.size === 0) throw malformed(file, 'it has no vocabulary')
  const ids = new Map<string, number>()
  const taken = new Map<number, string>()
  for (const [text, id] of vocab) {
    if (!isId(id)) throw malformed(file, `${JSON.stringify(text)} has no whole number for an id`)
    const other = taken.get(id)
    if (other !== undefined) {
      throw malformed(file, `${JSON.stringify(text)} and ${JSON.stringify(other)} both have the id ${id}`)
    }
    taken.set(id, text)
    ids.set(text, id)
  }
  return ids
}

/** `["a b", ...]`, or `[["a", "b"], ...]` since tokenizers 0.20. */
function parseMerges(
  merges: Json | undefined,
  ids: ReadonlyMap<string, number>,
  file: string,
): readonly (readonly [string, string])[] {
  if (!isArray(merges)) throw malformed(file, 'it has no merges')
  return merges.map((merge, rank) => {
    const parts: readonly Json[] = typeof merge === 'string' ? merge.split(' ') : isArray(merge) ? merge : []
    const [left, right] = parts
    if (parts.length !== 2 || typeof left !== 'string' || typeof right !== 'string') {
      throw malformed(file, `merge ${rank} is not a pair`)
    }
    for (const part of [left, right, left + right]) {
      if (!ids.has(part)) throw malformed(file, `merge ${rank} uses ${JSON.stringify(part)}, which is no token`)
    }
    return [left, right]
  })
}

/** Tokens added by tokenizer.json, tokenizer_config.json and added_tokens.json; the first to name an id decides. */
export function addedTokens(
  tokenizer: JsonObject | null,
  config: JsonObject | null,
  added: JsonObject | null,
): ReadonlyMap<number, AddedToken> {
  const found = new Map<number, AddedToken>()
  const add = (id: Json | undefined, text: Json | undefined, special: boolean): void => {
    if (isId(id) && typeof text === 'string' && text !== '' && !found.has(id)) found.set(id, { id, text, special })
  }
  const listed = tokenizer?.get('added_tokens')
  for (const token of isArray(listed) ? listed : []) {
    if (isObject(token)) add(token.get('id'), token.get('content'), token.get('special') === true)
  }
  const decoder = config?.get('added_tokens_decoder')
  for (const [id, token] of isObject(decoder) ? decoder : []) {
    if (isObject(token) && /^\d+$/.test(id)) add(Number(id), token.get('content'), token.get('special') === true)
  }
  for (const [text, id] of added ?? []) add(id, text, false)
  return found
}

/** Whether the text goes by a `▁` put before it: legacy Prepend normalizers, and Metaspace. */
export function spacePrefix(json: JsonObject): boolean {
  const prepends = steps(json.get('normalizer')).some(
    (step) => step.get('type') === 'Prepend' && step.get('prepend') === SPACE,
  )
  const metaspace = steps(json.get('pre_tokenizer')).some((step) => {
    const scheme = step.get('prepend_scheme') ?? (step.get('add_prefix_space') === false ? 'never' : 'always')
    return step.get('type') === 'Metaspace' && scheme !== 'never'
  })
  return prepends || metaspace
}

function hasStep(json: Json | undefined, type: string): boolean {
  return steps(json).some((step) => step.get('type') === type)
}

/** A step, or those of a Sequence. */
export function steps(json: Json | undefined): readonly JsonObject[] {
  if (!isObject(json)) return []
  if (json.get('type') !== 'Sequence') return [json]
  const lists = ['normalizers', 'pretokenizers', 'processors', 'decoders'].map((key) => json.get(key))
  return lists.flatMap((list) => (isArray(list) ? list.flatMap((step) => steps(step)) : []))
}

/** Whether a value is a token id. */
export function isId(value: Json | undefined): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0
}

/** An error in a tokenizer's file. */
export function malformed(file: string, why: string): AppError {
  return new AppError('malformed', `${file}: ${why}`, {
    where: { file },
    hint: 'Download the tokenizer files of the model again.',
  })
}
