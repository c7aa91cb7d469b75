/** Checkpoints of a file for each rank, put together. */
import type { Folder } from '../../core/bytes.ts'
import { AppError } from '../../core/errors.ts'
import { concat, permute, reshape, slice, transpose, type Recipe } from '../../core/tensor.ts'
import { torchPolicy, torchRecipe, torchTensor } from '../containers/torch.ts'
import { readTorchContents } from '../containers/torch-storage.ts'
import type { RankFile } from './files.ts'
import { canonicalName, expertOf, isState, layerOf, splitOf, withExpert, withLayer } from './names.ts'
import { argsOf, flatten, membersOf, type Args } from './pickled.ts'
import { requireAlike, type Copies, type MegatronWeights, type StoredPart } from './stored.ts'

/** Virtual pipelines have a handful of chunks. */
const MAX_CHUNKS = 1024
const MAX_RANKS = 1 << 16

type Tensors = ReadonlyMap<string, Recipe>

interface Rank {
  readonly path: string
  readonly args: Args
  readonly iteration: number | null
  /** The model, or each chunk of it where a stage of the pipeline has several. */
  readonly chunks: readonly Tensors[]
  /** All tensors, by the names they have in the file. */
  readonly parts: readonly StoredPart[]
}

/** Reads every rank's headers and joins what they divide. Throws `missing-file` naming a rank that is not there. */
export async function readRanks(folder: Folder, files: readonly RankFile[]): Promise<MegatronWeights> {
  const [first] = files
  if (first === undefined) throw new AppError('internal', 'no ranks')
  const probe = await readRank(folder, first.path)
  const { args } = probe
  const grid = gridOf(files, args, first.path)
  const ranks = new Map<string, Rank>([[first.path, probe]])
  for (const path of grid.paths) {
    if (ranks.has(path)) continue
    const rank = await readRank(folder, path)
    requireSameRun(probe, rank)
    ranks.set(path, rank)
  }
  const gated = args.get('swiglu') !== false
  const stages = grid.stages.map((experts) =>
    experts.map((tensors) => tensors.flatMap((path) => ranks.get(path) ?? [])),
  )
  const copies: Copies[] = []
  const joined = stages.map((experts) => joinStage(experts, gated, copies))
  return {
    tensors: joinStages(
      joined,
      grid.stages.map(([[path = ''] = []]) => path),
      args,
    ),
    args,
    files: grid.paths,
    argsFile: first.path,
    parts: [...ranks.values()].flatMap(({ parts }) => parts),
    copies,
  }
}

/** Arguments by which files of different runs are told apart. */
const RUN = [
  'num_layers',
  'hidden_size',
  'ffn_hidden_size',
  'num_attention_heads',
  'num_query_groups',
  'num_experts',
  'padded_vocab_size',
  'tensor_model_parallel_size',
  'pipeline_model_parallel_size',
  'expert_model_parallel_size',
]

/** Throws `malformed` where two ranks are of different iterations or runs. */
function requireSameRun(first: Rank, rank: Rank): void {
  const shown = (value: unknown): string => JSON.stringify(value ?? null)
  const differs = (what: string, here: unknown, there: unknown): void => {
    if (here === undefined || there === undefined || shown(here) === shown(there)) return
    throw new AppError(
      'malformed',
      `The ranks disagree: ${what} is ${shown(here)} in ${rank.path}, but ${shown(there)} in ${first.path}`,
      {
        where: { file: rank.path },
        hint: 'The files are of different checkpoints: copy all files of one iteration.',
      },
    )
  }
  differs('the iteration', rank.iteration ?? undefined, first.iteration ?? undefined)
  for (const key of RUN) differs(key, rank.args.get(key), first.args.get(key))
}

interface Grid {
  /** Paths by stage of the pipeline, rank of the experts and rank of the tensors. */
  readonly stages: readonly (readonly (readonly string[])[])[]
  readonly paths: readonly string[]
}

function gridOf(files: readonly RankFile[], args: Args, argsFile: string): Grid {
  const said = (key: string): number | null => {
    const value = args.get(key) ?? null
    if (value === null) return null
    if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 1 && value <= MAX_RANKS) return value
    throw new AppError('malformed', `${argsFile}: ${key} is ${JSON.stringify(value)}`, {
      where: { file: argsFile },
      hint: 'The arguments in the checkpoint are damaged: copy it again.',
    })
  }
  const most = (values: readonly number[]): number => values.reduce((a, b) => Math.max(a, b), 0) + 1
  const depth = files.reduce((a, { others }) => Math.max(a, others.length), 0)
  const expertSize = said('expert_model_parallel_size') ?? 1
  const byExperts = depth === 1 && expertSize > 1 && (said('pipeline_model_parallel_size') ?? 1) === 1
  const stageAt = depth === 0 || byExperts ? -1 : 0
  const expertAt = depth === 2 ? 1 : byExperts ? 0 : -1
  const at = (file: RankFile, index: number): number => file.others[index] ?? 0
  const size = (key: string, found: number): number => Math.max(said(key) ?? found, found)
  const tp = size('tensor_model_parallel_size', most(files.map(({ tensor }) => tensor)))
  const pp = size('pipeline_model_parallel_size', most(files.map((file) => at(file, stageAt))))
  const ep = expertAt < 0 ? 1 : size('expert_model_parallel_size', most(files.map((file) => at(file, expertAt))))
  const expertTensor = said('expert_tensor_parallel_size')
  if (expertTensor !== null && expertTensor !== tp && (args.get('num_experts') ?? null) !== null) {
    throw new AppError('unsupported', `Experts divided into ${expertTensor} where the rest is divided into ${tp}`, {
      where: { file: argsFile },
      hint: 'Save the checkpoint as torch_dist (--ckpt-format torch_dist), which does not depend on it.',
    })
  }
  const known = new Map(files.map((file) => [`${file.tensor}/${at(file, stageAt)}/${at(file, expertAt)}`, file.path]))
  const paths: string[] = []
  const stages = range(pp).map((stage) =>
    range(ep).map((expert) =>
      range(tp).map((tensor) => {
        const path = known.get(`${tensor}/${stage}/${expert}`)
        if (path === undefined)
          throw missingRank(files, argsFile, tensor, [stageAt < 0 ? null : stage, expertAt < 0 ? null : expert], pp)
        paths.push(path)
        return path
      }),
    ),
  )
  return { stages, paths }
}

function missingRank(
  files: readonly RankFile[],
  argsFile: string,
  tensor: number,
  others: readonly (number | null)[],
  pp: number,
): AppError {
  const suffix = others.flatMap((value, index) =>
    value === null && !(index === 0 && pp > 1) ? [] : [String(value ?? 0).padStart(3, '0')],
  )
  const name = ['mp_rank', String(tensor).padStart(2, '0'), ...suffix].join('_')
  const path = argsFile.replace(/mp_rank_[\d_]+(?=\/[^/]+$)/, name)
  return new AppError('missing-file', `${path} is not there: ${files.length} of the ranks are`, {
    where: { file: path },
    hint: 'Every rank holds a part of the weights: copy all mp_rank folders of the iteration.',
  })
}

async function readRank(folder: Folder, path: string): Promise<Rank> {
  const source = await folder.open(path)
  try {
    const contents = await readTorchContents(source, torchPolicy)
    const root = membersOf(contents.root)
    const version = root?.get('checkpoint_version')
    const iteration = root?.get('iteration')
    const args = argsOf(root?.get('args'))
    const chunks: Tensors[] = []
    const parts: StoredPart[] = []
    const add = (value: Parameters<typeof flatten>[0]): void => {
      const stored = flatten(value, path, (name, call) =>
        torchRecipe({ ...torchTensor(contents, call, name, path), file: path }),
      )
      for (const [name, recipe] of stored) if (!isState(name)) parts.push({ name, recipe })
      chunks.push(normalized(stored, typeof version === 'number' ? version : 0, args, path))
    }
    const whole = root?.get('model')
    if (whole !== undefined) add(whole)
    for (let chunk = 0; whole === undefined && chunk < MAX_CHUNKS; chunk++) {
      const value = root?.get(`model${chunk}`)
      if (value === undefined) break
      add(value)
    }
    if (chunks.length === 0) {
      throw new AppError('malformed', `${path} holds no model`, {
        where: { file: path },
        hint: 'A rank of Megatron is a dict with "model" in it: check that it is not a file of the optimizer.',
      })
    }
    return { path, args, iteration: typeof iteration === 'number' ? iteration : null, chunks, parts }
  } finally {
    await source.close()
  }
}

/** Canonical names, experts apart, and the query, key and value rows in the order of version 2. */
function normalized(stored: Tensors, version: number, args: Args, path: string): Tensors {
  const result = new Map<string, Recipe>()
  for (const [name, recipe] of stored) {
    if (isState(name)) continue
    const known = canonicalName(name)
    const grouped = /^(.*\.mlp\.experts)\.weight([12])$/.exec(known)
    if (grouped !== null) {
      const [, prefix = '', which = ''] = grouped
      for (const [expert, of] of groupedExperts(recipe, which, args, path, known).entries())
        result.set(`${prefix}.local_experts.${expert}.linear_fc${which}.weight`, of)
    } else {
      const fused = version < 2 && name.includes('query_key_value')
      result.set(known, fused ? oldFused(recipe, version, args, path, known) : recipe)
    }
  }
  return result
}

/** Before version 2.0 heads were not outermost: [3, heads, d] in version 0, [heads, d, 3] in 1. */
function oldFused(of: Recipe, version: number, args: Args, path: string, name: string): Recipe {
  const heads = Number(args.get('num_attention_heads')) / Number(args.get('tensor_model_parallel_size') ?? 1)
  const [rows = 0, ...rest] = of.shape
  const d = rows / 3 / heads
  if (!Number.isInteger(heads) || !Number.isInteger(d))
    throw badTensor(path, name, of, 'its heads cannot be told apart')
  const tail = rest.map((_, axis) => axis + 3)
  const turned =
    version < 1
      ? permute(reshape(of, [3, heads, d, ...rest]), [1, 0, 2, ...tail])
      : permute(reshape(of, [heads, d, 3, ...rest]), [0, 2, 1, ...tail])
  return reshape(turned, of.shape)
}

/** All experts of a rank in one matrix of [experts, in, out], whatever its shape says. */
function groupedExperts(of: Recipe, which: string, args: Args, path: string, name: string): readonly Recipe[] {
  const hidden = Number(args.get('hidden_size'))
  const count = Number(args.get('num_experts')) / Number(args.get('expert_model_parallel_size') ?? 1)
  const elements = of.shape.reduce((a, b) => a * b, 1)
  const width = elements / hidden / count
  if (!Number.isInteger(count) || !Number.isInteger(width))
    throw badTensor(path, name, of, 'its experts cannot be told apart')
  const shape = which === '1' ? [hidden, width] : [width, hidden]
  const stack = reshape(of, [count, ...shape])
  return range(count).map((expert) => transpose(reshape(slice(stack, 0, expert, 1), shape)))
}

function badTensor(file: string, tensor: string, of: Recipe, why: string): AppError {
  return new AppError('bad-tensor', `${tensor} in ${file} is [${of.shape.join(', ')}]: ${why}`, {
    where: { file, tensor },
    hint: 'The arguments and the weights are of different checkpoints: copy all files of one iteration.',
  })
}

/** Joins the ranks of one stage, each chunk of it on its own; `copies` gets what several of them hold the same of. */
function joinStage(experts: readonly (readonly Rank[])[], gated: boolean, copies: Copies[]): readonly Tensors[] {
  const lead = experts[0]?.[0]
  if (lead === undefined) return []
  return lead.chunks.map((chunk, at) => {
    const joined = new Map<string, Recipe>()
    for (const [rank, ranks] of experts.entries()) {
      const names = rank === 0 ? chunk : (ranks[0]?.chunks[at] ?? new Map<string, Recipe>())
      const local = new Set([...names.keys()].flatMap((name) => expertOf(name) ?? [])).size
      requireSameNames(ranks, at)
      if (rank > 0) requireSameNames([lead, ...ranks.slice(0, 1)], at, (name) => expertOf(name) === null)
      for (const name of names.keys()) {
        const expert = expertOf(name)
        const parts = ranks.flatMap(({ chunks }) => chunks[at]?.get(name) ?? [])
        const places = ranks.map(({ path }) => path)
        requireAlike(name, parts, places)
        const [one, ...others] = parts
        if (one !== undefined && splitOf(name, gated) === 'whole')
          for (const other of others) copies.push({ name, one, other })
        if (rank > 0 && expert === null) {
          // each rank of the experts has all the rest as well
          for (const [index, other] of parts.entries()) {
            const same = experts[0]?.[index]
            const first = same?.chunks[at]?.get(name)
            if (same === undefined || first === undefined) continue
            requireAlike(name, [first, other], [same.path, places[index] ?? ''])
            copies.push({ name, one: first, other })
          }
          continue
        }
        joined.set(expert === null ? name : withExpert(name, rank * local + expert), join(name, parts, gated, places))
      }
    }
    return joined
  })
}

/** Throws `missing-tensor` where one of several ranks lacks what another has. */
function requireSameNames(ranks: readonly Rank[], at: number, counts: (name: string) => boolean = () => true): void {
  const [first, ...others] = ranks
  if (first === undefined) return
  const names = (rank: Rank): readonly string[] => [...(rank.chunks[at]?.keys() ?? [])].filter((name) => counts(name))
  for (const other of others) {
    for (const [rank, beside] of [
      [other, first],
      [first, other],
    ] as const) {
      const lacking = names(beside).find((name) => rank.chunks[at]?.has(name) !== true)
      if (lacking === undefined) continue
      throw new AppError('missing-tensor', `${rank.path} lacks ${lacking}, which ${beside.path} has`, {
        where: { file: rank.path, tensor: lacking },
        hint: 'The ranks are of different checkpoints: copy all files of one iteration.',
      })
    }
  }
}

function join(name: string, parts: readonly Recipe[], gated: boolean, places: readonly string[]): Recipe {
  const [first] = parts
  if (first === undefined) throw new AppError('internal', `no part of ${name}`)
  if (parts.length === 1) return first
  const split = splitOf(name, gated)
  switch (split) {
    case 'whole':
      return first
    case 'rows':
      return concat(parts, 0)
    case 'columns':
      if (first.shape.length < 2) throw badTensor(places[0] ?? '', name, first, 'it has no columns to be joined')
      return concat(parts, 1)
    case 'halves': {
      const rows = first.shape[0] ?? 0
      if (rows % 2 !== 0) throw badTensor(places[0] ?? '', name, first, 'it has no halves')
      const half = rows / 2
      return concat(
        [...parts.map((part) => slice(part, 0, 0, half)), ...parts.map((part) => slice(part, 0, half, half))],
        0,
      )
    }
  }
}

/**
 * Chunk after chunk, and in each stage after stage: so Megatron deals out layers, evenly or not (virtual stages, fewer
 * layers in the first or last stage, a layout of one's own). How many a stage has is counted.
 */
function joinStages(stages: readonly (readonly Tensors[])[], files: readonly string[], args: Args): Tensors {
  const joined = new Map<string, Recipe>()
  const chunks = stages.reduce((a, stage) => Math.max(a, stage.length), 0)
  const counts: number[] = []
  let base = 0
  for (const chunk of range(chunks)) {
    for (const [at, stage] of stages.entries()) {
      const tensors = stage[chunk]
      const file = files[at] ?? ''
      if (tensors === undefined) {
        throw badStages(
          `${file} holds ${stage.length} chunks of the model (model0, model1, ...), others ${chunks}`,
          file,
        )
      }
      const layers = new Set([...tensors.keys()].flatMap((name) => layerOf(name) ?? []))
      const first = layers.size === 0 ? 0 : Math.min(...layers)
      // counted from 0 in each stage, or through the model
      if (first !== 0 && first !== base) {
        throw badStages(`The layers in ${file} begin at ${first}, not at 0, and before them are ${base}`, file)
      }
      for (const [name, recipe] of tensors) {
        const layer = layerOf(name)
        const global = layer === null ? name : withLayer(name, base + layer - first)
        // a tied embedding is on the first stage and, for the head, on the last
        if (!joined.has(global)) joined.set(global, recipe)
      }
      counts.push(layers.size)
      base += layers.size
    }
  }
  const said = args.get('num_layers')
  if (typeof said === 'number' && said !== base && stages.length * chunks > 1) {
    const shown = counts.join(' + ')
    throw badStages(`The stages hold ${shown} = ${base} layers, but num_layers is ${said}`, files[0] ?? '')
  }
  return joined
}

function badStages(message: string, file: string): AppError {
  return new AppError('malformed', message, {
    where: { file },
    hint: 'Which layers these are cannot be known. Copy all files of one iteration, or save it as torch_dist (--ckpt-format torch_dist).',
  })
}

function range(length: number): readonly number[] {
  return Array.from({ length }, (_, index) => index)
}
