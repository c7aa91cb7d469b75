import type { ChatTemplate, TextNormalizer, Token, Tokenizer, TokenType } from '../../core/checkpoint.ts'
import { AppError } from '../../core/errors.ts'
import type { OptionSpec, OptionValues } from '../../core/option.ts'
import type { Finding } from '../../core/plan.ts'
import type { GgufValue } from '../containers/gguf/types.ts'
import { numeric, text } from './metadata/keys.ts'

/** llama.cpp's numbers. */
const TOKEN_TYPES: Readonly<Record<TokenType, number>> = {
  normal: 1,
  unknown: 2,
  control: 3,
  user: 4,
  unused: 5,
  byte: 6,
}

/** What llama.cpp's converter gives tokens that are only there to fill the embedding's rows. */
const UNUSED_SCORE = -10_000

/** The byte-level pre-tokenizers of llama.cpp v0.5.0 (src/llama-vocab.cpp). */
export const BPE_PRE_TOKENIZERS: readonly string[] = [
  'a.x-4.0',
  'afmoe',
  'bailingmoe',
  'bailingmoe2',
  'bloom',
  'chameleon',
  'chatglm-bpe',
  'codeshell',
  'cohere2moe',
  'command-r',
  'dbrx',
  'deepseek-coder',
  'deepseek-llm',
  'deepseek-r1-qwen',
  'deepseek-v3',
  'default',
  'exaone',
  'exaone-moe',
  'exaone4',
  'f2llmv2',
  'falcon',
  'falcon-h1',
  'falcon3',
  'gigachat',
  'glm4',
  'gpt-2',
  'gpt-4o',
  'gpt3-finnish',
  'granite-docling',
  'granite-embed-multi-311m',
  'granite-embed-multi-97m',
  'grok-2',
  'hunyuan',
  'hunyuan-dense',
  'jais',
  'jais-2',
  'jina-v1-en',
  'jina-v2-code',
  'jina-v2-de',
  'jina-v2-es',
  'jina-v5-nano',
  'joyai-llm',
  'kanana2',
  'kimi-k2',
  'kormo',
  'lfm2',
  'llada-moe',
  'llama-bpe',
  'llama4',
  'megrez',
  'mellum',
  'mellum2',
  'midm-2.0',
  'minerva-7b',
  'minicpm5',
  'minimax-m2',
  'modern-bert',
  'mpt',
  'olmo',
  'phi-2',
  'pixtral',
  'poro-chat',
  'qwen2',
  'qwen35',
  'refact',
  'roberta-bpe',
  'sarvam-moe',
  'seed-coder',
  'smaug-bpe',
  'smollm',
  'solar-open',
  'stablelm2',
  'starcoder',
  'superbpe',
  'talkie',
  'tekken',
  'tiny_aya',
  'trillion',
  'viking',
  'youtu',
]

/** What leaves the pre-tokenizer to be recognised. */
const RECOGNISED = 'auto'

/** The question that is asked where it is not recognised. */
export const PRE_OPTION: OptionSpec = {
  name: 'pre',
  title: 'Pre-tokenizer',
  help: 'How the tokenizer splits text, by the names of llama.cpp; asked for only where it is not recognised.',
  group: 'Header',
  kind: {
    kind: 'choice',
    choices: [
      { value: RECOGNISED, title: 'As it is recognised', help: '' },
      ...BPE_PRE_TOKENIZERS.map((value) => ({ value, title: value, help: '' })),
    ],
    default: RECOGNISED,
  },
}

/** The pre-tokenizer that is asked for; null for the recognised one. */
export function preOption(options: OptionValues): string | null {
  const pre = options['pre']
  return typeof pre === 'string' && pre !== '' && pre !== RECOGNISED ? pre : null
}

/** The commonest, for messages. */
const COMMON_PRE_TOKENIZERS = ['llama-bpe', 'qwen2', 'gpt-2', 'tekken', 'gpt-4o', 'deepseek-v3', 'smollm', 'default']

/** The tokenizer's keys, and what was noticed on the way. */
export interface TokenizerMetadata {
  readonly metadata: ReadonlyMap<string, GgufValue>
  readonly findings: readonly Finding[]
}

/**
 * A tokenizer as llama.cpp wants it, with exactly `rows` tokens, as many as the embedding has rows. `pre` is the
 * pre-tokenizer asked for; null takes the recognised one. Throws `bad-option` if there is neither.
 */
export function tokenizerMetadata(tokenizer: Tokenizer | null, rows: number, pre: string | null): TokenizerMetadata {
  if (tokenizer === null) {
    return {
      metadata: new Map([['tokenizer.ggml.model', text('no_vocab')]]),
      findings: [
        {
          severity: 'warning',
          code: 'no-tokenizer',
          message: 'The model has no tokenizer; llama.cpp will take and give token ids only',
          hint: 'Put tokenizer.json, or tokenizer.model, beside config.json.',
        },
      ],
    }
  }
  const findings: Finding[] = []
  const tokens = fitTokens(tokenizer.tokens, rows, findings)
  const metadata = new Map<string, GgufValue>()
  if (tokenizer.kind !== 'bpe' && pre !== null && pre !== 'default') {
    throw new AppError(
      'bad-option',
      `--pre ${pre} is for byte-level BPE; this is a ${KINDS[tokenizer.kind].title} tokenizer`,
      {
        hint: 'Leave --pre out.',
      },
    )
  }
  const scored = tokenizer.kind === 'spm' || tokenizer.kind === 'unigram'
  metadata.set('tokenizer.ggml.model', text(KINDS[tokenizer.kind].model))
  metadata.set('tokenizer.ggml.pre', text(tokenizer.kind === 'bpe' ? preTokenizer(tokenizer, pre) : 'default'))
  metadata.set('tokenizer.ggml.tokens', {
    type: 'array',
    of: 'string',
    value: tokens.map((token) => spelling(token, tokenizer.kind)),
  })
  if (scored)
    metadata.set('tokenizer.ggml.scores', { type: 'array', of: 'f32', value: tokens.map((token) => token.score) })
  metadata.set('tokenizer.ggml.token_type', {
    type: 'array',
    of: 'i32',
    value: tokens.map((token) => TOKEN_TYPES[token.type]),
  })
  if (tokenizer.kind === 'bpe') {
    const value = tokenizer.merges.map(([left, right]) => `${mergePart(left)} ${mergePart(right)}`)
    metadata.set('tokenizer.ggml.merges', { type: 'array', of: 'string', value })
  }
  setIds(tokenizer, rows, metadata, findings)
  setFlag(metadata, 'add_bos_token', tokenizer.addBos)
  setFlag(metadata, 'add_eos_token', tokenizer.addEos)
  setFlag(metadata, 'add_sep_token', tokenizer.addSep ?? null)
  if (scored) setFlag(metadata, 'add_space_prefix', tokenizer.addSpacePrefix)
  setNormalizer(tokenizer.normalizer ?? {}, metadata)
  setTemplates(tokenizer.chatTemplates, metadata)
  return { metadata, findings }
}

/** llama.cpp's name of each kind, and its name for people. */
const KINDS: Readonly<Record<Tokenizer['kind'], { readonly model: string; readonly title: string }>> = {
  bpe: { model: 'gpt2', title: 'byte-level BPE' },
  spm: { model: 'llama', title: 'SentencePiece' },
  wordpiece: { model: 'bert', title: 'WordPiece' },
  unigram: { model: 't5', title: 'SentencePiece Unigram' },
}

/** What continues a word is marked in BERT's vocabularies; in llama.cpp's what begins one is. */
const CONTINUES = '##'
const SPACE = '\u2581'

/** A token as llama.cpp spells it. */
function spelling({ text: token, type }: Token, kind: Tokenizer['kind']): string {
  // tokens that are looked for in the text before its spaces are replaced
  if (kind === 'spm' && type === 'user') return token.replaceAll(SPACE, ' ')
  if (kind !== 'wordpiece' || type === 'control' || type === 'unknown' || type === 'unused') return token
  return token.startsWith(CONTINUES) ? token.slice(CONTINUES.length) : SPACE + token
}

function setNormalizer(normalizer: TextNormalizer, metadata: Map<string, GgufValue>): void {
  const { lowercase, stripAccents, charsmap, removeExtraSpaces } = normalizer
  setFlag(metadata, 'normalizer.lowercase', lowercase ?? null)
  setFlag(metadata, 'normalizer.strip_accents', stripAccents ?? null)
  setFlag(metadata, 'remove_extra_whitespaces', removeExtraSpaces ?? null)
  if (charsmap !== undefined)
    metadata.set('tokenizer.ggml.precompiled_charsmap', { type: 'array', of: 'u8', value: charsmap })
}

/** A space inside a part would be read as the one between the parts. */
function mergePart(part: string): string {
  return part.replaceAll(' ', '\u0120')
}

function preTokenizer(tokenizer: Tokenizer, asked: string | null): string {
  const known = `Common ones: ${COMMON_PRE_TOKENIZERS.join(', ')}.`
  if (asked !== null) {
    if (BPE_PRE_TOKENIZERS.includes(asked)) return asked
    throw new AppError('bad-option', `llama.cpp has no pre-tokenizer ${JSON.stringify(asked)}`, {
      hint: `${known} All: ${BPE_PRE_TOKENIZERS.join(', ')}.`,
    })
  }
  if (tokenizer.pre !== null) return tokenizer.pre
  const { preCandidates = [] } = tokenizer
  const candidates = preCandidates.length === 0 ? '' : `Most like it: ${preCandidates.join(', ')}. `
  throw new AppError(
    'bad-option',
    `How this tokenizer splits text is none of the ways that llama.cpp knows: ${tokenizer.preDescription}`,
    { hint: `Name the one of llama.cpp's that it is with --pre. ${candidates}${known}` },
  )
}

function fitTokens(tokens: readonly Token[], rows: number, findings: Finding[]): readonly Token[] {
  if (tokens.length > rows) {
    const lost = tokens.slice(rows, rows + 3).map((token) => JSON.stringify(token.text))
    findings.push({
      severity: 'warning',
      code: 'tokens-cut',
      message:
        `The tokenizer has ${tokens.length} tokens, the embedding ${rows} rows; ` +
        `the last ${tokens.length - rows} are left out (${lost.join(', ')}${tokens.length - rows > 3 ? ', ...' : ''})`,
      hint: 'Text that holds these tokens would fail in the original model too.',
    })
    return tokens.slice(0, rows)
  }
  const missing = Array.from({ length: rows - tokens.length }, (_, index): Token => {
    return { text: `[PAD${tokens.length + index}]`, type: 'unused', score: UNUSED_SCORE }
  })
  return missing.length === 0 ? tokens : [...tokens, ...missing]
}

function setIds(tokenizer: Tokenizer, rows: number, metadata: Map<string, GgufValue>, findings: Finding[]): void {
  const { bos, eos, eot, unknown, pad, ...rest } = tokenizer.ids
  const ids: readonly (readonly [string, number | null])[] = [
    // what llama.cpp puts before and after a text, of BERT's kind too
    ['bos', bos ?? (tokenizer.kind === 'wordpiece' ? (rest.cls ?? null) : null)],
    ['eos', eos ?? (tokenizer.kind === 'wordpiece' ? (rest.sep ?? null) : null)],
    ['eot', eot],
    ['unknown', unknown],
    ['padding', pad],
    ['eom', rest.eom ?? null],
    // llama.cpp's spelling
    ['seperator', rest.sep ?? null],
    ['cls', rest.cls ?? null],
    ['mask', rest.mask ?? null],
    ['fim_pre', rest.fimPrefix ?? null],
    ['fim_suf', rest.fimSuffix ?? null],
    ['fim_mid', rest.fimMiddle ?? null],
    ['fim_pad', rest.fimPad ?? null],
    ['fim_rep', rest.fimRepo ?? null],
    ['fim_sep', rest.fimSeparator ?? null],
  ]
  for (const [name, id] of ids) {
    if (id === null) continue
    const key = `tokenizer.ggml.${name}_token_id`
    if (id >= 0 && id < rows) {
      metadata.set(key, numeric('u32', id, key))
      continue
    }
    findings.push({
      severity: 'warning',
      code: 'token-id-ignored',
      message: `The ${name} token has the id ${id}, which is none of the ${rows} tokens; it is left out`,
    })
  }
}

function setFlag(metadata: Map<string, GgufValue>, name: string, value: boolean | null): void {
  if (value !== null) metadata.set(`tokenizer.ggml.${name}`, { type: 'bool', value })
}

function setTemplates(templates: readonly ChatTemplate[], metadata: Map<string, GgufValue>): void {
  const named = templates.filter((template) => template.name !== 'default')
  if (named.length > 0) {
    metadata.set('tokenizer.chat_templates', { type: 'array', of: 'string', value: named.map(({ name }) => name) })
    for (const { name, template } of named) metadata.set(`tokenizer.chat_template.${name}`, text(template))
  }
  const main = templates.find((template) => template.name === 'default')
  if (main !== undefined) metadata.set('tokenizer.chat_template', text(main.template))
}
