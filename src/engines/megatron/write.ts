/** Checkpoints of Megatron-Core: a file for each rank ("torch"), or a distributed checkpoint ("torch_dist"). */
import { requireArchitecture, type Checkpoint } from '../../core/checkpoint.ts'
import { dtypeInfo, type DType } from '../../core/dtype.ts'
import { AppError } from '../../core/errors.ts'
import type { OptionSpec, OptionValues } from '../../core/option.ts'
import type { Finding, Plan } from '../../core/plan.ts'
import { cast, concat, gather, slice, type Recipe } from '../../core/tensor.ts'
import { architectureFor } from '../../models/index.ts'
import {
  bytesFile,
  DEQUANTIZED,
  dequantizedFinding,
  DTYPE_OPTION,
  dtypeOption,
  isCastable,
  readBytes,
  withKeptTypes,
} from '../containers/shards.ts'
import { companionFiles, jsonFile } from '../transformers/companions.ts'
import { CONFIG_FILE } from '../transformers/files.ts'
import { configJson } from '../transformers/write-config.ts'
import { argsFromConfig, torchName, VOCABULARY_DIVISOR, type CheckpointFormat, type Parallelism } from './config.ts'
import { putTogether, slotsOf, type Slot } from './layout.ts'
import { expertOf } from './names.ts'
import { EMBEDDING, type Placed, type Prepared } from './prepared.ts'
import { planDist } from './write-dist.ts'
import { planRanks } from './write-ranks.ts'

/** Far more GPUs than a model is divided over. */
const MAX_PARALLEL = 1024

const FORMAT = 'checkpoint-format'
const KEYS = 'layer-keys'

/** What `convert` takes. */
export const WRITE_OPTIONS: readonly OptionSpec[] = [
  DTYPE_OPTION,
  {
    name: FORMAT,
    title: 'Checkpoint format',
    help: 'As Megatron’s --ckpt-format.',
    kind: {
      kind: 'choice',
      choices: [
        {
          value: 'auto',
          title: 'By the layout',
          help: 'torch_dist, or torch where --tp, --pp or --ep ask for ranks.',
          featured: true,
        },
        {
          value: 'torch_dist',
          title: 'torch_dist',
          help: 'Megatron’s default: whole tensors, which load under any parallel layout.',
          featured: true,
        },
        {
          value: 'torch',
          title: 'torch',
          help: 'A file for each rank, for the very layout of the run: what older versions and simple tools read.',
          featured: true,
        },
      ],
      default: 'auto',
    },
  },
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
  {
    name: 'ep',
    title: 'Expert parallel',
    help: 'Into how many ranks the experts of each layer are divided (--expert-model-parallel-size).',
    kind: { kind: 'integer', min: 1, max: MAX_PARALLEL, default: 1 },
  },
  {
    name: KEYS,
    title: 'Layers in torch_dist',
    help: 'How a distributed checkpoint names the tensors of layers.',
    kind: {
      kind: 'choice',
      choices: [
        {
          value: 'stacked',
          title: 'Stacked',
          help: 'One tensor holds those of all layers: Megatron’s default, which every version reads.',
          featured: true,
        },
        {
          value: 'numbered',
          title: 'Numbered',
          help: 'Every layer has its own: Megatron’s non_homogeneous_layers.',
          featured: true,
        },
      ],
      default: 'stacked',
    },
  },
]

/** The plan of a checkpoint: weights first; the tracker, which completes it, last. */
export async function planMegatron(given: Checkpoint, options: OptionValues): Promise<Plan> {
  requireArchitecture(given, 'a Megatron checkpoint')
  const checkpoint = withKeptTypes(given, dtypeOption(options))
  const { config } = checkpoint
  const architecture = await architectureFor(checkpoint.architecture, checkpoint.name)
  const slots = slotsOf(architecture, config)
  const parallel: Parallelism = {
    tensor: Number(options['tp'] ?? 1),
    pipeline: Number(options['pp'] ?? 1),
    expert: Number(options['ep'] ?? 1),
  }
  requireDivisible(checkpoint, parallel)
  const format = formatOf(options, parallel)
  const findings: Finding[] = []
  const placed = place(checkpoint, slots, dtypeOption(options), parallel, findings)
  const embedding = placed.find(({ slot }) => slot.name === EMBEDDING)?.recipe
  const dtype = embedding?.dtype ?? config.dtype
  const has = (pattern: RegExp): boolean => slots.some(({ name }) => pattern.test(name))
  const gated = slots.some(({ kind }) => kind === 'gated')
  const facts = {
    gated,
    qkvBias: has(/linear_qkv\.bias$/),
    bias: has(/linear_fc[12]\.bias$/),
    headNorms: has(/q_layernorm/),
  }
  const prepared: Prepared = {
    placed,
    args: argsFromConfig(config, facts, parallel, embedding?.shape[0] ?? config.vocabSize, dtype, format),
    dtype,
    parallel,
    layers: config.layers,
    experts: slots.some(({ name }) => expertOf(name) !== null) ? (config.experts?.count ?? null) : null,
    gated,
    tied: config.tied,
  }
  const files = format === 'torch' ? planRanks(prepared) : planDist(prepared, options[KEYS] !== 'numbered')
  if (format === 'torch_dist') findings.push(...distFindings(parallel))
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

function formatOf(options: OptionValues, { tensor, pipeline, expert }: Parallelism): CheckpointFormat {
  const wanted = options[FORMAT]
  if (wanted === 'torch' || wanted === 'torch_dist') return wanted
  return tensor * pipeline * expert > 1 ? 'torch' : 'torch_dist'
}

function distFindings({ tensor, pipeline, expert }: Parallelism): readonly Finding[] {
  const state: Finding = {
    severity: 'info',
    code: 'extra-state',
    message: 'The checkpoint has the weights and no state of Transformer Engine (its FP8 scales)',
    hint: 'Where Megatron asks for it: --dist-ckpt-strictness log_all.',
  }
  if (tensor * pipeline * expert === 1) return [state]
  const message =
    'A distributed checkpoint is not divided: it loads under any parallel layout, and the one given is noted in its arguments'
  return [state, { severity: 'info', code: 'not-divided', message }]
}

function requireDivisible({ config }: Checkpoint, { tensor, pipeline, expert }: Parallelism): void {
  const { experts } = config
  const width = experts?.intermediateSize ?? config.intermediateSize
  const shared = experts?.sharedIntermediateSize
  if (expert > 1 && experts === undefined) {
    throw new AppError('bad-option', `--ep ${expert} divides experts, and ${config.className} has none`, {
      hint: 'Leave it out; --tp and --pp divide this model.',
    })
  }
  const rules: readonly (readonly [string, number, string, number])[] = [
    ['tp', tensor, 'groups of attention heads', config.kvHeads],
    ['tp', tensor, 'channels of the MLP', width],
    ...(shared === undefined ? [] : ([['tp', tensor, 'channels of the shared experts', shared]] as const)),
    ['pp', pipeline, 'layers', config.layers],
    ...(experts === undefined ? [] : ([['ep', expert, 'experts', experts.count]] as const)),
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
      if (dtypeInfo(recipe.dtype).kind === 'quant') dequantized.push(role)
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
