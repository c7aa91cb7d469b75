import type { DType } from '../../../core/dtype.ts'

/**
 * GGUF, the container of llama.cpp: types and limits shared by its reader and writer.
 * Specification: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; element types: ggml.h of llama.cpp v0.5.0.
 */

/** "GGUF" as it lies in the file. */
export const GGUF_MAGIC: readonly number[] = [0x47, 0x47, 0x55, 0x46]
/** The version that is written. */
export const GGUF_VERSION = 3
/** Where `general.alignment` says nothing else. */
export const GGUF_ALIGNMENT = 32
/** ggml's GGML_MAX_DIMS. */
export const GGUF_MAX_DIMS = 4
/** ggml's GGML_MAX_NAME less its final NUL: llama.cpp refuses longer tensor names. */
export const GGUF_MAX_NAME = 63

/** An element type of ggml. */
export interface GgmlType {
  /** Its number in the file. */
  readonly id: number
  /** As ggml spells it. */
  readonly name: string
  /** Elements in a block. */
  readonly block: number
  /** Bytes of a block. */
  readonly bytes: number
  /** Ours, or null for those that no kernel here reads. */
  readonly dtype: DType | null
}

/** Every element type that ggml has, with those removed from it left out. */
const GGML_TYPES: ReadonlyMap<number, GgmlType> = new Map(
  (
    [
      [0, 'f32', 1, 4, 'f32'],
      [1, 'f16', 1, 2, 'f16'],
      [2, 'q4_0', 32, 18, 'q4_0'],
      [3, 'q4_1', 32, 20, 'q4_1'],
      [6, 'q5_0', 32, 22, 'q5_0'],
      [7, 'q5_1', 32, 24, 'q5_1'],
      [8, 'q8_0', 32, 34, 'q8_0'],
      [9, 'q8_1', 32, 36, null],
      [10, 'q2_K', 256, 84, 'q2_k'],
      [11, 'q3_K', 256, 110, 'q3_k'],
      [12, 'q4_K', 256, 144, 'q4_k'],
      [13, 'q5_K', 256, 176, 'q5_k'],
      [14, 'q6_K', 256, 210, 'q6_k'],
      [15, 'q8_K', 256, 292, null],
      [16, 'iq2_xxs', 256, 66, 'iq2_xxs'],
      [17, 'iq2_xs', 256, 74, 'iq2_xs'],
      [18, 'iq3_xxs', 256, 98, 'iq3_xxs'],
      [19, 'iq1_s', 256, 50, 'iq1_s'],
      [20, 'iq4_nl', 32, 18, 'iq4_nl'],
      [21, 'iq3_s', 256, 110, 'iq3_s'],
      [22, 'iq2_s', 256, 82, 'iq2_s'],
      [23, 'iq4_xs', 256, 136, 'iq4_xs'],
      [24, 'i8', 1, 1, 'i8'],
      [25, 'i16', 1, 2, 'i16'],
      [26, 'i32', 1, 4, 'i32'],
      [27, 'i64', 1, 8, 'i64'],
      [28, 'f64', 1, 8, 'f64'],
      [29, 'iq1_m', 256, 56, 'iq1_m'],
      [30, 'bf16', 1, 2, 'bf16'],
      [34, 'tq1_0', 256, 54, 'tq1_0'],
      [35, 'tq2_0', 256, 66, 'tq2_0'],
      [39, 'mxfp4', 32, 17, 'mxfp4'],
      [40, 'nvfp4', 64, 36, null],
      [41, 'q1_0', 128, 18, 'q1_0'],
      [42, 'q2_0', 64, 18, 'q2_0'],
    ] satisfies [number, string, number, number, DType | null][]
  ).map(([id, name, block, bytes, dtype]): [number, GgmlType] => [id, { id, name, block, bytes, dtype }]),
)

/** Types that files of 2023 and 2024 may still name, with the reason that nothing reads them. */
const REMOVED_TYPES: ReadonlyMap<number, string> = new Map([
  [4, 'q4_2'],
  [5, 'q4_3'],
  [31, 'q4_0_4_4'],
  [32, 'q4_0_4_8'],
  [33, 'q4_0_8_8'],
  [36, 'iq4_nl_4_4'],
  [37, 'iq4_nl_4_8'],
  [38, 'iq4_nl_8_8'],
])

/** Every element type, by its number. */
export function ggmlTypes(): readonly GgmlType[] {
  return [...GGML_TYPES.values()]
}

/** The type with this number in the file; null if ggml has none. */
export function ggmlType(id: number): GgmlType | null {
  return GGML_TYPES.get(id) ?? null
}

/** The name of a type that ggml once had; null for any other number. */
export function removedGgmlType(id: number): string | null {
  return REMOVED_TYPES.get(id) ?? null
}

const BY_DTYPE: ReadonlyMap<DType, GgmlType> = new Map(
  ggmlTypes().flatMap((type) => (type.dtype === null ? [] : [[type.dtype, type] as const])),
)

/** The ggml type that stores one of ours; null if ggml has none (`u32`, the 8-bit floats). */
export function ggmlTypeOf(dtype: DType): GgmlType | null {
  return BY_DTYPE.get(dtype) ?? null
}

/** Types of metadata values, by their number in the file. */
export const GGUF_VALUE_TYPES = [
  'u8',
  'i8',
  'u16',
  'i16',
  'u32',
  'i32',
  'f32',
  'bool',
  'string',
  'array',
  'u64',
  'i64',
  'f64',
] as const

export type GgufValueType = (typeof GGUF_VALUE_TYPES)[number]
export type GgufNumberType = 'u8' | 'i8' | 'u16' | 'i16' | 'u32' | 'i32' | 'f32' | 'f64'

/** A metadata value with the type it has in the file. 64-bit integers stay exact. */
export type GgufValue =
  | { readonly type: GgufNumberType; readonly value: number }
  | { readonly type: 'u64' | 'i64'; readonly value: bigint }
  | { readonly type: 'bool'; readonly value: boolean }
  | { readonly type: 'string'; readonly value: string }
  | GgufArray

/** An array of one element type. */
export type GgufArray = { readonly type: 'array' } & (
  | { readonly of: GgufNumberType; readonly value: ArrayLike<number> }
  | { readonly of: 'u64' | 'i64'; readonly value: readonly bigint[] }
  | { readonly of: 'bool'; readonly value: readonly boolean[] }
  | { readonly of: 'string'; readonly value: readonly string[] }
  | { readonly of: 'array'; readonly value: readonly GgufArray[] }
)

/** Bytes of one element of a value type; a string or an array has at least these. */
export const GGUF_VALUE_BYTES: Readonly<Record<GgufValueType, number>> = {
  u8: 1,
  i8: 1,
  u16: 2,
  i16: 2,
  u32: 4,
  i32: 4,
  f32: 4,
  bool: 1,
  string: 8,
  array: 12,
  u64: 8,
  i64: 8,
  f64: 8,
}

/** `offset` rounded up to a multiple of `alignment`. */
export function alignUp(offset: number, alignment: number): number {
  return Math.ceil(offset / alignment) * alignment
}
