/** Where MLX's microscaling modes round a scale up to the next power of two, for wasm/float_groups.c. */
import { nearestPower } from '../reference/float-groups.ts'
import { f32FromBits } from '../reference/float.ts'
import type { WasmMemory } from './module.ts'

/** Behind the grids, `POWER_EDGES` of wasm/float_groups.c. */
const POWER_EDGES_AT = 65536 + 49152
/** Exponents of finite f32. */
const EXPONENTS = 255
/** Numbers of one exponent. */
const NUMBERS = 2 ** 23

let edges: Uint32Array | null = null

/**
 * For each exponent the bits of the least number whose code is the next; of the last one there is none. Nearly all are as
 * far up as the one before, and a logarithm takes long: so that is tried first.
 */
function powerEdges(): Uint32Array {
  let guess = NUMBERS / 2
  return Uint32Array.from({ length: EXPONENTS }, (_, exponent) => {
    let [below, edge] = [-1, NUMBERS]
    const look = (at: number): void => {
      if (at <= below || at >= edge) return
      if (nearestPower(f32FromBits(exponent * NUMBERS + at)) > exponent) edge = at
      else below = at
    }
    look(guess)
    look(guess - 1)
    while (edge - below > 1) look(Math.floor((below + edge) / 2))
    guess = edge
    return exponent * NUMBERS + edge
  })
}

/** Writes them, 1020 bytes, into a memory that no kernel looks for them in yet. */
export function writePowerEdges(memory: WasmMemory): void {
  edges ??= powerEdges()
  new Uint32Array(memory.buffer, POWER_EDGES_AT, EXPONENTS).set(edges)
}
