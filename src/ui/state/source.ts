import type { Inspection } from '../../api/wire.ts'
import type { Place } from '../../core/bytes.ts'
import type { AppError } from '../../core/errors.ts'
import type { TextFile, Transforms } from '../../core/transform.ts'
import { transformsOf } from './options.ts'
import type { Failure } from './session-types.ts'

/** A LoRA adapter that is merged into the model. */
export interface MergedAdapter {
  readonly place: Place
  readonly name: string
  /** What it is multiplied by: 1 as it was trained. NaN while what was typed is no such number. */
  readonly weight: number
}

/** What a model is made of: the place that was opened, and what was given with it. */
export interface Source {
  readonly place: Place
  /** For people. */
  readonly label: string
  readonly adapters: readonly MergedAdapter[]
  /** A config.json for what the files of the place do not say. */
  readonly config: TextFile | null
  /** Whether there is nothing but a configuration, and the weights are made up. */
  readonly madeUp: boolean
}

/** A place by itself. */
export function plainSource(place: Place, label: string): Source {
  return { place, label, adapters: [], config: null, madeUp: false }
}

/** A source with one more adapter. */
export function withAdapter(source: Source, place: Place, name: string): Source {
  return { ...source, adapters: [...source.adapters, { place, name, weight: 1 }] }
}

/** A source without one of its adapters. */
export function withoutAdapter(source: Source, at: number): Source {
  return { ...source, adapters: source.adapters.filter((_, index) => index !== at) }
}

/** A source with another weight for one of its adapters. */
export function weighed(source: Source, at: number, weight: number): Source {
  return { ...source, adapters: source.adapters.map((one, index) => (index === at ? { ...one, weight } : one)) }
}

/** What a source asks of the API, with what is done to the model besides; undefined for nothing. */
export function givenOf(source: Source, more?: Transforms): Transforms | undefined {
  const { adapters, config, madeUp } = source
  const given: Transforms = {
    ...(madeUp ? transformsOf({ 'fake-weight': true }) : {}),
    ...more,
    ...(config === null ? {} : { hfConfig: config.text }),
    ...(adapters.length === 0 ? {} : { adapters: adapters.map(({ place, weight }) => ({ place, weight })) }),
  }
  return Object.keys(given).length === 0 ? undefined : given
}

/** What tells a source apart from its place alone, for names; empty for nothing. */
export function besidesOf({ adapters, config }: Source): readonly string[] {
  return [...adapters.map(({ name, weight }) => `${name}=${weight}`), ...(config === null ? [] : [config.text])]
}

/** What is wrong with what was given, as one sentence; null if nothing is. */
export function sourceFault({ adapters }: Source): string | null {
  const wrong = adapters.find(({ weight }) => !isWeight(weight))
  return wrong === undefined ? null : `The weight of “${wrong.name}” has to be a number other than 0.`
}

/** Whether an adapter can be multiplied by it. */
export function isWeight(value: number): boolean {
  return Number.isFinite(value) && value !== 0
}

/** What a source lacks to be a model, and what is known of it. */
export type Need =
  /** An adapter without its base; `adapters` are all that wait for one. */
  | { readonly kind: 'base'; readonly adapters: readonly MergedAdapter[]; readonly message: string }
  /** A configuration without weights, and the model that made-up ones would make. */
  | { readonly kind: 'weights'; readonly outline: Inspection }
  /** Weights that do not say enough of their model. */
  | { readonly kind: 'config'; readonly message: string }

/** What a source that could not be opened lacks; null if it is something else that went wrong. */
export function needOf(source: Source, { error, outline }: Failure): Need | null {
  const { code, message, hint } = error
  if (code === 'needs-base') {
    const own: MergedAdapter = { place: source.place, name: source.label, weight: 1 }
    return { kind: 'base', adapters: [...source.adapters, own], message }
  }
  if (outline !== null) return { kind: 'weights', outline }
  // One that was given and does not do is to be replaced by another.
  const unfit = source.config !== null && code !== 'source-lost'
  return unfit || hint?.includes('--hf-config') === true ? { kind: 'config', message } : null
}

/** Whether a folder has a configuration, but no weights. */
export function isBare({ code, where }: AppError): boolean {
  const [file, ...others] = where.missing ?? []
  return code === 'missing-file' && others.length === 0 && /(?:^|\/)model\.safetensors$/.test(file ?? '')
}
