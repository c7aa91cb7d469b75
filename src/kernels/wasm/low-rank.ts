import { throwIfAborted } from '../../core/errors.ts'
import type { LowRankKernel, LowRankOp } from '../backend.ts'
import { checkFactors, sliceOfRows } from '../check.ts'
import { earliest, SLICE, staged, stagedInput, type Runtime } from './slices.ts'
import type { Job } from './worker.ts'

/** Low-rank updates. */
export function createLowRankKernel(op: LowRankOp, { arena, executor }: Runtime): LowRankKernel {
  const { rank } = op
  return {
    op,
    async run(factors, values, rows, signal) {
      checkFactors(op, factors, values, rows)
      const { columns, scale } = factors
      throwIfAborted(signal)
      if (rows * columns * rank === 0) return
      // buffers from elsewhere are copied whole: conversions have all of theirs in the arena
      await staged(arena, async (stage) => {
        const up = stagedInput(stage, factors.up).byteOffset
        const down = stagedInput(stage, factors.down).byteOffset
        const here = stagedInput(stage, values)
        const slice = sliceOfRows(SLICE, columns) / columns
        const jobs: Promise<number>[] = []
        for (let first = 0; first < rows; first += slice) {
          const place = [here.byteOffset + first * columns * 4, up + first * rank * 4, down]
          const job: Job = { call: 'low_rank', args: [...place, Math.min(slice, rows - first), rank, columns, scale] }
          jobs.push(executor.submit(job, signal))
        }
        await earliest(jobs)
        if (here !== values) values.set(here)
      })
    },
  }
}
