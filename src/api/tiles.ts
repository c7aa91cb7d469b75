import { bytesOf, dtypeInfo, type DType } from '../core/dtype.ts'
import type { Checksum, PlannedFile, Segment } from '../core/plan.ts'
import type { Recipe } from '../core/tensor.ts'
import { compile, compileProducer } from './evaluate/compile.ts'
import { castInto } from './evaluate/elementwise.ts'
import { HeldParts } from './evaluate/held.ts'
import { commonMultiple, stackBytes, Stack, type Evaluator, type Run } from './evaluate/node.ts'

/**
 * One step of the loop: some bytes of a file, computed in a slab of known size. Tiles come in file order; several are
 * computed at once and written one after the other.
 */
export interface Tile {
  /** Where its bytes go in the file. */
  readonly offset: number
  readonly size: number
  /** Bytes of memory it needs from its admission until it is written. */
  readonly slab: number
  /** Bytes it takes at its admission that outlive it, and bytes given back once it is written. */
  readonly takes: number
  readonly gives: number
  /** Bytes read from files. */
  readonly reads: number
  /** The tensor, or null for literal bytes. */
  readonly tensor: TileTensor | null
  /** Whether a job can resume behind it: not in the midst of a producer, whose later outputs are still in memory. */
  readonly resumable: boolean
  /** Bytes that it asks the holder for when it is computed alone; null if it only gives what others computed. */
  readonly alone: number | null
  /** What is still to be put into its bytes when those before them are known. */
  readonly checksums: readonly Checksum[]
  /** Computes the bytes; the result may lie in the slab. */
  compute(slab: Uint8Array, run: Omit<Run, 'stack'>): Promise<Uint8Array>
}

export interface TileTensor {
  readonly name: string
  readonly recipe: Recipe
}

/** Gives memory that outlives a tile: of parts that are held, of a producer's later outputs; taken back after `gives`. */
export type Holder = (bytes: number) => Uint8Array

/**
 * Bytes read or written by a tile, whichever is more: large enough that calls do not count, small enough that a few of
 * them in flight fit anywhere.
 */
const TILE_BYTES = 4 << 20

/** A unit that must be permuted as one is held whole up to this; larger ones are read once for each tile. */
const UNIT_BYTES = 32 << 20

/** Tiles end on multiples of this many elements: whole blocks of every type. */
const TILE_STEP = 256

/** A file's tiles, in order. `holder` is asked only when tiles are computed. */
export function* tilesOf(file: PlannedFile, holder: Holder): Generator<Tile, void, void> {
  for (const segment of file.segments) {
    if (segment.kind === 'bytes') yield* literalTiles(segment)
    else if (segment.kind === 'seal') yield sealTile(segment)
    else if (segment.kind === 'tensor') yield* tensorTiles(segment.name, segment.recipe, segment.offset, holder)
    else yield* producerTiles(segment, holder)
  }
}

function* literalTiles(segment: Segment & { kind: 'bytes' }): Generator<Tile, void, void> {
  for (let at = 0; at < segment.bytes.length; at += TILE_BYTES) {
    const bytes = segment.bytes.subarray(at, at + TILE_BYTES)
    yield {
      offset: segment.offset + at,
      size: bytes.length,
      slab: 0,
      takes: 0,
      gives: 0,
      reads: 0,
      tensor: null,
      resumable: true,
      alone: 0,
      checksums: [],
      compute: async () => bytes,
    }
  }
}

/** Whole, since its checksums lie anywhere in it: a zip's directory has some 100 bytes for each tensor. */
function sealTile({ offset, bytes, checksums }: Segment & { kind: 'seal' }): Tile {
  return {
    offset,
    size: bytes.length,
    slab: stackBytes(bytes.length),
    takes: 0,
    gives: 0,
    reads: 0,
    tensor: null,
    resumable: true,
    alone: 0,
    checksums,
    async compute(slab) {
      const into = new Stack(slab).take(bytes.length)
      into.set(bytes)
      return into
    },
  }
}

/** A tensor's tiles, its bytes starting at `offset`. Without a holder nothing is held between them. */
export function* tensorTiles(
  name: string,
  recipe: Recipe,
  offset: number,
  holder: Holder | null = null,
): Generator<Tile, void, void> {
  const held = holder === null ? null : HeldParts.of(recipe)
  const evaluator = compile(recipe, held)
  const check = needsCheck(recipe)
  const step = tileElements(evaluator)
  for (let start = 0; start < evaluator.elements; start += step) {
    const count = Math.min(step, evaluator.elements - start)
    const size = bytesOf(recipe.dtype, count)
    yield {
      offset: offset + bytesOf(recipe.dtype, start),
      size,
      slab: stackBytes(size) + evaluator.scratch(start, count),
      takes: start === 0 ? (held?.bytes ?? 0) : 0,
      gives: start + count === evaluator.elements ? (held?.bytes ?? 0) : 0,
      reads: evaluator.reads(start, count) + (start === 0 ? (held?.reads ?? 0) : 0),
      tensor: { name, recipe },
      resumable: true,
      alone: held?.bytes ?? 0,
      checksums: [],
      async compute(slab, run) {
        if (held !== null && holder !== null) held.take(holder)
        await held?.load(run)
        const stack = new Stack(slab)
        const into = stack.take(size)
        const context = { ...run, stack }
        await evaluator.fill(start, count, into, context)
        // bytes that no kernel has seen yet are checked for NaN and Inf here
        if (check) await castInto(context, recipe.dtype, recipe.dtype, into, into, start, count)
        return into
      },
    }
  }
}

/** Elements in a tile: whole quanta of the recipe where they are small enough. */
export function tileElements(evaluator: Pick<Evaluator, 'elements' | 'quantum' | 'info' | 'reads'>): number {
  const { elements, quantum, info } = evaluator
  if (elements === 0) return TILE_STEP
  const stored = dtypeInfo(info.dtype).bytes / dtypeInfo(info.dtype).block
  const step = commonMultiple(quantum, TILE_STEP)
  const sample = Math.min(elements, step)
  const perElement = Math.max(evaluator.reads(0, sample) / sample, stored)
  if (quantum > TILE_STEP && quantum * perElement > UNIT_BYTES) {
    return Math.max(TILE_STEP, Math.floor(UNIT_BYTES / stored / TILE_STEP) * TILE_STEP)
  }
  return Math.max(step, Math.floor(TILE_BYTES / perElement / step) * step)
}

/** Whether the values reach the output without passing a kernel that would see a NaN. */
function needsCheck(recipe: Recipe): boolean {
  if (!CHECKED.has(recipe.dtype)) return false
  let at: Recipe = recipe
  for (;;) {
    if (at.op === 'cast' || at.op === 'literal') return false
    if (at.op === 'reshape' || at.op === 'slice' || at.op === 'permute' || at.op === 'gather' || at.op === 'pad')
      at = at.of
    else return true
  }
}

const CHECKED: ReadonlySet<DType> = new Set<DType>(['f32', 'f16', 'bf16'])

/**
 * The first output streams; the others are filled beside it, in memory, and follow. So the source is read once and the
 * file is still written from front to back.
 */
function* producerTiles(segment: Segment & { kind: 'outputs' }, holder: Holder): Generator<Tile, void, void> {
  const parts = HeldParts.of(segment.producer.of)
  const evaluator = compileProducer(segment.producer, parts)
  const outputs = segment.outputs.flatMap(({ name, field }) => {
    const found = evaluator.fields.find((candidate) => candidate.name === field)
    return found === undefined
      ? []
      : [{ ...found, name, field, bytes: bytesOf(found.info.dtype, evaluator.groups * found.perGroup) }]
  })
  const [first, ...rest] = outputs
  if (first === undefined) return
  const outputBytes = rest.reduce((sum, output) => sum + stackBytes(output.bytes), 0)
  const heldBytes = outputBytes + (parts?.bytes ?? 0)
  let held: Uint8Array | null = null
  const heldStart = new Map<string, number>()
  let at = 0
  for (const output of rest) {
    heldStart.set(output.field, at)
    at += stackBytes(output.bytes)
  }
  const memory = (): Uint8Array => {
    held ??= holder(heldBytes)
    return held
  }
  const heldPart = (field: string, start: number, size: number): Uint8Array => {
    const base = heldStart.get(field) ?? 0
    return memory().subarray(base + start, base + start + size)
  }
  const step = Math.max(1, Math.floor(tileElements(evaluator.source) / evaluator.group))
  const unused = evaluator.fields.filter((field) => !outputs.some((output) => output.field === field.name))
  for (let start = 0; start < evaluator.groups; start += step) {
    const count = Math.min(step, evaluator.groups - start)
    const size = bytesOf(first.info.dtype, count * first.perGroup)
    const spare = unused.reduce((sum, field) => sum + stackBytes(bytesOf(field.info.dtype, count * field.perGroup)), 0)
    const from = start
    yield {
      offset: segment.offset + bytesOf(first.info.dtype, start * first.perGroup),
      size,
      slab: stackBytes(size) + spare + evaluator.scratch(start, count),
      takes: start === 0 ? heldBytes : 0,
      gives: rest.length === 0 && start + count === evaluator.groups ? heldBytes : 0,
      reads: evaluator.reads(start, count) + (start === 0 ? (parts?.reads ?? 0) : 0),
      tensor: { name: first.name, recipe: segment.producer.of },
      resumable: false,
      alone: heldBytes,
      checksums: [],
      async compute(slab, run) {
        parts?.take(() => memory().subarray(outputBytes))
        await parts?.load(run)
        const stack = new Stack(slab)
        const into = new Map<string, Uint8Array>()
        const main = stack.take(size)
        into.set(first.field, main)
        for (const output of rest) {
          const begin = bytesOf(output.info.dtype, from * output.perGroup)
          into.set(output.field, heldPart(output.field, begin, bytesOf(output.info.dtype, count * output.perGroup)))
        }
        for (const field of unused) into.set(field.name, stack.take(bytesOf(field.info.dtype, count * field.perGroup)))
        await evaluator.fill(from, count, into, { ...run, stack })
        return main
      },
    }
  }
  let offset = segment.offset + first.bytes
  for (const [index, output] of rest.entries()) {
    const last = index === rest.length - 1
    yield {
      offset,
      size: output.bytes,
      slab: 0,
      takes: 0,
      gives: last ? heldBytes : 0,
      reads: 0,
      tensor: { name: output.name, recipe: segment.producer.of },
      resumable: last,
      alone: null,
      checksums: [],
      compute: async () => heldPart(output.field, 0, output.bytes),
    }
    offset += output.bytes
  }
}
