import type { Source } from '../../core/bytes.ts'
import type { GgufTensor } from '../containers/gguf/reader.ts'

/** Rows of each tensor that are looked at: the first, the last and some between. */
const SAMPLED_ROWS = 5
/** Of a row, so that the longest of them costs no more than a page or two. */
const SAMPLED_BYTES = 64 * 1024

/** Whether a number at some offset is NaN or infinite. */
type Test = (view: DataView, at: number) => boolean

const badF16: Test = (view, at) => (view.getUint16(at, true) & 0x7c00) === 0x7c00
const badBf16: Test = (view, at) => (view.getUint16(at, true) & 0x7f80) === 0x7f80
const badF32: Test = (view, at) => !Number.isFinite(view.getFloat32(at, true))
const badF64: Test = (view, at) => !Number.isFinite(view.getFloat64(at, true))
/** An exponent alone, whose greatest value means NaN. */
const badE8M0: Test = (view, at) => view.getUint8(at) === 0xff
/** An f16 in the high four bits of four 16-bit words, the lowest ones first: its exponent lies in the last two. */
const badNibbles: Test = (view, at) =>
  (view.getUint8(at + 5) & 0xc0) === 0xc0 && (view.getUint8(at + 7) & 0x70) === 0x70

/**
 * What in a block cannot be just any bits, by ggml's name of the type: byte offsets of scales or values, as
 * `ggml_validate_row_data` looks at them.
 */
const NUMBERS: ReadonlyMap<string, readonly [Test, ...offsets: number[]]> = new Map([
  ['f16', [badF16, 0]],
  ['bf16', [badBf16, 0]],
  ['f32', [badF32, 0]],
  ['f64', [badF64, 0]],
  ['q1_0', [badF16, 0]],
  ['q2_0', [badF16, 0]],
  ['q4_0', [badF16, 0]],
  ['q4_1', [badF16, 0, 2]],
  ['q5_0', [badF16, 0]],
  ['q5_1', [badF16, 0, 2]],
  ['q8_0', [badF16, 0]],
  ['q8_1', [badF16, 0, 2]],
  ['q2_K', [badF16, 80, 82]],
  ['q3_K', [badF16, 108]],
  ['q4_K', [badF16, 0, 2]],
  ['q5_K', [badF16, 0, 2]],
  ['q6_K', [badF16, 208]],
  ['q8_K', [badF32, 0]],
  ['iq1_s', [badF16, 0]],
  ['iq1_m', [badNibbles, 48]],
  ['iq2_xxs', [badF16, 0]],
  ['iq2_xs', [badF16, 0]],
  ['iq2_s', [badF16, 0]],
  ['iq3_xxs', [badF16, 0]],
  ['iq3_s', [badF16, 0]],
  ['iq4_nl', [badF16, 0]],
  ['iq4_xs', [badF16, 0]],
  ['tq1_0', [badF16, 52]],
  ['tq2_0', [badF16, 64]],
  ['mxfp4', [badE8M0, 0]],
])

/** What a look at a tensor showed. */
export interface Sample {
  /** From the start of the file, of the first NaN or infinity among values or scales; null if there is none. */
  readonly badOffset: number | null
  /** Whether every byte that was looked at is zero: a matrix that was never written looks so. */
  readonly allZero: boolean
}

/** Looks at a few rows of a tensor, in a few reads of 64 KiB at most. */
export async function sampleTensor(source: Source, tensor: GgufTensor): Promise<Sample> {
  const { type, shape } = tensor
  const columns = shape.at(-1) ?? 1
  const rowBytes = (columns / type.block) * type.bytes
  const rows = rowBytes === 0 ? 0 : tensor.size / rowBytes
  const length = Math.min(rowBytes, SAMPLED_BYTES - (SAMPLED_BYTES % type.bytes))
  const buffer = new Uint8Array(length)
  const view = new DataView(buffer.buffer)
  const picked = new Set(
    Array.from({ length: SAMPLED_ROWS }, (_, i) => Math.floor((i * (rows - 1)) / (SAMPLED_ROWS - 1))),
  )
  let allZero = true
  for (const row of rows === 0 ? [] : picked) {
    const offset = tensor.offset + row * rowBytes
    await source.read(offset, buffer)
    const bad = firstBad(view, type.name, type.bytes)
    if (bad !== null) return { badOffset: offset + bad, allZero: false }
    allZero &&= buffer.every((byte) => byte === 0)
  }
  return { badOffset: null, allZero: allZero && rows > 0 }
}

/** Bytes that are looked at at a time where all are: whole blocks of any type fit. */
const SCANNED_BYTES = 1024 * 1024

/** Looks at every block of a tensor, up to the first that is bad. */
export async function scanTensor(source: Source, tensor: GgufTensor, signal: AbortSignal): Promise<Sample> {
  const { type, offset: start, size } = tensor
  const buffer = new Uint8Array(Math.min(size, SCANNED_BYTES - (SCANNED_BYTES % type.bytes)))
  let allZero = true
  for (let done = 0; done < size; done += buffer.length) {
    const part = buffer.subarray(0, Math.min(buffer.length, size - done))
    await source.read(start + done, part, signal)
    const bad = firstBad(new DataView(part.buffer, 0, part.length), type.name, type.bytes)
    if (bad !== null) return { badOffset: start + done + bad, allZero: false }
    allZero &&= part.every((byte) => byte === 0)
  }
  return { badOffset: null, allZero: allZero && size > 0 }
}

/** Offset of the first number in a run of blocks that is not finite; null if all are, or may be any bits. */
function firstBad(view: DataView, type: string, bytes: number): number | null {
  const mask = EXPONENTS.get(type)
  if (mask !== undefined) return firstBadFloat(view, mask, bytes)
  const [test, ...offsets] = NUMBERS.get(type) ?? []
  if (test === undefined) return null
  for (let block = 0; block < view.byteLength; block += bytes)
    for (const offset of offsets) if (test(view, block + offset)) return block + offset
  return null
}

/** Exponents of floats, of which there are billions: they are looked at as words, of which machines here have the low byte first. */
const EXPONENTS: ReadonlyMap<string, number> = new Map([
  ['f16', 0x7c00],
  ['bf16', 0x7f80],
  ['f32', 0x7f80_0000],
])

function firstBadFloat({ buffer, byteOffset, byteLength }: DataView, mask: number, bytes: number): number | null {
  const count = byteLength / bytes
  const words = bytes === 2 ? new Uint16Array(buffer, byteOffset, count) : new Uint32Array(buffer, byteOffset, count)
  for (let i = 0; i < words.length; i++) if (((words[i] ?? 0) & mask) === mask) return i * bytes
  return null
}
