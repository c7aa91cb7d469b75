/** WordPiece and Unigram vocabularies. */
import type { TextNormalizer, Token } from '../../core/checkpoint.ts'
import { isArray, isObject, type Json, type JsonObject } from '../../core/json.ts'
import { idsByText, malformed, spacePrefix, steps, type Unsupported, type Vocabulary } from './vocabulary.ts'

/** What marks a piece that continues a word: the one that all BERTs have, and llama.cpp knows. */
const CONTINUES = '##'

/** What BERT's tokenizers call their special tokens, for a vocab.txt that comes alone. */
const BERT_SPECIAL: ReadonlySet<string> = new Set(['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]'])

const NONE = { merges: [], pre: 'default', preDescription: '', bosId: null, eosId: null, padId: null } as const

/** BERT's kind: words cut at spaces and punctuation, then the longest pieces from the left. Throws `malformed`. */
export function wordPieceOfJson(json: JsonObject, model: JsonObject, file: string): Vocabulary | Unsupported {
  if ((model.get('continuing_subword_prefix') ?? CONTINUES) !== CONTINUES)
    return {
      unsupported: `a WordPiece tokenizer with the mark ${JSON.stringify(model.get('continuing_subword_prefix'))}`,
    }
  const [normalizer] = steps(json.get('normalizer'))
  const [splitter] = steps(json.get('pre_tokenizer'))
  const plain = steps(json.get('normalizer')).length === 1 && steps(json.get('pre_tokenizer')).length === 1
  if (!plain || normalizer?.get('type') !== 'BertNormalizer' || splitter?.get('type') !== 'BertPreTokenizer')
    return { unsupported: 'a WordPiece tokenizer that treats text otherwise than BERT' }
  const ids = idsByText(model.get('vocab'), file)
  const unknown = model.get('unk_token')
  return wordPiece(ids, typeof unknown === 'string' ? unknown : '[UNK]', {
    lowercase: normalizer.get('lowercase'),
    stripAccents: normalizer.get('strip_accents'),
    ideographs: normalizer.get('handle_chinese_chars'),
  })
}

/** The vocabulary of a vocab.txt, a token a line, with the flags of tokenizer_config.json. */
export function wordPieceOfText(text: string, config: JsonObject | null, file: string): Vocabulary {
  const lines = text.split(/\r?\n/)
  while (lines.at(-1) === '') lines.pop()
  const ids = new Map<string, number>()
  for (const [id, line] of lines.entries()) {
    if (line === '' || ids.has(line)) throw malformed(file, `line ${id + 1} is empty or there twice`)
    ids.set(line, id)
  }
  const vocabulary = wordPiece(ids, '[UNK]', {
    lowercase: config?.get('do_lower_case'),
    stripAccents: config?.get('strip_accents'),
    ideographs: config?.get('tokenize_chinese_chars'),
  })
  const tokens = [...vocabulary.tokens].map(([id, token]): [number, Token] => {
    const special = token.type === 'normal' && BERT_SPECIAL.has(token.text)
    return [id, special ? { ...token, type: 'control' } : token]
  })
  return { ...vocabulary, tokens: new Map(tokens) }
}

function wordPiece(
  ids: ReadonlyMap<string, number>,
  unknown: string,
  flags: Readonly<Record<'lowercase' | 'stripAccents' | 'ideographs', Json | undefined>>,
): Vocabulary {
  const lowercase = flags.lowercase !== false
  const normalizer: TextNormalizer = {
    lowercase,
    // null means: as lowercase is
    stripAccents: typeof flags.stripAccents === 'boolean' ? flags.stripAccents : lowercase,
    splitIdeographs: flags.ideographs !== false,
  }
  const unknownId = ids.get(unknown) ?? null
  const tokens = new Map(
    [...ids].map(([text, id]): [number, Token] => [
      id,
      { text, type: id === unknownId ? 'unknown' : 'normal', score: 0 },
    ]),
  )
  return { kind: 'wordpiece', tokens, addSpacePrefix: null, normalizer, unknownId, ...NONE }
}

/** SentencePiece's Unigram, as tokenizer.json has it: pieces with log-probabilities. Throws `malformed`. */
export function unigramOfJson(json: JsonObject, model: JsonObject, file: string): Vocabulary | Unsupported {
  if (model.get('byte_fallback') === true) return { unsupported: 'a Unigram tokenizer with bytes' }
  const pieces = model.get('vocab')
  if (!isArray(pieces) || pieces.length === 0) throw malformed(file, 'it has no vocabulary')
  const unknown = model.get('unk_id')
  const unknownId = typeof unknown === 'number' && unknown in pieces ? unknown : null
  const tokens = pieces.map((piece, id): [number, Token] => {
    const [text, score] = isArray(piece) ? piece : []
    if (typeof text !== 'string' || typeof score !== 'number' || !Number.isFinite(score))
      throw malformed(file, `piece ${id} is no text with a score`)
    return [id, { text, type: id === unknownId ? 'unknown' : 'normal', score }]
  })
  const read = unigramNormalizer(json)
  if ('unsupported' in read) return read
  const { normalizer } = read
  return {
    kind: 'unigram',
    tokens: new Map(tokens),
    addSpacePrefix: spacePrefix(json),
    normalizer,
    unknownId,
    ...NONE,
  }
}

function unigramNormalizer(json: JsonObject): { readonly normalizer: TextNormalizer } | Unsupported {
  const splitters = steps(json.get('pre_tokenizer')).map((step) => String(step.get('type')))
  const other = splitters.find((type) => type !== 'Metaspace' && type !== 'WhitespaceSplit')
  if (other !== undefined || !splitters.includes('Metaspace'))
    return {
      unsupported: `a Unigram tokenizer ${other === undefined ? 'without Metaspace' : `with the pre-tokenizer ${other}`}`,
    }
  let charsmap: Uint8Array | undefined
  let removeExtraSpaces = steps(json.get('pre_tokenizer')).some((step) => step.get('type') === 'WhitespaceSplit')
  for (const step of steps(json.get('normalizer'))) {
    const type = step.get('type')
    const table = step.get('precompiled_charsmap')
    if (type === 'Precompiled' && typeof table === 'string') charsmap = fromBase64(table)
    else if (type === 'Strip' || isSpaceRun(step)) removeExtraSpaces = true
    // a model without a table has the plain form of SentencePiece's own
    else return { unsupported: `a Unigram tokenizer with the normalizer ${String(type)}` }
  }
  return { normalizer: { removeExtraSpaces, ...(charsmap === undefined ? {} : { charsmap }) } }
}

function isSpaceRun(step: JsonObject): boolean {
  const pattern = step.get('pattern')
  const regex = isObject(pattern) ? pattern.get('Regex') : undefined
  return step.get('type') === 'Replace' && (regex === ' {2,}' || regex === '\\s+')
}

const BASE64 = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/'

/** Bytes of base64 text; what is no digit of it is passed over. */
function fromBase64(text: string): Uint8Array {
  const digits = [...text].map((letter) => BASE64.indexOf(letter)).filter((digit) => digit >= 0)
  const bytes = new Uint8Array(Math.floor((digits.length * 3) / 4))
  for (let i = 0; i < bytes.length; i++) {
    const bit = i * 8
    const [high = 0, low = 0] = [digits[Math.floor(bit / 6)], digits[Math.floor(bit / 6) + 1]]
    bytes[i] = (((high << 6) | low) >> (4 - (bit % 6))) & 0xff
  }
  return bytes
}
