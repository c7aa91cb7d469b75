/**
 * Every element type, scalar and block, in one table.
 *
 * A block type stores `block` elements in `bytes` bytes; blocks run along the last axis, so a row's length must be a
 * multiple of `block`. A scalar type is a block of one. Sources: ggml-common.h (block types), the safetensors
 * specification (scalars).
 */
export const DTYPES = {
  bool: { block: 1, bytes: 1, kind: 'int' },
  u8: { block: 1, bytes: 1, kind: 'int' },
  i8: { block: 1, bytes: 1, kind: 'int' },
  u16: { block: 1, bytes: 2, kind: 'int' },
  i16: { block: 1, bytes: 2, kind: 'int' },
  u32: { block: 1, bytes: 4, kind: 'int' },
  i32: { block: 1, bytes: 4, kind: 'int' },
  u64: { block: 1, bytes: 8, kind: 'int' },
  i64: { block: 1, bytes: 8, kind: 'int' },
  f64: { block: 1, bytes: 8, kind: 'float' },
  f32: { block: 1, bytes: 4, kind: 'float' },
  f16: { block: 1, bytes: 2, kind: 'float' },
  bf16: { block: 1, bytes: 2, kind: 'float' },
  f8_e4m3: { block: 1, bytes: 1, kind: 'float' },
  f8_e5m2: { block: 1, bytes: 1, kind: 'float' },
  q4_0: { block: 32, bytes: 18, kind: 'quant' },
  q4_1: { block: 32, bytes: 20, kind: 'quant' },
  q5_0: { block: 32, bytes: 22, kind: 'quant' },
  q5_1: { block: 32, bytes: 24, kind: 'quant' },
  q8_0: { block: 32, bytes: 34, kind: 'quant' },
  q2_k: { block: 256, bytes: 84, kind: 'quant' },
  q3_k: { block: 256, bytes: 110, kind: 'quant' },
  q4_k: { block: 256, bytes: 144, kind: 'quant' },
  q5_k: { block: 256, bytes: 176, kind: 'quant' },
  q6_k: { block: 256, bytes: 210, kind: 'quant' },
  iq1_s: { block: 256, bytes: 50, kind: 'quant' },
  iq1_m: { block: 256, bytes: 56, kind: 'quant' },
  iq2_xxs: { block: 256, bytes: 66, kind: 'quant' },
  iq2_xs: { block: 256, bytes: 74, kind: 'quant' },
  iq2_s: { block: 256, bytes: 82, kind: 'quant' },
  iq3_xxs: { block: 256, bytes: 98, kind: 'quant' },
  iq3_s: { block: 256, bytes: 110, kind: 'quant' },
  iq4_nl: { block: 32, bytes: 18, kind: 'quant' },
  iq4_xs: { block: 256, bytes: 136, kind: 'quant' },
  tq1_0: { block: 256, bytes: 54, kind: 'quant' },
  tq2_0: { block: 256, bytes: 66, kind: 'quant' },
  q1_0: { block: 128, bytes: 18, kind: 'quant' },
  q2_0: { block: 64, bytes: 18, kind: 'quant' },
  mxfp4: { block: 32, bytes: 17, kind: 'quant' },
} as const satisfies Record<string, DTypeInfo>

/** How a type is stored. */
export interface DTypeInfo {
  /** Elements in a block. */
  readonly block: number
  /** Bytes of a block. */
  readonly bytes: number
  readonly kind: 'int' | 'float' | 'quant'
}

export type DType = keyof typeof DTYPES

/** Block length, bytes and kind of a type. */
export function dtypeInfo(dtype: DType): DTypeInfo {
  return DTYPES[dtype]
}

const IGNORES_IMPORTANCE: ReadonlySet<DType> = new Set<DType>(['q8_0', 'mxfp4', 'tq1_0', 'tq2_0', 'q1_0', 'q2_0'])

/** Whether quantising to this type makes use of an importance matrix; ggml ignores it for the others. */
export function takesImportance(dtype: DType): boolean {
  return DTYPES[dtype].kind === 'quant' && !IGNORES_IMPORTANCE.has(dtype)
}

const REQUIRES_IMPORTANCE: ReadonlySet<DType> = new Set<DType>(['iq1_s', 'iq2_xxs', 'iq2_xs'])

/** Whether there is no quantising to this type without an importance matrix, as in ggml. */
export function requiresImportance(dtype: DType): boolean {
  return REQUIRES_IMPORTANCE.has(dtype)
}

/** Number of elements of a shape; `[]` is a scalar, one element. Throws RangeError beyond 2^53. */
export function elementCount(shape: readonly number[]): number {
  let count = 1
  for (const size of shape) count *= size
  if (!Number.isSafeInteger(count) || count < 0)
    throw new RangeError(`shape [${shape.join(', ')}] has too many elements`)
  return count
}

/** Bytes of `elements` elements, which must be whole blocks. */
export function bytesOf(dtype: DType, elements: number): number {
  const { block, bytes } = DTYPES[dtype]
  if (elements % block !== 0) throw new RangeError(`${elements} elements are not whole blocks of ${dtype} (${block})`)
  return (elements / block) * bytes
}

/** Bits stored per element, block overhead included. */
export function bitsPerElement(dtype: DType): number {
  const { block, bytes } = DTYPES[dtype]
  return (bytes * 8) / block
}
