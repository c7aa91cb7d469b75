/**
 * PyTorch's distributed checkpoints (torch_dist, torch_dcp): `.metadata` says which part of which tensor is where, and
 * each part is a file of torch.save of its own within a `.distcp` file.
 */
import { readFile, type Folder, type Source } from '../../core/bytes.ts'
import type { DType } from '../../core/dtype.ts'
import { AppError } from '../../core/errors.ts'
import { concat, reshape, slice, type Recipe } from '../../core/tensor.ts'
import {
  isCall,
  isDict,
  isGlobal,
  isSequence,
  PickleEnds,
  readPickle,
  type PicklePolicy,
  type PickleValue,
} from '../containers/pickle.ts'
import { torchPolicy, torchRecipe, torchTensor } from '../containers/torch.ts'
import { isCount, readTorchContents, TORCH_DTYPES, type TorchContents } from '../containers/torch-storage.ts'
import { canonicalName, isState } from './names.ts'
import { argsOf, membersOf, type Args } from './pickled.ts'
import type { MegatronWeights, StoredPart } from './stored.ts'

/** A checkpoint of a thousand ranks has some 30 MB of it. */
const MAX_METADATA_BYTES = 1 << 27
const COMMON = 'common.pt'
const METADATA = 'torch.distributed.checkpoint.metadata'

const policy: PicklePolicy = {
  ...torchPolicy,
  calls: (module, name) =>
    torchPolicy.calls(module, name) ||
    (module === METADATA && name === '_MEM_FORMAT_ENCODING') ||
    /^pathlib(?:\._local)?$/.test(module),
}

/** What is not the model's. */
const OTHER = /^(?:optimizer|rng_state|rerun_state_machine|chained_|opt_param_scheduler|common_state)/

/** How every part begins: PyTorch writes zips only. */
const ZIP_START = [0x50, 0x4b, 3, 4]

interface Item {
  readonly path: string
  readonly offset: number
  readonly length: number
}

interface Chunk {
  readonly offsets: readonly number[]
  readonly sizes: readonly number[]
  readonly recipe: Recipe
}

/** Reads the metadata and every part's headers. `dir` is the folder of the iteration. */
export async function readDist(folder: Folder, dir: string, metadata: string): Promise<MegatronWeights> {
  const bytes = await readFile(folder, metadata, MAX_METADATA_BYTES)
  const root = membersOf(unpickled(bytes, metadata))
  const described = membersOf(root?.get('state_dict_metadata'))
  const storage = storageOf(root?.get('storage_data'), dir, metadata)
  if (described === null) throw malformed(metadata, 'it describes no tensors')
  const reader = new PartReader(folder)
  try {
    const tensors = new Map<string, Recipe>()
    const parts: StoredPart[] = []
    for (const [name, value] of described) {
      const about = membersOf(value)
      const size = sizesOf(about?.get('size'))
      if (size === null || OTHER.test(name) || isState(name)) continue
      const wanted = expected(about)
      const chunks: Chunk[] = []
      for (const { offsets, item } of storage.get(name) ?? []) {
        const recipe = await reader.tensor(item, name)
        const at = offsets ?? size.map(() => 0)
        requireAsDescribed(name, recipe, wanted, at, item.path, metadata)
        chunks.push({ offsets: at, sizes: recipe.shape, recipe })
        parts.push({ name, recipe })
      }
      addLayers(tensors, canonicalName(name), assemble(name, size, chunks, 0, metadata))
    }
    const { args, file } = await commonArgs(folder, dir, storage, reader)
    return {
      tensors: joinHalves(tensors),
      args,
      files: [...new Set([metadata, ...(args.size === 0 ? [] : [file]), ...reader.files])],
      argsFile: file,
      parts,
      copies: [],
    }
  } finally {
    await reader.close()
  }
}

function unpickled(bytes: Uint8Array, file: string): PickleValue {
  try {
    return readPickle(bytes, policy, file).value
  } catch (error) {
    if (!(error instanceof PickleEnds)) throw error
    throw new AppError('truncated', `${file} ends before its pickle does`, {
      where: { file, offset: bytes.length },
      hint: 'The copy was cut short: copy the file again.',
    })
  }
}

/** What the metadata says of a tensor's type and of the shapes of its parts, by their offsets. */
interface Expected {
  readonly dtype: DType | null
  readonly shapes: ReadonlyMap<string, readonly number[]>
}

function expected(about: ReadonlyMap<string, PickleValue> | null): Expected {
  const properties = about?.get('properties')
  const state = isCall(properties) ? properties.state : null
  const [named] = isSequence(state) ? state.items : []
  const chunks = about?.get('chunks')
  const shapes = (isSequence(chunks) ? chunks.items : []).flatMap((chunk): [string, readonly number[]][] => {
    const members = membersOf(chunk)
    const [offsets, sizes] = [sizesOf(members?.get('offsets')), sizesOf(members?.get('sizes'))]
    return offsets === null || sizes === null ? [] : [[offsets.join(), sizes]]
  })
  return { dtype: isGlobal(named) ? (TORCH_DTYPES.get(named.name) ?? null) : null, shapes: new Map(shapes) }
}

/** Throws `bad-tensor` where a part has not the type or the shape that the metadata says. */
function requireAsDescribed(
  name: string,
  recipe: Recipe,
  { dtype, shapes }: Expected,
  offsets: readonly number[],
  file: string,
  metadata: string,
): void {
  const shape = shapes.get(offsets.join())
  const shown = (type: DType, sizes: readonly number[]): string => `${type} [${sizes.join(', ')}]`
  const wanted = shown(dtype ?? recipe.dtype, shape ?? recipe.shape)
  const found = shown(recipe.dtype, recipe.shape)
  if (wanted === found) return
  throw new AppError('bad-tensor', `${name} is ${found} in ${file}, but ${wanted} by ${metadata}`, {
    where: { file, tensor: name },
    hint: 'The metadata and the .distcp files are of different checkpoints: copy all files of one iteration.',
  })
}

type Stored = ReadonlyMap<string, readonly { readonly offsets: readonly number[] | null; readonly item: Item }[]>

function storageOf(value: PickleValue | undefined, dir: string, file: string): Stored {
  const found = new Map<string, { readonly offsets: readonly number[] | null; readonly item: Item }[]>()
  const entries = isDict(value) || isCall(value) ? value.entries : null
  if (entries === null) throw malformed(file, 'it does not say where tensors are')
  for (const [key, info] of entries) {
    const index = membersOf(key)
    const place = membersOf(info)
    const name = index?.get('fqn')
    const [path, offset, length] = ['relative_path', 'offset', 'length'].map((field) => place?.get(field))
    if (typeof name !== 'string' || typeof path !== 'string' || !isCount(offset) || !isCount(length))
      throw malformed(file, 'an entry of storage_data is none')
    if ((place?.get('transform_descriptors') ?? null) !== null) {
      throw new AppError('unsupported', `${name} is stored by an extension of PyTorch's (compressed)`, {
        where: { file, tensor: name },
        hint: 'Save the checkpoint without extensions.',
      })
    }
    const list = found.get(name) ?? []
    list.push({ offsets: sizesOf(index?.get('offset')), item: { path: dir + path, offset, length } })
    found.set(name, list)
  }
  return found
}

/** A torch.Size, or a tuple of counts. */
function sizesOf(value: PickleValue | undefined): readonly number[] | null {
  const list = isCall(value) && value.callee.name === 'Size' ? value.args[0] : value
  return isSequence(list) && list.items.every(isCount) ? list.items : null
}

/** Reads parts of `.distcp` files, each of which is kept open. */
class PartReader {
  readonly #folder: Folder
  readonly #open = new Map<string, Source>()

  constructor(folder: Folder) {
    this.#folder = folder
  }

  get files(): readonly string[] {
    return [...this.#open.keys()]
  }

  async #part({ path, offset, length }: Item, tensor: string): Promise<Source> {
    let source = this.#open.get(path)
    if (source === undefined) {
      const listed = (await this.#folder.list()).some((entry) => entry.path === path)
      if (!listed) {
        throw new AppError('missing-file', `${path} is not there; it holds ${tensor}`, {
          where: { file: path, tensor },
          hint: 'Copy all .distcp files of the iteration.',
        })
      }
      source = await this.#folder.open(path)
      this.#open.set(path, source)
    }
    const whole = source
    if (!Number.isSafeInteger(offset + length) || offset + length > whole.size) {
      throw new AppError('truncated', `${path} ends before ${tensor} does`, {
        where: { file: path, offset, tensor },
        hint: 'The copy was cut short: copy the file again.',
      })
    }
    return {
      name: path,
      size: length,
      modified: whole.modified,
      read: (at, into, signal) => {
        if (at + into.length > length) return Promise.reject(malformed(path, `${tensor} reaches beyond its part`))
        return whole.read(offset + at, into, signal)
      },
      close: async () => {},
    }
  }

  async tensor(item: Item, name: string): Promise<Recipe> {
    const contents = await this.#contents(item, name)
    if (!isCall(contents.root)) throw malformed(item.path, `${name} is no tensor`)
    const { storage, offset, ...rest } = torchTensor(contents, contents.root, name, item.path)
    return torchRecipe({
      ...rest,
      offset: offset + item.offset,
      storage: { ...storage, start: storage.start + item.offset },
    })
  }

  async object(item: Item, name: string): Promise<PickleValue> {
    return (await this.#contents(item, name)).root
  }

  async #contents(item: Item, name: string): Promise<TorchContents> {
    const part = await this.#part(item, name)
    const start = new Uint8Array(Math.min(ZIP_START.length, part.size))
    await part.read(0, start)
    if (ZIP_START.some((byte, index) => byte !== start[index])) {
      throw new AppError('malformed', `${item.path} has no file of torch.save at byte ${item.offset}, for ${name}`, {
        where: { file: item.path, offset: item.offset, tensor: name },
        hint: 'The metadata and the .distcp files are of different checkpoints: copy all files of one iteration.',
      })
    }
    try {
      return await readTorchContents(part, torchPolicy)
    } catch (error) {
      const { code, message, where, hint } = AppError.from(error)
      if (where.file !== item.path) throw error
      throw new AppError(code, `${name} at byte ${item.offset}: ${message}`, {
        where: { ...where, offset: item.offset + (where.offset ?? 0), tensor: name },
        ...(hint === null ? {} : { hint }),
      })
    }
  }

  async close(): Promise<void> {
    for (const source of this.#open.values()) await source.close()
  }
}

/** Joins the parts of a tensor along one axis after the other. Throws `missing-tensor` where parts leave a gap. */
function assemble(name: string, size: readonly number[], chunks: readonly Chunk[], axis: number, file: string): Recipe {
  const [first] = chunks
  const whole = size[axis]
  const gap = (): AppError =>
    new AppError('missing-tensor', `The parts of ${name} do not make up [${size.join(', ')}]`, {
      where: { file, tensor: name },
      hint: 'The metadata and the .distcp files are of different checkpoints: copy all files of one iteration.',
    })
  if (first === undefined) throw gap()
  if (whole === undefined) {
    if (chunks.length > 1 || first.sizes.length !== size.length) throw gap()
    return first.recipe
  }
  const groups = new Map<number, Chunk[]>()
  for (const chunk of chunks) {
    const start = chunk.offsets[axis] ?? 0
    groups.set(start, [...(groups.get(start) ?? []), chunk])
  }
  let end = 0
  const parts: Recipe[] = []
  for (const [start, group] of [...groups].sort((a, b) => a[0] - b[0])) {
    const extent = group[0]?.sizes[axis] ?? 0
    if (start !== end || group.some(({ sizes }) => sizes[axis] !== extent)) throw gap()
    end = start + extent
    parts.push(assemble(name, size, group, axis + 1, file))
  }
  if (end !== whole) throw gap()
  const dtypes = new Set(parts.map(({ dtype }) => dtype))
  if (dtypes.size > 1) throw gap()
  return concat(parts, axis)
}

/** Layers, and experts, that are stacked along a first axis are taken apart. */
function addLayers(into: Map<string, Recipe>, name: string, recipe: Recipe): void {
  if (name.startsWith('decoder.layers.') && !/^decoder\.layers\.\d+\./.test(name)) {
    const inner = name.slice('decoder.layers.'.length)
    for (const [layer, part] of unstacked(recipe).entries()) addLayers(into, `decoder.layers.${layer}.${inner}`, part)
    return
  }
  const stack = /^(.*\.mlp\.experts)\.(linear_fc[12]\.(?:weight|bias))$/.exec(name)
  if (stack === null) {
    into.set(name, recipe)
    return
  }
  const [, prefix = '', field = ''] = stack
  for (const [expert, part] of unstacked(recipe).entries()) into.set(`${prefix}.local_experts.${expert}.${field}`, part)
}

function unstacked(recipe: Recipe): readonly Recipe[] {
  const [count = 0, ...shape] = recipe.shape
  return Array.from({ length: count }, (_, index) => reshape(slice(recipe, 0, index, 1), shape))
}

/** Halves of a gated MLP that were stored apart (`_w` is the gate) are joined. */
function joinHalves(tensors: ReadonlyMap<string, Recipe>): ReadonlyMap<string, Recipe> {
  const joined = new Map<string, Recipe>()
  for (const [name, recipe] of tensors) {
    const half = /^(.*\.linear_fc1\.(?:weight|bias))_([wv])$/.exec(name)
    if (half === null) {
      joined.set(name, recipe)
      continue
    }
    const [, whole = '', which = ''] = half
    const other = tensors.get(`${whole}_v`)
    if (which === 'w' && other !== undefined && other.dtype === recipe.dtype)
      joined.set(whole, concat([recipe, other], 0))
  }
  return joined
}

async function commonArgs(
  folder: Folder,
  dir: string,
  storage: Stored,
  reader: PartReader,
): Promise<{ readonly args: Args; readonly file: string }> {
  const path = dir + COMMON
  if ((await folder.list()).some((entry) => entry.path === path)) {
    const source = await folder.open(path)
    try {
      const { root } = await readTorchContents(source, torchPolicy)
      return { args: argsOf(membersOf(root)?.get('args')), file: path }
    } finally {
      await source.close()
    }
  }
  for (const [name, [place]] of storage) {
    if (!name.startsWith('common_state') || place === undefined) continue
    const value = await reader.object(place.item, name)
    const [inner = value] = isSequence(value) ? value.items : []
    return { args: argsOf(membersOf(inner)?.get('args')), file: place.item.path }
  }
  return { args: new Map(), file: path }
}

function malformed(file: string, why: string): AppError {
  return new AppError('malformed', `${file} is not of a distributed checkpoint: ${why}`, {
    where: { file },
    hint: 'The file is damaged: copy it again.',
  })
}
