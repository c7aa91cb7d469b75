import { AppError } from '../../core/errors.ts'
import type { Interrupted } from '../../api/wire.ts'
import type { JobRecord } from './records.ts'
import type { Page, Unfinished } from './session-types.ts'
import type { ScratchPlace, ShelfItem } from './shelf.ts'

/** How often a conversion of another tab is looked after. */
const ELSEWHERE_MS = 2000

/** What waits from earlier visits: interrupted conversions, and finished outputs in the browser's storage. */
export class Kept {
  unfinished = $state.raw<readonly Unfinished[]>([])
  shelf = $state.raw<readonly ShelfItem[]>([])
  readonly #page: Page
  readonly #watched: () => boolean
  #timer: ReturnType<typeof setTimeout> | undefined

  /** `watched` says whether what waits is on show, so that it is worth looking again. */
  constructor(page: Page, watched: () => boolean) {
    this.#page = page
    this.#watched = watched
  }

  /** Looks what waits. Never throws: each part is a convenience, and a browser that keeps nothing still converts. */
  async refresh(): Promise<void> {
    const { wire, shelf, records, holds } = this.#page
    const [places, remembered, items, held] = await Promise.all([
      shelf.places().catch((): readonly ScratchPlace[] => []),
      records.all().catch((): readonly JobRecord[] => []),
      shelf.list().catch((): readonly ShelfItem[] => []),
      holds.held().catch((): ReadonlySet<string> => new Set()),
    ])
    const unfinished: Unfinished[] = []
    let elsewhere = false
    for (const place of places) {
      for (const job of await wire.interrupted(place).catch((): readonly Interrupted[] => [])) {
        if (held.has(job.key)) {
          elsewhere = true
          continue
        }
        unfinished.push({ job, place, record: remembered.find((record) => record.key === job.key) ?? null })
      }
    }
    this.unfinished = unfinished
    this.shelf = items
    // Another tab may be closed, or may finish, while this one shows what waits.
    clearTimeout(this.#timer)
    if (elsewhere && this.#watched()) this.#timer = setTimeout(() => void this.refresh(), ELSEWHERE_MS)
  }

  /** Removes what jobs left half-made that nobody will take up again: those that have no journal and run in no tab. */
  async sweep(): Promise<void> {
    const { wire, shelf, holds } = this.#page
    try {
      // First what is there, then who claims it: a job that begins meanwhile is not taken for a dead one.
      const left = await shelf.stages()
      if (left.length === 0) return
      const claimed = new Set(await holds.held())
      for (const place of await shelf.places()) {
        for (const { key } of await wire.interrupted(place)) claimed.add(key)
      }
      for (const key of left) if (!claimed.has(key)) await shelf.sweep(key)
    } catch {
      // what stays costs room, and the next visit looks again
    }
  }

  /** Removes what an interrupted conversion left. Returns what to tell. */
  async discard({ job, place }: Unfinished): Promise<string> {
    let said = 'The unfinished conversion was removed.'
    try {
      await this.#page.wire.discard(place, job.key)
      await this.#page.records.remove(job.key)
    } catch (error) {
      said = AppError.from(error).message
    }
    await this.refresh()
    return said
  }
}
