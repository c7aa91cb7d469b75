/**
 * Distributed checkpoints (torch_dist) with each tensor in one piece, as PyTorch's FileSystemWriter lays them out: a file
 * of torch.save for each tensor, one behind the other, and `.metadata` that says where.
 * Source: https://github.com/pytorch/pytorch/blob/main/torch/distributed/checkpoint/filesystem.py
 */
import { elementCount, type DType } from '../../core/dtype.ts'
import { AppError } from '../../core/errors.ts'
import type { PlannedFile, Segment } from '../../core/plan.ts'
import { cast, concat, reshape, type Recipe } from '../../core/tensor.ts'
import type { PickleValue } from '../containers/pickle.ts'
import { pickledCall, pickledDict, pickledGlobal, pickledTuple, writePickle } from '../containers/pickle-write.ts'
import { bytesFile, DEQUANTIZED } from '../containers/shards.ts'
import { TorchFileWriter } from '../containers/torch-write.ts'
import { joinLiterals } from '../containers/zip-write.ts'
import { torchName } from './config.ts'
import { distName, expertOf, layerOf } from './names.ts'
import { ITERATION, pickledRoot, type Placed, type Prepared } from './prepared.ts'

const PART = '__0_0.distcp'
/** The folder of entries in what torch.save writes to a stream. */
const STEM = 'archive'
const METADATA = 'torch.distributed.checkpoint.metadata'
const FILESYSTEM = 'torch.distributed.checkpoint.filesystem'
/** Of the layout of `.metadata`. */
const VERSION = '1.0.0'

interface Item {
  readonly name: string
  readonly recipe: Recipe
  readonly offset: number
  readonly length: number
}

/** The files of an iteration. With `stacked` one tensor holds that of all layers. */
export function planDist(prepared: Prepared, stacked: boolean): readonly PlannedFile[] {
  const items: Item[] = []
  const segments: Segment[] = []
  let offset = 0
  for (const [name, recipe] of distTensors(prepared, stacked)) {
    const writer = new TorchFileWriter()
    const zip = writer.planAt(offset, STEM, writer.tensor(name, recipe))
    items.push({ name, recipe, offset, length: zip.size })
    segments.push(...zip.segments)
    offset += zip.size
  }
  const backend = {
    sharded_backend: 'torch_dist',
    sharded_backend_version: 1,
    common_backend: 'torch',
    common_backend_version: 1,
  }
  // how Megatron names the tensors that it asks for
  const content = pickledDict([
    ['singleton_local_shards', false],
    ['non_homogeneous_layers', !stacked],
  ])
  const metadata = writePickle(pickledMetadata(items))
  return [
    { path: `${ITERATION}/${PART}`, size: offset, segments: joinLiterals(segments) },
    new TorchFileWriter().plan(
      `${ITERATION}/common.pt`,
      'common',
      pickledRoot(prepared, [['content_metadata', content]]),
    ),
    {
      path: `${ITERATION}/.metadata`,
      size: metadata.length,
      segments: [{ kind: 'bytes', offset: 0, bytes: metadata }],
    },
    bytesFile(`${ITERATION}/metadata.json`, JSON.stringify(backend)),
  ]
}

/** Tensors by the names they have here. */
function distTensors({ placed, experts, layers }: Prepared, stacked: boolean): ReadonlyMap<string, Recipe> {
  const groups = new Map<string, Placed[]>()
  for (const one of placed) {
    const name = distName(one.slot.name, experts !== null, stacked)
    const group = groups.get(name)
    if (group === undefined) groups.set(name, [one])
    else group.push(one)
  }
  const order = ({ slot: { name } }: Placed): number => (layerOf(name) ?? 0) * (experts ?? 1) + (expertOf(name) ?? 0)
  return new Map(
    [...groups].map(([name, group]) => {
      const [first] = group
      if (first === undefined) throw new AppError('internal', `no part of ${name}`)
      const axes = [
        ...(stacked && layerOf(first.slot.name) !== null ? [layers] : []),
        ...(expertOf(first.slot.name) === null ? [] : [experts ?? 1]),
      ]
      return [
        name,
        joined(
          name,
          group.toSorted((a, b) => order(a) - order(b)),
          axes,
        ),
      ]
    }),
  )
}

/** Tensors of one shape along new first axes. */
function joined(name: string, group: readonly Placed[], axes: readonly number[]): Recipe {
  const [first] = group
  if (first === undefined || group.length !== elementCount(axes))
    throw new AppError('internal', `${group.length} parts of ${name}`)
  if (axes.length === 0) return first.recipe
  const types = new Set(group.map(({ recipe }) => recipe.dtype))
  // of different types: the widest of them
  const dtype: DType = types.size === 1 ? first.recipe.dtype : DEQUANTIZED
  const { shape } = first.recipe
  const parts = group.map(({ recipe }) => reshape(recipe.dtype === dtype ? recipe : cast(recipe, dtype), [1, ...shape]))
  return reshape(concat(parts, 0), [...axes, ...shape])
}

function pickledMetadata(items: readonly Item[]): PickleValue {
  const object = (name: string, state: PickleValue, module = METADATA): PickleValue =>
    pickledCall(pickledGlobal(module, name), [], 'new', state)
  const size = (values: readonly number[]): PickleValue =>
    pickledCall(pickledGlobal('torch', 'Size'), [pickledTuple(...values)])
  const described = items.map(({ name, recipe: { shape, dtype } }): [string, PickleValue] => {
    const properties = pickledTuple(
      pickledGlobal('torch', torchName(dtype) ?? dtype),
      pickledCall(pickledGlobal('torch.serialization', '_get_layout'), ['torch.strided']),
      false,
      // torch.contiguous_format
      pickledCall(pickledGlobal(METADATA, '_MEM_FORMAT_ENCODING'), [0]),
      false,
    )
    const chunk = pickledDict([
      ['offsets', size(shape.map(() => 0))],
      ['sizes', size(shape)],
    ])
    const state = pickledDict([
      ['properties', object('TensorProperties', properties)],
      ['size', size(shape)],
      ['chunks', { kind: 'list', items: [object('ChunkStorageMetadata', chunk)] }],
    ])
    return [name, object('TensorStorageMetadata', state)]
  })
  const stored = items.map(({ name, recipe: { shape }, offset, length }): readonly [PickleValue, PickleValue] => {
    const index = pickledDict([
      ['fqn', name],
      ['offset', size(shape.map(() => 0))],
      ['index', 0],
    ])
    const place = pickledDict([
      ['relative_path', PART],
      ['offset', offset],
      ['length', length],
    ])
    return [object('MetadataIndex', index), object('_StorageInfo', place, FILESYSTEM)]
  })
  return object(
    'Metadata',
    pickledDict([
      ['state_dict_metadata', pickledDict(described)],
      ['planner_data', pickledDict(items.map(({ name }): [string, PickleValue] => [name, pickledTuple(name)]))],
      ['storage_data', { kind: 'dict', entries: stored }],
      ['storage_meta', null],
      ['version', VERSION],
    ]),
  )
}
