import { describe, expect, test } from 'vitest'
import { mapGrid } from '../../src/kernels/reference/grid-neighbours.ts'
import { IQ1_S, IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS } from '../../src/kernels/reference/grid-tables.ts'
import { unpackGrid } from '../../src/kernels/reference/grids.ts'

/** Elements of an entry, levels of an element, and how many distances count as near, as ggml has them. */
const GRIDS = [
  ['IQ2_XXS', IQ2_XXS, 8, 3, 2],
  ['IQ2_XS', IQ2_XS, 8, 3, 2],
  ['IQ2_S', IQ2_S, 8, 3, 1],
  ['IQ3_XXS', IQ3_XXS, 4, 8, 2],
  ['IQ3_S', IQ3_S, 4, 8, 3],
  ['IQ1_S', IQ1_S, 8, 3, 3],
] as const

describe('neighbours in a grid', () => {
  test.each(GRIDS)(
    '%s: the nearest ones of each point, sorted by distance and number',
    (_, table, width, levels, shells) => {
      const digits = Array.from({ length: levels }, (__, i) => i)
      const flat = unpackGrid(table, width, digits)
      const grid = Array.from({ length: flat.length / width }, (_, i) => flat.subarray(i * width, (i + 1) * width))
      const { entries, neighbours } = mapGrid(table, width, levels, shells)
      expect(entries).toHaveLength(levels ** width)
      const named = new Set<number>()
      // every 37th point, and all of one plane; the whole is sorting 6561 lists of 2048
      for (let point = 0; point < entries.length; point++) {
        if (point % 37 !== 0 && point >= 250) continue
        const place = Array.from({ length: width }, (_, i) => Math.floor(point / levels ** i) % levels)
        const sorted = grid
          .map((entry, i) => [place.reduce((sum, level, k) => sum + (level - entry[k]!) ** 2, 0), i] as const)
          .toSorted(([a, i], [b, j]) => a - b || i - j)
        const found = entries[point]!
        if (sorted[0]![0] === 0) {
          expect(found).toBe(sorted[0]![1])
          continue
        }
        const distances = new Set([...new Set(sorted.map(([distance]) => distance))].slice(0, shells))
        const want = sorted.filter(([distance]) => distances.has(distance)).map(([, i]) => i)
        const start = -1 - found
        expect(neighbours[start]).toBe(want.length)
        expect([...neighbours.subarray(start + 1, start + 1 + want.length)]).toEqual(want)
        named.add(start)
      }
      expect(named.size).toBeGreaterThan(100)
      const onGrid = [...entries].filter((entry) => entry >= 0)
      expect(onGrid.toSorted((a, b) => a - b)).toEqual(grid.map((_, i) => i))
      const lists = [...entries].filter((entry) => entry < 0).map((entry) => neighbours[-1 - entry]! + 1)
      expect(lists.reduce((sum, length) => sum + length, 0)).toBe(neighbours.length)
    },
  )
})
