/** Where the storages of a file of `torch.save` lie: in a zip archive, or one after the other behind the pickle. */
import type { Source } from '../../core/bytes.ts'
import { bytesOf, type DType } from '../../core/dtype.ts'
import { AppError } from '../../core/errors.ts'
import {
  isDict,
  isGlobal,
  isPersistent,
  isSequence,
  PickleEnds,
  readPickle,
  type PicklePolicy,
  type PickleResult,
  type PickleValue,
} from './pickle.ts'
import { readStored, readZip, storedEntry } from './zip.ts'

/** Elements of one type that tensors share. */
export interface TorchStorage {
  readonly key: string
  readonly dtype: DType
  readonly numel: number
  /** Of the first element, from the start of the file. */
  readonly start: number
}

/** A file of `torch.save`: what was pickled, and where the storages that it names are. */
export interface TorchContents {
  readonly layout: 'zip' | 'legacy'
  readonly root: PickleValue
  /**
   * The storage of a persistent id. `dtype` is that of an untyped storage's tensor. Throws `unsupported` for types that
   * are not converted, `malformed` or `missing-file` where the file contradicts the id.
   */
  storage(id: PickleValue, dtype: DType | null, tensor: string): TorchStorage
}

/** The pickle of the largest checkpoint has some 10 MB; Megatron's metadata more. */
const MAX_PICKLE_BYTES = 1 << 26
/** A pickle of unknown length is read in pieces that double. */
const FIRST_PICKLE_BYTES = 1 << 16
const MAX_NOTE_BYTES = 64

const MAGIC_NUMBER = 0x1950_a86a_20f9_469c_fc6cn
const LEGACY_PROTOCOL = 1001

const ZIP_START = 0x0403_4b50
const PICKLE_START = 0x80

const STORAGE_TYPES: ReadonlyMap<string, DType> = new Map([
  ['FloatStorage', 'f32'],
  ['HalfStorage', 'f16'],
  ['BFloat16Storage', 'bf16'],
  ['DoubleStorage', 'f64'],
  ['LongStorage', 'i64'],
  ['IntStorage', 'i32'],
  ['ShortStorage', 'i16'],
  ['CharStorage', 'i8'],
  ['ByteStorage', 'u8'],
  ['BoolStorage', 'bool'],
  ['Float8_e4m3fnStorage', 'f8_e4m3'],
  ['Float8_e5m2Storage', 'f8_e5m2'],
])

/** `torch.bfloat16` and its like, by their names in a pickle. */
export const TORCH_DTYPES: ReadonlyMap<string, DType> = new Map([
  ['float32', 'f32'],
  ['float16', 'f16'],
  ['bfloat16', 'bf16'],
  ['float64', 'f64'],
  ['int64', 'i64'],
  ['int32', 'i32'],
  ['int16', 'i16'],
  ['int8', 'i8'],
  ['uint8', 'u8'],
  ['uint16', 'u16'],
  ['uint32', 'u32'],
  ['uint64', 'u64'],
  ['bool', 'bool'],
  ['float8_e4m3fn', 'f8_e4m3'],
  ['float8_e5m2', 'f8_e5m2'],
])

const REMEDY = 'The file is damaged or was not written by PyTorch: download or save it again.'

/** Opens either kind by its first bytes; reads pickles and headers only. Throws `not-a-model` for anything else. */
export async function readTorchContents(
  source: Source,
  policy: PicklePolicy,
  signal?: AbortSignal,
): Promise<TorchContents> {
  const file = source.name
  const head = new Uint8Array(Math.min(512, source.size))
  await source.read(0, head, signal)
  const view = new DataView(head.buffer)
  if (head.length >= 4 && view.getUint32(0, true) === ZIP_START) return readZipContents(source, policy, signal)
  if (head[0] === PICKLE_START) return readLegacyContents(source, policy, signal)
  const text = new TextDecoder('latin1').decode(head)
  if (text.slice(257, 262) === 'ustar') {
    throw new AppError('unsupported', `${file} was written by PyTorch before 0.1.10, as a tar archive`, {
      where: { file },
      hint: 'Load it with PyTorch and save it again with torch.save.',
    })
  }
  const pointer = text.startsWith('version https://git-lfs')
  throw new AppError(
    'malformed',
    `${file} is ${pointer ? 'a Git LFS pointer, not the weights' : 'no file of torch.save'}`,
    {
      where: { file, offset: 0 },
      hint: pointer ? 'Fetch the weights themselves with "git lfs pull", or download the file again.' : REMEDY,
    },
  )
}

async function readZipContents(
  source: Source,
  policy: PicklePolicy,
  signal: AbortSignal | undefined,
): Promise<TorchContents> {
  const file = source.name
  const archive = await readZip(source, signal)
  const [first] = archive.entries.keys()
  const slash = first?.indexOf('/') ?? -1
  if (first === undefined || slash < 1) throw malformed(file, 'its entries are in no folder', 0)
  const top = first.slice(0, slash + 1)
  if (archive.entries.has(`${top}constants.pkl`)) {
    throw new AppError('unsupported', `${file} is a TorchScript archive, a program and not a checkpoint`, {
      where: { file },
      hint: 'Give the checkpoint that it was made from: pytorch_model.bin or safetensors.',
    })
  }
  if (archive.entries.has(`${top}byteorder`)) {
    const order = new TextDecoder().decode(await readStored(source, archive, `${top}byteorder`, MAX_NOTE_BYTES, signal))
    if (order.trim() !== 'little') throw bigEndian(file)
  }
  const pickle = storedEntry(archive, `${top}data.pkl`)
  const bytes = await readStored(source, archive, pickle.name, MAX_PICKLE_BYTES, signal)
  const { value, length } = whole(() => readPickle(bytes, policy, file, pickle.offset), file, pickle.offset)
  if (length !== bytes.length) throw malformed(file, 'its pickle ends before its entry does', pickle.offset + length)
  return {
    layout: 'zip',
    root: value,
    storage(id, wanted, tensor) {
      const { key, dtype, numel, view } = parseId(id, wanted, file, tensor)
      if (view !== null) throw malformed(file, `the storage of ${tensor} is a view of another`, pickle.offset)
      const entry = storedEntry(archive, `${top}data/${key}`)
      if (entry.size !== bytesOf(dtype, numel)) {
        throw malformed(
          file,
          `${entry.name} has ${entry.size} bytes, but ${tensor} says ${numel} elements of ${dtype}`,
          entry.offset,
        )
      }
      return { key, dtype, numel, start: entry.offset }
    },
  }
}

async function readLegacyContents(
  source: Source,
  policy: PicklePolicy,
  signal: AbortSignal | undefined,
): Promise<TorchContents> {
  const file = source.name
  let at = 0
  const next = async (rules: PicklePolicy): Promise<PickleValue> => {
    const { value, length } = await pickleAt(source, at, rules, signal)
    at += length
    return value
  }
  const nothing: PicklePolicy = { calls: () => false }
  if ((await next(nothing)) !== MAGIC_NUMBER) {
    throw new AppError('malformed', `${file} is a pickle, but not one of torch.save`, {
      where: { file, offset: 0 },
      hint: 'Pickles made by other means hold no weights that can be found: save the model with torch.save.',
    })
  }
  if ((await next(nothing)) !== LEGACY_PROTOCOL) throw malformed(file, 'it is of another protocol than 1001', at)
  const system = await next(nothing)
  const little = isDict(system) ? system.entries.find(([key]) => key === 'little_endian')?.[1] : undefined
  if (little === false) throw bigEndian(file)
  const root = await next(policy)
  const keys = await next(nothing)
  const sizes = storageSizes(root, file)
  if (!isSequence(keys)) throw malformed(file, 'its list of storages is none', at)
  const found = new Map<string, { readonly start: number; readonly numel: number }>()
  const prefix = new Uint8Array(8)
  for (const key of keys.items) {
    if (typeof key !== 'string') throw malformed(file, 'it names a storage by what is no text', at)
    if (found.has(key)) throw malformed(file, `the storage ${key} occurs twice`, at)
    const dtype = sizes.get(key)
    if (dtype === undefined) throw malformed(file, `nothing says what the storage ${key} holds`, at)
    if (at + 8 > source.size) throw truncated(file, at + 8 - source.size, key)
    await source.read(at, prefix, signal)
    const numel = new DataView(prefix.buffer).getBigInt64(0, true)
    const end = BigInt(at) + 8n + numel * BigInt(bytesOf(dtype, 1))
    if (numel < 0n) throw malformed(file, `the storage ${key} has ${numel} elements`, at)
    if (end > BigInt(source.size)) throw truncated(file, end - BigInt(source.size), key)
    found.set(key, { start: at + 8, numel: Number(numel) })
    at = Number(end)
  }
  if (at !== source.size) throw malformed(file, `${source.size - at} bytes follow its last storage`, at)
  return {
    layout: 'legacy',
    root,
    storage(id, wanted, tensor) {
      const { key, dtype, numel, view } = parseId(id, wanted, file, tensor)
      const storage = found.get(key)
      if (storage === undefined) throw malformed(file, `the storage ${key} of ${tensor} is not in it`, 0)
      if (storage.numel !== numel) {
        throw malformed(
          file,
          `the storage ${key} has ${storage.numel} elements, but ${tensor} says ${numel}`,
          storage.start,
        )
      }
      if (sizes.get(key) !== dtype) throw malformed(file, `the storage ${key} has two types`, storage.start)
      if (view === null) return { key, dtype, numel, start: storage.start }
      if (view.offset + view.size > numel) {
        throw malformed(file, `the storage of ${tensor} is a view beyond the end of ${key}`, storage.start)
      }
      return { key, dtype, numel: view.size, start: storage.start + bytesOf(dtype, view.offset) }
    },
  }
}

/** Reads a pickle whose length only its STOP tells. */
async function pickleAt(
  source: Source,
  at: number,
  policy: PicklePolicy,
  signal: AbortSignal | undefined,
): Promise<PickleResult> {
  const file = source.name
  const most = Math.min(source.size - at, MAX_PICKLE_BYTES)
  for (let length = Math.min(FIRST_PICKLE_BYTES, most); ; length = Math.min(length * 2, most)) {
    const bytes = new Uint8Array(length)
    await source.read(at, bytes, signal)
    if (length === most) return whole(() => readPickle(bytes, policy, file, at), file, at)
    try {
      return readPickle(bytes, policy, file, at)
    } catch (error) {
      if (!(error instanceof PickleEnds)) throw error
    }
  }
}

function whole(parse: () => PickleResult, file: string, at: number): PickleResult {
  try {
    return parse()
  } catch (error) {
    if (!(error instanceof PickleEnds)) throw error
    throw new AppError('truncated', `The pickle in ${file} has no end`, {
      where: { file, offset: at },
      hint: 'The download was cut short: download the file again.',
    })
  }
}

interface StorageId {
  readonly key: string
  readonly dtype: DType
  readonly numel: number
  readonly view: { readonly offset: number; readonly size: number } | null
}

/** `('storage', torch.FloatStorage, key, device, numel[, view])`. */
function parseId(id: PickleValue, wanted: DType | null, file: string, tensor: string): StorageId {
  const [tag, type, key, , numel, view = null] = isSequence(id) ? id.items : []
  if (tag !== 'storage' || !isGlobal(type)) throw malformed(file, `${tensor} has no storage`, 0)
  const untyped = type.name === 'UntypedStorage' || type.name === '_UntypedStorage'
  const dtype = untyped ? wanted : (STORAGE_TYPES.get(type.name) ?? null)
  if (!type.module.startsWith('torch') || dtype === null) {
    throw new AppError('unsupported', `${tensor} in ${file} is a ${type.module}.${type.name}`, {
      where: { file, tensor },
      hint: 'Save the model as float32, float16 or bfloat16.',
    })
  }
  if (typeof key !== 'string' || !isCount(numel))
    throw malformed(file, `the storage of ${tensor} has no key or size`, 0)
  // untyped storages count bytes
  const elements = untyped ? numel / bytesOf(dtype, 1) : numel
  if (!Number.isInteger(elements) || !Number.isSafeInteger(numel * 8)) {
    throw malformed(file, `the storage of ${tensor} has ${numel} bytes`, 0)
  }
  if (view === null) return { key, dtype, numel: elements, view: null }
  const [, offset, size] = isSequence(view) ? view.items : []
  if (!isCount(offset) || !isCount(size)) throw malformed(file, `the storage of ${tensor} is a view of nothing`, 0)
  return { key, dtype, numel: elements, view: { offset, size } }
}

/** Types of all storages that a pickle names, by key. */
function storageSizes(root: PickleValue, file: string): ReadonlyMap<string, DType> {
  const found = new Map<string, DType>()
  const seen = new Set<object>()
  const open: PickleValue[] = [root]
  while (open.length > 0) {
    const value = open.pop() ?? null
    if (typeof value !== 'object' || value === null || value instanceof Uint8Array || seen.has(value)) continue
    seen.add(value)
    if (isPersistent(value)) {
      const [, type, key] = isSequence(value.id) ? value.id.items : []
      const dtype = isGlobal(type) ? (STORAGE_TYPES.get(type.name) ?? UNTYPED.get(type.name)) : undefined
      if (typeof key !== 'string' || dtype === undefined) continue
      if ((found.get(key) ?? dtype) !== dtype) throw malformed(file, `the storage ${key} has two types`, 0)
      found.set(key, dtype)
    } else if (isSequence(value)) {
      for (const item of value.items) open.push(item)
    } else if (value.kind === 'dict') {
      for (const [, item] of value.entries) open.push(item)
    } else if (value.kind === 'call') {
      for (const item of value.args) open.push(item)
      for (const item of value.items) open.push(item)
      for (const [, item] of value.entries) open.push(item)
      open.push(value.state)
    }
  }
  return found
}

/** In the format before zip these lie as bytes. */
const UNTYPED: ReadonlyMap<string, DType> = new Map([
  ['UntypedStorage', 'u8'],
  ['_UntypedStorage', 'u8'],
])

export function isCount(value: PickleValue | undefined): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0
}

function bigEndian(file: string): AppError {
  return new AppError('unsupported', `${file} was written on a big-endian machine`, {
    where: { file },
    hint: 'Load it with PyTorch on any usual machine and save it again.',
  })
}

function truncated(file: string, missing: number | bigint, key: string): AppError {
  return new AppError('truncated', `${file} ends ${missing} bytes before the end of its storage ${key}`, {
    where: { file },
    hint: 'The download was cut short: download the file again.',
  })
}

function malformed(file: string, why: string, offset: number): AppError {
  return new AppError('malformed', `${file} is not a proper file of torch.save: ${why}`, {
    where: { file, offset },
    hint: REMEDY,
  })
}
