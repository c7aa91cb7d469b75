import type { Folder, OutputFolder, Place } from '../core/bytes.ts'
import type { Verdict } from '../core/check.ts'
import type { Checkpoint } from '../core/checkpoint.ts'
import type { DType } from '../core/dtype.ts'
import { elementCount } from '../core/dtype.ts'
import { AppError } from '../core/errors.ts'
import { resolveOptions, type OptionValues } from '../core/option.ts'
import type { CostedPlan, Finding, Plan, Segment } from '../core/plan.ts'
import { tensorBytes, type Recipe } from '../core/tensor.ts'
import type { Transforms } from '../core/transform.ts'
import type { Engine, Given, Match } from '../engines/engine.ts'
import { formatId, formatIds, loadEngine } from '../engines/index.ts'
import { supportedArchitectures } from '../models/index.ts'
import { mupVerdict } from '../models/mup.ts'
import { refuseAdapter } from './adapters.ts'
import { check, runnable } from './check.ts'
import { compare } from './compare.ts'
import { Control } from './control.ts'
import { convert } from './convert.ts'
import { costPlan, windowFor } from './cost.ts'
import type { Host } from './host.ts'
import { planKey } from './identity.ts'
import { Journal } from './journal.ts'
import { matrix } from './matrix.ts'
import { measure } from './measure.ts'
import { targets } from './targets.ts'
import { openTransformed } from './transforms.ts'
import type {
  CheckRequest,
  CompareRequest,
  ConvertRequest,
  DeviceInfo,
  FormatInfo,
  Inspection,
  Interrupted,
  Matrix,
  PlannedTensor,
  PlanSummary,
  Target,
  TargetsGiven,
} from './wire.ts'

/** Everything that the product can do, in process. */
export interface Api {
  formats(): Promise<readonly FormatInfo[]>
  matrix(): Promise<Matrix>
  devices(): Promise<readonly DeviceInfo[]>
  inspect(place: Place, transforms?: Transforms): Promise<Inspection>
  targets(place: Place, given?: TargetsGiven): Promise<readonly Target[]>
  plan(request: ConvertRequest): Promise<PlanSummary>
  /** Starts a conversion. The job lives on whether anyone watches or not. */
  start(request: ConvertRequest): Control
  /** Whether a finished model can be run here, and what by. */
  runnable(request: CheckRequest): Promise<Verdict>
  /** Starts to validate a model and to run it, where something here can. */
  check(request: CheckRequest): Control
  /** Starts to measure how far a model is from another. */
  compare(request: CompareRequest): Control
  interrupted(output: Place): Promise<readonly Interrupted[]>
  discard(output: Place, key: string): Promise<void>
  close(): Promise<void>
}

/** A source that has been opened: its folder, its engine, its checkpoint. */
export interface Opened {
  readonly folder: Folder
  readonly engine: Engine
  readonly match: Match
  readonly checkpoint: Checkpoint
}

/** A conversion ready to start. */
export interface Prepared {
  readonly source: Opened
  readonly engine: Engine
  readonly options: OptionValues
  readonly plan: CostedPlan
  readonly key: string
}

export function createApi(host: Host): Api {
  return {
    formats: () => formats(),
    matrix: () => matrix(),
    devices: () => devices(host),
    async inspect(place, transforms) {
      return inspection(await openTransformed(host, place, transforms))
    },
    targets: (place, given) => targets(host, place, given),
    plan: (request) => planSummary(host, request),
    start(request) {
      const control = new Control(() => host.now())
      // the job reports its own end; nobody need await it
      void convert(host, request, control)
      return control
    },
    runnable: (request) => runnable(host, request),
    check(request) {
      const control = new Control(() => host.now())
      void check(host, request, control)
      return control
    },
    compare(request) {
      const control = new Control(() => host.now())
      void compare(host, request, control)
      return control
    },
    async interrupted(place) {
      const found = await Journal.list(await host.openOutput(place))
      return found.map((data) => ({
        key: data.key,
        target: data.target,
        files: data.files.map(({ path, size, watermark }) => ({ path, size, done: watermark })),
      }))
    },
    async discard(place, key) {
      const output = await host.openOutput(place)
      const journal = await Journal.find(output, key)
      if (journal === null) return
      for (const { path } of journal.data.files) await removeUnfinished(output, path)
      await journal.remove()
    },
    async close() {
      for (const backend of await host.backends()) await backend.close()
    },
  }
}

/** Removes what a job wrote and did not finish. */
export async function removeUnfinished(output: OutputFolder, path: string): Promise<void> {
  const sink = await output.create(path, { keep: 0 })
  await sink.abort()
}

async function formats(): Promise<readonly FormatInfo[]> {
  const engines = await Promise.all(formatIds().map(loadEngine))
  return engines.map((engine) => ({
    id: engine.id,
    title: engine.title,
    reads: engine.open !== null,
    writes: engine.convert !== null,
    options: engine.options,
    architectures: supportedArchitectures().flatMap(({ id, classNames }) =>
      engine.refuses(id) === null ? classNames : [],
    ),
  }))
}

async function devices(host: Host): Promise<readonly DeviceInfo[]> {
  const backends = await host.backends()
  return backends.map(({ id, label, threads, limitation }) => ({ id, label, threads, available: true, limitation }))
}

/** Finds out what a place holds. The folder is opened once; every engine looks at names and small files only. */
export async function detect(folder: Folder): Promise<{ engine: Engine; match: Match }> {
  let best: { engine: Engine; match: Match } | null = null
  for (const id of formatIds()) {
    const engine = await loadEngine(id)
    const match = await engine.detect(folder)
    if (match !== null && match.confidence > (best?.match.confidence ?? 0)) best = { engine, match }
  }
  if (best !== null) return best
  const files = await folder.list()
  const some = files.slice(0, 3).map((file) => file.path)
  const contents =
    files.length === 0
      ? 'It is empty'
      : files.length === 1
        ? `It holds nothing but ${some.join()}`
        : `It holds ${files.length} files, such as ${some.join(', ')}`
  const readable = (await Promise.all(formatIds().map(loadEngine))).filter((engine) => engine.open !== null)
  throw new AppError('not-a-model', `${folder.name} is no model of a format known here. ${contents}.`, {
    where: { file: folder.name },
    hint: `These can be read: ${readable.map(({ title }) => title).join(', ')}. Give the file, or the folder that holds all of the model's files.`,
  })
}

export async function open(host: Host, place: Place, given: Given = {}): Promise<Opened> {
  const folder = await host.open(place)
  await refuseAdapter(folder)
  const { engine, match } = await detect(folder)
  if (engine.open === null) {
    throw new AppError('unsupported', `${engine.title} cannot be read yet: ${match.because}`, {
      where: { file: match.entry },
      hint: 'Give the HuggingFace folder that it was made from.',
    })
  }
  if (given.hfConfig !== undefined && engine.id !== 'megatron') {
    throw new AppError('bad-option', `--hf-config is for Megatron checkpoints, and ${folder.name} is ${engine.title}`, {
      where: { file: match.entry },
      hint: 'Leave --hf-config out, or edit the config.json of the model.',
    })
  }
  return { folder, engine, match, checkpoint: await engine.open(folder, match, given) }
}

function inspection({ folder, engine, match, checkpoint }: Opened): Inspection {
  const { config, tensors, tokenizer } = checkpoint
  const byType = new Map<DType, number>()
  let parameters = 0
  let weightBytes = 0
  for (const [role, tensor] of tensors) {
    parameters += elementCount(tensor.shape)
    const whole = { dtype: checkpoint.kept?.get(role) ?? tensor.dtype, shape: tensor.shape }
    // what is quantised in parts takes what the parts take
    for (const stored of tensor.op === 'dequantize' ? Object.values(tensor.parts) : [whole]) {
      const bytes = tensorBytes(stored)
      byType.set(stored.dtype, (byType.get(stored.dtype) ?? 0) + bytes)
      weightBytes += bytes
    }
  }
  const kinds = {
    bpe: 'byte-level BPE',
    spm: 'SentencePiece BPE',
    wordpiece: 'WordPiece',
    unigram: 'SentencePiece Unigram',
  } as const
  return {
    format: engine.id,
    kind: match.kind,
    formatTitle: engine.title,
    because: match.because,
    name: checkpoint.name === '' ? folder.name : checkpoint.name,
    architecture: checkpoint.architecture,
    className: config.className,
    parameters,
    weightBytes,
    tensorCount: tensors.size,
    dtypes: [...byType].map(([dtype, bytes]) => ({ dtype, bytes })).sort((a, b) => b.bytes - a.bytes),
    layers: config.layers,
    hiddenSize: config.hiddenSize,
    heads: config.heads,
    kvHeads: config.kvHeads,
    vocabSize: config.vocabSize,
    contextLength: config.contextLength,
    tied: config.tied,
    mup: mupVerdict(checkpoint),
    tokenizer: tokenizer === null ? null : `${kinds[tokenizer.kind]}, ${tokenizer.tokens.length} tokens`,
    files: checkpoint.sources.map(({ path, size }) => ({ path, size })),
    metadata: checkpoint.metadata ?? [],
    findings: checkpoint.findings,
  }
}

/** The plan for an open checkpoint, measured against the host. */
export async function planFor(host: Host, source: Opened, engine: Engine, options: OptionValues): Promise<CostedPlan> {
  if (engine.convert === null) throw new AppError('unsupported', `${engine.title} cannot be written yet`)
  const evidence = await measure(host, source, await engine.needs(source.checkpoint, options))
  const plan: Plan = await engine.convert(source.checkpoint, options, evidence)
  requireDistinct(plan)
  const backends = await host.backends()
  const threads = Math.max(1, ...backends.map((backend) => backend.threads))
  const findings: Finding[] = [...source.checkpoint.findings, ...plan.findings]
  for (const { limitation, id } of backends) {
    if (limitation !== null) findings.push({ severity: 'info', code: `limited-${id}`, message: limitation })
  }
  return { ...costPlan(plan, windowFor(threads, host.memoryBudget)), findings }
}

/** Throws `internal` for a plan that writes one file twice, before anything is written. */
function requireDistinct({ files }: Plan): void {
  const seen = new Set<string>()
  for (const { path } of files) {
    if (seen.has(path)) {
      throw new AppError('internal', `${path} would be written twice`, {
        where: { file: path },
        hint: 'This is a fault of the converter: please report it with this message.',
      })
    }
    seen.add(path)
  }
}

/** Opens, plans and names a conversion. */
export async function prepare(host: Host, request: ConvertRequest): Promise<Prepared> {
  const id = formatId(request.target)
  if (id === null) {
    throw new AppError('bad-option', `There is no format ${JSON.stringify(request.target)}`, {
      hint: `The formats: ${formatIds().join(', ')}.`,
    })
  }
  const engine = await loadEngine(id)
  const options = resolveOptions(engine.options, request.options)
  const source = await openTransformed(host, request.input, request.transforms)
  const plan = renamed(await planFor(host, source, engine, options), request.name)
  return { source, engine, options, plan, key: await planKey(host, plan) }
}

/** How the parts of a split file are called: `STEM-00001-of-00003.gguf`. */
const PART = /-\d{5}-of-\d{5}(\.[^./]+)$/

/**
 * A plan of one file takes the name asked for, and the parts of one file take its stem. Other files of several keep
 * their names, in a folder of that name.
 */
function renamed(plan: CostedPlan, name: string | null): CostedPlan {
  const [only, ...others] = plan.files
  if (name === null || only === undefined) return plan
  const ending = PART.exec(only.path)?.[1] ?? ''
  const parts = plan.files.map(({ path }) => PART.exec(path))
  if (ending !== '' && name.endsWith(ending) && parts.every((part) => part?.[1] === ending)) {
    const stem = name.slice(0, PART.exec(name)?.index ?? -ending.length)
    return { ...plan, files: plan.files.map((file, at) => ({ ...file, path: stem + (parts[at]?.[0] ?? '') })) }
  }
  if (others.length > 0)
    return { ...plan, files: plan.files.map((file) => ({ ...file, path: `${name}/${file.path}` })) }
  const extension = /\.[^./]+$/.exec(only.path)?.[0] ?? ''
  const path = name.toLowerCase().endsWith(extension.toLowerCase()) ? name : name + extension
  return { ...plan, files: [{ ...only, path }] }
}

async function planSummary(host: Host, request: ConvertRequest): Promise<PlanSummary> {
  const { plan, key } = await prepare(host, request)
  const files = plan.files.map(({ path, size, segments }) => ({
    path,
    size,
    tensors: segments.flatMap((segment) => plannedTensors(segment, path)),
  }))
  const output = await host.openOutput(request.output)
  const journal = await Journal.find(output, key)
  const keptBytes = journal?.data.files.reduce((sum, file) => sum + file.watermark, 0) ?? 0
  return {
    target: plan.target,
    key,
    files: files.map(({ path, size, tensors }) => ({ path, size, tensors: tensors.length })),
    tensors: files.flatMap(({ tensors }) => tensors),
    metadata: plan.metadata ?? [],
    findings: plan.findings,
    readBytes: plan.readBytes,
    writeBytes: plan.writeBytes,
    peakBytes: plan.peakBytes,
    freeBytes: await output.freeBytes(),
    keptBytes,
  }
}

function plannedTensors(segment: Segment, path: string): readonly PlannedTensor[] {
  if (segment.kind === 'bytes' || segment.kind === 'seal') return []
  if (segment.kind === 'tensor') {
    const { name, recipe, size } = segment
    // a whole file that is carried over
    if (recipe.dtype === 'u8' && path.endsWith(name)) return []
    return [{ name, shape: recipe.shape, from: storedType(recipe), to: recipe.dtype, bytes: size }]
  }
  return segment.outputs.flatMap(({ name, field }) => {
    const info = segment.producer.fields[field]
    if (info === undefined) return []
    return [
      { name, shape: info.shape, from: storedType(segment.producer.of), to: info.dtype, bytes: tensorBytes(info) },
    ]
  })
}

/** The type that a recipe's values have where they lie. */
function storedType(recipe: Recipe): DType {
  let at = recipe
  while ('of' in at && !Array.isArray(at.of) && 'dtype' in at.of) at = at.of
  return at.dtype
}
