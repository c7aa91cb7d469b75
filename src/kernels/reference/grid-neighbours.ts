/**
 * How the IQ1, IQ2 and IQ3 types find an entry of a grid for a group of values: each value is rounded to a level, and the
 * point that these make is an entry itself or has a list of those near it, of which the one with the least error is taken.
 * The lists and their order are those of `iq2xs_init_impl` and `iq3xs_init_impl` of ggml-quants.c.
 */
import { unpackGrid } from './grids.ts'

/** Which entries lie at or near each point of a grid's space. */
export interface GridMap {
  /**
   * By point, a number whose digits are the elements' levels, the first one lowest: its entry, or -1 - i where the
   * point's neighbours begin at i.
   */
  readonly entries: Int32Array
  /** Of each point that is no entry: the number of its neighbours, and these, the nearest first, of equals the lower one. */
  readonly neighbours: Uint16Array
}

/** For each point of half a group, the squared distances to that half of all entries. */
function halfDistances(digits: Float32Array, width: number, levels: number, first: number): readonly Uint8Array[] {
  const count = digits.length / width
  return Array.from({ length: levels ** (width / 2) }, (_, point) =>
    Uint8Array.from({ length: count }, (__, entry) => {
      let sum = 0
      for (let i = 0, rest = point; i < width / 2; i++, rest = Math.floor(rest / levels)) {
        sum += ((rest % levels) - (digits[entry * width + first + i] ?? 0)) ** 2
      }
      return sum
    }),
  )
}

/**
 * The map of a grid of the table, whose entries are `width` elements (an even number) of `levels` levels each. Neighbours
 * are all entries whose distance is among the `shells` smallest distances that there are.
 */
export function mapGrid(text: string, width: number, levels: number, shells: number): GridMap {
  const digits = unpackGrid(
    text,
    width,
    Array.from({ length: levels }, (_, level) => level),
  )
  const count = digits.length / width
  const [low, high] = [halfDistances(digits, width, levels, 0), halfDistances(digits, width, levels, width / 2)]
  const halves = levels ** (width / 2)
  const entries = new Int32Array(levels ** width)
  const neighbours: number[] = []
  const distances = new Uint16Array(count)
  const seen = new Uint8Array(width * (levels - 1) ** 2 + 1)
  for (let point = 0; point < entries.length; point++) {
    const [a, b] = [low[point % halves], high[Math.floor(point / halves)]]
    if (a === undefined || b === undefined) break
    seen.fill(0)
    for (let entry = 0; entry < count; entry++) {
      const distance = (a[entry] as number) + (b[entry] as number)
      distances[entry] = distance
      seen[distance] = 1
    }
    if (seen[0] === 1) {
      entries[point] = distances.indexOf(0)
      continue
    }
    let reach = 0
    for (let found = 0; found < shells && reach < seen.length; reach++) found += seen[reach] as number
    const near: number[] = []
    for (let entry = 0; entry < count; entry++) if ((distances[entry] as number) < reach) near.push(entry)
    // Stable: of equals the lower one stays first.
    near.sort((one, other) => (distances[one] as number) - (distances[other] as number))
    entries[point] = -1 - neighbours.length
    neighbours.push(near.length, ...near)
  }
  return { entries, neighbours: Uint16Array.from(neighbours) }
}

/** Makes something when it is first asked for, and once. */
export function lazily<T>(make: () => T): () => T {
  let made: { readonly value: T } | null = null
  return () => (made ??= { value: make() }).value
}
