import { EXPERT_FAMILIES } from './experts.ts'
import type { NaiveModel } from './naive-model.ts'

/** A model of a family of which no trained one is here. */
export interface Family {
  readonly name: string
  readonly model: NaiveModel
  /** How far llama.cpp's logits may be from those computed here, where it is more than rounding. */
  readonly tolerance?: number
}

export const FAMILIES: readonly Family[] = EXPERT_FAMILIES.map((model) => ({ name: model.config.model_type, model }))
