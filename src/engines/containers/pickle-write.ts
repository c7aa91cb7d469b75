/** Pickles of protocol 2, as torch.save makes them. https://github.com/python/cpython/blob/main/Lib/pickletools.py */
import { AppError } from '../../core/errors.ts'
import { isSequence, type PickleCall, type PickleGlobal, type PickleValue } from './pickle.ts'

const PROTO = [0x80, 2]
const STOP = 0x2e
const MARK = 0x28
const OP = {
  none: 0x4e,
  true: 0x88,
  false: 0x89,
  int32: 0x4a,
  long1: 0x8a,
  float: 0x47,
  text: 0x58,
  global: 0x63,
  tuple: 0x74,
  emptyTuple: 0x29,
  emptyList: 0x5d,
  appends: 0x65,
  emptyDict: 0x7d,
  setItems: 0x75,
  reduce: 0x52,
  newObject: 0x81,
  build: 0x62,
  persistent: 0x51,
} as const

/** Values nest a dozen levels deep in what is written here. */
const MAX_DEPTH = 64

/** The bytes of a value. Whole numbers become ints. Throws `internal` for what protocol 2 has no opcode for. */
export function writePickle(value: PickleValue): Uint8Array {
  const chunks: (readonly number[] | Uint8Array)[] = [PROTO]
  const text = (string: string): Uint8Array => new TextEncoder().encode(string)
  const sized = (opcode: number, size: number, write: (view: DataView) => void): void => {
    const bytes = new Uint8Array(1 + size)
    bytes[0] = opcode
    write(new DataView(bytes.buffer, 1))
    chunks.push(bytes)
  }
  const number = (of: number): void => {
    if (!Number.isInteger(of) || Math.abs(of) > Number.MAX_SAFE_INTEGER)
      sized(OP.float, 8, (view) => view.setFloat64(0, of))
    else if (of === (of | 0)) sized(OP.int32, 4, (view) => view.setInt32(0, of, true))
    else {
      sized(OP.long1, 9, (view) => {
        view.setUint8(0, 8)
        view.setBigInt64(1, BigInt(of), true)
      })
    }
  }
  const entries = (pairs: PickleCall['entries'], depth: number): void => {
    if (pairs.length === 0) return
    chunks.push([MARK])
    for (const [key, item] of pairs) {
      write(key, depth)
      write(item, depth)
    }
    chunks.push([OP.setItems])
  }
  const write = (of: PickleValue, depth: number): void => {
    if (depth > MAX_DEPTH) throw new AppError('internal', 'a value to be pickled holds itself')
    if (of === null) chunks.push([OP.none])
    else if (typeof of === 'boolean') chunks.push([of ? OP.true : OP.false])
    else if (typeof of === 'number') number(of)
    else if (typeof of === 'string') {
      const bytes = text(of)
      sized(OP.text, 4, (view) => view.setUint32(0, bytes.length, true))
      chunks.push(bytes)
    } else if (typeof of === 'bigint' || of instanceof Uint8Array || (isSequence(of) && of.kind === 'set')) {
      throw new AppError('internal', 'a value of this kind is not pickled')
    } else if (isSequence(of)) {
      if (of.kind === 'tuple') chunks.push(of.items.length === 0 ? [OP.emptyTuple] : [MARK])
      else chunks.push(of.items.length === 0 ? [OP.emptyList] : [OP.emptyList, MARK])
      for (const item of of.items) write(item, depth + 1)
      if (of.items.length > 0) chunks.push([of.kind === 'tuple' ? OP.tuple : OP.appends])
    } else if (of.kind === 'dict') {
      chunks.push([OP.emptyDict])
      entries(of.entries, depth + 1)
    } else if (of.kind === 'global') {
      chunks.push([OP.global], text(`${of.module}\n${of.name}\n`))
    } else if (of.kind === 'persistent') {
      write(of.id, depth + 1)
      chunks.push([OP.persistent])
    } else if (of.kind === 'call') {
      write(of.callee, depth + 1)
      write({ kind: 'tuple', items: [...of.args] }, depth + 1)
      chunks.push([of.how === 'new' ? OP.newObject : OP.reduce])
      entries(of.entries, depth + 1)
      if (of.state === null) return
      write(of.state, depth + 1)
      chunks.push([OP.build])
    }
  }
  write(value, 0)
  chunks.push([STOP])
  const bytes = new Uint8Array(chunks.reduce((sum, chunk) => sum + chunk.length, 0))
  let at = 0
  for (const chunk of chunks) {
    bytes.set(chunk, at)
    at += chunk.length
  }
  return bytes
}

/** A dict with keys of text. */
export function pickledDict(entries: Iterable<readonly [string, PickleValue]>): PickleValue {
  return { kind: 'dict', entries: [...entries] }
}

export function pickledTuple(...items: readonly PickleValue[]): PickleValue {
  return { kind: 'tuple', items: [...items] }
}

export function pickledGlobal(module: string, name: string): PickleGlobal {
  return { kind: 'global', module, name }
}

/** A function's result, or with `how` `new` an instance with `state`. */
export function pickledCall(
  callee: PickleGlobal,
  args: readonly PickleValue[],
  how: PickleCall['how'] = 'call',
  state: PickleValue = null,
): PickleValue {
  return { kind: 'call', how, callee, args, state, items: [], entries: [] }
}
