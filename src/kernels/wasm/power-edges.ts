/** Where MLX's microscaling modes round a scale up to the next power of two, for wasm/float_groups.c. */
import { nearestPower } from '../reference/float-groups.ts'
import { f32FromBits } from '../reference/float.ts'
import type { WasmMemory } from './module.ts'

/** Behind the grids, `POWER_EDGES` of wasm/float_groups.c. */
const POWER_EDGES_AT = 65536 + 49152
/** Exponents of finite f32. */
const EXPONENTS = 255

let edges: Uint32Array | null = null

/** For each exponent the bits of the least number whose code is the next; of the last one there is none. */
function powerEdges(): Uint32Array {
  return Uint32Array.from({ length: EXPONENTS }, (_, exponent) => {
    let [below, edge] = [exponent * 2 ** 23 - 1, (exponent + 1) * 2 ** 23]
    while (edge - below > 1) {
      const middle = Math.floor((below + edge) / 2)
      if (nearestPower(f32FromBits(middle)) > exponent) edge = middle
      else below = middle
    }
    return edge
  })
}

/** Writes them, 1020 bytes, into a memory that no kernel runs in yet. */
export function writePowerEdges(memory: WasmMemory): void {
  edges ??= powerEdges()
  new Uint32Array(memory.buffer, POWER_EDGES_AT, EXPONENTS).set(edges)
}
