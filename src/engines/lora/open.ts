/** A folder of PEFT: adapter_config.json and adapter_model.safetensors, or .bin. */
import { readFile, type FileEntry, type Folder } from '../../core/bytes.ts'
import type { ModelConfig, SourceFile, Tokenizer } from '../../core/checkpoint.ts'
import { AppError } from '../../core/errors.ts'
import { isArray, parseJsonObject, type JsonObject } from '../../core/json.ts'
import type { Finding } from '../../core/plan.ts'
import { read, type Recipe } from '../../core/tensor.ts'
import { parseLoraConfig } from '../../models/lora-config.ts'
import type { Adapter } from '../../models/lora.ts'
import { readStoredWeights } from '../containers/safetensors-files.ts'
import { readTorchWeights } from '../containers/torch-files.ts'
import { findModels, type ModelFiles } from '../transformers/files.ts'
import { readTokenizer } from '../transformers/tokenizer.ts'

const CONFIG = 'adapter_config.json'
const SAFETENSORS = 'adapter_model.safetensors'
const TORCH = 'adapter_model.bin'
/** mlx-lm's name for the weights. */
const MLX = 'adapters.safetensors'
/** Lists of modules are short. */
const MAX_CONFIG_BYTES = 1 << 22
/** Files beside an adapter that are its tokenizer. */
const TOKENIZER = /^(?:tokenizer|special_tokens_map|added_tokens|vocab|merges|chat_template|spiece)[\w.]*$/
const TOKENIZER_MODEL = /^(?:tokenizer\.json|tokenizer\.model|spiece\.model|vocab\.json|vocab\.txt)$/

/** An adapter's folder, before it is opened. */
export interface AdapterFolder {
  /** What stands before each path of its files: `''`, or `checkpoint-500/`. */
  readonly root: string
  readonly files: ReadonlyMap<string, FileEntry>
}

/** An adapter with what its folder holds besides. */
export interface OpenedAdapter {
  readonly adapter: Omit<Adapter, 'weight'>
  readonly sources: readonly SourceFile[]
  /** Reads its tokenizer for a model of this configuration; null if it has none. */
  tokenizer(config: ModelConfig): Promise<AdapterTokenizer | null>
}

/** A tokenizer to take the base's place. */
export interface AdapterTokenizer {
  readonly tokenizer: Tokenizer | null
  readonly files: ReadonlyMap<string, Recipe>
  readonly findings: readonly Finding[]
}

/** The adapter that a folder is, itself or in the one folder below it; null for anything else, models among it. */
export async function findAdapter(folder: Folder): Promise<AdapterFolder | null> {
  const entries = await folder.list()
  const at = (root: string): AdapterFolder => ({
    root,
    files: new Map(
      entries.filter(({ path }) => path.startsWith(root)).map((entry) => [entry.path.slice(root.length), entry]),
    ),
  })
  const roots = entries
    .filter(({ path }) =>
      /(?:^|\/)(?:adapter_(?:config\.json|model\.(?:safetensors|bin))|adapters\.safetensors)$/.test(path),
    )
    .map(({ path }) => path.slice(0, path.lastIndexOf('/') + 1))
  const distinct = [...new Set(roots)]
  const root = distinct.includes('') ? '' : distinct.length === 1 ? distinct[0] : undefined
  if (root === undefined) return null
  const models = await findModels(folder)
  return models.some(({ weights }) => weights !== null && weights.kind !== 'refused') ? null : at(root)
}

/** For people: what an adapter is, and of which model. Throws as {@link openAdapter}. */
export async function describeAdapter(folder: Folder, found: AdapterFolder): Promise<string> {
  const raw = await readConfig(folder, found)
  const { base, rank, alpha, dora, targets } = parseLoraConfig(raw, found.root + CONFIG)
  const on =
    isArray(raw.get('target_modules')) && targets !== null && targets.length > 0 ? ` on ${[...targets].join(', ')}` : ''
  return `a ${dora ? 'DoRA' : 'LoRA'} adapter (rank ${rank}, alpha ${alpha}${on})${base === null ? '' : ` for ${base}`}`
}

/**
 * Opens an adapter: reads its configuration and the headers of its weights. Throws `missing-file`, `unsupported` for other
 * kinds of adapters, `malformed`, and what the reading of weights throws.
 */
export async function openAdapter(folder: Folder, found: AdapterFolder): Promise<OpenedAdapter> {
  const { root, files } = found
  const config = parseLoraConfig(await readConfig(folder, found), root + CONFIG)
  const weights = [SAFETENSORS, TORCH].find((name) => files.has(name))
  if (weights === undefined) {
    throw new AppError('missing-file', `${root}${SAFETENSORS} is not there, nor ${TORCH}`, {
      where: { file: root + SAFETENSORS, missing: [root + SAFETENSORS] },
      hint: 'The folder has the configuration of an adapter, but no weights: download them into it.',
    })
  }
  const model: ModelFiles = { root, files, hasConfig: false, weights: null }
  const stored =
    weights === TORCH
      ? await readTorchWeights(folder, model, { kind: 'torch', sharded: false, path: TORCH })
      : await readStoredWeights(folder, model, { kind: 'single', path: SAFETENSORS })
  const tensors = new Map<string, Recipe>()
  for (const [name, tensor] of stored.tensors) tensors.set(name, stored.views.get(name)?.() ?? tensor)
  const source = (name: string): SourceFile[] => {
    const entry = files.get(name)
    return entry === undefined ? [] : [{ path: root + name, size: entry.size, modified: entry.modified }]
  }
  return {
    adapter: { name: folder.name, config, file: root + CONFIG, tensors },
    sources: [weights, CONFIG].flatMap(source),
    async tokenizer(modelConfig) {
      const names = [...files.keys()].filter((name) => TOKENIZER.test(name))
      if (!names.some((name) => TOKENIZER_MODEL.test(name))) return null
      const { tokenizer, findings } = await readTokenizer(folder, model, modelConfig)
      const recipes = names.map((name): [string, Recipe] => [
        name,
        read({ dtype: 'u8', shape: [files.get(name)?.size ?? 0] }, root + name, 0),
      ])
      return { tokenizer, files: new Map(recipes), findings }
    },
  }
}

async function readConfig(folder: Folder, { root, files }: AdapterFolder): Promise<JsonObject> {
  const path = root + CONFIG
  if (files.has(CONFIG)) return parseJsonObject(await readFile(folder, path, MAX_CONFIG_BYTES), path)
  if (files.has(MLX)) {
    throw new AppError('unsupported', `${root}${MLX} is an adapter of mlx-lm, which cannot be merged yet`, {
      where: { file: root + MLX },
      hint: 'Fuse it with mlx_lm.fuse.',
    })
  }
  throw new AppError('missing-file', `${path} is not there: without it nobody knows how the adapter is scaled`, {
    where: { file: path, missing: [path] },
    hint: 'Download it into the folder of the adapter.',
  })
}
