/** What the files of a checkpoint are made of, whichever of Megatron's formats they are of. */
import type { DType } from '../../core/dtype.ts'
import type { Json } from '../../core/json.ts'
import type { Recipe } from '../../core/tensor.ts'
import type { PickleValue } from '../containers/pickle.ts'
import { pickledCall, pickledDict, pickledGlobal } from '../containers/pickle-write.ts'
import { torchName, type Parallelism } from './config.ts'
import type { Slot } from './layout.ts'

/** The folder of the iteration: Megatron refuses to begin at iteration 0. */
export const ITERATION = 'iter_0000001'
export const EMBEDDING = 'embedding.word_embeddings.weight'
export const HEAD = 'output_layer.weight'
const CHECKPOINT_VERSION = 3

/** One of Megatron's tensors, whole. */
export interface Placed {
  readonly slot: Slot
  readonly recipe: Recipe
}

/** A model as Megatron has it, not yet divided. */
export interface Prepared {
  readonly placed: readonly Placed[]
  readonly args: ReadonlyMap<string, Json>
  /** Of the embedding: params_dtype. */
  readonly dtype: DType
  readonly parallel: Parallelism
  readonly layers: number
  /** In each layer; null if there are none. */
  readonly experts: number | null
  /** Whether the MLP has a gate. */
  readonly gated: boolean
  readonly tied: boolean
}

/** What a file of Megatron's holds: the arguments of the run, where it was, and `more`. */
export function pickledRoot({ args, dtype }: Prepared, more: readonly (readonly [string, PickleValue])[]): PickleValue {
  const name = torchName(dtype)
  const state = pickledDict([
    ...[...args].map(([key, value]): [string, PickleValue] => [key, value as PickleValue]),
    ['params_dtype', name === null ? null : pickledGlobal('torch', name)],
  ])
  return pickledDict([
    ['args', pickledCall(pickledGlobal('argparse', 'Namespace'), [], 'new', state)],
    ['checkpoint_version', CHECKPOINT_VERSION],
    ['iteration', 1],
    ...more,
  ])
}
