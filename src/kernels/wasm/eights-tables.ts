/** What IQ1 and IQ2 find entries of their grids in: `eights` of wasm/eights.h. */
import type { EightGrid } from '../reference/iq2-search.ts'

/** `sizeof(term)` of wasm/eights.h. */
const TERM_BYTES = 88

/** The entry or the neighbours of each point, where the terms of each entry's levels lie, the neighbours. */
export function eightsTables({ entries, levels, neighbours }: EightGrid): readonly ArrayBufferView[] {
  return [entries, Uint8Array.from(levels, (level) => level * TERM_BYTES), neighbours]
}
