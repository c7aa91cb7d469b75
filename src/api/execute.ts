import { PART_SUFFIX, type OutputFolder, type Sink } from '../core/bytes.ts'
import { AppError } from '../core/errors.ts'
import type { WrittenFile } from '../core/job.ts'
import type { PlannedFile } from '../core/plan.ts'
import { readsOf } from '../core/tensor.ts'
import type { Control } from './control.ts'
import type { Window } from './cost.ts'
import { BadElement } from './evaluate/elementwise.ts'
import type { Inputs } from './evaluate/node.ts'
import type { Digest, Host } from './host.ts'
import type { Journal } from './journal.ts'
import type { Kernels } from './kernels.ts'
import { Pool } from './pool.ts'
import { Seals } from './seals.ts'
import { tilesOf, type Tile } from './tiles.ts'

/** Output bytes between two checkpoints of a file: what a crash may cost at the most, beside the time below. */
const CHECKPOINT_BYTES = 64 << 20
const CHECKPOINT_MS = 5000

export interface Execution {
  readonly host: Host
  readonly control: Control
  readonly window: Window
  readonly pool: Pool
  readonly inputs: Inputs
  readonly kernels: Kernels
}

/** A file as it was left by an earlier run. */
export interface Progressed {
  readonly watermark: number
  readonly sha256: string
}

/**
 * THE loop: computes a file's tiles, several at once, and writes them in order under the file's temporary name. With a
 * journal it leaves checkpoints, and goes on from the last one. Returns the SHA-256 of the whole.
 */
export async function writeFile(
  run: Execution,
  file: PlannedFile,
  output: OutputFolder,
  journal: Journal | null,
): Promise<WrittenFile & { readonly kept: number }> {
  const { start, digest, seals } = await takeUp(run, file, output, journal)
  let sink: Sink | null = null
  let checkpoints: Checkpoints | null = null
  try {
    sink = await output.create(file.path, { keep: start })
    if (sink.kept < start) throw new AppError('internal', `${file.path}: ${sink.kept} of ${start} bytes were kept`)
    // a job killed before its first checkpoint is found again, too: to be resumed, or to be cleared away
    if (start === 0 && output.resumable)
      await journal?.record({ path: file.path, size: file.size, watermark: 0, sha256: '' })
    checkpoints = new Checkpoints(run.host, journal, file, sink, start)
    await writeTiles(run, file, sink, { digest, seals }, start, checkpoints)
    await checkpoints.settle()
    await sink.close()
    const sha256 = await digest.hex()
    await journal?.record({ path: file.path, size: file.size, watermark: file.size, sha256 })
    return { path: file.path, size: file.size, sha256, kept: start }
  } catch (error) {
    const failure = AppError.from(error)
    const keep = journal !== null && output.resumable && isResumable(failure, run.control)
    // a crash would have left the same: what a checkpoint vouches for is there when the job is taken up again
    if (sink !== null && keep && (await checkpoints?.last(digest)) === true) await closeQuietly(sink)
    else await sink?.abort()
    throw failure
  } finally {
    digest.close()
  }
}

/** Failures after which the user can mend the cause and go on. */
function isResumable(error: AppError, control: Control): boolean {
  if (error.code === 'cancelled') return control.keep
  return (
    error.code === 'no-space' ||
    error.code === 'source-lost' ||
    error.code === 'output-denied' ||
    error.code === 'device'
  )
}

async function closeQuietly(sink: Sink): Promise<void> {
  try {
    await sink.close()
  } catch {
    // the failure that led here is the one to tell
  }
}

/** What takes in a file's bytes in order. */
interface Followers {
  readonly digest: Digest
  readonly seals: Seals
}

/**
 * Where to go on: the journal's watermark, if the bytes below it are still those that were written, with followers that
 * have taken them in; else the beginning.
 */
async function takeUp(
  run: Execution,
  file: PlannedFile,
  output: OutputFolder,
  journal: Journal | null,
): Promise<Followers & { start: number }> {
  const begin = async (): Promise<Followers> => ({
    digest: await run.host.digest(),
    seals: await Seals.of(file, run.host),
  })
  const left = journal?.file(file.path) ?? null
  if (left === null || left.watermark === 0 || !output.resumable) return { start: 0, ...(await begin()) }
  const followers = await begin()
  const lost = await hashKept(file, left, output, followers, run.control.signal)
  if (lost === null) return { start: left.watermark, ...followers }
  followers.digest.close()
  run.control.log({
    severity: 'warning',
    code: 'restarted',
    message: `${file.path} starts from its beginning: ${lost}.`,
    where: { file: file.path },
  })
  return { start: 0, ...(await begin()) }
}

/** Hashes what an earlier run left; returns why it cannot be used, or null. */
async function hashKept(
  file: PlannedFile,
  left: Progressed,
  output: OutputFolder,
  { digest, seals }: Followers,
  signal: AbortSignal,
): Promise<string | null> {
  const source = await output.open(file.path + PART_SUFFIX).catch(() => null)
  if (source === null) return 'what was written of it is gone'
  try {
    if (source.size < left.watermark) return 'some of what was written is gone'
    const buffer = new Uint8Array(1 << 20)
    for (let at = 0; at < left.watermark; at += buffer.length) {
      const part = buffer.subarray(0, Math.min(buffer.length, left.watermark - at))
      await source.read(at, part, signal)
      seals.update(part)
      await digest.update(part)
    }
    return (await digest.hex()) === left.sha256 ? null : 'what was written has changed'
  } finally {
    await source.close()
  }
}

async function writeTiles(
  run: Execution,
  file: PlannedFile,
  sink: Sink,
  { digest, seals }: Followers,
  start: number,
  checkpoints: Checkpoints,
): Promise<void> {
  const { control, pool, window } = run
  const holding: Uint8Array[] = []
  const tiles = tilesOf(file, (bytes) => {
    const buffer = pool.take(bytes)
    holding.push(buffer)
    return buffer
  })
  const base = control.progress.bytesDone
  const flight: InFlight[] = []
  /** Written, and perhaps still being hashed. */
  let written: InFlight | null = null
  let bytes = 0
  /** The next tile that ends behind `start`; what those before it took and did not give back is taken then. */
  const nextTile = (): Tile | null => {
    for (;;) {
      const { value, done } = tiles.next()
      if (done === true || value === undefined) return null
      if (value.offset + value.size > start || (value.size === 0 && value.offset >= start)) return value
      bytes += value.takes - value.gives
    }
  }
  let next = nextTile()
  const stop = new AbortController()
  const forward = (): void => stop.abort(control.signal.reason)
  control.signal.addEventListener('abort', forward, { once: true })
  if (control.signal.aborted) forward()
  const context = { ...run.kernels, inputs: run.inputs, signal: stop.signal }
  control.report({ bytesDone: base + start })
  const retire = async (): Promise<void> => {
    if (written === null) return
    const { tile, slab, hashed } = written
    await hashed
    written = null
    pool.give(slab)
    bytes -= tile.slab + tile.gives
    // the oldest: tiles of the producers behind it may hold theirs already
    const held = tile.gives > 0 ? holding.shift() : undefined
    if (held !== undefined) pool.give(held)
  }
  try {
    for (;;) {
      while (next !== null && fits(window, flight.length + (written === null ? 0 : 1), bytes, next)) {
        // a paused job finishes what is in flight and admits nothing
        if (control.paused && flight.length > 0) break
        await control.pass()
        flight.push(launch(next, pool, context))
        bytes += next.slab + next.takes
        next = nextTile()
      }
      const head = flight[0]
      if (head === undefined) {
        if (next === null) break
        // a large tile may need the room of the one that is still being hashed
        await retire()
        continue
      }
      const { tile } = head
      const result = await head.result
      if ('error' in result) throw describe(result.error, tile, file)
      control.report({ item: tile.tensor?.name ?? file.path })
      checkpoints.leave()
      const end = tile.offset + tile.size
      seals.fill(result.bytes, tile.checksums)
      seals.update(result.bytes)
      head.hashed = digest.update(result.bytes)
      // while a tile is hashed the next is written: what hashing throws is thrown when its turn comes
      head.hashed.catch(() => undefined)
      await sink.write(result.bytes, tile.offset, stop.signal)
      await retire()
      flight.shift()
      written = head
      control.report({ bytesDone: base + end })
      if (!tile.resumable || !checkpoints.isDue(end, control.paused)) continue
      await retire()
      await checkpoints.reach(end, digest)
    }
    await retire()
  } finally {
    stop.abort(new AppError('cancelled', 'The file is no longer written.'))
    control.signal.removeEventListener('abort', forward)
    const [failed] = flight
    // a tile whose write failed is hashed already: then file and digest differ
    if (written?.tile.resumable === true && (failed?.hashed ?? null) === null) {
      checkpoints.stand(written.tile.offset + written.tile.size)
    }
    // slabs are in use until their computations and hashes have settled
    for (const one of written === null ? flight : [written, ...flight]) {
      await Promise.allSettled([one.result, one.hashed])
      pool.give(one.slab)
    }
    for (const held of holding.splice(0)) pool.give(held)
  }
}

interface InFlight {
  readonly tile: Tile
  /** Set once its bytes are given to the digest. */
  hashed: Promise<void> | null
  readonly slab: Uint8Array
  readonly result: Promise<{ readonly bytes: Uint8Array } | { readonly error: unknown }>
}

function launch(tile: Tile, pool: Pool, context: Parameters<Tile['compute']>[1]): InFlight {
  const slab = pool.take(tile.slab)
  const result = tile.compute(slab, context).then(
    (bytes) => ({ bytes }),
    (error: unknown) => ({ error }),
  )
  return { tile, slab, result, hashed: null }
}

function fits(window: Window, count: number, bytes: number, tile: Tile): boolean {
  if (count === 0) return true
  return count < window.tiles && bytes + tile.slab + tile.takes <= window.bytes
}

/** An error with the tensor it happened in. */
function describe(error: unknown, tile: Tile, file: PlannedFile): AppError {
  const { tensor } = tile
  if (error instanceof BadElement && tensor !== null) {
    const { shape } = tensor.recipe
    const columns = shape.at(-1) ?? 1
    const place =
      shape.length > 1
        ? `row ${Math.floor(error.index / columns)}, column ${error.index % columns}`
        : `index ${error.index}`
    const [read] = readsOf(tensor.recipe)
    const overflow = error.to === 'f16' ? ', Inf, or a value beyond the range of F16 (65504)' : ' or Inf'
    const remedy = error.to === 'f16' ? 'If the model is sound, take BF16 or F32: they hold its range. ' : ''
    return new AppError('bad-weights', `${tensor.name} holds a NaN${overflow} at ${place}`, {
      where: { tensor: tensor.name, file: read?.file ?? file.path },
      hint: `${remedy}Otherwise the checkpoint is damaged: download it again, or take another revision of it.`,
    })
  }
  const known = AppError.from(error)
  if (known.code === 'cancelled' || known.where.tensor !== undefined || tensor === null) return known
  return new AppError(known.code, known.message, {
    where: { ...known.where, tensor: tensor.name },
    ...(known.hint === null ? {} : { hint: known.hint }),
    cause: known,
  })
}

/** Flushes and records beside the writing, one at a time. */
class Checkpoints {
  readonly #host: Host
  readonly #journal: Journal | null
  readonly #file: PlannedFile
  readonly #sink: Sink
  /** Up to where the file is complete and the digest has taken it in; null while a tile is being written. */
  #position: number | null
  #recorded: number
  #recordedAt: number
  #running: Promise<void> | null = null
  #failure: unknown = null

  constructor(host: Host, journal: Journal | null, file: PlannedFile, sink: Sink, start: number) {
    this.#host = host
    this.#journal = journal
    this.#file = file
    this.#sink = sink
    this.#position = start
    this.#recorded = start
    this.#recordedAt = host.now()
  }

  /** A tile is about to be written: for now file and digest may differ. */
  leave(): void {
    this.#position = null
  }

  /** Whether a record of `position` is worth its flush, or `now` is asked for. */
  isDue(position: number, now: boolean): boolean {
    if (this.#failure !== null) throw this.#failure
    if (this.#journal === null || this.#running !== null || position === this.#recorded) return false
    const old = this.#host.now() - this.#recordedAt >= CHECKPOINT_MS
    return now || old || position - this.#recorded >= CHECKPOINT_BYTES
  }

  /** File and digest agree up to `position`. */
  stand(position: number): void {
    this.#position = position
  }

  /** File and digest agree up to `position`: flush and record that, beside the writing. */
  async reach(position: number, digest: Digest): Promise<void> {
    this.#position = position
    this.#running = this.#record(position, await digest.hex())
  }

  /** After a failure: records how far the file is, if that is known. Whether anything is there to be taken up again. */
  async last(digest: Digest): Promise<boolean> {
    try {
      await this.#running
      const position = this.#position
      if (position !== null && position > this.#recorded) await this.#record(position, await digest.hex())
    } catch {
      // the failure that led here is the one to tell
    }
    return (this.#journal?.file(this.#file.path)?.watermark ?? 0) > 0
  }

  async #record(watermark: number, sha256: string): Promise<void> {
    this.#recorded = watermark
    this.#recordedAt = this.#host.now()
    const { path, size } = this.#file
    try {
      await this.#sink.flush()
      await this.#journal?.record({ path, size, watermark, sha256 })
    } catch (error) {
      this.#failure = error
    } finally {
      this.#running = null
    }
  }

  /** Waits for the checkpoint under way. */
  async settle(): Promise<void> {
    await this.#running
    if (this.#failure !== null) throw this.#failure
  }
}
