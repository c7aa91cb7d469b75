import type { Config } from './naive.ts'

/** Linear, Embedding, SwitchLinear or MultiLinear (which all quantise), norm, and a parameter of no module. */
export type Kind = 'L' | 'E' | 'S' | 'N' | 'P'
export type Module = readonly [path: string, kind: Kind, shape: readonly number[], bias?: boolean]

/** A number of a config.json. Throws, as mlx-lm does, where there is none. */
export function number(config: Config, key: string, fallback?: number): number {
  const value = config[key] ?? fallback
  if (typeof value !== 'number') throw new Error(`mlx-lm wants a number ${key}`)
  return value
}
