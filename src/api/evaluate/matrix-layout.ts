import type { DType } from '../../core/dtype.ts'
import type { MatrixScheme } from '../../core/matrix-scheme.ts'

/** A part of a scheme as kernels read it; where it is stored in another type, it is cast. */
export interface MatrixField {
  readonly name: string
  readonly dtype: DType
  /** The axis along which outputs lie; null for a part that goes for all of them. */
  readonly axis: 0 | 1 | null
  /** Indices of that axis for one step of outputs. */
  readonly perStep: number
}

/** How the parts of a scheme lie, whose outputs (rows) can be decoded some at a time. */
export interface MatrixLayout {
  /** Outputs that only go together. */
  readonly step: number
  readonly fields: readonly MatrixField[]
}

/** Outputs whose fields of `bits` bits are whole words. */
function wholeWords(bits: number): number {
  return 32 % bits === 0 ? 32 / bits : 32
}

const GROUPS: MatrixField = { name: 'groups', dtype: 'i32', axis: null, perStep: 0 }

/** The layout of a scheme for a matrix of so many rows. */
export function matrixLayoutOf(scheme: MatrixScheme, rows: number): MatrixLayout {
  switch (scheme.kind) {
    case 'gptq': {
      const step = wholeWords(scheme.bits)
      return {
        step,
        fields: [
          { name: 'codes', dtype: 'u32', axis: 1, perStep: step },
          { name: 'zeros', dtype: 'u32', axis: 1, perStep: (step * scheme.bits) / 32 },
          { name: 'scales', dtype: 'f32', axis: 1, perStep: step },
          ...(scheme.actOrder ? [GROUPS] : []),
        ],
      }
    }
    case 'awq': {
      const gemm = scheme.layout === 'gemm'
      const axis = gemm ? 1 : 0
      return {
        step: gemm ? 8 : 1,
        fields: [
          { name: 'codes', dtype: 'u32', axis, perStep: 1 },
          { name: 'zeros', dtype: 'u32', axis, perStep: 1 },
          { name: 'scales', dtype: 'f32', axis, perStep: gemm ? 8 : 1 },
        ],
      }
    }
    case 'packed': {
      const step = scheme.symmetric ? 1 : wholeWords(scheme.bits)
      return {
        step,
        fields: [
          { name: 'codes', dtype: 'u32', axis: 0, perStep: step },
          { name: 'scales', dtype: 'f32', axis: 0, perStep: step },
          ...(scheme.symmetric ? [] : [{ name: 'zeros', dtype: 'u32', axis: 0, perStep: 1 } as const]),
          ...(scheme.actOrder ? [GROUPS] : []),
        ],
      }
    }
    case 'scaled': {
      // blocks of all rows leave each row on its own
      const axis = scheme.rows >= rows ? null : 0
      const step = axis === null ? 1 : scheme.rows
      return {
        step,
        fields: [
          { name: 'codes', dtype: scheme.codes, axis: 0, perStep: step },
          { name: 'scales', dtype: 'f32', axis, perStep: 1 },
          ...(scheme.symmetric ? [] : [{ name: 'zeros', dtype: 'i8', axis, perStep: 1 } as const]),
        ],
      }
    }
  }
}
