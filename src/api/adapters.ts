import type { Folder, Place } from '../core/bytes.ts'
import type { Checkpoint, Token, Tokenizer } from '../core/checkpoint.ts'
import { AppError } from '../core/errors.ts'
import type { AdapterChoice } from '../core/transform.ts'
import { describeAdapter, findAdapter, openAdapter, type OpenedAdapter } from '../engines/lora/open.ts'
import { mergeAdapters } from '../models/lora.ts'
import type { Opened } from './api.ts'
import type { Host } from './host.ts'
import { JoinedFolder, PrefixedFolder } from './joined.ts'

/** Throws `needs-base` for a folder that is an adapter, saying which. */
export async function refuseAdapter(folder: Folder): Promise<void> {
  const found = await findAdapter(folder)
  if (found === null) return
  throw new AppError(
    'needs-base',
    `${folder.name} is ${await describeAdapter(folder, found)}, and no model by itself`,
    {
      where: { file: folder.name },
      hint: 'Give its base model too: with --base PATH, or convert the base with --adapter PATH.',
    },
  )
}

/** Throws `bad-option` unless a place is an adapter, which a base was given for. */
export async function requireAdapter(host: Host, place: Place): Promise<void> {
  const folder = await host.open(place)
  if ((await findAdapter(folder)) !== null) return
  throw new AppError('bad-option', `${folder.name} is no adapter, so it needs no base`, {
    where: { file: folder.name },
    hint: 'Convert the base model, and give the adapter with --adapter PATH.',
  })
}

/** The model with adapters merged into it. Throws `bad-option` for a place that is none, and as {@link mergeAdapters}. */
export async function withAdapters(host: Host, source: Opened, choices: readonly AdapterChoice[]): Promise<Opened> {
  const folders: PrefixedFolder[] = []
  const opened: (OpenedAdapter & { readonly weight: number })[] = []
  for (const { place, weight } of choices) {
    const own = await host.open(place)
    const prefix = `../${own.name}${folders.length === 0 ? '' : ` (${folders.length + 1})`}/`
    const folder = new PrefixedFolder(own, prefix)
    const found = await findAdapter(folder)
    if (found === null) {
      throw new AppError('bad-option', `${own.name} is no LoRA adapter`, {
        where: { file: own.name },
        hint: 'Give the folder that holds adapter_config.json and adapter_model.safetensors.',
      })
    }
    folders.push(folder)
    opened.push({ ...(await openAdapter(folder, found)), weight })
  }
  const adapters = opened.map(({ adapter, weight }) => ({ ...adapter, weight }))
  const merged = await mergeAdapters(source.checkpoint, adapters)
  const checkpoint = await withVocabulary(merged, source.checkpoint.config.vocabSize, opened)
  const sources = opened.flatMap((adapter) => adapter.sources)
  return {
    ...source,
    folder: new JoinedFolder(source.folder, folders),
    checkpoint: { ...checkpoint, sources: [...checkpoint.sources, ...sources] },
  }
}

/** An adapter that brought tokens has their tokenizer too; without it the tokens have no names. */
async function withVocabulary(
  checkpoint: Checkpoint,
  before: number,
  adapters: readonly OpenedAdapter[],
): Promise<Checkpoint> {
  const { config, tokenizer } = checkpoint
  if (config.vocabSize === before) return checkpoint
  for (const adapter of adapters) {
    const own = await adapter.tokenizer(config)
    if (own === null) continue
    const extras = new Map([...checkpoint.extras].filter(([path]) => !isTokenizerFile(path)))
    for (const [path, recipe] of own.files) extras.set(path, recipe)
    const files = new Set([...own.files.values()].flatMap((recipe) => (recipe.op === 'read' ? [recipe] : [])))
    const sources = [...files].map(({ file, shape }) => ({ path: file, size: shape[0] ?? 0, modified: null }))
    return {
      ...checkpoint,
      tokenizer: own.tokenizer,
      extras,
      sources: [...checkpoint.sources, ...sources],
      findings: [...checkpoint.findings, ...own.findings],
    }
  }
  if (tokenizer === null) return checkpoint
  return { ...checkpoint, tokenizer: padded(tokenizer, config.vocabSize) }
}

function isTokenizerFile(path: string): boolean {
  return /^(?:tokenizer|special_tokens_map|added_tokens|vocab|merges|chat_template|spiece|additional_chat_templates\/)/.test(
    path,
  )
}

/** Throws `unsupported` where there are fewer rows than tokens. */
function padded(tokenizer: Tokenizer, rows: number): Tokenizer {
  if (rows < tokenizer.tokens.length) {
    throw new AppError(
      'unsupported',
      `The adapter's embedding has ${rows} rows, the base ${tokenizer.tokens.length} tokens`,
      {
        hint: 'Put the tokenizer that the adapter was trained with into its folder.',
      },
    )
  }
  const filler = (id: number): Token => ({ text: `[PAD${id}]`, type: 'unused', score: 0 })
  return { ...tokenizer, tokens: Array.from({ length: rows }, (_, id) => tokenizer.tokens[id] ?? filler(id)) }
}
