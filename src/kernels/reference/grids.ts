/**
 * What the IQ1, IQ2 and IQ3 types share: an index names a few values at once, an entry of a grid; signs are kept apart.
 */
const DIGITS = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/'
const MORE = DIGITS.length - 1

/** The values of a grid of the table, entry by entry, each of `width` elements that take one of the `levels`. */
export function unpackGrid(text: string, width: number, levels: readonly number[]): Float32Array {
  const values: number[] = []
  let entry = 0
  for (const digit of text) {
    const gap = DIGITS.indexOf(digit)
    entry += gap
    if (gap === MORE) continue
    for (let i = 0, rest = entry; i < width; i++, rest = Math.floor(rest / levels.length)) {
      values.push(levels[rest % levels.length] ?? 0)
    }
  }
  return Float32Array.from(values)
}

/** The signs of eight values, a bit each, of which seven are stored: there is always an even number of minus signs. */
export function evenSigns(stored: number): number {
  let parity = stored
  for (const shift of [4, 2, 1]) parity ^= parity >> shift
  return stored | ((parity & 1) << 7)
}

/** Writes `width` values of an entry, times `scale` and with the signs of the lowest bits, to `y` from `at` on. */
export function writeEntry(
  grid: Float32Array,
  entry: number,
  width: number,
  scale: number,
  signs: number,
  y: Float32Array,
  at: number,
): void {
  for (let j = 0; j < width; j++) {
    const value = scale * (grid[entry * width + j] ?? 0)
    y[at + j] = (signs >> j) & 1 ? -value : value
  }
}
