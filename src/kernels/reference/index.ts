/**
 * The reference backend: what every other backend must reproduce, byte for byte. Plain TypeScript, one element after
 * the other; slow, and able to do everything.
 */
import { DTYPES, type DType } from '../../core/dtype.ts'
import { AppError, throwIfAborted } from '../../core/errors.ts'
import type {
  AnyOp,
  Arena,
  Backend,
  DrawKernel,
  DrawOp,
  Importance,
  Kernel,
  KernelOp,
  KernelResult,
  LowRankKernel,
  LowRankOp,
  SchemeKernel,
} from '../backend.ts'
import {
  checkBuffers,
  checkDraw,
  checkFactors,
  checkImportance,
  checkParts,
  describeOp,
  sliceOfRows,
} from '../check.ts'
import { f32, sumSquares, type BlockCodec } from './codec.ts'
import { drawNormal, drawUniform } from './draw.ts'
import { DECODE, decodeF16, ENCODE } from './float.ts'
import { iq1_m, iq1_s } from './iq1.ts'
import { iq2_s, iq2_xs, iq2_xxs } from './iq2.ts'
import { iq3_s, iq3_xxs } from './iq3.ts'
import { iq4_nl } from './iq4_nl.ts'
import { iq4_xs } from './iq4_xs.ts'
import { addLowRank } from './low-rank.ts'
import { mxfp4 } from './mxfp4.ts'
import { q1_0 } from './q1_0.ts'
import { q2_0 } from './q2_0.ts'
import { q2_k } from './q2_k.ts'
import { q3_k } from './q3_k.ts'
import { q4_0 } from './q4_0.ts'
import { q4_1 } from './q4_1.ts'
import { q4_k } from './q4_k.ts'
import { q5_0 } from './q5_0.ts'
import { q5_1 } from './q5_1.ts'
import { q5_k } from './q5_k.ts'
import { q6_k } from './q6_k.ts'
import { q8_0 } from './q8_0.ts'
import { canScheme, dequantizeScheme, quantizeScheme } from './schemes.ts'
import { tq1_0, tq2_0 } from './ternary.ts'

/** The block types' codecs. */
export const CODECS: { readonly [D in DType]?: BlockCodec } = {
  q4_0,
  q4_1,
  q5_0,
  q5_1,
  q8_0,
  q2_k,
  q3_k,
  q4_k,
  q5_k,
  q6_k,
  iq1_s,
  iq1_m,
  iq2_xxs,
  iq2_xs,
  iq2_s,
  iq3_xxs,
  iq3_s,
  iq4_nl,
  iq4_xs,
  mxfp4,
  tq1_0,
  tq2_0,
  q1_0,
  q2_0,
}

/** Elements between two looks at the abort signal; whole blocks of every type. */
const SLICE = 1 << 16

/** Elements per second, for the dispatcher; measured on a 2.6 GHz server core, roughly. */
const SPEED: { readonly [D in DType]?: number } = {
  q4_0: 15e6,
  q4_1: 12e6,
  q5_0: 12e6,
  q5_1: 12e6,
  q8_0: 15e6,
  q2_k: 0.5e6,
  q3_k: 2e6,
  q4_k: 0.5e6,
  q5_k: 0.5e6,
  q6_k: 1e6,
  iq4_nl: 0.5e6,
  iq4_xs: 0.5e6,
  iq3_xxs: 0.1e6,
  iq3_s: 0.1e6,
  mxfp4: 5e6,
  iq1_m: 0.06e6,
  iq2_s: 0.06e6,
  tq1_0: 15e6,
  tq2_0: 15e6,
  q1_0: 15e6,
  q2_0: 15e6,
}
/** Of the types that are searched with an importance matrix. */
const WEIGHTED_SPEED = 0.3e6
/** Of what is cast or dequantised. */
const SCALAR_SPEED = 50e6
/** Multiplications of a low-rank update. */
const PRODUCT_SPEED = 100e6
/** Of what has its parts in tensors of their own. */
const SCHEME_SPEED = 30e6

/** Converts `elements` elements from `start` on; the index of the first bad element, or null. */
type Step = (
  input: DataView,
  output: DataView,
  start: number,
  elements: number,
  importance?: Float32Array,
) => number | null

function view(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}

/** The first element of greatest magnitude: the one to blame for a scale that overflows. */
function largest(x: Float32Array): number {
  let at = 0
  x.forEach((value, i) => {
    if (Math.abs(value) > Math.abs(x[at] ?? 0)) at = i
  })
  return at
}

/** Whether the block at `at` has scales to make values with. */
function hasScales(codec: BlockCodec, blocks: DataView, at: number): boolean {
  if (!codec.scales.every((scale) => Number.isFinite(decodeF16(blocks.getUint16(at + scale, true))))) return false
  if (codec.scatteredScale === undefined) return true
  const block = new DataView(blocks.buffer, blocks.byteOffset + at, DTYPES[codec.dtype].bytes)
  return Number.isFinite(codec.scatteredScale(block))
}

function copy(dtype: DType): Step {
  const { block, bytes, kind } = DTYPES[dtype]
  const decode = kind === 'float' ? DECODE[dtype] : undefined
  const codec = CODECS[dtype]
  return (input, output, start, elements) => {
    for (let i = (start / block) * bytes; i < ((start + elements) / block) * bytes; i++) {
      output.setUint8(i, input.getUint8(i))
    }
    for (let i = start; i < start + elements; i += block) {
      if (decode && !Number.isFinite(decode(input, i))) return i
      if (codec && !hasScales(codec, input, (i / block) * bytes)) return i
    }
    return null
  }
}

function scalarToScalar(from: DType, to: DType): Step | null {
  const decode = DECODE[from]
  const encode = ENCODE[to]
  if (decode === undefined || encode === undefined) return null
  return (input, output, start, elements) => {
    for (let i = start; i < start + elements; i++) {
      const value = decode(input, i)
      if (!Number.isFinite(value) || !Number.isFinite(encode(output, i, value))) return i
    }
    return null
  }
}

function quantise(from: DType, to: DType): Step | null {
  const decode = DECODE[from]
  const codec = CODECS[to]
  const write = codec?.quantise?.bind(codec)
  if (decode === undefined || codec === undefined || write === undefined) return null
  const { block, bytes } = DTYPES[to]
  const x = new Float32Array(block)
  return (input, output, start, elements) => {
    for (let first = start; first < start + elements; first += block) {
      for (let i = 0; i < block; i++) {
        x[i] = decode(input, first + i)
        if (!Number.isFinite(x[i])) return first + i
      }
      const at = (first / block) * bytes
      write(x, new DataView(output.buffer, output.byteOffset + at, bytes))
      if (!hasScales(codec, output, at)) return first + largest(x)
    }
    return null
  }
}

/** Whole rows, each with the same importances: a row is looked through before its first block. */
function quantiseWeighted(from: DType, to: DType): Step | null {
  const decode = DECODE[from]
  const codec = CODECS[to]
  const write = codec?.quantiseWeighted?.bind(codec)
  if (decode === undefined || codec === undefined || write === undefined) return null
  const { block, bytes } = DTYPES[to]
  return (input, output, start, elements, importance = new Float32Array()) => {
    const columns = importance.length
    const row = new Float32Array(columns)
    for (let first = start; first < start + elements; first += columns) {
      for (let i = 0; i < columns; i++) {
        row[i] = decode(input, first + i)
        if (!Number.isFinite(row[i])) return first + i
      }
      const rowMeanSquare = f32(sumSquares(row) / columns)
      for (let i = 0; i < columns; i += block) {
        const at = ((first + i) / block) * bytes
        const x = row.subarray(i, i + block)
        const values = importance.subarray(i, i + block)
        write(x, new DataView(output.buffer, output.byteOffset + at, bytes), { values, rowMeanSquare })
        if (!hasScales(codec, output, at)) return first + i + largest(x)
      }
    }
    return null
  }
}

function dequantise(from: DType, to: DType): Step | null {
  const codec = CODECS[from]
  const encode = ENCODE[to]
  if (codec === undefined || encode === undefined) return null
  const { block, bytes } = DTYPES[from]
  const y = new Float32Array(block)
  return (input, output, start, elements) => {
    for (let first = start; first < start + elements; first += block) {
      codec.dequantise(new DataView(input.buffer, input.byteOffset + (first / block) * bytes, bytes), y)
      for (let i = 0; i < block; i++) {
        const value = y[i] ?? 0
        if (!Number.isFinite(value) || !Number.isFinite(encode(output, first + i, value))) return first + i
      }
    }
    return null
  }
}

function stepOf({ from, to, weighted }: KernelOp): Step | null {
  if (weighted === true) return quantiseWeighted(from, to)
  if (from === to) return DTYPES[from].kind === 'quant' && CODECS[from] === undefined ? null : copy(from)
  const [quantFrom, quantTo] = [DTYPES[from].kind === 'quant', DTYPES[to].kind === 'quant']
  if (quantFrom) return quantTo ? null : dequantise(from, to)
  return quantTo ? quantise(from, to) : scalarToScalar(from, to)
}

function importanceValues({ values, columns }: Importance): Float32Array {
  const bytes = view(values)
  return Float32Array.from({ length: columns }, (_, i) => bytes.getFloat32(i * 4, true))
}

/** Lets other tasks run, and with them an abort arrive. */
function breathe(): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, 0)
  })
}

const heap: Arena = {
  alloc(bytes) {
    try {
      return new Uint8Array(bytes)
    } catch (cause) {
      throw new AppError('memory', `No memory for a buffer of ${bytes} bytes.`, { cause })
    }
  },
  free() {},
}

function drawKernel(op: DrawOp): DrawKernel {
  return {
    op,
    async run(draw, output, elements, signal) {
      checkDraw(op, draw, output, elements)
      const { from } = draw
      for (let start = 0; start < elements; start += SLICE) {
        if (start > 0) await breathe()
        throwIfAborted(signal)
        const count = Math.min(SLICE, elements - start)
        const bad =
          'table' in from
            ? drawNormal(from.table, output, start, count, draw)
            : drawUniform(op.to, view(output), start, count, draw, from)
        if (bad !== null) return { bad }
      }
      return { bad: null }
    },
  }
}

function lowRankKernel(op: LowRankOp): LowRankKernel {
  const floats = (bytes: Uint8Array): Float32Array =>
    new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4)
  return {
    op,
    async run(factors, values, rows, signal) {
      checkFactors(op, factors, values, rows)
      const { up, down, columns, scale } = factors
      const atOnce = sliceOfRows(SLICE, columns * Math.max(1, op.rank)) / (columns * Math.max(1, op.rank))
      for (let first = 0; first < rows; first += atOnce) {
        if (first > 0) await breathe()
        throwIfAborted(signal)
        const end = Math.min(rows, first + atOnce)
        addLowRank(floats(values), floats(up), floats(down), op.rank, columns, scale, first, end)
      }
    },
  }
}

function speedOf(op: AnyOp): number {
  switch (op.kind) {
    case 'draw':
      return SCALAR_SPEED
    case 'low-rank':
      return PRODUCT_SPEED / Math.max(1, op.rank)
    case 'cast':
      if (stepOf(op) === null) return 0
      if (op.weighted === true) return WEIGHTED_SPEED
      return (DTYPES[op.from].kind === 'quant' ? undefined : SPEED[op.to]) ?? SCALAR_SPEED
    default:
      return canScheme(op) ? SCHEME_SPEED : 0
  }
}

/** Creates the reference backend. It runs in the calling thread and yields between slices. */
export function createReferenceBackend(): Backend {
  return {
    id: 'reference',
    label: 'TypeScript reference, 1 thread',
    limitation: null,
    threads: 1,
    arena: heap,
    exact: (op) => speedOf(op) > 0,
    speed: speedOf,
    prepare(op): Kernel {
      if (stepOf(op) === null) throw new AppError('unsupported', `There is no kernel for ${describeOp(op)}.`)
      return {
        op,
        async run(input, output, elements, signal, importance): Promise<KernelResult> {
          checkBuffers(op, input, output, elements)
          checkImportance(op, elements, importance)
          // Each run has a step of its own: it holds a block of scratch.
          const step = stepOf(op)
          const slice = importance === undefined ? SLICE : sliceOfRows(SLICE, importance.columns)
          const weights = importance === undefined ? undefined : importanceValues(importance)
          for (let start = 0; start < elements; start += slice) {
            if (start > 0) await breathe()
            throwIfAborted(signal)
            const bad = step?.(view(input), view(output), start, Math.min(slice, elements - start), weights) ?? null
            if (bad !== null) return { bad }
          }
          return { bad: null }
        },
      }
    },
    prepareScheme(op): SchemeKernel {
      if (!canScheme(op)) throw new AppError('unsupported', `There is no kernel for ${describeOp(op)}.`)
      return {
        op,
        async run(parts, values, rows, columns, signal) {
          checkParts(op, parts, values, rows, columns)
          throwIfAborted(signal)
          if (rows * columns === 0) return { bad: null }
          const bad =
            op.kind === 'quantize'
              ? quantizeScheme(op, parts, values, rows, columns)
              : dequantizeScheme(op.scheme, parts, values, rows, columns)
          return { bad }
        },
      }
    },
    prepareDraw: drawKernel,
    prepareLowRank: lowRankKernel,
    close: async () => {},
  }
}
