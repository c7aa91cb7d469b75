import type { Source } from '../../core/bytes.ts'
import type { GgufTensor } from '../containers/gguf/reader.ts'

/** Rows of each tensor that are looked at: the first, the last and some between. */
const SAMPLED_ROWS = 5
/** Of a row, so that the longest of them costs no more than a page or two. */
const SAMPLED_BYTES = 64 * 1024

/** Byte offsets of the f16 scales within a block, by ggml's name of the type. */
const SCALES: ReadonlyMap<string, readonly number[]> = new Map([
  ['q4_0', [0]],
  ['q4_1', [0, 2]],
  ['q5_0', [0]],
  ['q5_1', [0, 2]],
  ['q8_0', [0]],
  ['q2_K', [80, 82]],
  ['q3_K', [108]],
  ['q4_K', [0, 2]],
  ['q5_K', [0, 2]],
  ['q6_K', [208]],
  ['iq4_nl', [0]],
  ['iq4_xs', [0]],
])

/** What a look at some rows of a tensor showed. */
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

/** Offset of the first number in a run of blocks that is not finite; null if all are, or the type is not known. */
function firstBad(view: DataView, type: string, bytes: number): number | null {
  const bad = BAD_SCALAR.get(type)
  const offsets = bad === undefined ? SCALES.get(type) : [0]
  if (offsets === undefined) return null
  const test = bad ?? badF16
  for (let block = 0; block < view.byteLength; block += bytes)
    for (const offset of offsets) if (test(view, block + offset)) return block + offset
  return null
}

function badF16(view: DataView, at: number): boolean {
  return (view.getUint16(at, true) & 0x7c00) === 0x7c00
}

const BAD_SCALAR: ReadonlyMap<string, (view: DataView, at: number) => boolean> = new Map([
  ['f16', badF16],
  ['bf16', (view: DataView, at: number) => (view.getUint16(at, true) & 0x7f80) === 0x7f80],
  ['f32', (view: DataView, at: number) => !Number.isFinite(view.getFloat32(at, true))],
  ['f64', (view: DataView, at: number) => !Number.isFinite(view.getFloat64(at, true))],
])
