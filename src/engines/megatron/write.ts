/** A checkpoint of Megatron-Core in its format "torch": a file for each rank. */
import { requireArchitecture, type Checkpoint } from '../../core/checkpoint.ts'
import { type DType } from '../../core/dtype.ts'
import { AppError } from '../../core/errors.ts'
import type { Json } from '../../core/json.ts'
import type { OptionSpec, OptionValues } from '../../core/option.ts'
import type { Finding, Plan, PlannedFile } from '../../core/plan.ts'
import { cast, concat, gather, reshape, slice, type Recipe } from '../../core/tensor.ts'
import { architectureFor } from '../../models/index.ts'
import type { PickleValue } from '../containers/pickle.ts'
import { pickledCall, pickledDict, pickledGlobal } from '../containers/pickle-write.ts'
import {
  bytesFile,
  DEQUANTIZED,
  dequantizedFinding,
  DTYPE_OPTION,
  dtypeOption,
  isCastable,
  isQuantized,
  readBytes,
} from '../containers/shards.ts'
import { TorchFileWriter } from '../containers/torch-write.ts'
import { companionFiles, jsonFile } from '../transformers/companions.ts'
import { CONFIG_FILE } from '../transformers/files.ts'
import { configJson } from '../transformers/write-config.ts'
import { argsFromConfig, torchName, VOCABULARY_DIVISOR, type Parallelism } from './config.ts'
import { putTogether, slotsOf, type Slot } from './layout.ts'
import { engineName, layerOf, splitOf, withLayer } from './names.ts'

/** Far more GPUs than a model is divided over. */
const MAX_PARALLEL = 1024

/** What `convert` takes. */
export const WRITE_OPTIONS: readonly OptionSpec[] = [
  DTYPE_OPTION,
  {
    name: 'tp',
    title: 'Tensor parallel',
    help: 'Into how many ranks every matrix is divided (--tensor-model-parallel-size).',
    kind: { kind: 'integer', min: 1, max: MAX_PARALLEL, default: 1 },
  },
  {
    name: 'pp',
    title: 'Pipeline parallel',
    help: 'Into how many stages the layers are divided (--pipeline-model-parallel-size).',
    kind: { kind: 'integer', min: 1, max: MAX_PARALLEL, default: 1 },
  },
]

const ITERATION = 'iter_0000001'
const STEM = 'model_optim_rng'
const CHECKPOINT_VERSION = 3
const EMBEDDING = 'embedding.word_embeddings.weight'
const HEAD = 'output_layer.weight'

interface Placed {
  readonly slot: Slot
  readonly recipe: Recipe
}

/** The plan of a checkpoint: ranks first; the tracker, which completes it, last. */
export async function planMegatron(checkpoint: Checkpoint, options: OptionValues): Promise<Plan> {
  requireArchitecture(checkpoint, 'a Megatron checkpoint')
  const { config } = checkpoint
  const architecture = await architectureFor(checkpoint.architecture, checkpoint.name)
  const slots = slotsOf(architecture, config)
  const parallel: Parallelism = { tensor: Number(options['tp'] ?? 1), pipeline: Number(options['pp'] ?? 1) }
  requireDivisible(checkpoint, parallel)
  const findings: Finding[] = []
  const placed = place(checkpoint, slots, dtypeOption(options), parallel, findings)
  const gated = slots.some(({ kind }) => kind === 'gated')
  const dtype = placed.find(({ slot }) => slot.name === EMBEDDING)?.recipe.dtype ?? config.dtype
  const padded = placed.find(({ slot }) => slot.name === EMBEDDING)?.recipe.shape[0] ?? config.vocabSize
  const has = (pattern: RegExp): boolean => slots.some(({ name }) => pattern.test(name))
  const facts = {
    gated,
    qkvBias: has(/linear_qkv\.bias$/),
    bias: has(/linear_fc[12]\.bias$/),
    headNorms: has(/q_layernorm/),
  }
  const args = argsFromConfig(config, facts, parallel, padded, dtype)
  const files: PlannedFile[] = []
  for (let stage = 0; stage < parallel.pipeline; stage++) {
    for (let rank = 0; rank < parallel.tensor; rank++) {
      files.push(
        planRank(placed, args, dtype, parallel, stage, rank, { gated, tied: config.tied, layers: config.layers }),
      )
    }
  }
  if (config.residualScale !== undefined || config.embeddingScale !== undefined) {
    findings.push({
      severity: 'warning',
      code: 'scales-lost',
      message: `The scales of ${config.className} (muP) have no place in Megatron’s arguments: only the config.json beside the checkpoint has them`,
      hint: 'Fold them into the weights first with --mup2llama.',
    })
  }
  const beside = companionFiles(checkpoint, findings).filter(({ path }) => path !== 'generation_config.json')
  const all = [
    ...files,
    ...beside,
    jsonFile(CONFIG_FILE, configJson(checkpoint, architecture, dtype)),
    bytesFile('latest_checkpointed_iteration.txt', '1'),
  ]
  return {
    target: 'megatron',
    stages: [],
    files: all,
    findings,
    readBytes: all.reduce((sum, file) => sum + readBytes(file), 0),
    writeBytes: all.reduce((sum, { size }) => sum + size, 0),
  }
}

function requireDivisible({ config }: Checkpoint, { tensor, pipeline }: Parallelism): void {
  const width = config.experts?.intermediateSize ?? config.intermediateSize
  const rules: readonly (readonly [string, number, string, number])[] = [
    ['tp', tensor, 'groups of attention heads', config.kvHeads],
    ['tp', tensor, 'channels of the MLP', width],
    ['pp', pipeline, 'layers', config.layers],
  ]
  for (const [option, by, what, count] of rules) {
    if (count % by === 0) continue
    throw new AppError('bad-option', `--${option} ${by} does not divide the ${count} ${what} evenly`, {
      hint: `Take a number that divides ${count}.`,
    })
  }
}

/** Megatron's tensors, whole. */
function place(
  { config, tensors }: Checkpoint,
  slots: readonly Slot[],
  dtype: DType | null,
  { tensor }: Parallelism,
  findings: Finding[],
): readonly Placed[] {
  const dequantized: string[] = []
  const typed = (role: string, recipe: Recipe, wanted: DType): Recipe => {
    if (wanted === recipe.dtype) return recipe
    if (isCastable(recipe.dtype)) return cast(recipe, wanted)
    throw new AppError('unsupported', `${role} is stored as ${recipe.dtype}, which cannot be made ${wanted} yet`, {
      where: { tensor: role },
      hint: 'Convert it to HuggingFace first.',
    })
  }
  const placed = slots.map((slot): Placed => {
    const parts = slot.roles.map((role) => {
      const recipe = tensors.get(role)
      if (recipe === undefined) {
        throw new AppError('missing-tensor', `The checkpoint has no ${role}, which ${config.className} needs`, {
          where: { tensor: role },
          hint: 'The checkpoint is incomplete. Download it again.',
        })
      }
      if (isQuantized(recipe)) dequantized.push(role)
      return { role, recipe }
    })
    // parts of one tensor have one type: the widest of them
    const types = parts.map(({ recipe }) => (torchName(recipe.dtype) === null ? DEQUANTIZED : recipe.dtype))
    const [first = DEQUANTIZED] = types
    const wanted = dtype ?? (types.every((type) => type === first) ? first : DEQUANTIZED)
    const recipe = putTogether(
      slot,
      parts.map((part) => typed(part.role, part.recipe, wanted)),
      config,
    )
    return { slot, recipe: slot.vocabulary ? paddedRows(recipe, tensor) : recipe }
  })
  const finding = dequantizedFinding(dequantized, dtype)
  if (finding !== null) findings.push(finding)
  return placed
}

/** Rows are added up to a whole multiple for each rank: copies of the last, as Megatron's own converter does. */
function paddedRows(recipe: Recipe, tensor: number): Recipe {
  const rows = recipe.shape[0] ?? 0
  const unit = VOCABULARY_DIVISOR * tensor
  const missing = Math.ceil(rows / unit) * unit - rows
  if (missing === 0 || rows === 0) return recipe
  const copies = Array.from({ length: missing }, () => 0)
  return concat([recipe, gather(slice(recipe, 0, rows - 1, 1), 0, copies)], 0)
}

/** What one rank holds of a tensor. */
function shareOf({ slot, recipe }: Placed, gated: boolean, rank: number, ranks: number): Recipe {
  if (ranks === 1) return recipe
  const [rows = 0, columns = 0] = recipe.shape
  switch (splitOf(slot.name, gated)) {
    case 'whole':
      return recipe
    case 'rows':
      return slice(recipe, 0, (rows / ranks) * rank, rows / ranks)
    case 'columns':
      return slice(recipe, 1, (columns / ranks) * rank, columns / ranks)
    case 'halves': {
      const share = rows / 2 / ranks
      const halves = reshape(recipe, [2, rows / 2, ...recipe.shape.slice(1)])
      return reshape(slice(halves, 1, share * rank, share), [2 * share, ...recipe.shape.slice(1)])
    }
  }
}

interface Shape {
  readonly gated: boolean
  readonly tied: boolean
  readonly layers: number
}

function planRank(
  placed: readonly Placed[],
  args: ReadonlyMap<string, Json>,
  dtype: DType,
  { tensor, pipeline }: Parallelism,
  stage: number,
  rank: number,
  { gated, tied, layers }: Shape,
): PlannedFile {
  const perStage = layers / pipeline
  const last = stage === pipeline - 1
  const experts = placed.some(({ slot }) => slot.name.includes('.local_experts.'))
  const writer = new TorchFileWriter()
  const model: (readonly [string, PickleValue])[] = []
  const add = (name: string, one: Placed): void => {
    model.push([name, writer.tensor(name, shareOf(one, gated, rank, tensor))])
  }
  for (const one of placed) {
    const { name } = one.slot
    const layer = layerOf(name)
    if (layer !== null) {
      if (Math.floor(layer / perStage) === stage) add(engineName(withLayer(name, layer % perStage), experts), one)
    } else if (name.startsWith('embedding.')) {
      if (stage === 0) add(name, one)
      // the last stage has a copy for its head
      if (tied && last && pipeline > 1 && name === EMBEDDING) add(HEAD, one)
    } else if (last) add(name, one)
  }
  const suffix = pipeline > 1 ? `_${String(stage).padStart(3, '0')}` : ''
  const path = `${ITERATION}/mp_rank_${String(rank).padStart(2, '0')}${suffix}/${STEM}.pt`
  const name = torchName(dtype)
  const state = pickledDict([
    ...[...args].map(([key, value]): [string, PickleValue] => [key, value as PickleValue]),
    ['params_dtype', name === null ? null : pickledGlobal('torch', name)],
  ])
  const root = pickledDict([
    ['args', pickledCall(pickledGlobal('argparse', 'Namespace'), [], 'new', state)],
    ['checkpoint_version', CHECKPOINT_VERSION],
    ['iteration', 1],
    ['model', pickledDict(model)],
  ])
  return writer.plan(path, STEM, root)
}
