import type { PickleValue } from './pickle-value.ts'

/** Reads a pickle's bytes in order; `ends` makes what is thrown where they run out. */
export class ByteCursor {
  readonly #bytes: Uint8Array
  readonly #view: DataView
  readonly #ends: () => Error
  at = 0

  constructor(bytes: Uint8Array, ends: () => Error) {
    this.#bytes = bytes
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
    this.#ends = ends
  }

  u8(): number {
    return this.#view.getUint8(this.#take(1))
  }

  u16(): number {
    return this.#view.getUint16(this.#take(2), true)
  }

  u32(): number {
    return this.#view.getUint32(this.#take(4), true)
  }

  i32(): number {
    return this.#view.getInt32(this.#take(4), true)
  }

  /** Pickles hold floats big endian, and nothing else. */
  f64be(): number {
    return this.#view.getFloat64(this.#take(8), false)
  }

  size64(tooLarge: () => Error): number {
    const value = this.#view.getBigUint64(this.#take(8), true)
    if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw tooLarge()
    return Number(value)
  }

  bytes(length: number): Uint8Array {
    const start = this.#take(length)
    return this.#bytes.subarray(start, start + length)
  }

  latin1(length: number): string {
    const bytes = this.bytes(length)
    let text = ''
    for (const byte of bytes) text += String.fromCharCode(byte)
    return text
  }

  /** Text up to the next newline, which is taken too. */
  line(): string {
    const end = this.#bytes.indexOf(0x0a, this.at)
    if (end < 0) throw this.#ends()
    const text = this.latin1(end - this.at)
    this.at = end + 1
    return text
  }

  #take(length: number): number {
    if (length > this.#bytes.length - this.at) throw this.#ends()
    const start = this.at
    this.at += length
    return start
  }
}

/** Digits of any integer that a checkpoint holds; parsing long ones takes time that grows faster than their length. */
const MAX_DIGITS = 160

/** The decimal integers of protocols 0 and 1; `00` and `01` are booleans there. */
export function parseLong(line: string, bad: () => Error): PickleValue {
  if (line === '00' || line === '01') return line === '01'
  const digits = line.endsWith('L') ? line.slice(0, -1) : line
  if (!/^[+-]?\d+$/.test(digits) || digits.length > MAX_DIGITS) throw bad()
  return smallest(BigInt(digits))
}

/** A little-endian two's complement integer of any length; a bigint only where a number would not hold it. */
export function twosComplement(bytes: Uint8Array): number | bigint {
  let value = 0n
  for (let i = bytes.length - 1; i >= 0; i--) value = (value << 8n) | BigInt(bytes[i] ?? 0)
  return smallest(BigInt.asIntN(bytes.length * 8, value))
}

function smallest(value: bigint): number | bigint {
  const number = Number(value)
  return Number.isSafeInteger(number) ? number : value
}

const ESCAPES: ReadonlyMap<string, string> = new Map([
  ['n', '\n'],
  ['r', '\r'],
  ['t', '\t'],
  ['\\', '\\'],
  ["'", "'"],
  ['"', '"'],
])

/** Python's quoted string with its escapes, as protocol 0 writes bytes. */
export function literalString(line: string, bad: () => Error): string {
  const quote = line[0]
  if (line.length < 2 || (quote !== "'" && quote !== '"') || line.at(-1) !== quote) throw bad()
  return line.slice(1, -1).replace(/\\(?:x([0-9a-fA-F]{2})|(.))/g, (_, hex: string | undefined, single: string) => {
    if (hex !== undefined) return String.fromCharCode(Number.parseInt(hex, 16))
    const known = ESCAPES.get(single)
    if (known === undefined) throw bad()
    return known
  })
}

/** Python's raw-unicode-escape: Latin-1 with `\u` and `\U`. */
export function rawUnicode(line: string, bad: () => Error): string {
  return line.replace(/\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8}))/g, (_, short: string | undefined, long: string) => {
    const point = Number.parseInt(short ?? long, 16)
    if (point > 0x10ffff) throw bad()
    return String.fromCodePoint(point)
  })
}
