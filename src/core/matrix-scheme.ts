/** Quantisations of whole matrices [outputs, inputs], as libraries for HuggingFace's transformers store them. */
import type { DType } from './dtype.ts'
import type { TensorInfo } from './tensor.ts'

export type MatrixScheme = GptqScheme | AwqScheme | PackedScheme | ScaledScheme

/**
 * `(code - zero - zeroOffset) * scale`, groups along the inputs. Parts of a matrix [N, K] of G groups: codes u32
 * [K * bits / 32, N], packed along the inputs; zeros u32 [G, N * bits / 32], packed along the outputs; scales [G, N].
 * Both are little endian bit streams. Source: AutoGPTQ, GPTQModel.
 */
export interface GptqScheme {
  readonly kind: 'gptq'
  readonly bits: number
  readonly group: number
  /** What stored zeros lack: 1 in the first version of the format, 0 in the second. */
  readonly zeroOffset: 0 | 1
  /** Whether a part `groups`, i32 [K], says which group an input is of, instead of its place. */
  readonly actOrder: boolean
}

/**
 * `(code - zero) * scale`, 4 bits, groups along the inputs. Parts of `gemm`: codes u32 [K, N / 8] and zeros u32 [G,
 * N / 8], whose nibbles hold outputs 0, 2, 4, 6, 1, 3, 5, 7 of each eight; scales [G, N]. Of `gemv`: codes u32 [N, K / 8],
 * zeros u32 [N, Z] and scales [N, 8 * Z], nibbles in order, Z padded. Source: casper-hansen/AutoAWQ.
 */
export interface AwqScheme {
  readonly kind: 'awq'
  readonly layout: 'gemm' | 'gemv'
  readonly group: number
}

/**
 * `(code - zero) * scale`, groups along the inputs. Parts: codes u32 [N, K * bits / 32], packed along the inputs; scales
 * [N, G]; zeros u32 [N * bits / 32, G], packed along the outputs, all words rounded up; `groups` as in {@link GptqScheme}.
 * A symmetric one has no zeros: they are 2^(bits - 1). Source: compressed-tensors, `pack-quantized`.
 */
export interface PackedScheme {
  readonly kind: 'packed'
  readonly bits: 2 | 4 | 8
  readonly group: number
  readonly symmetric: boolean
  readonly actOrder: boolean
}

/**
 * `(code - zero) * scale` with codes that are numbers, and a scale (and zero, i8) for each block of `rows` by `columns`,
 * those at the ends smaller. Parts: codes [N, K] of the type, scales and zeros [N / rows, K / columns], rounded up.
 */
export interface ScaledScheme {
  readonly kind: 'scaled'
  readonly codes: 'f8_e4m3' | 'f8_e5m2' | 'i8'
  readonly rows: number
  readonly columns: number
  readonly symmetric: boolean
}

/** Groups to which AWQ's GEMV layout pads zeros: so many words of them, times a factor for small groups. */
export function gemvZeroWords(columns: number, group: number): number {
  const factor = group >= 128 ? 1 : group >= 64 ? 2 : 4
  return Math.ceil(Math.ceil(columns / group / 8) / factor) * factor
}

/** The parts for a matrix of this shape; `scales` is the type of scales. `fail` throws. */
export function matrixFields(
  scheme: MatrixScheme,
  shape: readonly number[],
  scales: DType,
  fail: (why: string) => never,
): Record<string, TensorInfo> {
  const [rows, columns] = shape
  if (shape.length !== 2 || rows === undefined || columns === undefined) fail(`[${shape.join(', ')}] is no matrix`)
  const words = (count: number, bits: number): number => {
    if ((count * bits) % 32 !== 0) fail(`${count} codes of ${bits} bits are not whole u32 words`)
    return (count * bits) / 32
  }
  const u32 = (...size: number[]): TensorInfo => ({ dtype: 'u32', shape: size })
  const scale = (...size: number[]): TensorInfo => ({ dtype: scales, shape: size })
  const groups: TensorInfo = { dtype: 'i32', shape: [columns] }
  if (scheme.kind === 'scaled') {
    const blocks = [Math.ceil(rows / scheme.rows), Math.ceil(columns / scheme.columns)]
    const fields = { codes: { dtype: scheme.codes, shape }, scales: scale(...blocks) }
    return scheme.symmetric ? fields : { ...fields, zeros: { dtype: 'i8', shape: blocks } }
  }
  const count = Math.ceil(columns / scheme.group)
  if (scheme.kind === 'gptq') {
    const { bits, actOrder } = scheme
    const fields = {
      codes: u32(words(columns, bits), rows),
      zeros: u32(count, words(rows, bits)),
      scales: scale(count, rows),
    }
    return actOrder ? { ...fields, groups } : fields
  }
  if (scheme.kind === 'packed') {
    const { bits, symmetric, actOrder } = scheme
    return {
      codes: u32(rows, Math.ceil((columns * bits) / 32)),
      scales: scale(rows, count),
      ...(symmetric ? {} : { zeros: u32(Math.ceil((rows * bits) / 32), count) }),
      ...(actOrder ? { groups } : {}),
    }
  }
  if (scheme.layout === 'gemm')
    return { codes: u32(columns, words(rows, 4)), zeros: u32(count, words(rows, 4)), scales: scale(count, rows) }
  const zeros = gemvZeroWords(columns, scheme.group)
  return { codes: u32(rows, words(columns, 4)), zeros: u32(rows, zeros), scales: scale(rows, zeros * 8) }
}
