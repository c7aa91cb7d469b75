/**
 * Python pickles, read without Python: a stack machine that makes records of what a pickle says and runs none of it.
 * A global is a name; a call is the name and its arguments, and only calls on an allow-list become records at all.
 * Protocols 0 to 5: https://github.com/python/cpython/blob/main/Lib/pickletools.py
 */
import { AppError } from '../../core/errors.ts'
import { OPCODE } from './pickle-opcodes.ts'
import { isHostile } from './pickle-safety.ts'
import { PickleStack } from './pickle-stack.ts'
import { ByteCursor, literalString, parseLong, rawUnicode, twosComplement } from './pickle-text.ts'
import { isCall, isDict, isGlobal, isPersistent, isSequence, pythonValue } from './pickle-value.ts'
import type { PickleGlobal, PickleValue } from './pickle-value.ts'

export * from './pickle-value.ts'

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
/** Integers in pickles are sizes and offsets, and the magic number of 10 bytes. */
const MAX_LONG_BYTES = 64

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
  readonly #stack: PickleStack
  /** Of the opcode at work, for messages. */
  #at = 0

  constructor(bytes: Uint8Array, policy: PicklePolicy, file: string, base: number) {
    this.#in = new ByteCursor(bytes, () => new PickleEnds('the pickle has no end'))
    this.#policy = policy
    this.#file = file
    this.#base = base
    this.#stack = new PickleStack((why) => this.#malformed(why))
  }

  run(): PickleResult {
    for (let count = 0; count < MAX_OPCODES; count++) {
      this.#at = this.#in.at
      const opcode = this.#in.u8()
      if (opcode !== OPCODE.STOP) {
        this.#step(opcode)
        continue
      }
      const value = this.#stack.pop()
      if (!this.#stack.isEmpty) throw this.#malformed('values are left over at its end')
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
        this.#stack.mark()
        return
      case OPCODE.POP:
        this.#stack.drop()
        return
      case OPCODE.POP_MARK:
        this.#stack.popMark()
        return
      case OPCODE.DUP:
        this.#stack.push(this.#stack.top())
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
        this.#stack.make({ kind: 'tuple', items: [] })
        return true
      case OPCODE.EMPTY_LIST:
        this.#stack.make({ kind: 'list', items: [] })
        return true
      case OPCODE.EMPTY_SET:
        this.#stack.make({ kind: 'set', items: [] })
        return true
      case OPCODE.EMPTY_DICT:
        this.#stack.make({ kind: 'dict', entries: [] })
        return true
      case OPCODE.TUPLE1:
      case OPCODE.TUPLE2:
      case OPCODE.TUPLE3: {
        const count = opcode - OPCODE.TUPLE1 + 1
        const items = Array.from({ length: count }, () => this.#stack.pop()).toReversed()
        this.#stack.make({ kind: 'tuple', items })
        return true
      }
      case OPCODE.TUPLE:
        this.#stack.make({ kind: 'tuple', items: this.#stack.popMark() })
        return true
      case OPCODE.LIST:
        this.#stack.make({ kind: 'list', items: this.#stack.popMark() })
        return true
      case OPCODE.FROZENSET:
        this.#stack.make({ kind: 'set', items: this.#stack.popMark() })
        return true
      case OPCODE.DICT:
        this.#stack.make({ kind: 'dict', entries: this.#pairs(this.#stack.popMark()) })
        return true
      case OPCODE.APPEND:
        this.#append([this.#stack.pop()])
        return true
      case OPCODE.APPENDS:
      case OPCODE.ADDITEMS:
        this.#append(this.#stack.popMark())
        return true
      case OPCODE.SETITEM: {
        const value = this.#stack.pop()
        this.#set([[this.#stack.pop(), value]])
        return true
      }
      case OPCODE.SETITEMS:
        this.#set(this.#pairs(this.#stack.popMark()))
        return true
      case OPCODE.PUT:
        this.#stack.memoize(this.#index(this.#in.line()))
        return true
      case OPCODE.BINPUT:
        this.#stack.memoize(this.#in.u8())
        return true
      case OPCODE.LONG_BINPUT:
        this.#stack.memoize(this.#in.u32())
        return true
      case OPCODE.MEMOIZE:
        this.#stack.memoize()
        return true
      case OPCODE.GET:
        this.#stack.recall(this.#index(this.#in.line()))
        return true
      case OPCODE.BINGET:
        this.#stack.recall(this.#in.u8())
        return true
      case OPCODE.LONG_BINGET:
        this.#stack.recall(this.#in.u32())
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
        const name = this.#stack.pop()
        const module = this.#stack.pop()
        if (typeof module !== 'string' || typeof name !== 'string') {
          throw this.#malformed('it imports by what is not a name')
        }
        this.#stack.push(this.#global(module, name))
        return true
      }
      case OPCODE.PERSID:
        this.#stack.make({ kind: 'persistent', id: this.#in.line() })
        return true
      case OPCODE.BINPERSID:
        this.#stack.make({ kind: 'persistent', id: this.#stack.pop() })
        return true
      case OPCODE.REDUCE: {
        const args = this.#arguments(this.#stack.pop())
        this.#call(this.#stack.pop(), args)
        return true
      }
      case OPCODE.NEWOBJ: {
        const args = this.#arguments(this.#stack.pop())
        this.#new(this.#stack.pop(), args)
        return true
      }
      case OPCODE.NEWOBJ_EX: {
        const named = this.#stack.pop()
        const args = this.#arguments(this.#stack.pop())
        this.#new(this.#stack.pop(), [...args, named])
        return true
      }
      case OPCODE.INST: {
        const module = this.#in.line()
        const callee = this.#global(module, this.#in.line())
        this.#call(callee, this.#stack.popMark())
        return true
      }
      case OPCODE.OBJ: {
        const [callee = null, ...args] = this.#stack.popMark()
        this.#call(callee, args)
        return true
      }
      case OPCODE.BUILD: {
        const state = this.#stack.pop()
        const target = this.#stack.top()
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
    if (isHostile(module, name)) throw this.#refused(module, name)
    this.#stack.count()
    return { kind: 'global', module, name }
  }

  #call(callee: PickleValue, args: readonly PickleValue[]): void {
    if (!isGlobal(callee)) throw this.#malformed('it calls what is no function')
    const { module, name } = callee
    if (!this.#policy.calls(module, name)) throw this.#refused(module, name)
    const value = pythonValue(module, name, args)
    if (value !== undefined) this.#stack.make(value)
    else this.#stack.make({ kind: 'call', how: 'call', callee, args, state: null, items: [], entries: [] })
  }

  #new(callee: PickleValue, args: readonly PickleValue[]): void {
    const known = isPersistent(callee) ? (this.#policy.classOf?.(callee.id) ?? null) : callee
    if (!isGlobal(known)) throw this.#malformed('it makes an instance of what is no class')
    this.#stack.make({ kind: 'call', how: 'new', callee: known, args, state: null, items: [], entries: [] })
  }

  #append(items: readonly PickleValue[]): void {
    const target = this.#stack.top()
    const list = isSequence(target) && target.kind !== 'tuple' ? target.items : isCall(target) ? target.items : null
    if (list === null) throw this.#malformed('it appends to what is no list')
    for (const item of items) list.push(item)
  }

  #set(entries: readonly (readonly [PickleValue, PickleValue])[]): void {
    const target = this.#stack.top()
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
