/** The names of tensors in an adapter's file: PEFT's, with and without the adapter's own name in them. */
import { AppError } from '../core/errors.ts'
import type { Recipe } from '../core/tensor.ts'

/** What an adapter has for one module. */
export interface AdapterModule {
  /** [rank, in]; [rank, tokens] of an embedding. */
  a?: Recipe
  /** [out, rank]; [width, rank] of an embedding. */
  b?: Recipe
  embedding: boolean
  /** Length of each row, [out] (DoRA). */
  magnitude?: Recipe
  /** What B adds to the bias, [out]. */
  upBias?: Recipe
}

/** An adapter's tensors by what they do. Modules and tensors are named as in the base model's own checkpoints. */
export interface AdapterNames {
  readonly modules: ReadonlyMap<string, AdapterModule>
  /** Tensors that take the place of the base's, by its name. */
  readonly replacements: ReadonlyMap<string, Recipe>
}

const PREFIX = /^base_model\.model\./
/** The adapter's own name, `default` as a rule, is left out in files that PEFT saved. */
const OWN = String.raw`(?:\.[^.]+)?`
const MATRIX = new RegExp(String.raw`^(.+)\.lora_([AB])${OWN}\.weight$`)
const EMBEDDING = new RegExp(String.raw`^(.+)\.lora_embedding_([AB])${OWN}$`)
const MAGNITUDE = new RegExp(String.raw`^(.+)\.lora_magnitude_vector${OWN}?(?:\.weight)?$`)
const UP_BIAS = new RegExp(String.raw`^(.+)\.lora_B${OWN}\.bias$`)
const SAVED = new RegExp(String.raw`^(.+)\.modules_to_save${OWN}\.(weight|bias)$`)
const BASE_LAYER = /^(.+)\.base_layer\.(weight|bias)$/
/** The copy that PEFT keeps of a module that it trains whole. */
const ORIGINAL = /\.original_module\.(?:weight|bias)$/
/** Parts of other kinds of adapters. */
const OTHER = /\.(?:lora_\w+|ia3_\w+|hada_\w+|lokr_\w+|oft_\w+|boft_\w+|vera_\w+|token_adapter|prompt_\w+)(?:\.|$)/

/** Sorts an adapter's tensors. Throws `unsupported`, by name, for parts of another kind of adapter. */
export function readAdapterNames(tensors: ReadonlyMap<string, Recipe>, file: string): AdapterNames {
  const modules = new Map<string, AdapterModule>()
  const replacements = new Map<string, Recipe>()
  const at = (module: string, embedding = false): AdapterModule => {
    const known = modules.get(module) ?? { embedding }
    if (embedding) known.embedding = true
    modules.set(module, known)
    return known
  }
  for (const [stored, recipe] of tensors) {
    const name = stored.replace(PREFIX, '')
    const matrix = MATRIX.exec(name) ?? EMBEDDING.exec(name)
    const [, module = '', half] = matrix ?? []
    const single = MAGNITUDE.exec(name) ?? UP_BIAS.exec(name)
    const whole = SAVED.exec(name) ?? BASE_LAYER.exec(name)
    if (matrix !== null) {
      const parts = at(module, EMBEDDING.test(name))
      if (half === 'A') parts.a = recipe
      else parts.b = recipe
    } else if (single !== null) {
      const parts = at(single[1] ?? '')
      if (MAGNITUDE.test(name)) parts.magnitude = recipe
      else parts.upBias = recipe
    } else if (whole !== null) {
      replacements.set(`${whole[1] ?? ''}.${whole[2] ?? ''}`, recipe)
    } else if (OTHER.test(name)) {
      throw new AppError('unsupported', `The adapter has ${stored}, which is no part of a LoRA that can be merged`, {
        where: { file, tensor: stored },
        hint: 'Merge it with PEFT (merge_and_unload, then save_pretrained) and convert the result.',
      })
    } else if (!ORIGINAL.test(name)) {
      replacements.set(name, recipe)
    }
  }
  return { modules, replacements }
}
