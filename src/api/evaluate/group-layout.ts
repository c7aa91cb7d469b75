import type { DType } from '../../core/dtype.ts'
import { schemeGroups, type GroupScheme } from '../../core/tensor.ts'

/** A part of a scheme as kernels read and write it; where it is stored in another type, it is cast. */
export interface GroupField {
  readonly name: string
  readonly dtype: DType
  /** Elements in a group. */
  readonly perGroup: number
}

/** The parts of a scheme of groups, each of which can be coded alone. */
export function groupFields(scheme: GroupScheme): readonly GroupField[] {
  const { bits, group } = schemeGroups(scheme)
  const codes: GroupField = { name: 'codes', dtype: 'u32', perGroup: (group * bits) / 32 }
  if (scheme.kind !== 'affine') return [codes, { name: 'scales', dtype: 'u8', perGroup: 1 }]
  return [codes, { name: 'scales', dtype: 'f32', perGroup: 1 }, { name: 'biases', dtype: 'f32', perGroup: 1 }]
}
