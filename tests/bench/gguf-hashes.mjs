// The type and SHA-256 of every tensor of a GGUF file, by a reader of its own: for comparing two files' weights where
// their headers and the order of tensors differ.
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'

/** Bytes of the value types of fixed size, by their number. */
const FIXED = [1, 1, 2, 2, 4, 4, 4, 1, null, null, 8, 8, 8]
const [STRING, ARRAY] = [8, 9]
const ALIGNMENT = 32

/** Name to `type axes sha256`. The file is read whole: it is for small models. */
export function tensorHashes(path) {
  const bytes = readFileSync(path)
  let at = 8
  const u32 = () => bytes.readUInt32LE((at += 4) - 4)
  const u64 = () => Number(bytes.readBigUInt64LE((at += 8) - 8))
  const string = () => {
    const length = u64()
    return bytes.toString('utf8', at, (at += length))
  }
  const skip = (type) => {
    if (type === STRING) string()
    else if (type === ARRAY) {
      const [of, count] = [u32(), u64()]
      for (let i = 0; i < count; i++) skip(of)
    } else at += FIXED[type]
  }
  const [tensors, keys] = [u64(), u64()]
  for (let i = 0; i < keys; i++) {
    string()
    skip(u32())
  }
  const infos = Array.from({ length: tensors }, () => {
    const name = string()
    const axes = Array.from({ length: u32() }, u64)
    return { name, axes, type: u32(), offset: u64() }
  })
  const start = Math.ceil(at / ALIGNMENT) * ALIGNMENT
  const offsets = infos.map(({ offset }) => offset).toSorted((a, b) => a - b)
  // up to the next tensor: padding is zero in both
  const endOf = (offset) => offsets.find((other) => other > offset) ?? bytes.length - start
  return new Map(
    infos.map(({ name, axes, type, offset }) => {
      const data = bytes.subarray(start + offset, start + endOf(offset))
      return [name, `${type} ${axes} ${createHash('sha256').update(data).digest('hex')}`]
    }),
  )
}

/** Whether two files have the same tensors, bit for bit. */
export function sameTensors(a, b) {
  const [left, right] = [tensorHashes(a), tensorHashes(b)]
  return left.size === right.size && [...left].every(([name, hash]) => right.get(name) === hash)
}
