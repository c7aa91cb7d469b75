/**
 * Which of llama.cpp's pre-tokenizers a tokenizer.json has, told by its structure. The expressions are those of the
 * models that each family is named after; llama.cpp's own are in src/llama-vocab.cpp.
 */
import { isArray, isObject, type Json, type JsonObject } from '../../core/json.ts'

export interface PreTokenizer {
  /** As llama.cpp names it; null if it is none that we know. */
  readonly family: string | null
  /** The steps, for people. */
  readonly description: string
  /** Where it is none that we know: those that are most like it, the likest first. */
  readonly candidates?: readonly string[]
}

/** What GPT-2 splits with; ByteLevel's `use_regex`. */
const GPT2_STEP = 'bytes, GPT-2 words'
const BYTES_STEP = 'bytes'
const DIGIT_STEP = 'single digits'
const DIGITS_STEP = 'runs of digits'

const CONTRACTIONS = String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)`
const LETTERS_LLAMA = String.raw`[^\r\n\p{L}\p{N}]?\p{L}+`
const REST = String.raw` ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
const UPPER = String.raw`[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`
const LOWER = String.raw`[\p{Ll}\p{Lm}\p{Lo}\p{M}]`
const BEFORE = String.raw`[^\r\n\p{L}\p{N}]?`
const REST_SLASH = String.raw` ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`

const LLAMA3 = String.raw`${CONTRACTIONS}|${LETTERS_LLAMA}|\p{N}{1,3}|${REST}`
const QWEN2 = String.raw`${CONTRACTIONS}|${LETTERS_LLAMA}|\p{N}|${REST}`
const TEKKEN = String.raw`${BEFORE}${UPPER}*${LOWER}+|${BEFORE}${UPPER}+${LOWER}*|\p{N}|${REST_SLASH}`
const GPT4O = String.raw`${BEFORE}${UPPER}*${LOWER}+${CONTRACTIONS}?|${BEFORE}${UPPER}+${LOWER}*${CONTRACTIONS}?|\p{N}{1,3}|${REST_SLASH}`
const SEED_CODER = String.raw`${CONTRACTIONS}|${LETTERS_LLAMA}|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+`
const BAILING = String.raw`'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+`
const BLOOM = String.raw` ?[^(\s|[.,!?…。，、।۔،])]+`
const LINE_ENDS = String.raw`[\r\n]`
const CJK_CODER = '[一-龥ࠀ-一가-퟿]+'
const CJK_V3 = '[一-龥぀-ゟ゠-ヿ]+'
const DEEPSEEK_V3 = String.raw`[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_${'`'}{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
const DEEPSEEK_PUNCTUATION = String.raw`\s?[!-/:-~！-／：-～‘-‟　-。]+`

const split = (pattern: string): string => `split /${pattern}/`

interface Family {
  readonly name: string
  readonly steps: readonly (string | RegExp)[]
  /** Whether a word that is a token is taken whole; absent where llama.cpp treats both alike. */
  readonly ignoreMerges?: boolean
}

const FAMILIES: readonly Family[] = [
  { name: 'llama-bpe', steps: [split(LLAMA3), BYTES_STEP], ignoreMerges: true },
  // Llama 3's split with merges alone: what smaug-bpe and dbrx stand for
  { name: 'smaug-bpe', steps: [split(LLAMA3), BYTES_STEP], ignoreMerges: false },
  { name: 'qwen2', steps: [split(QWEN2), BYTES_STEP], ignoreMerges: false },
  { name: 'tekken', steps: [split(TEKKEN), BYTES_STEP], ignoreMerges: true },
  { name: 'gpt-4o', steps: [split(GPT4O), BYTES_STEP] },
  { name: 'seed-coder', steps: [split(SEED_CODER), BYTES_STEP] },
  { name: 'bailingmoe', steps: [split(BAILING), BYTES_STEP] },
  { name: 'gpt-2', steps: [GPT2_STEP], ignoreMerges: false },
  // starcoder, refact, command-r and codeshell split alike
  { name: 'smollm', steps: [DIGIT_STEP, GPT2_STEP], ignoreMerges: false },
  {
    name: 'falcon',
    steps: ['punctuation contiguous', GPT2_STEP, DIGITS_STEP, split('[0-9][0-9][0-9]')],
    ignoreMerges: false,
  },
  { name: 'bloom', steps: [split(BLOOM), BYTES_STEP], ignoreMerges: false },
  { name: 'viking', steps: [split(BLOOM), DIGIT_STEP, BYTES_STEP], ignoreMerges: false },
  {
    name: 'deepseek-coder',
    steps: [
      split(LINE_ENDS),
      split(String.raw`\s?\p{L}+`),
      split(String.raw`\s?\p{P}+`),
      split(CJK_CODER),
      DIGIT_STEP,
      BYTES_STEP,
    ],
    ignoreMerges: false,
  },
  {
    name: 'deepseek-llm',
    steps: [
      split(LINE_ENDS),
      // a list of two hundred ranges of cased letters, of which the start is enough to know it by
      /^split \/\\s\?\[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-Ֆ.*\]\+\/$/u,
      split(DEEPSEEK_PUNCTUATION),
      split(String.raw`\s+$`),
      split(CJK_CODER),
      DIGIT_STEP,
      BYTES_STEP,
    ],
    ignoreMerges: false,
  },
  {
    name: 'deepseek-v3',
    steps: [split(String.raw`\p{N}{1,3}`), split(CJK_V3), split(DEEPSEEK_V3), BYTES_STEP],
    ignoreMerges: false,
  },
]

// A table of check-string hashes, which knows single models rather than structures, goes before this.

/**
 * Recognises the pre-tokenizer of a tokenizer.json by what it does. NFC is passed over: llama.cpp leaves it out for
 * the families that have it.
 */
export function recognisePreTokenizer(json: JsonObject): PreTokenizer {
  const steps = describeSteps(json.get('pre_tokenizer') ?? null)
  const normalizer = describeNormalizer(json.get('normalizer') ?? null)
  const model = json.get('model')
  const ignoreMerges = isObject(model) && model.get('ignore_merges') === true
  const description = [
    ...(normalizer.length > 0 ? [`normalizer ${normalizer.join(' + ')}`] : []),
    ...steps,
    ...(ignoreMerges ? ['whole words first (ignore_merges)'] : []),
  ].join('; ')
  const family = normalizer.every((step) => step === 'NFC')
    ? FAMILIES.find(
        (candidate) =>
          (candidate.ignoreMerges ?? ignoreMerges) === ignoreMerges &&
          candidate.steps.length === steps.length &&
          candidate.steps.every((step, index) => matches(step, steps[index] ?? '')),
      )
    : undefined
  if (family !== undefined) return { family: family.name, description }
  return { family: null, description, candidates: likest(steps) }
}

/** As many as one can weigh against each other. */
const MAX_CANDIDATES = 3

/** The families whose steps share most runs of three letters with these. */
function likest(steps: readonly string[]): readonly string[] {
  const runs = (parts: readonly (string | RegExp)[]): ReadonlySet<string> => {
    const text = parts.map(String).join(';')
    return new Set(Array.from({ length: Math.max(0, text.length - 2) }, (_, at) => text.slice(at, at + 3)))
  }
  const own = runs(steps)
  return FAMILIES.map(({ name, steps: other }) => {
    const theirs = runs(other)
    const shared = [...own].filter((run) => theirs.has(run)).length
    return { name, share: (2 * shared) / (own.size + theirs.size) }
  })
    .toSorted((a, b) => b.share - a.share)
    .slice(0, MAX_CANDIDATES)
    .map(({ name }) => name)
}

/** What llama.cpp also calls the families above. */
const OTHER_NAMES: ReadonlyMap<string, string> = new Map([
  ['llama3', 'llama-bpe'],
  ['llama-v3', 'llama-bpe'],
  ['dbrx', 'smaug-bpe'],
  ['gpt2', 'gpt-2'],
  ['starcoder', 'smollm'],
  ['refact', 'smollm'],
  ['command-r', 'smollm'],
  ['codeshell', 'smollm'],
])

/** Families whose models put text into NFC first, which llama.cpp leaves out. */
const NFC_FAMILIES: ReadonlySet<string> = new Set(['qwen2'])

/** A family as tokenizer.json writes it. */
export interface PreTokenizerJson {
  readonly normalizer: Json
  readonly preTokenizer: Json
  /** Whether a word that is a token is taken whole. */
  readonly ignoreMerges: boolean
}

/** The steps of a family of llama.cpp's, the reverse of {@link recognisePreTokenizer}; null if it is not known whole. */
export function preTokenizerJson(name: string): PreTokenizerJson | null {
  const known = OTHER_NAMES.get(name) ?? name
  const family = FAMILIES.find((candidate) => candidate.name === known)
  const written = family?.steps.map((step) => (typeof step === 'string' ? stepJson(step) : null)) ?? [null]
  const steps = written.filter((step) => step !== null)
  if (family === undefined || steps.length < written.length) return null
  return {
    normalizer: NFC_FAMILIES.has(family.name) ? new Map([['type', 'NFC']]) : null,
    preTokenizer: new Map<string, Json>([
      ['type', 'Sequence'],
      ['pretokenizers', steps],
    ]),
    ignoreMerges: family.ignoreMerges ?? false,
  }
}

const DIGIT_PATTERNS: ReadonlyMap<string, string> = new Map([
  [DIGIT_STEP, String.raw`\p{N}`],
  [DIGITS_STEP, String.raw`\p{N}+`],
])

/** The step of a description; null for one that is not written. */
function stepJson(step: string): JsonObject | null {
  const json = (type: string, ...fields: readonly (readonly [string, Json])[]): JsonObject =>
    new Map<string, Json>([['type', type], ...fields])
  // what Digits does, spelled out: not all of its implementations count ½ among them
  const regex = DIGIT_PATTERNS.get(step) ?? /^split \/(.*)\/$/su.exec(step)?.[1]
  if (regex !== undefined) {
    return json('Split', ['pattern', new Map([['Regex', regex]])], ['behavior', 'Isolated'], ['invert', false])
  }
  switch (step) {
    case GPT2_STEP:
    case BYTES_STEP:
      return json('ByteLevel', ['add_prefix_space', false], ['trim_offsets', true], ['use_regex', step === GPT2_STEP])
    case 'punctuation contiguous':
      return json('Punctuation', ['behavior', 'Contiguous'])
    default:
      return null
  }
}

/** The pre-tokenizer that a class has built in, where there is only vocab.json and merges.txt. */
export function preTokenizerOfClass(name: string | null): PreTokenizer {
  const family =
    name !== null && /^GPT2Tokenizer(?:Fast)?$/.test(name)
      ? 'gpt-2'
      : name !== null && /^Qwen2Tokenizer(?:Fast)?$/.test(name)
        ? 'qwen2'
        : null
  return { family, description: `whatever ${name ?? 'a tokenizer without a class'} does (there is no tokenizer.json)` }
}

function matches(wanted: string | RegExp, step: string): boolean {
  return typeof wanted === 'string' ? wanted === step : wanted.test(step)
}

function flatten(json: Json, list: string): readonly Json[] {
  if (!isObject(json) || json.get('type') !== 'Sequence') return json === null ? [] : [json]
  const children = json.get(list)
  return isArray(children) ? children.flatMap((child) => flatten(child, list)) : [json]
}

function describeNormalizer(json: Json): readonly string[] {
  return flatten(json, 'normalizers').map((step) => (isObject(step) ? String(step.get('type')) : 'something unknown'))
}

function describeSteps(json: Json): readonly string[] {
  return flatten(json, 'pretokenizers').map((step) => (isObject(step) ? describeStep(step) : 'something unknown'))
}

function describeStep(step: JsonObject): string {
  const type = step.get('type')
  switch (type) {
    case 'Split': {
      const pattern = step.get('pattern')
      const regex = isObject(pattern) ? pattern.get('Regex') : undefined
      const literal = isObject(pattern) ? pattern.get('String') : undefined
      const behavior = step.get('behavior')
      const invert = step.get('invert') === true
      const text = typeof regex === 'string' ? `/${escapeControls(regex)}/` : JSON.stringify(literal ?? null)
      // "Removed, inverted" keeps the matches and drops what is between them: nothing, where they cover the text
      const covers = typeof regex === 'string' && regex.endsWith(String.raw`|\s+(?!\S)|\s+`)
      const isolated = (behavior === 'Isolated' && !invert) || (behavior === 'Removed' && invert && covers)
      const digits = [...DIGIT_PATTERNS].find(([, pattern]) => pattern === regex)?.[0]
      if (isolated && digits !== undefined) return digits
      return `split ${text}${isolated ? '' : ` ${String(behavior)}${invert ? ' inverted' : ''}`}`
    }
    case 'ByteLevel': {
      const base = step.get('use_regex') === false ? BYTES_STEP : GPT2_STEP
      return step.get('add_prefix_space') === false ? base : `${base}, space before`
    }
    case 'Digits':
      return step.get('individual_digits') === true ? DIGIT_STEP : DIGITS_STEP
    case 'Punctuation':
      return `punctuation ${String(step.get('behavior') ?? 'Isolated').toLowerCase()}`
    default:
      return String(type)
  }
}

/** Some files have `\r` in an expression, others the character itself. */
function escapeControls(regex: string): string {
  return regex.replaceAll('\r', String.raw`\r`).replaceAll('\n', String.raw`\n`)
}
