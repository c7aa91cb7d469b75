/**
 * Who made a model, from what, under which licence, and how it wants to be sampled: the keys `general.*` that llama.cpp's
 * converter takes from the model's card, generation_config.json, its name and a file of the user's. Source:
 * gguf-py/gguf/metadata.py of llama.cpp (2026).
 */
import type { Checkpoint } from '../../../core/checkpoint.ts'
import { AppError } from '../../../core/errors.ts'
import { isArray, isObject, parseJson, type Json, type JsonObject } from '../../../core/json.ts'
import type { OptionSpec, OptionValues } from '../../../core/option.ts'
import type { GgufValue } from '../../containers/gguf/types.ts'
import { nameParts, titleOf } from './name-parts.ts'
import { shortestF32 } from './shortest.ts'

/** The options of it; llama.cpp's converter has both. */
export const AUTHORSHIP_OPTIONS: readonly OptionSpec[] = [
  {
    name: 'model-name',
    title: 'Name of the model',
    group: 'Header',
    help: 'What runtimes show; else it is taken from the model card, or from the folder.',
    kind: { kind: 'text', default: null },
  },
  {
    name: 'metadata',
    title: 'Authorship',
    group: 'Header',
    help: 'JSON of keys such as "general.author" and "general.base_models" that come before what the model card says.',
    kind: { kind: 'text', default: null, file: true },
  },
]

/** What is known, by key; base models and datasets are lists under the keys below. */
type Facts = Map<string, Json>

const BASE_MODELS = 'general.base_models'
const DATASETS = 'general.datasets'
/** How the lists' own keys start. */
const LISTS: ReadonlyMap<string, string> = new Map([
  [BASE_MODELS, 'general.base_model'],
  [DATASETS, 'general.dataset'],
])

/** Keys of generation_config.json and of the file, with their types; HuggingFace's repetition_penalty is none of them. */
const SAMPLING: readonly (readonly [from: string, to: string, type: 'string' | 'i32' | 'f32'])[] = [
  ['sequence', 'sequence', 'string'],
  ['top_k', 'top_k', 'i32'],
  ['top_p', 'top_p', 'f32'],
  ['min_p', 'min_p', 'f32'],
  ['xtc_probability', 'xtc_probability', 'f32'],
  ['xtc_threshold', 'xtc_threshold', 'f32'],
  ['temperature', 'temp', 'f32'],
  ['penalty_last_n', 'penalty_last_n', 'i32'],
  ['penalty_repeat', 'penalty_repeat', 'f32'],
  ['mirostat', 'mirostat', 'i32'],
  ['mirostat_tau', 'mirostat_tau', 'f32'],
  ['mirostat_eta', 'mirostat_eta', 'f32'],
]

/** The texts, in the order of the file, and the keys of a card that give them. */
const TEXTS: readonly (readonly [key: string, ...card: string[]])[] = [
  ['general.name', 'name', 'model_name'],
  ['general.author', 'author', 'model_author', 'model_creator'],
  ['general.version', 'version', 'model_version'],
  ['general.organization', 'organization', 'model_organization'],
  ['general.finetune', 'finetune', 'model_finetune'],
  ['general.basename', 'basename', 'model_basename', 'model_type'],
  ['general.description', 'description', 'model_description'],
  ['general.quantized_by'],
  ['general.size_label', 'size_label', 'model_size_label'],
  ['general.license', 'license'],
  ['general.license.name', 'license_name'],
  ['general.license.link', 'license_link'],
  ['general.url'],
  ['general.doi'],
  ['general.uuid'],
  ['general.repo_url'],
  ['general.source.url', 'url', 'model_url'],
  ['general.source.doi', 'doi', 'model_doi'],
  ['general.source.uuid', 'uuid', 'model_uuid'],
  ['general.source.repo_url', 'repo_url', 'model_repo_url'],
]

/** What is told of a base model or a dataset. */
const SOURCE_KEYS = ['name', 'author', 'version', 'organization', 'description', 'url', 'doi', 'uuid', 'repo_url']

/** The lists of words, and the keys of a card that give them, one after the other. */
const WORDS: readonly (readonly [key: string, ...card: string[]])[] = [
  ['general.tags', 'tags', 'pipeline_tag'],
  ['general.languages', 'languages', 'language'],
]

/**
 * The `general.*` keys of a model, in llama.cpp's order. `parameters` tell a size in its name from a length of context,
 * and `sizeLabel` is its size where its name has none; null if it has no weights. Throws `bad-option` for a file that is none of such keys.
 */
export function authorship(
  { card = new Map(), generation = new Map(), config, name }: Checkpoint,
  parameters: number,
  sizeLabel: string | null,
  options: OptionValues,
): ReadonlyMap<string, GgufValue> {
  const facts = cardFacts(card, parameters)
  for (const [from, to] of SAMPLING) setFirst(facts, `general.sampling.${to}`, generation.get(from))
  const saved = config.raw.get('_name_or_path')
  // a path of the machine that saved it is no name
  const ids = [typeof saved === 'string' && saved.split('/').length <= 2 ? saved : '', name]
  for (const id of ids) if (id !== '') setNames(facts, id, parameters)
  setFirst(facts, 'general.size_label', sizeLabel)
  return entriesOf(new Map([...facts, ...givenFacts(options)]))
}

/** The keys of a GGUF file with those that the options give in their place. Throws `bad-option` as {@link authorship} does. */
export function withGivenAuthorship(
  metadata: ReadonlyMap<string, GgufValue>,
  options: OptionValues,
): Map<string, GgufValue> {
  const given = givenFacts(options)
  const edited = new Map(metadata)
  for (const [list, prefix] of LISTS)
    if (given.has(list)) for (const key of metadata.keys()) if (key.startsWith(`${prefix}.`)) edited.delete(key)
  for (const [key, value] of entriesOf(given)) edited.set(key, value)
  return edited
}

function setFirst(facts: Facts, key: string, value: Json | undefined): void {
  if (value !== undefined && value !== null && !facts.has(key)) facts.set(key, value)
}

function setNames(facts: Facts, id: string, parameters: number): void {
  const parts = nameParts(id, parameters)
  setFirst(facts, 'general.name', titleOf(parts.name))
  setFirst(facts, 'general.organization', parts.organization === null ? null : titleOf(parts.organization))
  setFirst(facts, 'general.basename', parts.basename)
  setFirst(facts, 'general.finetune', parts.finetune)
  setFirst(facts, 'general.version', parts.version)
  setFirst(facts, 'general.size_label', parts.sizeLabel)
}

function cardFacts(card: JsonObject, parameters: number): Facts {
  const facts: Facts = new Map()
  for (const [key, ...names] of TEXTS) for (const name of names) setFirst(facts, key, card.get(name))
  for (const [key, ...names] of WORDS) {
    const words = names.flatMap((name) => listOf(card.get(name)))
    if (names.some((name) => card.has(name))) facts.set(key, words)
  }
  const sources = (key: string, ...names: readonly string[]): void => {
    const found = names.find((name) => card.has(name))
    if (found !== undefined)
      facts.set(
        key,
        listOf(card.get(found)).map((one) => sourceOf(one, parameters)),
      )
  }
  sources(BASE_MODELS, 'base_model', 'base_models', 'base_model_sources')
  sources(DATASETS, 'datasets', 'dataset', 'dataset_sources')
  return facts
}

function listOf(value: Json | undefined): readonly Json[] {
  return isArray(value) ? value : typeof value === 'string' ? [value] : []
}

/** What a repository's id or address says. */
function sourceOf(value: Json, parameters: number): Json {
  if (typeof value !== 'string') return isObject(value) ? value : new Map()
  const isAddress = /^(?:https?|ssh):\/\//.test(value)
  const id = isAddress ? /^https?:\/\/huggingface\.co\/([^/]+\/[^/]+)$/.exec(value)?.[1] : value
  const source = new Map<string, Json>()
  if (id !== undefined) {
    const { name, organization, version } = nameParts(id, parameters)
    source.set('name', titleOf(name))
    if (organization !== null) source.set('organization', titleOf(organization))
    if (version !== null) source.set('version', version)
    if (!isAddress && organization !== null) source.set('repo_url', `https://huggingface.co/${organization}/${name}`)
  }
  if (isAddress) source.set('repo_url', value)
  return source
}

/** Facts as keys of a file, in its order; what has another type than its key is left out. */
function entriesOf(facts: Facts): Map<string, GgufValue> {
  const entries = new Map<string, GgufValue>()
  const setText = (key: string, value: Json | undefined): void => {
    const text = isArray(value) ? value.filter((item) => typeof item === 'string').join(',') : value
    if ((typeof text === 'string' && text !== '') || typeof text === 'number')
      entries.set(key, { type: 'string', value: String(text) })
  }
  for (const [, name, type] of SAMPLING) {
    const key = `general.sampling.${name}`
    const value = facts.get(key)
    if (type === 'string') setText(key, value)
    else if (typeof value === 'number' && fits(value, type)) entries.set(key, { type, value })
  }
  for (const [key] of TEXTS) setText(key, facts.get(key))
  for (const [list, prefix] of LISTS) {
    const sources = facts.get(list)
    if (!isArray(sources)) continue
    entries.set(`${prefix}.count`, { type: 'u32', value: sources.length })
    sources.forEach((source, index) => {
      if (isObject(source)) for (const key of SOURCE_KEYS) setText(`${prefix}.${index}.${key}`, source.get(key))
    })
  }
  for (const [key] of WORDS) {
    const value = listOf(facts.get(key)).filter((word) => typeof word === 'string')
    if (value.length > 0) entries.set(key, { type: 'array', of: 'string', value })
  }
  return entries
}

function fits(value: number, type: 'i32' | 'f32'): boolean {
  return type === 'f32' ? Number.isFinite(Math.fround(value)) : value === Math.trunc(value) && Math.abs(value) < 2 ** 31
}

/** What the user says. */
function givenFacts(options: OptionValues): Facts {
  const facts: Facts = new Map()
  const text = options['metadata']
  if (typeof text === 'string' && text.trim() !== '') for (const [key, value] of fileFacts(text)) facts.set(key, value)
  const name = options['model-name']
  if (typeof name === 'string' && name.trim() !== '') facts.set('general.name', name.trim())
  return facts
}

function fileFacts(text: string): JsonObject {
  const hint = 'Give an object of keys of general.*, such as {"general.author": "Me"}.'
  let json: Json
  try {
    json = parseJson(text, '--metadata')
  } catch (cause) {
    throw new AppError('bad-option', AppError.from(cause).message, { hint, cause })
  }
  if (!isObject(json)) throw new AppError('bad-option', '--metadata is no JSON object', { hint })
  const known = new Set([
    ...SAMPLING.map(([, key]) => `general.sampling.${key}`),
    ...[...TEXTS, ...WORDS].map(([key]) => key),
    ...LISTS.keys(),
  ])
  for (const [key, value] of json) {
    if (!known.has(key)) {
      throw new AppError('bad-option', `--metadata: ${key} is no key of authorship`, {
        hint: `It takes ${[...known].join(', ')}. --set-metadata sets any other key.`,
      })
    }
    const right = LISTS.has(key) ? isArray(value) && value.every(isObject) : !isObject(value) && value !== null
    if (!right)
      throw new AppError('bad-option', `--metadata: ${key} has a value of another kind than it takes`, { hint })
  }
  return json
}

/** The head of a model card that says what a file's keys say: {@link authorship}'s inverse. */
export function cardOf(metadata: ReadonlyMap<string, GgufValue>): JsonObject {
  const card = new Map<string, Json>()
  for (const [key, name] of TEXTS) {
    const value = metadata.get(key)
    if (name !== undefined && value?.type === 'string') card.set(name, value.value)
  }
  for (const [list, prefix] of LISTS) {
    const count = metadata.get(`${prefix}.count`)
    if (count?.type !== 'u32' || count.value > MAX_SOURCES) continue
    const sources = Array.from({ length: count.value }, (_, index) => sourceAt(metadata, `${prefix}.${index}`))
    card.set(list === BASE_MODELS ? 'base_model' : 'datasets', sources)
  }
  for (const [key, name = ''] of WORDS) {
    const value = metadata.get(key)
    if (value?.type === 'array' && value.of === 'string')
      card.set(key === 'general.languages' ? 'language' : name, value.value)
  }
  return card
}

/** A merge has a dozen. */
const MAX_SOURCES = 1000

/** A repository's id, where the keys are those that it would give; else all that they say. */
function sourceAt(metadata: ReadonlyMap<string, GgufValue>, prefix: string): Json {
  const source = new Map<string, Json>()
  for (const key of SOURCE_KEYS) {
    const value = metadata.get(`${prefix}.${key}`)
    if (value?.type === 'string') source.set(key, value.value)
  }
  const address = source.get('repo_url')
  const id = typeof address === 'string' ? /^https:\/\/huggingface\.co\/([^/]+\/[^/]+)$/.exec(address)?.[1] : undefined
  if (id === undefined) return source
  const given = sourceOf(id, 0)
  return isObject(given) && given.size === source.size && [...given].every(([key, value]) => source.get(key) === value)
    ? id
    : source
}

/** How a file wants to be sampled, under the keys of generation_config.json. */
export function generationOf(metadata: ReadonlyMap<string, GgufValue>): JsonObject {
  const generation = new Map<string, Json>()
  for (const [name, key] of SAMPLING) {
    const value = metadata.get(`general.sampling.${key}`)
    if (value?.type === 'string' || value?.type === 'i32' || value?.type === 'u32') generation.set(name, value.value)
    else if (value?.type === 'f32') generation.set(name, shortestF32(value.value))
  }
  return generation
}
