import { AppError, throwIfAborted } from '../../core/errors.ts'
import type { SchemeKernel, SchemeOp } from '../backend.ts'
import { checkParts, describeOp, sliceOfRows } from '../check.ts'
import { schemeCall } from './schemes.ts'
import { earliest, SLICE, staged, stagedInput, type Runtime } from './slices.ts'
import type { Job } from './worker.ts'

/** Quantisations whose parts are tensors of their own: slices of rows on all threads. */
export function createSchemeKernel(op: SchemeOp, { memory, arena, executor }: Runtime): SchemeKernel {
  const call = schemeCall(op)
  if (call === null) throw new AppError('unsupported', `The WASM kernels have no ${describeOp(op)}.`)
  call.prepare?.(memory)
  const isQuantising = op.kind === 'quantize'
  return {
    op,
    async run(parts, values, rows, columns, signal) {
      checkParts(op, parts, values, rows, columns)
      throwIfAborted(signal)
      if (rows * columns === 0) return { bad: null }
      // buffers from elsewhere are copied whole: conversions have all of theirs in the arena
      return staged(arena, async (stage) => {
        const own = (buffer: Uint8Array, isInput: boolean): Uint8Array =>
          isInput ? stagedInput(stage, buffer) : stage(buffer)
        const places = new Map(Object.entries(parts).map(([name, part]) => [name, own(part, !isQuantising)]))
        const place = own(values, isQuantising)
        const args = call.args((name) => places.get(name)?.byteOffset ?? 0, place.byteOffset, rows, columns)
        const slice = sliceOfRows(SLICE, columns * call.step) / columns
        const jobs: Promise<number>[] = []
        for (let first = 0; first < rows; first += slice) {
          const job: Job = { call: call.name, args: [...args, first, Math.min(rows, first + slice)] }
          jobs.push(executor.submit(job, signal).then((bad) => (bad < 0 ? bad : bad + first * columns)))
        }
        const bad = await earliest(jobs)
        if (!isQuantising && place !== values) values.set(place)
        for (const [name, part] of isQuantising ? Object.entries(parts) : []) {
          const made = places.get(name)
          if (made !== undefined && made !== part) part.set(made)
        }
        return { bad: bad < 0 ? null : bad }
      })
    },
  }
}
