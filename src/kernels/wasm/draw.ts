import { bytesOf } from '../../core/dtype.ts'
import { throwIfAborted } from '../../core/errors.ts'
import type { DrawKernel, DrawOp } from '../backend.ts'
import { checkDraw } from '../check.ts'
import { floatCode } from './ops.ts'
import { earliest, SLICE, staged, stagedInput, WINDOW, type Runtime } from './slices.ts'
import type { Job } from './worker.ts'

const WORD = 2 ** 32

/** Random values. */
export function createDrawKernel(op: DrawOp, { arena, executor }: Runtime): DrawKernel {
  const to = floatCode(op.to) ?? 0
  const at = (elements: number): number => bytesOf(op.to, elements)
  return {
    op,
    async run(draw, output, elements, signal) {
      checkDraw(op, draw, output, elements)
      throwIfAborted(signal)
      const { seed, start, from } = draw
      return staged(arena, async (stage) => {
        const table = 'table' in from ? stagedInput(stage, from.table).byteOffset : 0

        const jobOf = (target: number, index: number, count: number): Job => {
          const counter = [seed, index % WORD, Math.floor(index / WORD)]
          return 'table' in from
            ? { call: 'draw_normal', args: [to, table, target, count, ...counter] }
            : {
                call: 'draw_uniform',
                args: [to, target, count, ...counter, from.low, Math.fround(from.high - from.low)],
              }
        }

        const fill = (target: number, first: number, count: number): Promise<number> => {
          const jobs: Promise<number>[] = []
          for (let done = 0; done < count;) {
            const index = first + done
            // within a job the upper word of the index stays the same
            const size = Math.min(SLICE, count - done, WORD - (index % WORD))
            const before = done
            const job = executor.submit(jobOf(target + at(done), index, size), signal)
            jobs.push(job.then((bad) => (bad < 0 ? bad : bad + before)))
            done += size
          }
          return earliest(jobs)
        }

        const window = arena.owns(output) ? elements : Math.min(WINDOW, elements)
        const there = stage(output, at(window))
        for (let done = 0; done < elements; done += window) {
          const count = Math.min(window, elements - done)
          const bad = await fill(there.byteOffset, start + done, count)
          if (bad >= 0) return { bad: done + bad }
          if (there !== output) output.set(there.subarray(0, at(count)), at(done))
        }
        return { bad: null }
      })
    },
  }
}
