import type { OptionSpec, OptionValue, OptionValues } from '../../core/option.ts'
import { TRANSFORM_OPTIONS } from './options.ts'
import type { Source } from './source.ts'

/** What is set beside the choice of a target: the options of each format, and what is done to the model first. */
export class Settings {
  #options = $state.raw<ReadonlyMap<string, OptionValues>>(new Map())
  /** By the names of {@link TRANSFORM_OPTIONS}. */
  transforms = $state.raw<OptionValues>({})

  /** The options of a format. */
  of(format: string): OptionValues {
    return this.#options.get(format) ?? {}
  }

  /** Sets an option of a format, or a transform. */
  set(format: string, spec: OptionSpec, value: OptionValue): void {
    if (TRANSFORM_OPTIONS.includes(spec)) this.transforms = { ...this.transforms, [spec.name]: value }
    else this.#options = new Map([...this.#options, [format, { ...this.of(format), [spec.name]: value }]])
  }

  /** Takes back every option of a format, and the transforms. */
  clear(format: string, source: Source | null): void {
    this.#options = new Map([...this.#options].filter(([other]) => other !== format))
    this.transforms = firstTransforms(source)
  }

  /** Begins anew, for another model. */
  begin(source: Source): void {
    this.#options = new Map()
    this.transforms = firstTransforms(source)
  }
}

/** What is done to a model from the start. */
function firstTransforms(source: Source | null): OptionValues {
  return source?.madeUp === true ? { 'fake-weight': true } : {}
}
