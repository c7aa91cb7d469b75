/**
 * What the kernels look entries of grids up in while they quantise: hundreds of KiB a type, so they are made when a type is
 * first written, and stay. The C side finds them by their addresses, which lie at a fixed place: `SEARCHES` of
 * wasm/search.h.
 */
import type { DType } from '../../core/dtype.ts'
import { searchS, searchXxs } from '../reference/iq3.ts'
import { IQ1_MAP } from '../reference/iq1.ts'
import { IQ2_MAPS } from '../reference/iq2.ts'
import type { WasmArena } from './arena.ts'
import { eightsTables } from './eights-tables.ts'
import { iq3Tables } from './iq3-tables.ts'
import type { WasmMemory } from './module.ts'

/** Right below where buffers begin; the grids end far below it. */
const SEARCHES_AT = 2 * 65536 - 64

/** What a type needs, piece after piece without a gap. */
type Make = () => readonly ArrayBufferView[]

const iq1 = (): readonly ArrayBufferView[] => eightsTables(IQ1_MAP())

/** The types that are searched in tables: the place of the address, and the tables. */
const SEARCHES: { readonly [D in DType]?: { readonly slot: number; readonly make: Make } } = {
  iq3_xxs: { slot: 5, make: () => iq3Tables(searchXxs()) },
  iq3_s: { slot: 6, make: () => iq3Tables(searchS()) },
  iq1_s: { slot: 0, make: iq1 },
  iq1_m: { slot: 1, make: iq1 },
  iq2_xxs: { slot: 2, make: () => eightsTables(IQ2_MAPS[0]()) },
  iq2_xs: { slot: 3, make: () => eightsTables(IQ2_MAPS[1]()) },
  iq2_s: { slot: 4, make: () => eightsTables(IQ2_MAPS[2]()) },
}

/** The tables in one memory. */
export interface SearchTables {
  /** Makes the tables that quantising to a type takes, unless they are there. AppError `memory` if there is no room. */
  prepare(type: DType): void
}

/** Creates none yet. */
export function createSearchTables(memory: WasmMemory, arena: WasmArena): SearchTables {
  const made = new Map<Make, number>()

  function write(pieces: readonly ArrayBufferView[]): number {
    const bytes = arena.alloc(pieces.reduce((sum, { byteLength }) => sum + byteLength, 0))
    let at = 0
    for (const { buffer, byteOffset, byteLength } of pieces) {
      bytes.set(new Uint8Array(buffer, byteOffset, byteLength), at)
      at += byteLength
    }
    return bytes.byteOffset
  }

  return {
    prepare(type) {
      const search = SEARCHES[type]
      if (search === undefined) return
      const { slot, make } = search
      const address = made.get(make) ?? write(make())
      made.set(make, address)
      new DataView(memory.buffer).setUint32(SEARCHES_AT + slot * 4, address, true)
    },
  }
}
