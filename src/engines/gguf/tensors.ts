import type { ModelConfig, Role } from '../../core/checkpoint.ts'
import { concat, reshape, slice, type Recipe } from '../../core/tensor.ts'
import type { Architecture, ExpectedTensor } from '../../models/architecture.ts'
import { dividedTensors } from '../../models/parts.ts'
import type { GgufArchitecture } from './arch/contract.ts'
import { ggufName } from './names.ts'
import { applyTransforms, transformsOf, undoTransforms, type Transform } from './transforms.ts'

/** A tensor of a GGUF file, and the roles that it holds: one, or one for each expert. */
export interface GgufTensorRow {
  readonly name: string
  /** Slowest axis first; the experts' comes before those of the roles. */
  readonly shape: readonly number[]
  readonly roles: readonly Role[]
  readonly stacked: boolean
  readonly transforms: readonly Transform[]
  /** Whether a complete model may lack it. */
  readonly optional: boolean
}

/** The role of one expert's tensor; what a model has of all of them in one keeps its shape. */
const EXPERT = /\.experts\.\d+\./

/** The tensors that a GGUF file of this model has, in the model's order, less those that have no role (rope factors). */
export function ggufTensors(
  target: GgufArchitecture,
  architecture: Architecture,
  config: ModelConfig,
): readonly GgufTensorRow[] {
  const groups = new Map<string, ExpectedTensor[]>()
  for (const tensor of dividedTensors(architecture, config)) {
    if (target.omitted?.some((pattern) => pattern.test(tensor.role)) === true) continue
    const name = ggufName(tensor.role, target)
    const group = groups.get(name)
    if (group === undefined) groups.set(name, [tensor])
    else group.push(tensor)
  }
  return [...groups].flatMap(([name, group]) => {
    const [first] = group
    if (first === undefined) return []
    const transforms = transformsOf(first.role, target, architecture, config)
    const shape = shapeAfter(first.shape, transforms)
    const stacked = EXPERT.test(first.role)
    return {
      name,
      shape: stacked ? [group.length, ...shape] : shape,
      roles: group.map(({ role }) => role),
      stacked,
      transforms,
      optional: first.optional,
    }
  })
}

function shapeAfter(shape: readonly number[], transforms: readonly Transform[]): readonly number[] {
  return transforms.reduce((now, step) => (step.kind === 'reshape' ? step.to : now), shape)
}

/** A row's tensor from those of its roles, in their order. */
export function packRow(row: GgufTensorRow, parts: readonly Recipe[]): Recipe {
  const ready = parts.map((part) => applyTransforms(part, row.transforms))
  if (!row.stacked) return concat(ready, 0)
  return concat(
    ready.map((part) => reshape(part, [1, ...part.shape])),
    0,
  )
}

/** The inverse of {@link packRow}: each role's tensor. */
export function unpackRow(row: GgufTensorRow, of: Recipe): ReadonlyMap<Role, Recipe> {
  return new Map(
    row.roles.map((role, index) => {
      const part = row.stacked ? reshape(slice(of, 0, index, 1), row.shape.slice(1)) : of
      return [role, undoTransforms(part, row.transforms)]
    }),
  )
}
