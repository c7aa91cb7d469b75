import { AppError } from '../core/errors.ts'
import type { CostedPlan, Plan, PlannedFile } from '../core/plan.ts'
import { segmentSize } from '../core/plan.ts'
import { tensorBytes } from '../core/tensor.ts'
import { checksumRanges } from './seals.ts'
import { stageFiles } from './stages.ts'
import { tilesOf, type Holder, type Tile } from './tiles.ts'

/** How wide a run may be: both bounds hold at any moment, but one tile always may run. */
export interface Window {
  /** Tiles between admission and having been written. */
  readonly tiles: number
  /** Bytes they may hold together. */
  readonly bytes: number
}

/** A tile in work for each thread, one being read, one being written, one being hashed. */
export function windowFor(threads: number, memoryBudget: number): Window {
  return { tiles: threads + 3, bytes: memoryBudget }
}

const NO_HOLDER: Holder = () => {
  throw new AppError('internal', 'a plan was computed while it was costed')
}

/**
 * The plan with what it costs. Peak memory is that of the fullest window of consecutive tiles: tiles are admitted and
 * retired in order, so nothing else can be in flight. Throws `memory` if a single tile exceeds the budget.
 */
export function costPlan(plan: Plan, window: Window): CostedPlan {
  let peakBytes = 0
  let readBytes = 0
  for (const file of [...stageFiles(plan.stages), ...plan.files]) {
    checkLayout(file)
    const meter = new WindowMeter(window)
    for (const tile of tilesOf(file, NO_HOLDER)) {
      meter.admit(tile)
      readBytes += tile.reads
      const needed = tile.slab + tile.takes
      if (needed > window.bytes) {
        throw new AppError('memory', `${tile.tensor?.name ?? file.path} needs ${needed} bytes at once`, {
          where: { file: file.path, ...(tile.tensor === null ? {} : { tensor: tile.tensor.name }) },
          hint: `The memory budget is ${window.bytes} bytes. Close other programs, or use the command on a larger machine.`,
        })
      }
    }
    peakBytes = Math.max(peakBytes, meter.peak)
  }
  return { ...plan, readBytes, writeBytes: plan.files.reduce((sum, file) => sum + file.size, 0), peakBytes }
}

/** Follows which tiles are in flight at the most. */
class WindowMeter {
  readonly #window: Window
  #inFlight: Tile[] = []
  #bytes = 0
  peak = 0

  constructor(window: Window) {
    this.#window = window
  }

  admit(tile: Tile): void {
    const needed = tile.slab + tile.takes
    while (
      this.#inFlight.length > 0 &&
      (this.#inFlight.length >= this.#window.tiles || this.#bytes + needed > this.#window.bytes)
    ) {
      const done = this.#inFlight.shift()
      if (done !== undefined) this.#bytes -= done.slab + done.gives
    }
    this.#inFlight.push(tile)
    this.#bytes += needed
    this.peak = Math.max(this.peak, this.#bytes)
  }
}

/** An engine's layout must leave no gap: what is not written would be whatever was there. */
function checkLayout(file: PlannedFile): void {
  let at = 0
  for (const segment of file.segments) {
    const expected = segment.kind === 'tensor' ? tensorBytes(segment.recipe) : segmentSize(segment)
    if (segment.offset !== at || segmentSize(segment) !== expected) {
      throw new AppError('internal', `the layout of ${file.path} has a fault at byte ${at}`, {
        where: { file: file.path },
      })
    }
    at += expected
  }
  if (at !== file.size) throw new AppError('internal', `${file.path} was laid out as ${at} of ${file.size} bytes`)
  checksumRanges(file)
}
