import type { Architecture } from '../../../models/architecture.ts'
import type { GgufValue } from '../../containers/gguf/types.ts'
import type { GgufArchitecture } from '../arch/contract.ts'

/** Which blocks of a file's model have a window, of how many tokens, and how those turn. */
interface Windows {
  readonly slidingWindow: number | null
  readonly windowPeriod?: number
  readonly windowTheta?: number
}

/** What the keys say of windows, or why that cannot be understood. `theta` is the rotary base of all blocks. */
export function readWindows(
  metadata: ReadonlyMap<string, GgufValue>,
  prefix: string,
  target: GgufArchitecture,
  architecture: Architecture,
  at: (key: string) => number | null,
  theta: number,
): Windows | { readonly because: string } {
  const told = at('attention.sliding_window')
  const { windows } = target
  if (windows === undefined) {
    const window = told ?? (target.ignoresWindow ? null : architecture.slidingWindow(new Map()))
    return { slidingWindow: window === 0 ? null : window }
  }
  if (told === null || told === 0) return { slidingWindow: null }
  const pattern = metadata.get(`${prefix}.attention.sliding_window_pattern`)
  // llama.cpp passes over a list, which files have that were made for other runtimes
  const listed = pattern?.type === 'array' ? Array.from<unknown>(pattern.value) : []
  if (!listed.every((sliding, index) => Boolean(sliding) === ((index + 1) % windows.period !== 0)))
    return { because: 'its attention.sliding_window_pattern is a list of another order than llama.cpp takes' }
  const period = at('attention.sliding_window_pattern') ?? windows.period
  const own = windows.theta === 'same' ? theta : windows.theta
  return {
    slidingWindow: period === 1 ? null : told,
    ...(period > 1 ? { windowPeriod: period } : {}),
    ...(own === null || period === 1 ? {} : { windowTheta: at('rope.freq_base_swa') ?? own }),
  }
}
