import type { Place } from '../../core/bytes.ts'
import type { OptionSpec, OptionValues } from '../../core/option.ts'
import type { ConvertRequest, FormatInfo, Target } from '../../api/wire.ts'
import { mainOption, splitTitle } from './formats.ts'
import { changed, codeOf, faultOf, openTransforms, transformsOf, type Transformable } from './options.ts'
import type { Model } from './session-types.ts'
import { folderName, type Shelf } from './shelf.ts'
import { besidesOf, givenOf, sourceFault } from './source.ts'

/** What is wanted of a model, as the page has it. */
export interface Wish {
  readonly model: Model
  readonly target: Target
  /** The options that the target has beside its choices, and what was set of them. */
  readonly specs: readonly OptionSpec[]
  readonly options: OptionValues
  readonly transforms: OptionValues
  /** What the output is to be called; empty for a name made of the model's. */
  readonly name: string
  /** Whether the output is to be run once it is finished. */
  readonly check: boolean
  /** The picked folder; null for the browser's storage. */
  readonly into: Place | null
}

/** The request for what is wanted. Each target and set of options has a place of its own in the browser's storage. */
export function composeRequest(wish: Wish, shelf: Shelf, overwrite: boolean): ConvertRequest {
  const { model, target, into } = wish
  const options = changed(wish.specs, wish.options)
  const set = changed(openTransforms(wish.transforms, transformable(model)), wish.transforms)
  const transforms = givenOf(model.source, transformsOf(set))
  const name = wish.name.trim() === '' ? null : folderName(wish.name)
  const plain = Object.keys(options).length === 0 && transforms === undefined
  const base = `${name ?? model.inspection.name} ${target.format} ${target.title}`
  const code = codeOf({ ...options, ...set, besides: besidesOf(model.source) })
  return {
    input: model.source.place,
    target: target.format,
    options: { ...target.options, ...options },
    output: into ?? shelf.place(plain ? base : `${base} ${code}`),
    name,
    // The browser's storage is ours: converting the same again replaces the earlier file.
    overwrite: overwrite || into === null,
    ...(transforms === undefined ? {} : { transforms }),
    ...(wish.check && target.format === 'gguf' ? { check: true } : {}),
  }
}

/** What decides which transforms a model is offered. */
export function transformable({ inspection: { mup, tied }, source: { madeUp } }: Model): Transformable {
  return { mup, tied, madeUp }
}

/** Under which name the fault of an adapter's weight is told. */
export const ADAPTER_FAULT = 'adapter'

/** What is wrong with values by themselves, by the name of the option. */
export function faultsOf(
  model: Model | null,
  specs: readonly OptionSpec[],
  options: OptionValues,
  transforms: OptionValues,
): ReadonlyMap<string, string> {
  const faults = new Map<string, string>()
  if (model === null) return faults
  const given = sourceFault(model.source)
  if (given !== null) faults.set(ADAPTER_FAULT, given)
  const note = (spec: OptionSpec, values: OptionValues): void => {
    const fault = faultOf(spec, values[spec.name])
    if (fault !== null) faults.set(spec.name, fault)
  }
  for (const spec of specs) note(spec, options)
  for (const spec of openTransforms(transforms, transformable(model))) note(spec, transforms)
  return faults
}

/** What the folder of several files is called if nobody names it, as the command does it. */
export function usualFolder(model: Model, target: Target, format: FormatInfo | undefined): string {
  const main = mainOption(format)
  const value = main === null ? undefined : target.options[main.name]
  const choice = typeof value === 'string' && value !== main?.kind.default ? `-${value}` : ''
  return folderName(`${model.inspection.name}-${target.format}${choice}`)
}

/** "GGUF Q4_K_M": a target's format and title in few words. */
export function targetName({ formatTitle, title }: Target): string {
  const format = splitTitle(formatTitle).name
  if (title.startsWith(format)) return title
  // a name of its own, such as Q4_K_M, or a plain word
  return /^[A-Z][a-z]/.test(title) ? `${format}, ${title.toLowerCase()}` : `${format} ${title}`
}

/** Whether an option's value comes letter by letter. */
export function isTyped({ kind }: OptionSpec): boolean {
  return (
    kind.kind === 'integer' ||
    kind.kind === 'number' ||
    kind.kind === 'list' ||
    (kind.kind === 'text' && kind.file !== true)
  )
}
