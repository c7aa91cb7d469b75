/** Which of a model's tensors make up each of Megatron's, and how they are put together and taken apart. */
import type { ModelConfig, Role } from '../../core/checkpoint.ts'
import { AppError } from '../../core/errors.ts'
import { concat, reshape, slice, type Recipe } from '../../core/tensor.ts'
import { expectedTensors, type Architecture } from '../../models/architecture.ts'

export interface Slot {
  /** Canonical. */
  readonly name: string
  /** As it is; query, key and value by groups of heads; the gate's rows before the others. */
  readonly kind: 'plain' | 'qkv' | 'gated'
  /** Query, key and value, or the three in one; gate and up; or a single one. */
  readonly roles: readonly Role[]
  /** Of the whole tensor, without rows that pad a vocabulary. */
  readonly shape: readonly number[]
  readonly block: number | null
  /** Whether rows may be padded. */
  readonly vocabulary: boolean
}

/** What this engine has a place for. */
const FAMILIES: ReadonlySet<string> = new Set([
  'llama',
  'mistral',
  'mixtral',
  'qwen2',
  'qwen2moe',
  'qwen3',
  'qwen3moe',
  'gpt2',
  'minicpm',
])

const WHOLE: ReadonlyMap<string, string> = new Map([
  ['embed.weight', 'embedding.word_embeddings.weight'],
  ['position.weight', 'embedding.position_embeddings.weight'],
  ['lm_head.weight', 'output_layer.weight'],
])

const MODULES: ReadonlyMap<string, string> = new Map([
  ['attn_norm', 'input_layernorm'],
  ['attn.q', 'self_attention.linear_qkv'],
  ['attn.qkv', 'self_attention.linear_qkv'],
  ['attn.o', 'self_attention.linear_proj'],
  ['attn.q_norm', 'self_attention.q_layernorm'],
  ['attn.k_norm', 'self_attention.k_layernorm'],
  ['mlp_norm', 'pre_mlp_layernorm'],
  ['mlp.router', 'mlp.router'],
  ['mlp.gate', 'mlp.linear_fc1'],
  ['mlp.up', 'mlp.linear_fc1'],
  ['mlp.down', 'mlp.linear_fc2'],
  ['mlp.shared.gate', 'mlp.shared_experts.linear_fc1'],
  ['mlp.shared.up', 'mlp.shared_experts.linear_fc1'],
  ['mlp.shared.down', 'mlp.shared_experts.linear_fc2'],
])

/** The one parameter that is no module of its own: what the shared experts' output is gated by. */
const SHARED_GATE = 'mlp.shared_gate'
const SHARED_GATE_NAME = 'mlp.shared_experts.gate_weight'

/** Why an architecture cannot be Megatron's, or null if it can. */
export function refusesArchitecture(id: string): string | null {
  return FAMILIES.has(id) ? null : 'no counterpart in Megatron here'
}

/** Megatron's tensors for a model, in the model's order. Throws `unsupported` for what Megatron has no place for. */
export function slotsOf(architecture: Architecture, config: ModelConfig): readonly Slot[] {
  if (!FAMILIES.has(architecture.id)) {
    throw new AppError('unsupported', `${config.className} has no counterpart in Megatron here`, {
      hint: `These have: ${[...FAMILIES].join(', ')}.`,
    })
  }
  const rows = expectedTensors(architecture, config).filter(({ optional }) => !optional)
  const shapes = new Map(rows.map(({ role, shape }) => [role, shape]))
  return rows.flatMap(({ role, shape, block }): Slot[] => {
    const slot = (name: string, changes: Partial<Slot> = {}): Slot[] => [
      { name, kind: 'plain', roles: [role], shape, block, vocabulary: false, ...changes },
    ]
    const whole = WHOLE.get(role)
    if (whole !== undefined) return slot(whole, { vocabulary: role !== 'position.weight' })
    if (role.startsWith('final_norm.')) return slot(role.replace('final_norm', 'decoder.final_layernorm'))
    const [, layer = '', path = '', field = ''] = /^blocks\.(\d+)\.(.+)\.(weight|bias)$/.exec(role) ?? []
    const [, expert] = /^mlp\.experts\.(\d+)\./.exec(path) ?? []
    const module = path.replace(/^mlp\.experts\.\d+\./, 'mlp.')
    const sibling = (part: string): Role => `blocks.${layer}.${path.replace(/\w+$/, part)}.${field}`
    if (path === SHARED_GATE) return slot(`decoder.layers.${layer}.${SHARED_GATE_NAME}`)
    if (module === 'attn.k' || module === 'attn.v') return []
    if (/^mlp\.(?:shared\.)?up$/.test(module) && shapes.has(sibling('gate'))) return []
    const known = MODULES.get(module)
    if (known === undefined) {
      throw new AppError('unsupported', `Megatron has no place for ${role} of ${config.className} here`, {
        where: { tensor: role },
        hint: 'Take another format for this model.',
      })
    }
    const inside = expert === undefined ? known : known.replace(/^mlp\./, `mlp.experts.local_experts.${expert}.`)
    const name = `decoder.layers.${layer}.${inside}.${field}`
    const rowsOf = (roles: readonly Role[]): readonly number[] => {
      return [roles.reduce((sum, each) => sum + (shapes.get(each)?.[0] ?? 0), 0), ...shape.slice(1)]
    }
    if (module === 'attn.qkv') return slot(name, { kind: 'qkv' })
    if (module === 'attn.q') {
      const roles = ['q', 'k', 'v'].map((part) => `blocks.${layer}.attn.${part}.${field}`)
      return slot(name, { kind: 'qkv', roles, shape: rowsOf(roles) })
    }
    if (!/^mlp\.(?:shared\.)?gate$/.test(module)) return slot(name)
    const roles = [role, sibling('up')]
    return slot(name, { kind: 'gated', roles, shape: rowsOf(roles) })
  })
}

/** Rows of query, key and value in a group of heads, in heads. */
function groupOf({ heads, kvHeads, headDim }: ModelConfig): { readonly groups: number; readonly parts: number[] } {
  return { groups: kvHeads, parts: [(heads / kvHeads) * headDim, headDim, headDim] }
}

/** A model's tensors from one of Megatron's, by role. It has the slot's shape. */
export function takeApart(slot: Slot, recipe: Recipe, config: ModelConfig): readonly (readonly [Role, Recipe])[] {
  const [first = '', ...others] = slot.roles
  if (slot.kind === 'plain') return [[first, recipe]]
  if (slot.kind === 'gated') {
    const half = (recipe.shape[0] ?? 0) / 2
    return slot.roles.map((role, index) => [role, slice(recipe, 0, index * half, half)])
  }
  const { groups, parts } = groupOf(config)
  const [rows = 0, ...rest] = recipe.shape
  const grouped = reshape(recipe, [groups, rows / groups, ...rest])
  let start = 0
  const split = parts.map((size) => {
    const part = reshape(slice(grouped, 1, start, size), [groups * size, ...rest])
    start += size
    return part
  })
  if (others.length === 0) return [[first, concat(split, 0)]]
  return slot.roles.flatMap((role, index): (readonly [Role, Recipe])[] => {
    const part = split[index]
    return part === undefined ? [] : [[role, part]]
  })
}

/** One of Megatron's tensors from those of the model, given in the order of the slot's roles. */
export function putTogether(slot: Slot, recipes: readonly Recipe[], config: ModelConfig): Recipe {
  const [first] = recipes
  if (first === undefined) throw new AppError('internal', `nothing for ${slot.name}`)
  if (slot.kind === 'plain') return first
  if (slot.kind === 'gated') return concat(recipes, 0)
  const { groups, parts } = groupOf(config)
  const rest = first.shape.slice(1)
  let start = 0
  const grouped = parts.map((size, index) => {
    const part = recipes.length === 1 ? slice(first, 0, start, groups * size) : recipes[index]
    start += groups * size
    if (part === undefined) throw new AppError('internal', `a part of ${slot.name} is not there`)
    return reshape(part, [groups, size, ...rest])
  })
  return reshape(concat(grouped, 1), slot.shape)
}
