/**
 * The wire format of protocol buffers, as far as reading known messages needs it.
 * https://protobuf.dev/programming-guides/encoding/
 */
import { AppError } from '../../core/errors.ts'

/** One field of a message. Groups are refused. */
export type ProtobufField =
  | { readonly number: number; readonly wire: 'varint'; readonly value: bigint }
  /** Little endian, 4 or 8 bytes. */
  | { readonly number: number; readonly wire: 'fixed'; readonly bytes: Uint8Array }
  /** Text, bytes, or a message. */
  | { readonly number: number; readonly wire: 'bytes'; readonly bytes: Uint8Array }

/** A u64 takes ten bytes of seven bits. */
const MAX_VARINT_BYTES = 10

/** The fields of a message in order. Views, no copies. Throws `malformed` where a field runs past the end. */
export function* protobufFields(message: Uint8Array, file: string): Generator<ProtobufField, void, void> {
  let at = 0
  const fail = (why: string): never => {
    throw new AppError('malformed', `${file}: ${why}`, {
      where: { file },
      hint: 'The file is damaged: download it again.',
    })
  }
  const varint = (): bigint => {
    let value = 0n
    for (let i = 0; i < MAX_VARINT_BYTES; i++) {
      const byte = message[at++]
      if (byte === undefined) return fail('it ends within a number')
      value |= BigInt(byte & 0x7f) << BigInt(7 * i)
      if (byte < 0x80) return BigInt.asUintN(64, value)
    }
    return fail('a number is too long')
  }
  const take = (length: number): Uint8Array => {
    if (length > message.length - at) return fail(`it ends ${length - (message.length - at)} bytes too soon`)
    at += length
    return message.subarray(at - length, at)
  }
  while (at < message.length) {
    const key = varint()
    const number = Number(key >> 3n)
    switch (Number(key & 7n)) {
      case 0:
        yield { number, wire: 'varint', value: varint() }
        break
      case 1:
        yield { number, wire: 'fixed', bytes: take(8) }
        break
      case 2:
        yield { number, wire: 'bytes', bytes: take(Number(varint())) }
        break
      case 5:
        yield { number, wire: 'fixed', bytes: take(4) }
        break
      default:
        fail(`field ${number} has an unknown kind`)
    }
  }
}
