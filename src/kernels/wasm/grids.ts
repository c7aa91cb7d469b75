/** The grids of the IQ1, IQ2 and IQ3 types where the kernels look for them: wasm/grids.h. */
import { IQ1_GRID } from '../reference/iq1.ts'
import { IQ2_GRIDS } from '../reference/iq2.ts'
import { IQ3_GRIDS } from '../reference/iq3.ts'
import type { WasmMemory } from './module.ts'

/** Right after the first thread's stack, `GRIDS` of wasm/grids.h. */
const GRIDS_AT = 65536

/** Writes the grids, 34 KiB of signed bytes, into a memory that no kernel runs in yet. */
export function writeGrids(memory: WasmMemory): void {
  let at = GRIDS_AT
  for (const grid of [...IQ2_GRIDS, ...IQ3_GRIDS, IQ1_GRID]) {
    new Int8Array(memory.buffer, at, grid.length).set(grid)
    at += grid.length
  }
}
