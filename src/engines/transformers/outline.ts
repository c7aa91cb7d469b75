/** What of a model's folder is read but its weights: configuration, tokenizer, the files beside them. */
import { readFile, type Folder } from '../../core/bytes.ts'
import type { Checkpoint, ModelConfig } from '../../core/checkpoint.ts'
import { isArray, parseJsonObject, type JsonObject } from '../../core/json.ts'
import { read, type Recipe } from '../../core/tensor.ts'
import type { Architecture } from '../../models/architecture.ts'
import { architectureOf, normalizeConfig, type NormalizedConfig } from './config.ts'
import { CONFIG_FILE, extraFiles, OLD_QUANTIZATION_FILES, type ModelFiles } from './files.ts'
import { readModelCard } from './model-card.ts'
import { readPooling } from './sentence-transformers.ts'
import { readTokenizer } from './tokenizer.ts'

/** Vision models list thousands of labels in theirs; none has more than a few MB. */
export const MAX_CONFIG_BYTES = 1 << 24
export const GENERATION_CONFIG = 'generation_config.json'

/** A folder's config.json as it is `given`, and `prepare`d under the one set of names. Throws what {@link architectureOf} and {@link normalizeConfig} throw. */
export async function readConfig(
  folder: Folder,
  path: string,
  prepare: (raw: JsonObject) => JsonObject = (raw) => raw,
): Promise<{
  readonly given: JsonObject
  readonly architecture: Architecture
  readonly normalized: NormalizedConfig
}> {
  const given = parseJsonObject(await readFile(folder, path, MAX_CONFIG_BYTES), path)
  const raw = prepare(given)
  const architecture = await architectureOf(raw, path)
  return { given, architecture, normalized: normalizeConfig(raw, path, architecture) }
}

/** All of a checkpoint but its tensors. `weights` are the files that those will be read from. */
export async function outlineOf(
  folder: Folder,
  model: ModelFiles,
  architecture: Architecture,
  given: ModelConfig,
  weights: readonly string[],
): Promise<Checkpoint> {
  const { pooling, findings: pooled } = await readPooling(folder, model)
  const generation = await readGeneration(folder, model)
  const generating = generation === null ? given : withEnds(given, generation)
  const config = pooling === undefined ? generating : { ...generating, pooling }
  const { tokenizer, findings } = await readTokenizer(folder, model, config)
  const { card, findings: carded } = await readModelCard(folder, model)
  return {
    ...besideWeights(folder, model, weights),
    ...(card.size === 0 ? {} : { card }),
    ...(generation === null ? {} : { generation }),
    architecture: architecture.id,
    config,
    tokenizer,
    tensors: new Map(),
    findings: [...pooled, ...findings, ...carded],
  }
}

/** What a folder says without anything of its configuration being understood. `weights` are the files that are read. */
export function besideWeights(
  folder: Folder,
  model: ModelFiles,
  weights: readonly string[],
): Pick<Checkpoint, 'format' | 'name' | 'extras' | 'sources'> {
  const { root } = model
  const extras = extraFiles(model)
  const read8 = (name: string): [string, Recipe] => {
    const size = model.files.get(name)?.size ?? 0
    return [name, read({ dtype: 'u8', shape: [size] }, root + name, 0)]
  }
  const told = [model.hasConfig ? CONFIG_FILE : null, indexOf(model), ...OLD_QUANTIZATION_FILES]
  const beside = [...told, ...extras].flatMap((name) => (name === null ? [] : [root + name]))
  const sources = [...new Set([...weights, ...beside])].flatMap((file) => {
    const entry = model.files.get(file.slice(root.length))
    return entry === undefined ? [] : [{ path: file, size: entry.size, modified: entry.modified }]
  })
  return {
    format: 'huggingface',
    name: root === '' ? folder.name : (root.split('/').at(-2) ?? folder.name),
    extras: new Map(extras.map(read8)),
    sources,
  }
}

function indexOf({ weights }: ModelFiles): string | null {
  const sharded = weights?.kind === 'index' || (weights?.kind === 'torch' && weights.sharded)
  return sharded ? weights.path : null
}

/** The type that most bytes are of. */
export function commonType(tensors: ReadonlyMap<string, Recipe>): ModelConfig['dtype'] {
  const elements = new Map<ModelConfig['dtype'], number>()
  for (const { dtype, shape } of tensors.values()) {
    elements.set(dtype, (elements.get(dtype) ?? 0) + shape.reduce((product, size) => product * size, 1))
  }
  return [...elements].sort((a, b) => b[1] - a[1])[0]?.[0] ?? 'f32'
}

async function readGeneration(folder: Folder, model: ModelFiles): Promise<JsonObject | null> {
  if (!model.files.has(GENERATION_CONFIG)) return null
  const path = model.root + GENERATION_CONFIG
  return parseJsonObject(await readFile(folder, path, MAX_CONFIG_BYTES), path)
}

/** Generation stops at the ids of generation_config.json too: Llama 3's has more than its config.json. */
function withEnds(config: ModelConfig, generation: JsonObject): ModelConfig {
  const eos = generation.get('eos_token_id') ?? null
  const more = (isArray(eos) ? eos : [eos]).filter(
    (id): id is number => typeof id === 'number' && Number.isSafeInteger(id) && id >= 0 && id < config.vocabSize,
  )
  return { ...config, eosIds: [...new Set([...config.eosIds, ...more])] }
}
