/** A tokenizer from the files beside a HuggingFace checkpoint. */
import { readFile, type Folder } from '../../core/bytes.ts'
import type { ChatTemplate, ModelConfig, Token, Tokenizer } from '../../core/checkpoint.ts'
import { AppError } from '../../core/errors.ts'
import { parseJsonObject, type JsonObject } from '../../core/json.ts'
import type { Finding } from '../../core/plan.ts'
import { parseSentencePiece, type SentencePieceModel } from '../containers/sentencepiece.ts'
import type { ModelFiles } from './files.ts'
import { preTokenizerByFingerprint } from './fingerprint.ts'
import { addedEnds, chatTemplates, looksSpecial, specialIds, type TokenizerFiles } from './special.ts'
import {
  addedTokens,
  agree,
  vocabularyOfJson,
  vocabularyOfParts,
  vocabularyOfSentencePiece,
  type AddedToken,
  type Unsupported,
  type Vocabulary,
} from './vocabulary.ts'
import { wordPieceOfText } from './vocabulary-kinds.ts'

export interface ReadTokenizer {
  /** Null if there is none, or of a kind that is not carried: a finding says which. */
  readonly tokenizer: Tokenizer | null
  readonly findings: readonly Finding[]
}

/** The largest tokenizer.json there is has 35 MB. */
const MAX_TOKENIZER_BYTES = 1 << 28
const MAX_TEMPLATE_BYTES = 1 << 22

/** Scores of tokens that SentencePiece was not trained with, as llama.cpp's converter gives them. */
const ADDED_SCORE = -1000
const UNUSED_SCORE = -10_000

const JSON_FILE = 'tokenizer.json'
const MODEL_FILES = ['tokenizer.model', 'spiece.model']
const ADDITIONAL = /^additional_chat_templates\/([\w.-]+)\.jinja$/

/**
 * Reads the tokenizer of a model, with as many tokens as the embedding has rows. Throws `malformed` for files that
 * break their format or hold more tokens than that; a kind that is not carried is a finding, not an error.
 */
export async function readTokenizer(folder: Folder, model: ModelFiles, config: ModelConfig): Promise<ReadTokenizer> {
  const reader = new FileReader(folder, model)
  const files: TokenizerFiles = {
    tokenizer: await reader.json(JSON_FILE),
    config: await reader.json('tokenizer_config.json'),
    specialMap: await reader.json('special_tokens_map.json'),
    added: await reader.json('added_tokens.json'),
  }
  const findings: Finding[] = []
  const vocabulary = await readVocabulary(reader, files, findings)
  if ('unsupported' in vocabulary) {
    findings.push({
      severity: 'warning',
      code: 'tokenizer-unsupported',
      message: `The tokenizer is left out: ${vocabulary.unsupported} is not carried over yet`,
      hint: 'The converted model takes and gives token ids only.',
    })
    return { tokenizer: null, findings }
  }
  const added = addedTokens(files.tokenizer, files.config, files.added)
  const tokens = allTokens(vocabulary, added, config.vocabSize, model.root + JSON_FILE, findings)
  const templates = chatTemplates(
    files.config,
    await reader.text('chat_template.jinja'),
    await reader.json('chat_template.json'),
    await readAdditional(reader, model),
  )
  const ids = specialIds(files, vocabulary, tokens, config, templates)
  const prefix = files.config?.get('add_prefix_space')
  const { kind, merges, pre, preDescription, preCandidates } = vocabulary
  const told = files.tokenizer === null && typeof prefix === 'boolean' ? prefix : vocabulary.addSpacePrefix
  const tokenizer: Tokenizer = {
    kind,
    tokens,
    merges,
    pre,
    preDescription,
    ...(pre !== null || preCandidates === undefined ? {} : { preCandidates }),
    ids,
    ...addedEnds(files, ids),
    addSpacePrefix: kind === 'spm' || kind === 'unigram' ? told : null,
    ...(vocabulary.normalizer === undefined ? {} : { normalizer: vocabulary.normalizer }),
    chatTemplates: templates,
  }
  return { tokenizer, findings }
}

/** Reads what there is of a model's small files. */
class FileReader {
  readonly #folder: Folder
  readonly #model: ModelFiles
  /** What was read: two readers may want the same file. */
  readonly #kept = new Map<string, Uint8Array>()

  constructor(folder: Folder, model: ModelFiles) {
    this.#folder = folder
    this.#model = model
  }

  path(name: string): string {
    return this.#model.root + name
  }

  has(name: string): boolean {
    return this.#model.files.has(name)
  }

  async bytes(name: string, limit = MAX_TOKENIZER_BYTES): Promise<Uint8Array | null> {
    if (!this.has(name)) return null
    const bytes = this.#kept.get(name) ?? (await readFile(this.#folder, this.path(name), limit))
    this.#kept.set(name, bytes)
    return bytes
  }

  async json(name: string): Promise<JsonObject | null> {
    const bytes = await this.bytes(name)
    return bytes === null ? null : parseJsonObject(bytes, this.path(name))
  }

  async text(name: string, limit = MAX_TEMPLATE_BYTES): Promise<string | null> {
    const bytes = await this.bytes(name, limit)
    if (bytes === null) return null
    try {
      return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
    } catch (cause) {
      const file = this.path(name)
      throw new AppError('malformed', `${file} is not UTF-8`, {
        where: { file },
        hint: 'Download the file again.',
        cause,
      })
    }
  }
}

async function readVocabulary(
  reader: FileReader,
  files: TokenizerFiles,
  findings: Finding[],
): Promise<Vocabulary | Unsupported> {
  if (files.tokenizer !== null) {
    const vocabulary = vocabularyOfJson(files.tokenizer, reader.path(JSON_FILE))
    if ('unsupported' in vocabulary) return vocabulary
    if (vocabulary.kind === 'spm') return preferSentencePiece(reader, vocabulary, findings)
    if (vocabulary.kind !== 'bpe') return vocabulary
    const text = (await reader.text(JSON_FILE, MAX_TOKENIZER_BYTES)) ?? ''
    const known = await preTokenizerByFingerprint(text, await reader.text('tokenizer_config.json'))
    return known === null ? vocabulary : { ...vocabulary, pre: known }
  }
  for (const name of MODEL_FILES) {
    const bytes = await reader.bytes(name)
    if (bytes === null) continue
    if (isTiktoken(bytes)) return { unsupported: `a tiktoken vocabulary (${name} without ${JSON_FILE})` }
    return vocabularyOfSentencePiece(parseSentencePiece(bytes, reader.path(name)))
  }
  const vocab = await reader.json('vocab.json')
  const merges = await reader.text('merges.txt', MAX_TOKENIZER_BYTES)
  if (vocab !== null && merges !== null) {
    const className = files.config?.get('tokenizer_class')
    const name = typeof className === 'string' ? className : null
    return vocabularyOfParts(vocab, reader.path('vocab.json'), merges, reader.path('merges.txt'), name)
  }
  const lines = await reader.text('vocab.txt', MAX_TOKENIZER_BYTES)
  if (lines !== null) return wordPieceOfText(lines, files.config, reader.path('vocab.txt'))
  const other = ['tekken.json', 'qwen.tiktoken'].find((name) => reader.has(name))
  return { unsupported: other === undefined ? 'a model without tokenizer files' : `${other} without ${JSON_FILE}` }
}

/**
 * A SentencePiece model has the scores that a tokenizer.json made from it lost, so it is preferred where both give the
 * same ids; a tokenizer.json that was edited since is what transformers goes by.
 */
async function preferSentencePiece(reader: FileReader, fromJson: Vocabulary, findings: Finding[]): Promise<Vocabulary> {
  const name = MODEL_FILES.find((candidate) => reader.has(candidate))
  const bytes = name === undefined ? null : await reader.bytes(name)
  if (name === undefined || bytes === null) return fromJson
  let model: SentencePieceModel
  try {
    model = parseSentencePiece(bytes, reader.path(name))
  } catch (error) {
    findings.push(ignoredModel(reader.path(name), AppError.from(error).message))
    return fromJson
  }
  const vocabulary = vocabularyOfSentencePiece(model)
  if ('unsupported' in vocabulary) {
    findings.push(ignoredModel(reader.path(name), `it is ${vocabulary.unsupported}`))
    return fromJson
  }
  if (!agree(vocabulary, fromJson)) {
    findings.push(ignoredModel(reader.path(name), `its pieces are not those of ${JSON_FILE}`))
    return fromJson
  }
  return { ...vocabulary, addSpacePrefix: fromJson.addSpacePrefix }
}

function ignoredModel(file: string, why: string): Finding {
  return {
    severity: 'warning',
    code: 'tokenizer-file-ignored',
    message: `${file} is not used, ${JSON_FILE} is: ${why}`,
    where: { file },
  }
}

/** Lines of a token in base64 and its rank. */
function isTiktoken(bytes: Uint8Array): boolean {
  return /^[A-Za-z0-9+/]+={0,2} \d+\r?\n/.test(new TextDecoder().decode(bytes.subarray(0, 200)))
}

async function readAdditional(reader: FileReader, model: ModelFiles): Promise<readonly ChatTemplate[]> {
  const templates: ChatTemplate[] = []
  for (const path of model.files.keys()) {
    const name = ADDITIONAL.exec(path)?.[1]
    const template = name === undefined ? null : await reader.text(path)
    if (name !== undefined && template !== null) templates.push({ name, template })
  }
  return templates
}

/** One token a row of the embedding: the vocabulary's, those added to it, and fillers. */
function allTokens(
  vocabulary: Vocabulary,
  added: ReadonlyMap<number, AddedToken>,
  rows: number,
  file: string,
  findings: Finding[],
): readonly Token[] {
  const all = new Map(vocabulary.tokens)
  for (const { id, text, special } of added.values()) {
    const old = all.get(id)
    const type = old?.type === 'unknown' ? 'unknown' : special || looksSpecial(text) ? 'control' : 'user'
    const scored = vocabulary.kind === 'spm' || vocabulary.kind === 'unigram'
    const score = !scored ? 0 : old?.text === text ? old.score : ADDED_SCORE
    all.set(id, { text, type, score })
  }
  let last = -1
  for (const id of all.keys()) last = Math.max(last, id)
  if (last >= rows) {
    throw new AppError('malformed', `The tokenizer has ids up to ${last}, but the embedding only ${rows} rows`, {
      where: { file },
      hint: `Tokens were added without the model: remove ${JSON.stringify(all.get(last)?.text ?? '')} and all others from id ${rows} on, or resize the embedding.`,
    })
  }
  const filler = (id: number): Token => ({
    text: `[PAD${id}]`,
    type: 'unused',
    score: vocabulary.kind === 'spm' || vocabulary.kind === 'unigram' ? UNUSED_SCORE : 0,
  })
  const fillers = rows - all.size
  if (fillers > 0) {
    findings.push({
      severity: 'info',
      code: 'vocab-padded',
      message: `The tokenizer has ${all.size} tokens, the embedding ${rows} rows: ${fillers} unused tokens fill the rest`,
    })
  }
  return Array.from({ length: rows }, (_, id) => all.get(id) ?? filler(id))
}
