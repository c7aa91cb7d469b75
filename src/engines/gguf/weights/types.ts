import type { DType } from '../../../core/dtype.ts'
import { ggmlTypes } from '../../containers/gguf/types.ts'

/** The types of ggml that weights can have, spelled as DType would spell them. */
export const WEIGHT_TYPES = [
  'f32',
  'f16',
  'bf16',
  'q8_0',
  'q6_k',
  'q5_k',
  'q5_1',
  'q5_0',
  'q4_k',
  'q4_1',
  'q4_0',
  'iq4_nl',
  'iq4_xs',
  'mxfp4',
  'q3_k',
  'iq3_s',
  'iq3_xxs',
  'q2_k',
  'iq2_s',
  'iq2_xs',
  'iq2_xxs',
  'tq2_0',
  'iq1_m',
  'tq1_0',
  'iq1_s',
  'q2_0',
  'q1_0',
] as const

export type WeightType = (typeof WEIGHT_TYPES)[number]

/**
 * Types that kernels can make of floats. A type may be readable before it is writable, so this is not the table of
 * types; a test holds it against the reference backend.
 */
export const WRITABLE: ReadonlySet<WeightType> = new Set<WeightType>([
  'f32',
  'f16',
  'bf16',
  'q8_0',
  'q6_k',
  'q5_k',
  'q5_1',
  'q5_0',
  'q4_k',
  'q4_1',
  'q4_0',
  'iq4_nl',
  'iq4_xs',
  'mxfp4',
  'q3_k',
  'iq3_s',
  'iq3_xxs',
  'q2_k',
  'iq2_s',
  'iq2_xs',
  'iq2_xxs',
  'tq2_0',
  'iq1_m',
  'tq1_0',
  'iq1_s',
  'q2_0',
  'q1_0',
])

const BY_NAME = new Map(ggmlTypes().map((type) => [type.name.toLowerCase(), type]))

/** Elements and bytes of a block. */
export function blockOf(type: WeightType): { readonly block: number; readonly bytes: number } {
  const found = BY_NAME.get(type)
  if (found === undefined) throw new RangeError(`ggml has no type ${type}`)
  return found
}

/** The type as recipes know it; null if nothing here can write it yet. */
export function writableDType(type: WeightType): DType | null {
  return WRITABLE.has(type) ? (BY_NAME.get(type)?.dtype ?? null) : null
}

/** A type by its name in any case; null if there is none. */
export function weightTypeNamed(name: string): WeightType | null {
  const wanted = name.trim().toLowerCase()
  return WEIGHT_TYPES.find((type) => type === wanted) ?? null
}

/** Whether rows of this length are whole blocks. */
export function fitsRow(type: WeightType, columns: number): boolean {
  return columns % blockOf(type).block === 0
}

/** Bits for each weight, scales included. */
export function bitsOf(type: WeightType): number {
  const { block, bytes } = blockOf(type)
  return (bytes * 8) / block
}

/** Whether it is a float type, which needs no choice of blocks. */
export function isFloat(type: WeightType): boolean {
  return type === 'f32' || type === 'f16' || type === 'bf16'
}
