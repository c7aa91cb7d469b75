/** Which blocks of a model have a sliding window, in families where not all are alike: every n-th sees all tokens. */
import type { Json, JsonObject } from '../core/json.ts'
import type { ModelFacts } from './architecture.ts'
import { layerTypes, numberAt } from './llama.ts'

const SLIDING = 'sliding_attention'
const FULL = 'full_attention'

/** How a family's configurations speak of windows, and what the class takes where they do not. */
export interface WindowRule {
  /** The keys that may give the period, where there are no `layer_types`. */
  readonly keys: readonly string[]
  readonly period: number
  readonly window: number | null
}

/** The window of the blocks that have one; null if none has. */
export function windowOf(config: JsonObject, rule: WindowRule): number | null {
  if (periodOf(config, rule) === 1) return null
  return config.has('sliding_window') ? numberAt(config, 'sliding_window') : rule.window
}

/** The facts of a configuration whose window is this one. */
export function windowFacts(config: JsonObject, rule: WindowRule, window: number | null): ModelFacts {
  const period = periodOf(config, rule)
  return window === null || typeof period !== 'number' ? {} : { windowPeriod: period }
}

/** Refuses an order of blocks that no period gives; null if there is a period, or all blocks are alike. */
export function windowUnsupported(config: JsonObject, rule: WindowRule): string | null {
  if (periodOf(config, rule) !== 'other') return null
  return 'another order of blocks with and without a sliding window (layer_types)'
}

/** 1 where no block has a window, `all` where each has one. */
function periodOf(config: JsonObject, { keys, period }: WindowRule): number | 'all' | 'other' {
  const types = layerTypes(config)
  if (types === null) return keys.map((key) => numberAt(config, key)).find((value) => value !== null) ?? period
  if (follows(types, period)) return period
  if (types.every((type) => type === SLIDING)) return 'all'
  const found = types.indexOf(FULL) + 1
  return follows(types, found) ? found : 'other'
}

function follows(types: readonly Json[], period: number): boolean {
  return period > 0 && types.every((type, index) => type === ((index + 1) % period === 0 ? FULL : SLIDING))
}

/** The `layer_types` of a model. */
export function layerTypesOf(layers: number, window: number | null, period: number | undefined): readonly Json[] {
  return Array.from({ length: layers }, (_, index) =>
    window === null || (period !== undefined && (index + 1) % period === 0) ? FULL : SLIDING,
  )
}
