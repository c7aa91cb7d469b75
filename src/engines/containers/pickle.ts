/**
 * Python pickles, read without Python: a stack machine that makes records of what a pickle says and runs none of it.
 * A global is a name; a call is the name and its arguments, and only calls on an allow-list become records at all.
 * Protocols 0 to 5: https://github.com/python/cpython/blob/main/Lib/pickletools.py
 */
import { AppError } from '../../core/errors.ts'
import { ByteCursor, literalString, parseLong, rawUnicode, twosComplement } from './pickle-text.ts'

export type PickleValue =
  | null
  | boolean
  | number
  | bigint
  | string
  | Uint8Array
  | PickleSequence
  | PickleDict
  | PickleGlobal
  | PickleCall
  | PicklePersistent

export interface PickleSequence {
  readonly kind: 'list' | 'tuple' | 'set'
  readonly items: PickleValue[]
}

export interface PickleDict {
  readonly kind: 'dict'
  /** In the order they were set; a key may occur twice, and the last one counts in Python. */
  readonly entries: (readonly [PickleValue, PickleValue])[]
}

/** The name of something that Python would import. Nothing is. */
export interface PickleGlobal {
  readonly kind: 'global'
  readonly module: string
  readonly name: string
}

/** What Python would make by calling, or by filling in an instance of, a global. */
export interface PickleCall {
  readonly kind: 'call'
  /** `call` for a function's result, `new` for an instance made without its constructor. */
  readonly how: 'call' | 'new'
  readonly callee: PickleGlobal
  readonly args: readonly PickleValue[]
  /** What BUILD gave it. */
  state: PickleValue
  /** Items appended and set after it was made (a dict or list subclass). */
  readonly items: PickleValue[]
  readonly entries: (readonly [PickleValue, PickleValue])[]
}

/** What the file keeps outside of the pickle, by an id of its own: PyTorch's storages. */
export interface PicklePersistent {
  readonly kind: 'persistent'
  readonly id: PickleValue
}

/** What a pickle may contain. */
export interface PicklePolicy {
  /** Whether calling this is known to be harmless data (`torch._utils._rebuild_tensor_v2`): it becomes a record. */
  readonly calls: (module: string, name: string) => boolean
  /** The class that a persistent id stands for (PyTorch's old format keeps their source that way); none if absent. */
  readonly classOf?: (id: PickleValue) => PickleGlobal | null
}

export interface PickleResult {
  readonly value: PickleValue
  /** Bytes up to and with STOP. */
  readonly length: number
}

/** The highest protocol there is. */
const MAX_PROTOCOL = 5
/** The largest known checkpoint in one file has some two million; a hostile pickle could fill memory with one-byte opcodes. */
const MAX_OPCODES = 1 << 24
/** Lists, tuples, dicts and calls: some 100 bytes of memory each. */
const MAX_CONTAINERS = 1 << 21
/** Unclosed marks: as deep as values can nest. */
const MAX_MARKS = 1000
/** Integers in pickles are sizes and offsets, and the magic number of 10 bytes. */
const MAX_LONG_BYTES = 64

/**
 * Modules whose contents run code, open files or sockets, or fetch attributes: a pickle that only names one of them was
 * made to attack. The allow-list would stop its call; this tells sooner, and calls it by its name.
 */
const HOSTILE_MODULES: ReadonlySet<string> = new Set(
  (
    'os posix nt sys subprocess pty runpy importlib imp pkgutil zipimport code codeop commands popen2 platform signal ' +
    'socket ssl asyncio multiprocessing threading concurrent ctypes cffi shutil tempfile pathlib io fileinput glob ' +
    'webbrowser urllib urllib2 urllib3 requests http httplib ftplib smtplib telnetlib xmlrpc socketserver ' +
    'pickle _pickle cPickle dill cloudpickle joblib marshal shelve operator _operator types inspect ast bdb pdb ' +
    'timeit cProfile profile trace doctest unittest distutils setuptools pip venv ensurepip gc atexit sysconfig site'
  ).split(' '),
)

/** The harmless part of builtins. */
const BUILTINS: ReadonlySet<string> = new Set(
  'set frozenset list dict tuple int float bool str bytes bytearray complex slice range object'.split(' '),
)

/** Names within packages that are otherwise good, which run or load something. */
const HOSTILE_NAMES: ReadonlySet<string> = new Set([
  'torch.hub.load',
  'torch.load',
  'torch.serialization.load',
  'torch.storage._load_from_bytes',
  'torch.jit.load',
  'torch.utils.cpp_extension.load',
  'torch.utils.cpp_extension.load_inline',
  'numpy.load',
  'numpy.f2py.compile',
  'numpy.testing._private.utils.runstring',
  'numpy.distutils.exec_command.exec_command',
])

/**
 * Names within hostile modules that are no more than data: a buffer in memory, which Megatron keeps Transformer Engine's
 * state in, and paths, which distributed checkpoints have of where they were saved.
 */
const HARMLESS_NAMES: ReadonlySet<string> = new Set([
  'io.BytesIO',
  '_io.BytesIO',
  'pathlib.PosixPath',
  'pathlib.WindowsPath',
  'pathlib._local.PosixPath',
  'pathlib._local.WindowsPath',
])

const OPCODE = {
  MARK: 0x28,
  EMPTY_TUPLE: 0x29,
  STOP: 0x2e,
  POP: 0x30,
  POP_MARK: 0x31,
  DUP: 0x32,
  BINBYTES: 0x42,
  SHORT_BINBYTES: 0x43,
  FLOAT: 0x46,
  BINFLOAT: 0x47,
  INT: 0x49,
  BININT: 0x4a,
  BININT1: 0x4b,
  LONG: 0x4c,
  BININT2: 0x4d,
  NONE: 0x4e,
  PERSID: 0x50,
  BINPERSID: 0x51,
  REDUCE: 0x52,
  STRING: 0x53,
  BINSTRING: 0x54,
  SHORT_BINSTRING: 0x55,
  UNICODE: 0x56,
  BINUNICODE: 0x58,
  EMPTY_LIST: 0x5d,
  APPEND: 0x61,
  BUILD: 0x62,
  GLOBAL: 0x63,
  DICT: 0x64,
  APPENDS: 0x65,
  GET: 0x67,
  BINGET: 0x68,
  INST: 0x69,
  LONG_BINGET: 0x6a,
  LIST: 0x6c,
  OBJ: 0x6f,
  PUT: 0x70,
  BINPUT: 0x71,
  LONG_BINPUT: 0x72,
  SETITEM: 0x73,
  TUPLE: 0x74,
  SETITEMS: 0x75,
  EMPTY_DICT: 0x7d,
  PROTO: 0x80,
  NEWOBJ: 0x81,
  TUPLE1: 0x85,
  TUPLE2: 0x86,
  TUPLE3: 0x87,
  NEWTRUE: 0x88,
  NEWFALSE: 0x89,
  LONG1: 0x8a,
  LONG4: 0x8b,
  SHORT_BINUNICODE: 0x8c,
  BINUNICODE8: 0x8d,
  BINBYTES8: 0x8e,
  EMPTY_SET: 0x8f,
  ADDITEMS: 0x90,
  FROZENSET: 0x91,
  NEWOBJ_EX: 0x92,
  STACK_GLOBAL: 0x93,
  MEMOIZE: 0x94,
  FRAME: 0x95,
  BYTEARRAY8: 0x96,
} as const

/** Thrown where the bytes end before the pickle does: the caller may have more of them. */
export class PickleEnds extends Error {
  override readonly name = 'PickleEnds'
}

/**
 * Reads one pickle from the start of `bytes`. `file` and `base` (the offset of `bytes` in it) are for messages. Throws
 * {@link PickleEnds} if there is no STOP, `unsupported` naming a global that no checkpoint needs, and `malformed` for
 * what breaks the format or its limits.
 */
export function readPickle(bytes: Uint8Array, policy: PicklePolicy, file: string, base = 0): PickleResult {
  return new Machine(bytes, policy, file, base).run()
}

class Machine {
  readonly #in: ByteCursor
  readonly #policy: PicklePolicy
  readonly #file: string
  readonly #base: number
  readonly #stack: PickleValue[] = []
  /** Stack heights at the marks. */
  readonly #marks: number[] = []
  readonly #memo = new Map<number, PickleValue>()
  #containers = 0
  /** Of the opcode at work, for messages. */
  #at = 0

  constructor(bytes: Uint8Array, policy: PicklePolicy, file: string, base: number) {
    this.#in = new ByteCursor(bytes, () => new PickleEnds('the pickle has no end'))
    this.#policy = policy
    this.#file = file
    this.#base = base
  }

  run(): PickleResult {
    for (let count = 0; count < MAX_OPCODES; count++) {
      this.#at = this.#in.at
      const opcode = this.#in.u8()
      if (opcode !== OPCODE.STOP) {
        this.#step(opcode)
        continue
      }
      const value = this.#pop()
      if (this.#stack.length > 0 || this.#marks.length > 0) throw this.#malformed('values are left over at its end')
      return { value, length: this.#in.at }
    }
    throw this.#malformed(`it has more than ${MAX_OPCODES} opcodes`)
  }

  #step(opcode: number): void {
    const input = this.#in
    switch (opcode) {
      case OPCODE.PROTO: {
        const protocol = input.u8()
        if (protocol > MAX_PROTOCOL) throw this.#malformed(`it is of protocol ${protocol}`)
        return
      }
      case OPCODE.FRAME:
        // frames are a hint for reading ahead
        input.size64(() => this.#malformed('a frame is longer than any file'))
        return
      case OPCODE.MARK:
        if (this.#marks.length >= MAX_MARKS) throw this.#malformed(`more than ${MAX_MARKS} marks are open`)
        this.#marks.push(this.#stack.length)
        return
      case OPCODE.POP:
        if (this.#marks.at(-1) === this.#stack.length) this.#marks.pop()
        else this.#pop()
        return
      case OPCODE.POP_MARK:
        this.#popMark()
        return
      case OPCODE.DUP:
        this.#stack.push(this.#top())
        return
      case OPCODE.NONE:
        this.#stack.push(null)
        return
      case OPCODE.NEWTRUE:
        this.#stack.push(true)
        return
      case OPCODE.NEWFALSE:
        this.#stack.push(false)
        return
      case OPCODE.BININT:
        this.#stack.push(input.i32())
        return
      case OPCODE.BININT1:
        this.#stack.push(input.u8())
        return
      case OPCODE.BININT2:
        this.#stack.push(input.u16())
        return
      case OPCODE.LONG1:
        this.#stack.push(this.#long(input.u8()))
        return
      case OPCODE.LONG4:
        this.#stack.push(this.#long(input.i32()))
        return
      case OPCODE.INT:
      case OPCODE.LONG:
        this.#stack.push(parseLong(input.line(), () => this.#malformed('a number is not one')))
        return
      case OPCODE.FLOAT: {
        const value = Number(input.line())
        if (Number.isNaN(value)) throw this.#malformed('a number is not one')
        this.#stack.push(value)
        return
      }
      case OPCODE.BINFLOAT:
        this.#stack.push(input.f64be())
        return
      case OPCODE.STRING:
        this.#stack.push(literalString(input.line(), () => this.#malformed('a string is not quoted')))
        return
      case OPCODE.UNICODE:
        this.#stack.push(rawUnicode(input.line(), () => this.#malformed('a string has a bad escape')))
        return
      case OPCODE.BINSTRING:
        this.#stack.push(input.latin1(this.#length(input.i32())))
        return
      case OPCODE.SHORT_BINSTRING:
        this.#stack.push(input.latin1(input.u8()))
        return
      case OPCODE.SHORT_BINUNICODE:
        this.#stack.push(this.#text(input.u8()))
        return
      case OPCODE.BINUNICODE:
        this.#stack.push(this.#text(input.u32()))
        return
      case OPCODE.BINUNICODE8:
        this.#stack.push(this.#text(this.#size64()))
        return
      case OPCODE.SHORT_BINBYTES:
        this.#stack.push(input.bytes(input.u8()).slice())
        return
      case OPCODE.BINBYTES:
        this.#stack.push(input.bytes(input.u32()).slice())
        return
      case OPCODE.BINBYTES8:
      case OPCODE.BYTEARRAY8:
        this.#stack.push(input.bytes(this.#size64()).slice())
        return
      default:
        if (!this.#stepContainer(opcode) && !this.#stepObject(opcode)) {
          const name = `0x${opcode.toString(16).padStart(2, '0')}`
          throw this.#malformed(`${name} is no opcode that a checkpoint uses`)
        }
    }
  }

  #stepContainer(opcode: number): boolean {
    switch (opcode) {
      case OPCODE.EMPTY_TUPLE:
        this.#push({ kind: 'tuple', items: [] })
        return true
      case OPCODE.EMPTY_LIST:
        this.#push({ kind: 'list', items: [] })
        return true
      case OPCODE.EMPTY_SET:
        this.#push({ kind: 'set', items: [] })
        return true
      case OPCODE.EMPTY_DICT:
        this.#push({ kind: 'dict', entries: [] })
        return true
      case OPCODE.TUPLE1:
      case OPCODE.TUPLE2:
      case OPCODE.TUPLE3: {
        const count = opcode - OPCODE.TUPLE1 + 1
        const items = Array.from({ length: count }, () => this.#pop()).toReversed()
        this.#push({ kind: 'tuple', items })
        return true
      }
      case OPCODE.TUPLE:
        this.#push({ kind: 'tuple', items: this.#popMark() })
        return true
      case OPCODE.LIST:
        this.#push({ kind: 'list', items: this.#popMark() })
        return true
      case OPCODE.FROZENSET:
        this.#push({ kind: 'set', items: this.#popMark() })
        return true
      case OPCODE.DICT:
        this.#push({ kind: 'dict', entries: this.#pairs(this.#popMark()) })
        return true
      case OPCODE.APPEND:
        this.#append([this.#pop()])
        return true
      case OPCODE.APPENDS:
      case OPCODE.ADDITEMS:
        this.#append(this.#popMark())
        return true
      case OPCODE.SETITEM: {
        const value = this.#pop()
        this.#set([[this.#pop(), value]])
        return true
      }
      case OPCODE.SETITEMS:
        this.#set(this.#pairs(this.#popMark()))
        return true
      case OPCODE.PUT:
        this.#memoize(this.#index(this.#in.line()))
        return true
      case OPCODE.BINPUT:
        this.#memoize(this.#in.u8())
        return true
      case OPCODE.LONG_BINPUT:
        this.#memoize(this.#in.u32())
        return true
      case OPCODE.MEMOIZE:
        this.#memoize(this.#memo.size)
        return true
      case OPCODE.GET:
        this.#recall(this.#index(this.#in.line()))
        return true
      case OPCODE.BINGET:
        this.#recall(this.#in.u8())
        return true
      case OPCODE.LONG_BINGET:
        this.#recall(this.#in.u32())
        return true
      default:
        return false
    }
  }

  #stepObject(opcode: number): boolean {
    switch (opcode) {
      case OPCODE.GLOBAL: {
        const module = this.#in.line()
        this.#stack.push(this.#global(module, this.#in.line()))
        return true
      }
      case OPCODE.STACK_GLOBAL: {
        const name = this.#pop()
        const module = this.#pop()
        if (typeof module !== 'string' || typeof name !== 'string') {
          throw this.#malformed('it imports by what is not a name')
        }
        this.#stack.push(this.#global(module, name))
        return true
      }
      case OPCODE.PERSID:
        this.#push({ kind: 'persistent', id: this.#in.line() })
        return true
      case OPCODE.BINPERSID:
        this.#push({ kind: 'persistent', id: this.#pop() })
        return true
      case OPCODE.REDUCE: {
        const args = this.#arguments(this.#pop())
        this.#call(this.#pop(), args)
        return true
      }
      case OPCODE.NEWOBJ: {
        const args = this.#arguments(this.#pop())
        this.#new(this.#pop(), args)
        return true
      }
      case OPCODE.NEWOBJ_EX: {
        const named = this.#pop()
        const args = this.#arguments(this.#pop())
        this.#new(this.#pop(), [...args, named])
        return true
      }
      case OPCODE.INST: {
        const module = this.#in.line()
        const callee = this.#global(module, this.#in.line())
        this.#call(callee, this.#popMark())
        return true
      }
      case OPCODE.OBJ: {
        const [callee = null, ...args] = this.#popMark()
        this.#call(callee, args)
        return true
      }
      case OPCODE.BUILD: {
        const state = this.#pop()
        const target = this.#top()
        if (!isCall(target)) throw this.#malformed('it gives a state to what is no object')
        target.state = state
        return true
      }
      default:
        return false
    }
  }

  /** The name as a record, if it is none that only an attack needs. */
  #global(module: string, name: string): PickleGlobal {
    const root = module.split('.')[0] ?? ''
    const builtin = root === 'builtins' || root === '__builtin__' || root === '__builtins__'
    // a dotted name is an attribute of the import: `torch`, `os.system` is posix.system in disguise
    const disguised = name.split('.').some((part) => HOSTILE_MODULES.has(part) || part.startsWith('__'))
    const hostile = builtin ? !BUILTINS.has(name) : HOSTILE_MODULES.has(root) || HOSTILE_NAMES.has(`${module}.${name}`)
    if ((hostile && !HARMLESS_NAMES.has(`${module}.${name}`)) || disguised) throw this.#refused(module, name)
    this.#containers++
    return { kind: 'global', module, name }
  }

  #call(callee: PickleValue, args: readonly PickleValue[]): void {
    if (!isGlobal(callee)) throw this.#malformed('it calls what is no function')
    const { module, name } = callee
    if (!this.#policy.calls(module, name)) throw this.#refused(module, name)
    const value = pythonValue(module, name, args)
    if (value !== undefined) this.#push(value)
    else this.#push({ kind: 'call', how: 'call', callee, args, state: null, items: [], entries: [] })
  }

  #new(callee: PickleValue, args: readonly PickleValue[]): void {
    const known = isPersistent(callee) ? (this.#policy.classOf?.(callee.id) ?? null) : callee
    if (!isGlobal(known)) throw this.#malformed('it makes an instance of what is no class')
    this.#push({ kind: 'call', how: 'new', callee: known, args, state: null, items: [], entries: [] })
  }

  #append(items: readonly PickleValue[]): void {
    const target = this.#top()
    const list = isSequence(target) && target.kind !== 'tuple' ? target.items : isCall(target) ? target.items : null
    if (list === null) throw this.#malformed('it appends to what is no list')
    for (const item of items) list.push(item)
  }

  #set(entries: readonly (readonly [PickleValue, PickleValue])[]): void {
    const target = this.#top()
    if (!isDict(target) && !isCall(target)) throw this.#malformed('it sets items of what is no dict')
    for (const entry of entries) target.entries.push(entry)
  }

  #pairs(flat: readonly PickleValue[]): (readonly [PickleValue, PickleValue])[] {
    if (flat.length % 2 !== 0) throw this.#malformed('a dict has a key without a value')
    const pairs: (readonly [PickleValue, PickleValue])[] = []
    for (let i = 0; i < flat.length; i += 2) pairs.push([flat[i] ?? null, flat[i + 1] ?? null])
    return pairs
  }

  #arguments(value: PickleValue): readonly PickleValue[] {
    if (isSequence(value) && value.kind === 'tuple') return value.items
    throw this.#malformed('it calls with what is no tuple of arguments')
  }

  #push(value: PickleValue): void {
    if (++this.#containers > MAX_CONTAINERS) throw this.#malformed(`it has more than ${MAX_CONTAINERS} objects`)
    this.#stack.push(value)
  }

  #pop(): PickleValue {
    const value = this.#top()
    this.#stack.pop()
    return value
  }

  /** The top of the stack, above the last mark. */
  #top(): PickleValue {
    const value = this.#stack.at(-1)
    if (value === undefined || this.#stack.length <= (this.#marks.at(-1) ?? 0)) {
      throw this.#malformed('it takes from an empty stack')
    }
    return value
  }

  #popMark(): PickleValue[] {
    const mark = this.#marks.pop()
    if (mark === undefined) throw this.#malformed('it looks for a mark that is not there')
    return this.#stack.splice(mark)
  }

  #memoize(index: number): void {
    this.#memo.set(index, this.#top())
  }

  #recall(index: number): void {
    const value = this.#memo.get(index)
    if (value === undefined) throw this.#malformed(`it recalls memo ${index}, which was never set`)
    this.#stack.push(value)
  }

  #index(line: string): number {
    const index = Number(line)
    if (line === '' || !Number.isSafeInteger(index) || index < 0) throw this.#malformed('a memo index is no number')
    return index
  }

  #long(length: number): number | bigint {
    if (length < 0 || length > MAX_LONG_BYTES) throw this.#malformed(`an integer has ${length} bytes`)
    return twosComplement(this.#in.bytes(length))
  }

  #length(length: number): number {
    if (length < 0) throw this.#malformed(`a string has the length ${length}`)
    return length
  }

  #size64(): number {
    return this.#in.size64(() => this.#malformed('a value is longer than any file'))
  }

  #text(length: number): string {
    const bytes = this.#in.bytes(length)
    try {
      return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(Uint8Array.from(bytes))
    } catch {
      throw this.#malformed('a string is not UTF-8')
    }
  }

  #refused(module: string, name: string): AppError {
    const what = `${shown(module)}.${shown(name)}`
    return new AppError('unsupported', `The pickle in ${this.#file} wants to use ${what}, which no checkpoint needs`, {
      where: { file: this.#file, offset: this.#base + this.#at },
      hint: 'Nothing of it was run. If you do not know who made the file, do not load it with PyTorch either.',
    })
  }

  #malformed(why: string): AppError {
    return new AppError('malformed', `The pickle in ${this.#file} is broken: ${why}`, {
      where: { file: this.#file, offset: this.#base + this.#at },
      hint: 'The file is damaged or was not written by PyTorch: download or save it again.',
    })
  }
}

/** Longer names are cut in messages. */
function shown(name: string): string {
  return name.length > 100 ? `${name.slice(0, 100)}...` : name
}

/** What calls of Python's own types and codecs give, as protocol 2 spells sets and bytes; undefined for all others. */
function pythonValue(module: string, name: string, args: readonly PickleValue[]): PickleValue | undefined {
  const [first = null, second = null] = args
  if (module === '_codecs' && name === 'encode') {
    if (typeof first !== 'string' || second !== 'latin1') return undefined
    return Uint8Array.from(first, (character) => character.charCodeAt(0))
  }
  if (module !== 'builtins' && module !== '__builtin__') return undefined
  if (name === 'set' || name === 'frozenset') return { kind: 'set', items: isSequence(first) ? [...first.items] : [] }
  return name === 'bytes' && args.length === 0 ? new Uint8Array(0) : undefined
}

export function isSequence(value: PickleValue | undefined): value is PickleSequence {
  return isRecord(value) && (value.kind === 'list' || value.kind === 'tuple' || value.kind === 'set')
}

export function isDict(value: PickleValue | undefined): value is PickleDict {
  return isRecord(value) && value.kind === 'dict'
}

export function isGlobal(value: PickleValue | undefined): value is PickleGlobal {
  return isRecord(value) && value.kind === 'global'
}

export function isCall(value: PickleValue | undefined): value is PickleCall {
  return isRecord(value) && value.kind === 'call'
}

export function isPersistent(value: PickleValue | undefined): value is PicklePersistent {
  return isRecord(value) && value.kind === 'persistent'
}

function isRecord(
  value: PickleValue | undefined,
): value is PickleSequence | PickleDict | PickleGlobal | PickleCall | PicklePersistent {
  return typeof value === 'object' && value !== null && 'kind' in value
}
