/**
 * What mlx-lm calls the tensors of each family, in the order of its module tree. Its loader is strict: a tensor too many
 * or too few and the model does not load. Source: ml-explore/mlx-lm, `sanitize` of each model.
 */
import type { ModelConfig, Role } from '../../core/checkpoint.ts'
import { AppError } from '../../core/errors.ts'
import type { Json } from '../../core/json.ts'
import type { Architecture, ConfigKey, ExpectedTensor } from '../../models/architecture.ts'
import { dividedTensors } from '../../models/parts.ts'
import type { MlxFamily } from './families/contract.ts'
import { FAMILIES } from './families/index.ts'

/** One tensor of an MLX model before quantisation. */
export interface MlxTensor {
  /** `model.layers.0.self_attn.q_proj.weight` */
  readonly name: string
  /** The module's path, which keys of the quantisation are: the name without its last part. */
  readonly module: string
  /** One role, or those of all experts, which are stacked along a new first axis. */
  readonly roles: readonly Role[]
  readonly shape: readonly number[]
  /** Whether its module can be quantised: the weight of a Linear, an Embedding or a SwitchLinear. */
  readonly matrix: boolean
}

/** The roles of the head and of what it may be tied to. */
const HEAD: Role = 'lm_head.weight'
const EMBEDDING: Role = 'embed.weight'

/** An architecture as mlx-lm has it. */
export interface MlxModel {
  /** In the order of its module tree. */
  readonly tensors: readonly MlxTensor[]
  /** Whether the config that it is written with ties head and embedding. */
  readonly tied: boolean
  /** Keys of config.json that mlx-lm asks for and HuggingFace's may lack. */
  readonly keys: readonly (readonly [string, Json])[]
  /** Keys that stand for something else there. */
  readonly replacing: readonly (readonly [string, Json])[]
  readonly sizes: readonly ConfigKey[]
  readonly sensitive: { readonly suffix: string; readonly bits: number } | null
  readonly windowed: boolean
}

/** Why an architecture cannot be MLX, or null if it can. */
export function refusesArchitecture(id: string): string | null {
  return FAMILIES.has(id) ? null : 'no class in mlx-lm'
}

/** Throws `unsupported` for what mlx-lm has no class for, or whose class would compute something else. */
export function mlxModel(architecture: Architecture, config: ModelConfig): MlxModel {
  const family = FAMILIES.get(architecture.id)
  if (family === undefined) throw unsupported(`${config.className} cannot be MLX: mlx-lm has no class for it`)
  const refused = family.unsupported?.(config) ?? null
  if (refused !== null) throw unsupported(`mlx-lm's class for ${config.className} has no ${refused}`)
  if (family.head === 'never' && !config.tied) {
    throw unsupported(`mlx-lm's class for ${config.className} takes its embedding for the head, but this model has one`)
  }
  const rows = dividedTensors(architecture, config).filter(({ optional }) => !optional)
  const tensors = inTreeOrder(rows, family)
  if (family.head === 'always' && config.tied) tensors.push(tiedHead(rows, family))
  return {
    tensors,
    tied: config.tied && family.head !== 'always',
    keys: family.keys?.(config) ?? [],
    replacing: family.replacing?.(config) ?? [],
    sizes: family.sizes ?? [],
    sensitive: family.sensitive ?? null,
    windowed: family.windowed ?? false,
  }
}

function unsupported(what: string): AppError {
  return new AppError('unsupported', what, { hint: 'Take another format for this model, such as GGUF.' })
}

function tiedHead(rows: readonly ExpectedTensor[], family: MlxFamily): MlxTensor {
  const embedding = rows.find(({ role }) => role === EMBEDDING)
  if (embedding === undefined) throw new AppError('internal', 'a model without an embedding')
  return { ...named(embedding, family), name: HEAD, module: 'lm_head' }
}

function named(
  { hf, role, shape }: ExpectedTensor,
  { renames = [], names = {}, parameters = [] }: MlxFamily,
): MlxTensor {
  const [, stem = '', block = '', rest = '', kind = ''] = /^(blocks)\.(\d+)\.(.*)\.(weight|bias)$/.exec(role) ?? []
  const own = names[`${stem}.{i}.${rest}`]
  if (own !== undefined) return tensor(`${own.replace('{i}', block)}.${kind}`, [role], shape)
  const name = renames.reduce((text, [from, to]) => (text.startsWith(from) ? to + text.slice(from.length) : text), hf)
  const whole = tensor(name, [role], shape)
  return parameters.some((suffix) => whole.module.endsWith(`.${suffix}`)) ? { ...whole, matrix: false } : whole
}

function tensor(name: string, roles: readonly Role[], shape: readonly number[]): MlxTensor {
  const module = name.slice(0, name.lastIndexOf('.'))
  return { name, module, roles, shape, matrix: name.endsWith('.weight') && shape.length > 1 }
}

/** `model.layers.0.mlp.experts.3.w1.weight` in its parts. */
const EXPERT = /^(.*)\.experts\.(\d+)\.(\w+)\.(\w+)$/

/** Renames, stacks experts, and puts each block's modules in mlx-lm's order. */
function inTreeOrder(rows: readonly ExpectedTensor[], family: MlxFamily): MlxTensor[] {
  const result: { readonly tensor: MlxTensor; readonly block: number | null }[] = []
  const stacks = new Map<string, { readonly at: number; readonly roles: Role[]; readonly shape: readonly number[] }>()
  for (const row of rows) {
    const expert = EXPERT.exec(row.hf)
    if (expert === null || family.experts === undefined) {
      result.push({ tensor: named(row, family), block: row.block })
      continue
    }
    const [, mlp = '', , part = '', field = ''] = expert
    const name = `${mlp}.switch_mlp.${family.experts.get(part) ?? part}.${field}`
    const stack = stacks.get(name) ?? { at: result.length, roles: [], shape: row.shape }
    stack.roles.push(row.role)
    stacks.set(name, stack)
    const stacked = { tensor: tensor(name, stack.roles, [stack.roles.length, ...row.shape]), block: row.block }
    if (stack.at < result.length) result[stack.at] = stacked
    else result.push(stacked)
  }
  return runsOfBlocks(result).flatMap((block) => inBlockOrder(block, family.order))
}

function runsOfBlocks(all: readonly { readonly tensor: MlxTensor; readonly block: number | null }[]): MlxTensor[][] {
  const runs: { readonly block: number | null; readonly tensors: MlxTensor[] }[] = []
  for (const { tensor: one, block } of all) {
    const last = runs.at(-1)
    if (last !== undefined && last.block === block) last.tensors.push(one)
    else runs.push({ block, tensors: [one] })
  }
  return runs.map(({ tensors }) => tensors)
}

function inBlockOrder(tensors: readonly MlxTensor[], order: readonly string[]): readonly MlxTensor[] {
  const rank = ({ module }: MlxTensor): number => {
    const found = order.findIndex((suffix) => module.endsWith(`.${suffix}`))
    return found < 0 ? order.length : found
  }
  return tensors.toSorted((a, b) => rank(a) - rank(b))
}
