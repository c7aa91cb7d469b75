import { EXPERT_FAMILIES } from './experts.ts'
import { LAYER_NORMS } from './layer-norms.ts'
import type { NaiveModel } from './naive-model.ts'

/** A model of a family of which no trained one is here. */
export interface Family {
  readonly name: string
  readonly model: NaiveModel
  /** How far llama.cpp's logits may be from those computed here, where it is more than rounding. */
  readonly tolerance?: number
}

/** Of models with GELU, which llama.cpp looks up in a table of f16. */
const GELU_ERROR = 2e-3

export const FAMILIES: readonly Family[] = [
  ...EXPERT_FAMILIES.map((model) => ({ name: model.config.model_type, model })),
  ...Object.entries(LAYER_NORMS).map(([name, model]) => ({
    name,
    model,
    ...(String(model.config['hidden_act']).startsWith('gelu') ? { tolerance: GELU_ERROR } : {}),
  })),
]
