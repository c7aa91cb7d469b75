/**
 * Files of `torch.save`: pickles that name storages. Tensors are found in state dicts and in whole pickled modules,
 * which are never imported: an `nn.Module` keeps what it has in `_parameters`, `_buffers` and `_modules`.
 * Format: https://github.com/pytorch/pytorch/blob/main/torch/serialization.py
 */
import type { Source } from '../../core/bytes.ts'
import { bytesOf, elementCount, type DType } from '../../core/dtype.ts'
import { AppError } from '../../core/errors.ts'
import type { Recipe } from '../../core/tensor.ts'
import {
  isCall,
  isDict,
  isGlobal,
  isPersistent,
  isSequence,
  type PickleCall,
  type PicklePolicy,
  type PickleValue,
} from './pickle.ts'
import { isCount, readTorchContents, TORCH_DTYPES, type TorchContents } from './torch-storage.ts'
import { isContiguous, viewRecipe, viewSpan } from './torch-view.ts'

/** A tensor of a file, where it lies. Tied tensors have the same place. */
export interface TorchTensor {
  readonly name: string
  readonly dtype: DType
  readonly shape: readonly number[]
  readonly file: string
  /** Of its first element, from the start of the file. */
  readonly offset: number
  /** In elements, one an axis. */
  readonly strides: readonly number[]
  readonly contiguous: boolean
  readonly storage: { readonly key: string; readonly start: number; readonly numel: number }
}

export interface TorchFile extends TorchContents {
  readonly file: string
  /** In the order of the state dict. */
  readonly tensors: readonly TorchTensor[]
}

/** PyTorch's own limit. */
const MAX_RANK = 64
/** Deeper than any model nests its modules. */
const MAX_MODULE_DEPTH = 64
/** Hundreds of thousands of experts' matrices; modules that hold one another could otherwise name endlessly many. */
const MAX_TENSORS = 1 << 20

/** Functions whose calls are data in what PyTorch, Megatron and NumPy save. Everything else that is called is refused. */
const CALLS: ReadonlySet<string> = new Set([
  'collections.OrderedDict',
  'collections.defaultdict',
  'collections.Counter',
  'collections.deque',
  'torch._utils._rebuild_tensor',
  'torch._utils._rebuild_tensor_v2',
  'torch._utils._rebuild_tensor_v3',
  'torch._utils._rebuild_parameter',
  'torch._utils._rebuild_parameter_with_state',
  'torch._utils._rebuild_qtensor',
  'torch._utils._rebuild_sparse_tensor',
  'torch._utils._rebuild_meta_tensor_no_storage',
  'torch._tensor._rebuild_from_type_v2',
  'torch.Size',
  'torch.device',
  'torch.Tensor',
  'torch.serialization._get_layout',
  'torch._C.Generator',
  'functools.partial',
  'argparse.Namespace',
  'copyreg._reconstructor',
  'copy_reg._reconstructor',
  '_codecs.encode',
  'io.BytesIO',
  '_io.BytesIO',
  'datetime.datetime',
  'datetime.timedelta',
  'decimal.Decimal',
  'fractions.Fraction',
  'numpy.core.multiarray._reconstruct',
  'numpy.core.multiarray.scalar',
  'numpy._core.multiarray._reconstruct',
  'numpy._core.multiarray.scalar',
  'numpy.ndarray',
  'numpy.dtype',
])

/** Python's own harmless types; the pickle reader lets no other of that module pass. */
const BUILTIN = /^(?:builtins|__builtin__)$/
/** Enums are made by calling their class with a value; Megatron's and transformers' arguments hold some. */
const ENUM_MODULES = /^(?:megatron|transformers|transformer_engine|nemo|torch\.distributed)\./

/** What files of `torch.save` may call. */
export const torchPolicy: PicklePolicy = {
  calls: (module, name) =>
    CALLS.has(`${module}.${name}`) || BUILTIN.test(module) || (ENUM_MODULES.test(module) && /^[A-Z]\w*$/.test(name)),
  // ('module', class, source file, source)
  classOf(id) {
    const [tag, known] = isSequence(id) ? id.items : []
    return tag === 'module' && isGlobal(known) ? known : null
  },
}

/**
 * Reads a file of `torch.save`: its pickle and its headers, no weights. Throws what {@link readTorchContents} throws,
 * `malformed` for a tensor that reaches beyond its storage, `not-a-model` if there are no tensors at all.
 */
export async function readTorchFile(source: Source, signal?: AbortSignal): Promise<TorchFile> {
  const contents = await readTorchContents(source, torchPolicy, signal)
  const file = source.name
  const tensors: TorchTensor[] = []
  const names = new Set<string>()
  for (const [name, value] of namedTensors(contents.root, file)) {
    if (tensors.length >= MAX_TENSORS) throw malformed(file, `it has more than ${MAX_TENSORS} tensors`, name)
    if (names.has(name)) throw malformed(file, `${name} occurs twice`, name)
    names.add(name)
    tensors.push(torchTensor(contents, value, name, file))
  }
  if (tensors.length === 0) {
    throw new AppError('not-a-model', `${file} holds no tensors by name`, {
      where: { file },
      hint: 'A checkpoint is a dict of tensors: save model.state_dict() with torch.save.',
    })
  }
  return { ...contents, file, tensors }
}

/** The tensor that a pickled value stands for. Throws as {@link readTorchFile}, `unsupported` for what is no plain tensor. */
export function torchTensor(contents: TorchContents, value: PickleCall, name: string, file: string): TorchTensor {
  const call = unwrapped(value, name, file)
  const made = call.callee.name
  const [storage, offset, size, stride] = call.args
  if (!/^_rebuild_tensor(?:_v[23])?$/.test(made)) {
    throw new AppError('unsupported', `${name} in ${file} is no plain tensor, but made by ${made}`, {
      where: { file, tensor: name },
      hint: 'Quantised and sparse tensors are not converted: save the model with dense weights.',
    })
  }
  if (!isPersistent(storage)) throw malformed(file, `${name} has no storage`, name)
  const declared = made === '_rebuild_tensor_v3' ? call.args[6] : undefined
  const wanted = isGlobal(declared) ? (TORCH_DTYPES.get(declared.name) ?? null) : null
  const { key, dtype, numel, start } = contents.storage(storage.id, wanted, name)
  const shape = counts(size)
  const strides = counts(stride)
  if (shape === null || strides === null || strides.length !== shape.length || shape.length > MAX_RANK) {
    throw malformed(file, `${name} has the shape ${display(size)} and the strides ${display(stride)}`, name)
  }
  if (!isCount(offset)) throw malformed(file, `${name} starts at element ${display(offset)} of its storage`, name)
  const reach = offset + viewSpan({ shape, strides })
  if (!Number.isSafeInteger(shape.reduce((product, axis) => product * Math.max(axis, 1), 1)) || !(reach <= numel)) {
    const what = `${name} reaches to element ${reach} of a storage of ${numel}`
    throw malformed(file, what, name)
  }
  return {
    name,
    dtype,
    shape,
    file,
    offset: start + bytesOf(dtype, offset),
    strides,
    contiguous: isContiguous({ shape, strides }),
    storage: { key, start, numel },
  }
}

/** How to get a tensor's values. Throws `unsupported`, naming it, for a view that no recipe gives. */
export function torchRecipe(tensor: TorchTensor): Recipe {
  const { dtype, shape, strides, file, storage, name } = tensor
  const offset = (tensor.offset - storage.start) / bytesOf(dtype, 1)
  const recipe = viewRecipe({ dtype, shape, strides, offset, file, start: storage.start, numel: storage.numel })
  if (recipe !== null && elementCount(recipe.shape) === elementCount(shape)) return recipe
  throw new AppError(
    'unsupported',
    `${name} in ${file} is a view with the shape [${shape.join(', ')}] and the strides [${strides.join(', ')}]`,
    {
      where: { file, offset: tensor.offset, tensor: name },
      hint: 'Call .contiguous() on it before saving.',
    },
  )
}

/** Strips what makes a parameter of a tensor. */
function unwrapped(value: PickleCall, name: string, file: string): PickleCall {
  let call = value
  for (let depth = 0; depth < MAX_MODULE_DEPTH; depth++) {
    const made = call.callee.name
    if (made === '_rebuild_parameter' || made === '_rebuild_parameter_with_state') {
      const [inner] = call.args
      if (!isCall(inner)) break
      call = inner
    } else if (made === '_rebuild_from_type_v2') {
      const [callee, , args] = call.args
      if (!isGlobal(callee) || !isSequence(args)) break
      call = { ...call, callee, args: args.items }
    } else {
      return call
    }
  }
  throw malformed(file, `${name} is a parameter of nothing`, name)
}

const isTensor = (value: PickleValue | undefined): value is PickleCall =>
  isCall(value) && value.how === 'call' && /^torch\._(?:utils|tensor)$/.test(value.callee.module)

/** Dicts that training scripts put around a state dict, the usual ones first. */
const WRAPPERS = ['state_dict', 'model_state_dict', 'model', 'module']

/** All tensors of a state dict or module by their names. */
function namedTensors(root: PickleValue, file: string): readonly (readonly [string, PickleCall])[] {
  const found: (readonly [string, PickleCall])[] = []
  let visits = 0
  const visit = (value: PickleValue, prefix: string, depth: number): void => {
    if (++visits > MAX_TENSORS || depth > MAX_MODULE_DEPTH) {
      throw malformed(file, 'its modules hold one another without end', prefix)
    }
    const state = isCall(value) && isDict(value.state) ? value.state : null
    const member = (key: string): readonly (readonly [PickleValue, PickleValue])[] =>
      entriesOf(state?.entries.findLast(([name]) => name === key)?.[1])
    const transient = state?.entries.findLast(([name]) => name === '_non_persistent_buffers_set')?.[1]
    const skipped = new Set(isSequence(transient) ? transient.items : [])
    for (const [key, item] of [...member('_parameters'), ...member('_buffers').filter(([key]) => !skipped.has(key))]) {
      if (isTensor(item)) found.push([prefix + String(key), item])
    }
    for (const [key, item] of member('_modules')) if (item !== null) visit(item, `${prefix}${String(key)}.`, depth + 1)
  }
  const inside = entriesOf(root)
  const candidates = WRAPPERS.map((name) => inside.findLast(([key]) => key === name)?.[1] ?? null)
  for (const candidate of [...candidates, root]) {
    for (const [key, item] of entriesOf(candidate)) {
      if (typeof key === 'string' && isTensor(item)) found.push([key, item])
    }
    if (isCall(candidate)) visit(candidate, '', 0)
    if (found.length > 0) return found
  }
  return found
}

/** Items of a dict, or of an OrderedDict and its like. */
function entriesOf(value: PickleValue | undefined): readonly (readonly [PickleValue, PickleValue])[] {
  if (isDict(value)) return value.entries
  if (!isCall(value)) return []
  if (value.entries.length > 0 || value.how === 'new') return value.entries
  // OrderedDict([[key, value], ...]), as Python 2 pickled it
  const [pairs] = value.args
  if (!isSequence(pairs)) return []
  return pairs.items.flatMap((pair): (readonly [PickleValue, PickleValue])[] =>
    isSequence(pair) && pair.items.length === 2 ? [[pair.items[0] ?? null, pair.items[1] ?? null]] : [],
  )
}

/** A tuple (or torch.Size) of counts; null if it is none. */
function counts(value: PickleValue | undefined): readonly number[] | null {
  const list = isCall(value) && value.callee.name === 'Size' ? value.args[0] : value
  if (!isSequence(list)) return null
  return list.items.every(isCount) ? list.items : null
}

function display(value: PickleValue | undefined): string {
  if (isSequence(value))
    return `(${value.items
      .slice(0, MAX_RANK)
      .map((item) => String(item))
      .join(', ')})`
  return typeof value === 'number' || typeof value === 'bigint' ? String(value) : typeof value
}

function malformed(file: string, why: string, tensor: string): AppError {
  return new AppError('malformed', `${file} is not a proper file of torch.save: ${why}`, {
    where: { file, tensor },
    hint: 'The file is damaged or was not written by PyTorch: download or save it again.',
  })
}
