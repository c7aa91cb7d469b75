/** What the kernels look entries of IQ3_XXS and IQ3_S up in: wasm/iq3.c. */
import type { Search3 } from '../reference/iq3-search.ts'
import { WIDTH } from '../reference/iq3-search.ts'

/** Neighbours that are looked at together. */
const LANES = 4
/** What fills up the last four of a list: elements so large that no group is near. */
const NOTHING = 0xffffffff

/**
 * Of each point an int32: its entry, or -1 - (i * 16 + n) where its neighbours are the n fours of words from the i-th four
 * on. Then the words: an element (1, 3, ... 15) a byte, the first one lowest.
 */
export function iq3Tables({ digits, map }: Search3): readonly ArrayBufferView[] {
  const words = Uint32Array.from({ length: digits.length / WIDTH }, (_, entry) =>
    digits
      .subarray(entry * WIDTH, (entry + 1) * WIDTH)
      .reduce((word, level, i) => word + (2 * level + 1) * 2 ** (8 * i), 0),
  )
  const lists: number[] = []
  const points = map.entries.map((found) => {
    if (found >= 0) return found
    const start = -found
    const list = map.neighbours.subarray(start, start + (map.neighbours[start - 1] ?? 0))
    const fours = Math.ceil(list.length / LANES)
    const place = -1 - ((lists.length / LANES) * 16 + fours)
    for (let i = 0; i < fours * LANES; i++) lists.push(words[list[i] ?? -1] ?? NOTHING)
    return place
  })
  return [points, Uint32Array.from(lists)]
}
