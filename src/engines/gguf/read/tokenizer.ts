import type { ChatTemplate, SpecialIds, Token, Tokenizer, TokenType } from '../../../core/checkpoint.ts'
import { AppError } from '../../../core/errors.ts'
import type { Finding } from '../../../core/plan.ts'
import { ggufNumber, ggufString } from '../../containers/gguf/reader.ts'
import type { GgufArray, GgufValue } from '../../containers/gguf/types.ts'

type Metadata = ReadonlyMap<string, GgufValue>

/** llama.cpp's numbers of token types; what is none of them counts as normal. */
const TOKEN_TYPES: ReadonlyMap<number, TokenType> = new Map([
  [1, 'normal'],
  [2, 'unknown'],
  [3, 'control'],
  [4, 'user'],
  [5, 'unused'],
  [6, 'byte'],
])

/** A tokenizer as the keys give it; null with a finding where they give none that can be carried over. */
export interface ReadTokenizer {
  readonly tokenizer: Tokenizer | null
  readonly findings: readonly Finding[]
}

/** The tokenizer of a GGUF file. Throws `malformed` for lists that do not fit each other. */
export function readTokenizer(metadata: Metadata, file: string): ReadTokenizer {
  const model = ggufString(metadata, 'tokenizer.ggml.model')
  const kind = KINDS.get(model ?? '')
  if (kind === undefined) {
    const none = model === null || model === 'no_vocab' || model === 'none'
    const message = none
      ? 'The file has no tokenizer'
      : `The tokenizer is of llama.cpp's kind ${model}, which cannot be carried into other formats yet`
    const finding: Finding = { severity: 'warning', code: 'no-tokenizer', message, where: { file } }
    return { tokenizer: null, findings: [finding] }
  }
  const scored = kind === 'spm' || kind === 'unigram'
  const stored = readTokens(metadata, file)
  const tokens = kind === 'wordpiece' ? stored.map(wordPiece) : stored
  const pre = ggufString(metadata, 'tokenizer.ggml.pre')
  const addSep = flag(metadata, 'add_sep_token')
  return {
    tokenizer: {
      kind,
      tokens,
      merges: kind === 'bpe' ? readMerges(metadata, file) : [],
      // llama.cpp's own fall-back for a file without the key
      pre: pre ?? 'default',
      preDescription: `tokenizer.ggml.pre ${pre === null ? 'is not there' : JSON.stringify(pre)}`,
      ids: idsOf(specialIds(metadata, tokens.length), kind),
      addBos: flag(metadata, 'add_bos_token') ?? (kind === 'spm' ? true : null),
      addEos: flag(metadata, 'add_eos_token'),
      ...(addSep === null ? {} : { addSep }),
      addSpacePrefix: scored ? (flag(metadata, 'add_space_prefix') ?? kind === 'spm') : null,
      ...normalizerOf(metadata, kind),
      chatTemplates: chatTemplates(metadata),
    },
    findings: [],
  }
}

/** Our kinds by llama.cpp's names. */
const KINDS: ReadonlyMap<string, Tokenizer['kind']> = new Map([
  ['gpt2', 'bpe'],
  ['llama', 'spm'],
  ['bert', 'wordpiece'],
  ['t5', 'unigram'],
])

/** Types of tokens that llama.cpp's converter spells as the vocabulary does. */
const WHOLE_TYPES: ReadonlySet<TokenType> = new Set(['control', 'unknown', 'unused'])

/** The spelling of BERT's vocabularies, which mark what continues a word, where llama.cpp marks what begins one. */
function wordPiece(token: Token): Token {
  if (WHOLE_TYPES.has(token.type)) return token
  return { ...token, text: token.text.startsWith('\u2581') ? token.text.slice(1) : `##${token.text}` }
}

/** llama.cpp's own treatment where the keys say nothing. */
function normalizerOf(metadata: Metadata, kind: Tokenizer['kind']): Pick<Tokenizer, 'normalizer'> {
  if (kind === 'wordpiece') {
    const lowercase = flag(metadata, 'normalizer.lowercase') ?? true
    const stripAccents = flag(metadata, 'normalizer.strip_accents') ?? lowercase
    return { normalizer: { lowercase, stripAccents, splitIdeographs: true } }
  }
  if (kind !== 'unigram') return {}
  const table = arrayAt(metadata, 'tokenizer.ggml.precompiled_charsmap')
  const charsmap = table?.of === 'u8' || table?.of === 'i8' ? { charsmap: Uint8Array.from(table.value) } : {}
  return { normalizer: { removeExtraSpaces: flag(metadata, 'remove_extra_whitespaces') ?? false, ...charsmap } }
}

function malformed(file: string, why: string): AppError {
  return new AppError('malformed', `${file}: ${why}`, {
    where: { file },
    hint: 'The file is damaged. Download or convert it again.',
  })
}

function arrayAt(metadata: Metadata, key: string): GgufArray | null {
  const value = metadata.get(key)
  return value?.type === 'array' ? value : null
}

function strings(metadata: Metadata, key: string, file: string): readonly string[] {
  const array = arrayAt(metadata, key)
  if (array?.of === 'string') return array.value
  throw malformed(file, `${key} is no list of strings`)
}

/** A list of numbers as long as the tokens; null if there is none. */
function numbers(metadata: Metadata, key: string, count: number, file: string): ArrayLike<number> | null {
  const array = arrayAt(metadata, key)
  if (array === null) return null
  if (array.value.length !== count) throw malformed(file, `${key} has ${array.value.length} entries, not ${count}`)
  switch (array.of) {
    case 'string':
    case 'array':
    case 'bool':
    case 'u64':
    case 'i64':
      throw malformed(file, `${key} is a list of ${array.of}`)
    default:
      return array.value
  }
}

function readTokens(metadata: Metadata, file: string): readonly Token[] {
  const texts = strings(metadata, 'tokenizer.ggml.tokens', file)
  const scores = numbers(metadata, 'tokenizer.ggml.scores', texts.length, file)
  const types = numbers(metadata, 'tokenizer.ggml.token_type', texts.length, file)
  return texts.map((text, id) => ({
    text,
    type: TOKEN_TYPES.get(types?.[id] ?? 1) ?? 'normal',
    score: scores?.[id] ?? 0,
  }))
}

/** "a b": a part is at least one character, and may be nothing else but a space. */
function readMerges(metadata: Metadata, file: string): readonly (readonly [string, string])[] {
  return strings(metadata, 'tokenizer.ggml.merges', file).map((merge, rank) => {
    const at = merge.indexOf(' ', 1)
    if (at < 0 || at === merge.length - 1) throw malformed(file, `merge ${rank} is no pair: ${JSON.stringify(merge)}`)
    return [merge.slice(0, at), merge.slice(at + 1)]
  })
}

/** A WordPiece tokenizer's cls and sep are written as its bos and eos too, which BERT does not have. */
function idsOf(ids: SpecialIds, kind: Tokenizer['kind']): SpecialIds {
  if (kind !== 'wordpiece') return ids
  const { bos, eos, cls = bos, sep = eos } = ids
  return {
    ...ids,
    ...(cls === null ? {} : { cls }),
    ...(sep === null ? {} : { sep }),
    bos: bos === cls ? null : bos,
    eos: eos === sep ? null : eos,
  }
}

const OPTIONAL_IDS: readonly (readonly [keyof SpecialIds, string])[] = [
  ['eom', 'eom'],
  // llama.cpp's spelling
  ['sep', 'seperator'],
  ['cls', 'cls'],
  ['mask', 'mask'],
  ['fimPrefix', 'fim_pre'],
  ['fimSuffix', 'fim_suf'],
  ['fimMiddle', 'fim_mid'],
  ['fimPad', 'fim_pad'],
  ['fimRepo', 'fim_rep'],
  ['fimSeparator', 'fim_sep'],
]

/** Ids that no token has are left out, as llama.cpp does. */
function specialIds(metadata: Metadata, count: number): SpecialIds {
  const id = (name: string): number | null => {
    const value = ggufNumber(metadata, `tokenizer.ggml.${name}_token_id`)
    return value !== null && Number.isInteger(value) && value >= 0 && value < count ? value : null
  }
  const optional = OPTIONAL_IDS.flatMap(([key, name]) => {
    const found = id(name)
    return found === null ? [] : [[key, found]]
  })
  return {
    bos: id('bos'),
    eos: id('eos'),
    eot: id('eot'),
    unknown: id('unknown'),
    pad: id('padding'),
    ...(Object.fromEntries(optional) as Partial<SpecialIds>),
  }
}

function flag(metadata: Metadata, name: string): boolean | null {
  const value = metadata.get(`tokenizer.ggml.${name}`)
  return value?.type === 'bool' ? value.value : null
}

function chatTemplates(metadata: Metadata): readonly ChatTemplate[] {
  const prefix = 'tokenizer.chat_template.'
  const main = ggufString(metadata, 'tokenizer.chat_template')
  const named = [...metadata].flatMap(([key, value]) =>
    key.startsWith(prefix) && value.type === 'string'
      ? [{ name: key.slice(prefix.length), template: value.value }]
      : [],
  )
  return [...(main === null ? [] : [{ name: 'default', template: main }]), ...named]
}
