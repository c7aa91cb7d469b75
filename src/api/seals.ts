import { AppError } from '../core/errors.ts'
import type { Checksum, PlannedFile } from '../core/plan.ts'
import type { Crc32, Host } from './host.ts'

interface Range {
  readonly start: number
  readonly end: number
}

/** The ranges that a file's seals have checksums of, by ascending start, each once. Throws `internal` if they overlap. */
export function checksumRanges(file: PlannedFile): readonly Range[] {
  const ranges = new Map<number, Range>()
  const fail = (at: number): AppError =>
    new AppError('internal', `a checksum of ${file.path} at byte ${at} has a fault`, { where: { file: file.path } })
  for (const segment of file.segments) {
    if (segment.kind !== 'seal') continue
    for (const { at, start, size } of segment.checksums) {
      const end = start + size
      const known = ranges.get(start)
      const inside = at >= 0 && at + 4 <= segment.bytes.length && start >= 0 && size > 0 && end <= segment.offset
      if (!inside || (known !== undefined && known.end !== end)) throw fail(segment.offset + at)
      ranges.set(start, { start, end })
    }
  }
  const sorted = [...ranges.values()].sort((a, b) => a.start - b.start)
  let last = 0
  for (const { start, end } of sorted) {
    if (start < last) throw fail(start)
    last = end
  }
  return sorted
}

/**
 * Follows a file's bytes from its beginning to fill its seals. A job that is taken up again lets it follow the bytes that
 * are there, as it lets the digest: nothing of it is kept across a crash.
 */
export class Seals {
  readonly #ranges: readonly Range[]
  readonly #crc: Crc32 | null
  readonly #values = new Map<number, number>()
  #next = 0
  #at = 0

  private constructor(ranges: readonly Range[], crc: Crc32 | null) {
    this.#ranges = ranges
    this.#crc = crc
  }

  static async of(file: PlannedFile, host: Pick<Host, 'crc32'>): Promise<Seals> {
    const ranges = checksumRanges(file)
    return new Seals(ranges, ranges.length === 0 ? null : await host.crc32())
  }

  /** The bytes that follow those before. */
  update(bytes: Uint8Array): void {
    const begin = this.#at
    this.#at += bytes.length
    if (this.#crc === null) return
    for (;;) {
      const range = this.#ranges[this.#next]
      if (range === undefined || range.start >= this.#at) return
      const from = Math.max(range.start, begin)
      const to = Math.min(range.end, this.#at)
      this.#crc.update(bytes.subarray(from - begin, to - begin))
      if (to < range.end) return
      this.#values.set(range.start, this.#crc.take())
      this.#next++
    }
  }

  /** Puts checksums where they belong in a seal's bytes. */
  fill(bytes: Uint8Array, checksums: readonly Checksum[]): void {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
    for (const { at, start } of checksums) {
      const value = this.#values.get(start)
      if (value === undefined)
        throw new AppError('internal', `the bytes from ${start} are sealed before they are written`)
      view.setUint32(at, value, true)
    }
  }
}
