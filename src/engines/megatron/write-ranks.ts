/** Megatron's format "torch": a file for each rank, with the rows, columns, layers and experts that it computes. */
import type { PlannedFile } from '../../core/plan.ts'
import { reshape, slice, type Recipe } from '../../core/tensor.ts'
import type { PickleValue } from '../containers/pickle.ts'
import { pickledDict } from '../containers/pickle-write.ts'
import { TorchFileWriter } from '../containers/torch-write.ts'
import { engineName, expertOf, layerOf, splitOf, withExpert, withLayer } from './names.ts'
import { EMBEDDING, HEAD, ITERATION, pickledRoot, type Placed, type Prepared } from './prepared.ts'

const STEM = 'model_optim_rng'

/** A file for each rank of the pipeline, of the experts and of the tensors. */
export function planRanks(prepared: Prepared): readonly PlannedFile[] {
  const { tensor, pipeline, expert } = prepared.parallel
  return range(pipeline).flatMap((stage) =>
    range(expert).flatMap((experts) => range(tensor).map((rank) => planRank(prepared, { stage, experts, rank }))),
  )
}

interface Position {
  readonly stage: number
  readonly experts: number
  readonly rank: number
}

function planRank(prepared: Prepared, { stage, experts, rank }: Position): PlannedFile {
  const { placed, parallel, layers, tied, gated } = prepared
  const { tensor, pipeline, expert } = parallel
  const perStage = layers / pipeline
  const perRank = (prepared.experts ?? expert) / expert
  const last = stage === pipeline - 1
  const writer = new TorchFileWriter()
  const model: (readonly [string, PickleValue])[] = []
  const add = (name: string, one: Placed): void => {
    model.push([name, writer.tensor(name, shareOf(one, gated, rank, tensor))])
  }
  for (const one of placed) {
    const { name } = one.slot
    const layer = layerOf(name)
    if (layer !== null) {
      if (Math.floor(layer / perStage) !== stage) continue
      const own = withLayer(name, layer % perStage)
      const global = expertOf(name)
      if (global === null) add(engineName(own, prepared.experts !== null), one)
      else if (Math.floor(global / perRank) === experts) add(withExpert(own, global % perRank), one)
    } else if (name.startsWith('embedding.')) {
      if (stage === 0) add(name, one)
      // the last stage has a copy for its head
      if (tied && last && pipeline > 1 && name === EMBEDDING) add(HEAD, one)
    } else if (last) add(name, one)
  }
  const number = (value: number, digits: number): string => `_${String(value).padStart(digits, '0')}`
  const folder = `mp_rank${number(rank, 2)}${pipeline > 1 ? number(stage, 3) : ''}${expert > 1 ? number(experts, 3) : ''}`
  const root = pickledRoot(prepared, [['model', pickledDict(model)]])
  return writer.plan(`${ITERATION}/${folder}/${STEM}.pt`, STEM, root)
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

function range(length: number): readonly number[] {
  return Array.from({ length }, (_, index) => index)
}
