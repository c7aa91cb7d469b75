/** Special tokens, what is put around a text, and chat templates, as the tokenizer's configuration tells them. */
import type { ChatTemplate, ModelConfig, SpecialIds, Token, Tokenizer } from '../../core/checkpoint.ts'
import { isArray, isObject, type Json, type JsonObject } from '../../core/json.ts'
import { steps, type Vocabulary } from './vocabulary.ts'

/** The JSON files of a tokenizer; null for those that are not there. */
export interface TokenizerFiles {
  readonly tokenizer: JsonObject | null
  readonly config: JsonObject | null
  readonly specialMap: JsonObject | null
  readonly added: JsonObject | null
}

/** What ends a turn of a chat, commonest first. */
const TURN_ENDS = ['<|eot_id|>', '<|im_end|>', '<|end|>', '<end_of_turn>', '<|eot|>', '<|END_OF_TURN_TOKEN|>']
/** Ends a document in most models that have it: a turn only where the template says so. */
const TEMPLATE_TURN_ENDS = [...TURN_ENDS, '<|endoftext|>']

/** The other special tokens: the key of tokenizer_config.json, and how models that have none there spell them. */
const OPTIONAL_IDS: readonly (readonly [keyof SpecialIds, string | null, readonly string[]])[] = [
  ['eom', null, ['<|eom_id|>']],
  ['sep', 'sep_token', ['[SEP]']],
  ['cls', 'cls_token', ['[CLS]']],
  ['mask', 'mask_token', ['[MASK]']],
  [
    'fimPrefix',
    null,
    ['<|fim_prefix|>', '<fim-prefix>', '<fim_prefix>', '<｜fim▁begin｜>', '<PRE>', '▁<PRE>', '<|code_prefix|>'],
  ],
  [
    'fimSuffix',
    null,
    ['<|fim_suffix|>', '<fim-suffix>', '<fim_suffix>', '<｜fim▁hole｜>', '<SUF>', '▁<SUF>', '<|code_suffix|>'],
  ],
  [
    'fimMiddle',
    null,
    ['<|fim_middle|>', '<fim-middle>', '<fim_middle>', '<｜fim▁end｜>', '<MID>', '▁<MID>', '<|code_middle|>'],
  ],
  ['fimPad', null, ['<|fim_pad|>', '<fim-pad>', '<fim_pad>']],
  ['fimRepo', null, ['<|fim_repo|>', '<|repo_name|>', '<fim-repo>', '<reponame>']],
  ['fimSeparator', null, ['<|file_sep|>']],
]

/** Classes that put a bos before the text and no eos after it unless told otherwise. */
const BOS_CLASSES = /^(?:Code)?(?:Llama|Gemma)Tokenizer(?:Fast)?$/

/** Tokens that only look special, but that everyone treats so. */
export function looksSpecial(text: string): boolean {
  return /^(?:<\|.*\|>|<｜.*｜>|<unused\d+>|<pad>|<mask>|<2mass>|\[@BOS@\])$/s.test(text)
}

/** Ids of the special tokens: by the text that the tokenizer's configuration gives, else the model's id. */
export function specialIds(
  files: TokenizerFiles,
  vocabulary: Vocabulary,
  tokens: readonly Token[],
  config: ModelConfig,
  templates: readonly ChatTemplate[],
): SpecialIds {
  const byText = new Map<string, number>()
  for (const [id, token] of tokens.entries()) {
    if (token.type !== 'unused' && (!byText.has(token.text) || token.type === 'control')) byText.set(token.text, id)
  }
  const named = (key: string): number | null => {
    const text = specialText(files, key)
    return text === null ? null : (byText.get(text) ?? null)
  }
  const bos = named('bos_token') ?? config.bosId ?? vocabulary.bosId
  const eos = named('eos_token') ?? config.eosIds[0] ?? vocabulary.eosId
  const unknown = named('unk_token') ?? vocabulary.unknownId
  const pad = named('pad_token') ?? config.padId ?? vocabulary.padId
  const eot = named('eot_token') ?? turnEnd(byText, tokens, templates, config.eosIds, eos)
  const optional: Record<string, number> = {}
  for (const [name, key, texts] of OPTIONAL_IDS) {
    const id = (key === null ? null : named(key)) ?? texts.map((text) => addedId(text, byText, tokens)).find(isFound)
    if (id !== null && id !== undefined) optional[name] = id
  }
  return { bos, eos, eot, unknown, pad, ...optional }
}

function isFound(id: number | null): id is number {
  return id !== null
}

/** The id of a token that was added to the vocabulary, by its text. */
function addedId(text: string, byText: ReadonlyMap<string, number>, tokens: readonly Token[]): number | null {
  const found = byText.get(text)
  const type = found === undefined ? undefined : tokens[found]?.type
  return found !== undefined && (type === 'control' || type === 'user') ? found : null
}

/** The token that ends a turn, if it is not `eos` itself. */
function turnEnd(
  byText: ReadonlyMap<string, number>,
  tokens: readonly Token[],
  templates: readonly ChatTemplate[],
  eosIds: readonly number[],
  eos: number | null,
): number | null {
  const template = templates.find(({ name }) => name === 'default')?.template ?? ''
  const id = (text: string): number | null => addedId(text, byText, tokens)
  const inTemplate = TEMPLATE_TURN_ENDS.find((text) => id(text) !== null && template.includes(text))
  const amongEos = TURN_ENDS.find((text) => eosIds.includes(id(text) ?? -1))
  const present = TURN_ENDS.find((text) => id(text) !== null)
  const text = inTemplate ?? amongEos ?? present
  const found = text === undefined ? null : id(text)
  return found === eos ? null : found
}

/** The text of a special token: a string, or an object with its `content`. */
function specialText(files: TokenizerFiles, key: string): string | null {
  for (const file of [files.config, files.specialMap]) {
    const value = file?.get(key)
    const text = isObject(value) ? value.get('content') : value
    if (typeof text === 'string' && text !== '') return text
  }
  return null
}

/** What is put around a text, and between two. */
export type AddedEnds = Pick<Tokenizer, 'addBos' | 'addEos' | 'addSep'>

/**
 * Whether a bos goes before a text and an eos after it (cls and sep in their place, as in llama.cpp), and a separator
 * between two texts; null, or absent, where no file says.
 */
export function addedEnds(files: TokenizerFiles, ids: SpecialIds): AddedEnds {
  const { config, tokenizer } = files
  const processors = steps(tokenizer?.get('post_processor'))
  const template = processors.find((step) => step.get('type') === 'TemplateProcessing')
  const single = piecesOf(template?.get('single'))
  const className = config?.get('tokenizer_class')
  const ofClass = typeof className === 'string' && BOS_CLASSES.test(className)
  const builtIn = processors.find((step) => /^(?:Bert|Roberta)Processing$/.test(String(step.get('type'))))
  const decide = (key: string, index: number, ofClassDefault: boolean, id: number | null): boolean | null => {
    // without such a token there is nothing to add
    if (id === null) return false
    const told = config?.get(key)
    if (typeof told === 'boolean') return told
    if (single !== null) return typeof single.at(index) === 'string'
    if (builtIn !== undefined) return true
    if (ofClass) return ofClassDefault
    return tokenizer === null ? null : false
  }
  const told = config?.get('add_sep_token')
  const between = builtIn === undefined ? separates(template, files) : builtIn.get('type') === 'RobertaProcessing'
  const addSep = typeof told === 'boolean' ? told : between
  return {
    addBos: decide('add_bos_token', 0, true, ids.bos ?? ids.cls ?? null),
    addEos: decide('add_eos_token', -1, false, ids.eos ?? ids.sep ?? null),
    ...(addSep === null ? {} : { addSep }),
  }
}

/** What a template is made of: the texts of special tokens, and null for a text. Null for what is no template. */
function piecesOf(json: Json | undefined): readonly (string | null)[] | null {
  if (!isArray(json)) return null
  return json.map((piece) => {
    const special = isObject(piece) ? piece.get('SpecialToken') : undefined
    const text = isObject(special) ? special.get('id') : undefined
    return typeof text === 'string' ? text : null
  })
}

/** Whether a template for two texts has a separator of its own between them; null where there is nothing between. */
function separates(template: JsonObject | undefined, files: TokenizerFiles): boolean | null {
  const [single, pair] = [piecesOf(template?.get('single')), piecesOf(template?.get('pair'))]
  if (single === null || pair === null || single.length < 2) return null
  const last = single.at(-1) ?? null
  const texts = pair.flatMap((piece, index) => (piece === null ? [index] : []))
  const [first = 0, second = 0] = texts
  if (texts.length !== 2 || second - first < 2) return null
  const ends = new Set([specialText(files, 'sep_token'), specialText(files, 'eos_token')])
  const between = pair.slice(first + 1, second)
  // one that ends the first text is no separator
  return (last === null && ends.has(between[0] ?? '')) || (between.length === 2 && ends.has(between[1] ?? ''))
}

/**
 * Chat templates. A chat_template.jinja comes before what tokenizer_config.json has, as in transformers; chat_template.json
 * is of models with a processor.
 */
export function chatTemplates(
  config: JsonObject | null,
  jinja: string | null,
  json: JsonObject | null,
  additional: readonly ChatTemplate[],
): readonly ChatTemplate[] {
  const found = new Map<string, string>()
  const add = (name: Json | undefined, template: Json | undefined): void => {
    if (typeof name === 'string' && typeof template === 'string' && !found.has(name)) found.set(name, template)
  }
  if (jinja !== null) add('default', jinja)
  for (const { name, template } of additional) add(name, template)
  for (const value of [config?.get('chat_template'), json?.get('chat_template')]) {
    if (isArray(value)) {
      for (const entry of value) if (isObject(entry)) add(entry.get('name'), entry.get('template'))
    } else if (isObject(value)) {
      for (const [name, template] of value) add(name, template)
    } else add('default', value)
  }
  return [...found].map(([name, template]) => ({ name, template }))
}
