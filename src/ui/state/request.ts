import type { Place } from '../../core/bytes.ts'
import type { OptionSpec, OptionValues } from '../../core/option.ts'
import type { ConvertRequest, FormatInfo, Target } from '../../api/wire.ts'
import { mainOption, splitTitle } from './formats.ts'
import { changed, codeOf, faultOf, openTransforms, transformsOf } from './options.ts'
import type { Model } from './session-types.ts'
import { folderName, type Shelf } from './shelf.ts'

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

/** The request for what is wanted. Each set of options has a place of its own in the browser's storage. */
export function composeRequest(wish: Wish, shelf: Shelf, overwrite: boolean): ConvertRequest {
  const { model, target, into } = wish
  const options = changed(wish.specs, wish.options)
  const set = changed(openTransforms(wish.transforms), wish.transforms)
  const transforms = transformsOf(set)
  const name = wish.name.trim() === '' ? null : folderName(wish.name)
  const plain = Object.keys(options).length === 0 && transforms === undefined
  const base = name ?? `${model.inspection.name} ${target.format} ${target.title}`
  return {
    input: model.place,
    target: target.format,
    options: { ...target.options, ...options },
    output: into ?? shelf.place(plain ? base : `${base} ${codeOf({ ...options, ...set })}`),
    name,
    // The browser's storage is ours: converting the same again replaces the earlier file.
    overwrite: overwrite || into === null,
    ...(transforms === undefined ? {} : { transforms }),
    ...(wish.check && target.format === 'gguf' ? { check: true } : {}),
  }
}

/** What is wrong with values by themselves, by the name of the option. */
export function faultsOf(
  specs: readonly OptionSpec[],
  options: OptionValues,
  transforms: OptionValues,
): ReadonlyMap<string, string> {
  const faults = new Map<string, string>()
  const note = (spec: OptionSpec, values: OptionValues): void => {
    const fault = faultOf(spec, values[spec.name])
    if (fault !== null) faults.set(spec.name, fault)
  }
  for (const spec of specs) note(spec, options)
  for (const spec of openTransforms(transforms)) note(spec, transforms)
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
  return title.startsWith(format) ? title : `${format} ${title}`
}

/** Whether an option's value comes letter by letter. */
export function isTyped({ kind }: OptionSpec): boolean {
  return kind.kind === 'integer' || kind.kind === 'list' || (kind.kind === 'text' && kind.file !== true)
}
