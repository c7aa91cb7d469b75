import { readFile, type Folder } from '../../core/bytes.ts'
import type { ModelConfig, Role } from '../../core/checkpoint.ts'
import type { DType } from '../../core/dtype.ts'
import { AppError } from '../../core/errors.ts'
import { isObject, parseJsonObject } from '../../core/json.ts'
import type { Finding } from '../../core/plan.ts'
import { read, type Recipe } from '../../core/tensor.ts'
import { expectedTensors, type Architecture, type ExpectedTensor } from '../../models/architecture.ts'
import { readSafetensorsHeader } from '../containers/safetensors.ts'
import type { ModelFiles, SafetensorsFiles } from './files.ts'

/** A tensor as a file names it. */
export type StoredTensor = Recipe & { readonly op: 'read' }

export interface StoredWeights {
  /** By the name it has in its file. */
  readonly tensors: ReadonlyMap<string, StoredTensor>
  /** The files they are in, in the order they were read. Paths within the folder that was opened. */
  readonly files: readonly string[]
  /** Files whose metadata does not say `format`, without which older transformers refuse them. */
  readonly withoutFormat: readonly string[]
  /** `total_size` of the index; null where there is none. */
  readonly totalSize: number | null
  /** What an index leaves out. */
  readonly findings: readonly Finding[]
}

export interface RoleTensors {
  readonly tensors: ReadonlyMap<Role, Recipe>
  readonly findings: readonly Finding[]
}

/** The index of the largest model there is has some 10 MB. */
const MAX_INDEX_BYTES = 1 << 26
/** Names in a message before "and N more". */
const LISTED = 4
/** What kernels convert from. */
const WEIGHT_TYPES: ReadonlySet<DType> = new Set(['f32', 'f16', 'bf16'])

const EMBEDDING: Role = 'embed.weight'
const HEAD: Role = 'lm_head.weight'

/**
 * Reads the headers of a model's weights, and nothing else of them. Throws `missing-file` for a shard that is not
 * there, `missing-tensor` for a tensor that the index promises and its shard lacks, and what the header's checks throw.
 */
export async function readStoredWeights(
  folder: Folder,
  model: ModelFiles,
  weights: SafetensorsFiles,
): Promise<StoredWeights> {
  if (weights.kind === 'single') {
    const path = model.root + weights.path
    const { held, formatted } = await readShard(folder, path)
    return { tensors: held, files: [path], withoutFormat: formatted ? [] : [path], totalSize: null, findings: [] }
  }
  const index = model.root + weights.path
  const tensors = new Map<string, StoredTensor>()
  const withoutFormat: string[] = []
  const { shards, totalSize } = await readIndex(folder, model, index)
  const unlisted: string[] = []
  for (const [shard, promised] of shards) {
    const { held, formatted } = await readShard(folder, shard)
    if (!formatted) withoutFormat.push(shard)
    const missing = [...promised].filter((name) => !held.has(name))
    if (missing.length > 0) {
      throw new AppError('missing-tensor', `${shard} lacks ${listed(missing)}, which ${index} says it has`, {
        where: { file: shard, tensor: missing[0] ?? '' },
        hint: 'Index and shards are of different versions: download both again.',
      })
    }
    for (const [name, tensor] of held) {
      const other = tensors.get(name)
      if (other !== undefined) {
        throw new AppError('malformed', `${name} is in ${other.file} and in ${shard}`, {
          where: { file: shard, offset: tensor.offset, tensor: name },
          hint: 'Shards of different versions are mixed: download them again.',
        })
      }
      if (!promised.has(name)) unlisted.push(name)
      tensors.set(name, tensor)
    }
  }
  const findings: Finding[] = []
  if (unlisted.length > 0) {
    findings.push({
      severity: 'warning',
      code: 'index-incomplete',
      message: `${index} does not list ${listed(unlisted)}, which the shards hold`,
      where: { file: index, tensor: unlisted[0] ?? '' },
    })
  }
  return { tensors, files: [...shards.keys()], withoutFormat, totalSize, findings }
}

interface Shard {
  readonly held: ReadonlyMap<string, StoredTensor>
  /** Whether its metadata says `format`. */
  readonly formatted: boolean
}

async function readShard(folder: Folder, path: string): Promise<Shard> {
  const source = await folder.open(path)
  try {
    const { entries, metadata } = await readSafetensorsHeader(source)
    const held = new Map(entries.map((entry) => [entry.name, read(entry, path, entry.offset) as StoredTensor]))
    return { held, formatted: metadata.has('format') }
  } finally {
    await source.close()
  }
}

interface ShardIndex {
  /** Each shard's tensors, by its path. */
  readonly shards: ReadonlyMap<string, ReadonlySet<string>>
  readonly totalSize: number | null
}

async function readIndex(folder: Folder, model: ModelFiles, index: string): Promise<ShardIndex> {
  const json = parseJsonObject(await readFile(folder, index, MAX_INDEX_BYTES), index)
  const map = json.get('weight_map')
  const broken = (why: string): AppError =>
    new AppError('malformed', `${index} ${why}`, { where: { file: index }, hint: 'Download the index again.' })
  if (!isObject(map) || map.size === 0) throw broken('has no weight_map')
  const shards = new Map<string, Set<string>>()
  for (const [name, shard] of map) {
    if (typeof shard !== 'string') throw broken(`names no file for ${name}`)
    const path = model.root + shard
    const names = shards.get(path)
    if (names === undefined) shards.set(path, new Set([name]))
    else names.add(name)
  }
  for (const [path, names] of shards) {
    // only what the folder lists is opened: a path out of it is a file that is missing
    if (model.files.has(path.slice(model.root.length))) continue
    throw new AppError('missing-file', `${path} is not there; it holds ${listed([...names])}`, {
      where: { file: path },
      hint: 'Download this shard into the folder: the model is incomplete without it.',
    })
  }
  const metadata = json.get('metadata')
  const total = isObject(metadata) ? metadata.get('total_size') : undefined
  return { shards, totalSize: typeof total === 'number' ? total : null }
}

/**
 * The stored tensors by role. Throws `missing-tensor` and `bad-tensor` where they are not what the configuration says;
 * what it does not name is left out, with a finding.
 */
export function assignRoles(stored: StoredWeights, architecture: Architecture, config: ModelConfig): RoleTensors {
  const expected = expectedTensors(architecture, config)
  const nameOf = namer(stored, architecture)
  const findings: Finding[] = []
  const tensors = new Map<Role, Recipe>()
  const missing: ExpectedTensor[] = []
  const used = new Set<string>()
  for (const row of expected) {
    const name = nameOf(row.hf)
    const tensor = stored.tensors.get(name)
    if (tensor === undefined) {
      missing.push(row)
      continue
    }
    used.add(name)
    requireShape(tensor, name, row, config)
    requireWeights(tensor, name)
    tensors.set(row.role, tensor)
  }
  if (missing.length > 0) throw missingTensors(missing, stored, architecture, config)
  const head = nameOf(headName(architecture))
  if (config.tied && stored.tensors.has(head)) {
    used.add(head)
    findings.push({
      severity: 'warning',
      code: 'tie-ignored',
      message: `config.json ties the head to the embedding, so ${head} is not used, whatever it holds`,
      where: { file: stored.tensors.get(head)?.file ?? '', tensor: head },
      hint: 'If the head was trained apart, set "tie_word_embeddings": false in config.json.',
    })
  }
  const ignored = [...stored.tensors.keys()].filter(
    (name) => !used.has(name) && !architecture.ignored.some((pattern) => pattern.test(name)),
  )
  const [first] = ignored
  if (first !== undefined) {
    findings.push({
      severity: 'warning',
      code: 'tensor-ignored',
      message: `The architecture has no place for ${listed(ignored)}: left out`,
      where: { file: stored.tensors.get(first)?.file ?? '', tensor: first },
    })
  }
  return { tensors, findings }
}

function headName(architecture: Architecture): string {
  return architecture.tensors.find((row) => row.role === HEAD)?.hf ?? HEAD
}

/** How the checkpoint spells the names: those of a headless class lack the prefix that the others share. */
function namer(stored: StoredWeights, architecture: Architecture): (hf: string) => string {
  const embedding = architecture.tensors.find((row) => row.role === EMBEDDING)?.hf ?? ''
  const prefix = embedding.slice(0, embedding.indexOf('.') + 1)
  const bare = embedding.slice(prefix.length)
  if (stored.tensors.has(embedding) || !stored.tensors.has(bare)) return (hf) => hf
  return (hf) => (hf.startsWith(prefix) ? hf.slice(prefix.length) : hf)
}

function requireShape(tensor: StoredTensor, name: string, row: ExpectedTensor, config: ModelConfig): void {
  if (tensor.shape.length === row.shape.length && tensor.shape.every((size, axis) => size === row.shape[axis])) return
  const rows = tensor.shape[0]
  const vocabulary = (row.role === EMBEDDING || row.role === HEAD) && tensor.shape[1] === row.shape[1]
  throw new AppError(
    'bad-tensor',
    `${name} has the shape [${tensor.shape.join(', ')}]; config.json makes it [${row.shape.join(', ')}]`,
    {
      where: { file: tensor.file, offset: tensor.offset, tensor: name },
      hint: vocabulary
        ? `config.json says vocab_size ${config.vocabSize}, but there are ${rows} rows: set vocab_size to ${rows}.`
        : 'Config and weights are of different models: get both from the same place.',
    },
  )
}

function requireWeights(tensor: StoredTensor, name: string): void {
  if (WEIGHT_TYPES.has(tensor.dtype)) return
  const where = { file: tensor.file, offset: tensor.offset, tensor: name }
  if (tensor.dtype.startsWith('f')) {
    throw new AppError('unsupported', `${name} is stored as ${tensor.dtype}, which cannot be read yet`, {
      where,
      hint: 'Save the model as F32, F16 or BF16 first.',
    })
  }
  throw new AppError('bad-tensor', `${name} is stored as ${tensor.dtype}, which weights never are`, {
    where,
    hint: 'The model may be quantised: use the one it was made from.',
  })
}

function missingTensors(
  missing: readonly ExpectedTensor[],
  stored: StoredWeights,
  architecture: Architecture,
  config: ModelConfig,
): AppError {
  const names = missing.map((row) => row.hf)
  const onlyHead = names.length === 1 && missing[0]?.role === HEAD
  const found = [...stored.tensors.keys()].slice(0, LISTED).join(', ')
  const hint = onlyHead
    ? `config.json does not tie the head to the embedding. If the model shares them, set "tie_word_embeddings": true; a ${architecture.baseClassName} without a head cannot be converted.`
    : found === ''
      ? 'The weights are empty.'
      : `${config.className} of ${config.layers} layers needs them. The weights hold ${found} and so on: is config.json of the same model?`
  return new AppError('missing-tensor', `The weights lack ${listed(names)}`, {
    where: { file: stored.files[0] ?? '', tensor: names[0] ?? '' },
    hint,
  })
}

function listed(names: readonly string[]): string {
  const rest = names.length - LISTED
  return names.slice(0, LISTED).join(', ') + (rest > 0 ? ` and ${rest} more` : '')
}
