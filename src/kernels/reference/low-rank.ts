/** Low-rank updates: what a LoRA adapter adds to a matrix. */

/**
 * Adds `scale * up · down` to the rows `first` to `end` of `values` [rows, columns]: `up` is [rows, rank], `down` [rank,
 * columns]. Each sum goes by ascending rank in f32, from 0; it is scaled and added, each step rounded.
 */
export function addLowRank(
  values: Float32Array,
  up: Float32Array,
  down: Float32Array,
  rank: number,
  columns: number,
  scale: number,
  first: number,
  end: number,
): void {
  const factor = Math.fround(scale)
  for (let row = first; row < end; row++) {
    for (let column = 0; column < columns; column++) {
      let sum = 0
      for (let k = 0; k < rank; k++) {
        sum = Math.fround(sum + Math.fround((up[row * rank + k] ?? 0) * (down[k * columns + column] ?? 0)))
      }
      const at = row * columns + column
      values[at] = (values[at] ?? 0) + Math.fround(factor * sum)
    }
  }
}
