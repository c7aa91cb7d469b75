import type { ModelConfig, Role } from '../../core/checkpoint.ts'
import { affine, permute, reshape, type Recipe } from '../../core/tensor.ts'
import type { Architecture } from '../../models/architecture.ts'
import type { GgufArchitecture } from './arch/contract.ts'

/** What a tensor goes through on its way into a GGUF file. Each step has an inverse, for reading. */
export type Transform =
  /** Rows of each head reordered, from halves to neighbours: see {@link interleaveRows}. */
  | { readonly kind: 'interleave'; readonly heads: number }
  /** A constant added: Gemma's norms lie in GGUF as what the hidden state is multiplied by. */
  | { readonly kind: 'add'; readonly value: number }
  /** Multiplied by a constant. */
  | { readonly kind: 'scale'; readonly value: number }
  /** Groups of groups of rows, the inner ones before the outer ones: what was head by head is kind by kind. */
  | { readonly kind: 'regroup'; readonly outer: number; readonly inner: number }
  /** The same elements under another shape. */
  | { readonly kind: 'reshape'; readonly from: readonly number[]; readonly to: readonly number[] }

/** The steps from a role's tensor to GGUF's, in order; none for most. */
export function transformsOf(
  role: Role,
  target: GgufArchitecture,
  architecture: Architecture,
  config: ModelConfig,
): readonly Transform[] {
  const rule = target.transforms?.find(({ role: pattern }) => pattern.test(role))
  if (rule !== undefined) return rule.steps(config)
  if (!target.interleavedRotary || architecture.rotary !== 'half') return []
  if (/\.attn\.q\.(?:weight|bias)$/.test(role)) return [{ kind: 'interleave', heads: config.heads }]
  if (/\.attn\.k\.(?:weight|bias)$/.test(role)) return [{ kind: 'interleave', heads: config.kvHeads }]
  return []
}

/** From a role's tensor to GGUF's. */
export function applyTransforms(of: Recipe, transforms: readonly Transform[]): Recipe {
  return transforms.reduce(applyTransform, of)
}

/** From GGUF's tensor to the role's: the inverses, in reverse order. */
export function undoTransforms(of: Recipe, transforms: readonly Transform[]): Recipe {
  return transforms.reduceRight(undoTransform, of)
}

function applyTransform(of: Recipe, transform: Transform): Recipe {
  switch (transform.kind) {
    case 'interleave':
      return interleaveRows(of, transform.heads)
    case 'regroup':
      return swapGroups(of, transform.outer, transform.inner)
    case 'add':
      return affine(of, 1, transform.value)
    case 'scale':
      return affine(of, transform.value)
    case 'reshape':
      return reshape(of, transform.to)
  }
}

function undoTransform(of: Recipe, transform: Transform): Recipe {
  switch (transform.kind) {
    case 'interleave':
      return deinterleaveRows(of, transform.heads)
    case 'regroup':
      return swapGroups(of, transform.inner, transform.outer)
    case 'add':
      return affine(of, 1, -transform.value)
    case 'scale':
      return affine(of, 1 / transform.value)
    case 'reshape':
      return reshape(of, transform.from)
  }
}

function swapGroups(of: Recipe, outer: number, inner: number): Recipe {
  const [rows = 0, ...rest] = of.shape
  const axes = [1, 0, 2, ...rest.map((_, index) => index + 3)]
  return reshape(permute(reshape(of, [outer, inner, rows / outer / inner, ...rest]), axes), of.shape)
}

/** Within each head, rows 0, d/2, 1, d/2 + 1 ...: what pairs channel i with i + d/2 then pairs 2i with 2i + 1. */
export function interleaveRows(of: Recipe, heads: number): Recipe {
  return swapWithinHeads(of, heads, (half) => [2, half])
}

/** The inverse of {@link interleaveRows}: within each head the even rows, then the odd ones. */
export function deinterleaveRows(of: Recipe, heads: number): Recipe {
  return swapWithinHeads(of, heads, (half) => [half, 2])
}

function swapWithinHeads(of: Recipe, heads: number, split: (half: number) => readonly [number, number]): Recipe {
  const [rows = 0, ...rest] = of.shape
  const axes = [0, 2, 1, ...rest.map((_, index) => index + 3)]
  return reshape(permute(reshape(of, [heads, ...split(rows / heads / 2), ...rest]), axes), of.shape)
}
