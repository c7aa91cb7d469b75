import type { Folder } from '../core/bytes.ts'
import type { CostedPlan, Finding, PlannedFile } from '../core/plan.ts'
import type { Window } from './cost.ts'
import type { Execution } from './execute.ts'
import { tilesOf, type Tile } from './tiles.ts'

/** Tiles of each file that are computed once more. */
const SAMPLES = 4

/**
 * Computes some tiles of every file anew from the source and compares them with what was written: a fault of the disk,
 * of a kernel thread or of the order of writing would show. Picks them evenly, the first and the last among them.
 */
export async function compareSamples(
  execution: Execution,
  plan: CostedPlan,
  folder: Folder,
  window: Window,
): Promise<readonly Finding[]> {
  const findings: Finding[] = []
  let compared = 0
  for (const file of plan.files) {
    const source = await folder.open(file.path)
    try {
      for (const tile of sampleTiles(file, window)) {
        await execution.control.pass()
        const written = new Uint8Array(tile.size)
        await source.read(tile.offset, written, execution.control.signal)
        const fresh = await recompute(execution, tile)
        compared += tile.size
        const at = firstDifference(fresh, written)
        if (at < 0) continue
        findings.push({
          severity: 'error',
          code: 'sample-differs',
          message: `${tile.tensor?.name ?? file.path} differs from its source at byte ${tile.offset + at}`,
          where: {
            file: file.path,
            offset: tile.offset + at,
            ...(tile.tensor === null ? {} : { tensor: tile.tensor.name }),
          },
        })
      }
    } finally {
      await source.close()
    }
  }
  if (findings.length > 0) return findings
  return [
    {
      severity: 'info',
      code: 'samples-agree',
      message: `${compared} bytes, sampled over the output, agree with the source`,
    },
  ]
}

/** Where two runs of the same length first differ, or -1. Both have buffers of their own, so they can be looked at in words. */
function firstDifference(a: Uint8Array, b: Uint8Array): number {
  const words = Math.floor(a.length / 4)
  const [left, right] = [new Int32Array(a.buffer, 0, words), new Int32Array(b.buffer, 0, words)]
  let same = 0
  while (same < words && left[same] === right[same]) same++
  for (let i = same * 4; i < a.length; i++) if (a[i] !== b[i]) return i
  return -1
}

/** A sample has a slab of its own, outside of the pool: small ones only. What was held for one is free at the next. */
function* sampleTiles(file: PlannedFile, window: Window): Generator<Tile, void, void> {
  const most = window.bytes / window.tiles
  // what outlives a tile is asked for only by one that is picked
  const tiles = (): Iterable<Tile> => tilesOf(file, (bytes) => new Uint8Array(bytes))
  const fitting: number[] = []
  let index = 0
  for (const { tensor, alone, slab } of tiles()) {
    if (tensor !== null && alone !== null && alone + slab <= most) fitting.push(index)
    index++
  }
  const count = Math.min(SAMPLES, fitting.length)
  const picked = new Set(
    Array.from({ length: count }, (_, i) => fitting[Math.floor((i * (fitting.length - 1)) / Math.max(1, count - 1))]),
  )
  index = 0
  for (const tile of tiles()) if (picked.has(index++)) yield tile
}

async function recompute(execution: Execution, tile: Tile): Promise<Uint8Array> {
  const { pool, inputs, kernels, control } = execution
  const slab = pool.take(tile.slab)
  try {
    const bytes = await tile.compute(slab, { ...kernels, inputs, signal: control.signal })
    return Uint8Array.from(bytes)
  } finally {
    pool.give(slab)
  }
}
