/** Takes files of torch.save apart and puts them together again, so that a test can change what is in them. */
import type { PlannedFile } from '../../../src/core/plan.ts'
import { literal } from '../../../src/core/tensor.ts'
import { pickledDict, pickledGlobal, pickledTuple, writePickle } from '../../../src/engines/containers/pickle-write.ts'
import {
  isCall,
  isDict,
  isPersistent,
  isSequence,
  readPickle,
  type PickleValue,
} from '../../../src/engines/containers/pickle.ts'
import { readTorchContents } from '../../../src/engines/containers/torch-storage.ts'
import { TorchFileWriter } from '../../../src/engines/containers/torch-write.ts'
import { torchPolicy, torchTensor } from '../../../src/engines/containers/torch.ts'
import { tensorBytes } from '../../../src/core/tensor.ts'
import { planDist } from '../../../src/engines/megatron/write-dist.ts'
import type { Prepared } from '../../../src/engines/megatron/prepared.ts'
import { memoryFolder } from '../../contracts/memory.ts'
import type { Files, RawTensor } from '../hf/folder.ts'

type Entries = readonly (readonly [PickleValue, PickleValue])[]

/** The bytes of a plan whose tensors are literals. Checksums stay 0: nothing here compares them. */
function bytesOf({ size, segments }: PlannedFile): Uint8Array {
  const bytes = new Uint8Array(size)
  for (const segment of segments) {
    if (segment.kind === 'bytes' || segment.kind === 'seal') bytes.set(segment.bytes, segment.offset)
    else if (segment.kind === 'tensor' && segment.recipe.op === 'literal')
      bytes.set(segment.recipe.bytes, segment.offset)
    else throw new Error('no literal')
  }
  return bytes
}

/** 16-bit integers, which the writer refuses, pass as what has as many bytes. */
const recipeOf = ({ dtype, shape, data }: RawTensor) =>
  literal({ dtype: dtype === 'i16' ? 'bf16' : dtype, shape }, data)

function pickled(writer: TorchFileWriter, tensor: RawTensor): PickleValue {
  const call = writer.tensor(tensor.name, recipeOf(tensor))
  if (tensor.dtype !== 'i16' || !isCall(call)) return call
  const [storage, ...rest] = call.args
  if (!isPersistent(storage) || !isSequence(storage.id)) throw new Error('no storage')
  const [tag = null, , ...more] = storage.id.items
  const id = pickledTuple(tag, pickledGlobal('torch', 'ShortStorage'), ...more)
  return { ...call, args: [{ kind: 'persistent', id }, ...rest] }
}

/** The members of a file's root, and the tensors among those of `model` (or of the root itself, if there is none). */
async function taken(bytes: Uint8Array): Promise<{ root: Map<string, PickleValue>; tensors: RawTensor[] }> {
  const source = await memoryFolder({ file: bytes }).open('file')
  const contents = await readTorchContents(source, torchPolicy)
  await source.close()
  const entries = (value: PickleValue | undefined): Entries => (isDict(value) || isCall(value) ? value.entries : [])
  const root = new Map(entries(contents.root) as readonly (readonly [string, PickleValue])[])
  const tensors = entries(root.get('model') ?? contents.root).map(([name, value]): RawTensor => {
    if (!isCall(value)) throw new Error(`${String(name)} is no tensor`)
    const { dtype, shape, offset } = torchTensor(contents, value, String(name), 'file')
    return { name: String(name), dtype, shape, data: bytes.slice(offset, offset + tensorBytes({ dtype, shape })) }
  })
  return { root, tensors }
}

/** Changes the tensors, or the arguments and other members, of a rank's file. */
export async function editRank(
  bytes: Uint8Array,
  change: (tensors: RawTensor[]) => readonly RawTensor[],
  changes: { readonly args?: Record<string, PickleValue>; readonly root?: Record<string, PickleValue> } = {},
): Promise<Uint8Array> {
  const { root, tensors } = await taken(bytes)
  const writer = new TorchFileWriter()
  const model = change(tensors).map((tensor): [string, PickleValue] => [tensor.name, pickled(writer, tensor)])
  const args = root.get('args')
  const state = isCall(args) && isDict(args.state) ? args.state.entries : []
  const known = Object.entries(changes.args ?? {})
  const members = new Map<string, PickleValue>([
    ...root,
    ...Object.entries(changes.root ?? {}),
    [
      'args',
      isCall(args)
        ? {
            ...args,
            state: { kind: 'dict', entries: [...state.filter(([key]) => !known.some(([k]) => k === key)), ...known] },
          }
        : null,
    ],
    ['model', pickledDict(model)],
  ])
  return bytesOf(writer.plan('file', 'x', pickledDict(members)))
}

export async function tensorsOf(bytes: Uint8Array): Promise<readonly RawTensor[]> {
  return (await taken(bytes)).tensors
}

/** A file of torch.save of nothing but tensors by name. */
export function stateDict(tensors: readonly RawTensor[]): Uint8Array {
  const writer = new TorchFileWriter()
  const entries = tensors.map((tensor): [string, PickleValue] => [tensor.name, pickled(writer, tensor)])
  return bytesOf(writer.plan('file', 'x', pickledDict(entries)))
}

/** A distributed checkpoint of tensors by their canonical names; `args` as of a plan. */
export function distOf(tensors: readonly RawTensor[], args: Prepared['args'], layers: number): Files {
  const placed = tensors.map((tensor) => ({
    slot: { name: tensor.name, kind: 'plain' as const, roles: [], shape: [], block: null, vocabulary: false },
    recipe: recipeOf(tensor),
  }))
  const parallel = { tensor: 1, pipeline: 1, expert: 1 }
  const prepared: Prepared = {
    placed,
    args,
    dtype: 'bf16',
    parallel,
    layers,
    experts: null,
    gated: true,
    tied: false,
  }
  return Object.fromEntries(planDist(prepared, false).map((file) => [file.path, bytesOf(file)]))
}

/** What the metadata of a distributed checkpoint says of one tensor. */
export interface About {
  /** Attributes of TensorStorageMetadata and of its only chunk, and of _StorageInfo. */
  readonly described: Map<string, PickleValue>
  readonly chunk: Map<string, PickleValue>
  readonly place: Map<string, PickleValue>
}

/**
 * Changes what `.metadata` says of the tensor `name` in place; `drop` leaves out its description, or where it is.
 */
export function editMetadata(
  bytes: Uint8Array,
  name: string,
  change: (about: About) => 'drop-described' | 'drop-place' | null,
): Uint8Array {
  const root = readPickle(bytes, { ...torchPolicy, calls: () => true }, '.metadata').value
  const members = (value: PickleValue | undefined): Map<string, PickleValue> => {
    const state = isCall(value) ? value.state : value
    return new Map(isDict(state) ? (state.entries as readonly (readonly [string, PickleValue])[]) : [])
  }
  const withMembers = (value: PickleValue, changed: Map<string, PickleValue>): PickleValue =>
    isCall(value) ? { ...value, state: pickledDict(changed) } : value
  const top = members(root)
  const described = members(top.get('state_dict_metadata'))
  const storage = top.get('storage_data')
  const entries = isDict(storage) ? [...storage.entries] : []
  const at = entries.findIndex(([key]) => members(key).get('fqn') === name)
  const about = described.get(name)
  const entry = entries[at]
  if (about === undefined || entry === undefined) throw new Error(`no ${name}`)
  const aboutMembers = members(about)
  const chunks = aboutMembers.get('chunks')
  const [chunk = null] = isSequence(chunks) ? chunks.items : []
  const edited: About = { described: aboutMembers, chunk: members(chunk), place: members(entry[1]) }
  const verdict = change(edited)
  aboutMembers.set('chunks', { kind: 'list', items: [withMembers(chunk, edited.chunk)] })
  described.set(name, withMembers(about, aboutMembers))
  entries[at] = [entry[0], withMembers(entry[1], edited.place)]
  if (verdict === 'drop-described') described.delete(name)
  if (verdict === 'drop-place') entries.splice(at, 1)
  top.set('state_dict_metadata', pickledDict(described))
  top.set('storage_data', { kind: 'dict', entries })
  return writePickle(withMembers(root, top))
}
