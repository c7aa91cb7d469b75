import { AppError, type ErrorData } from '../../core/errors.ts'
import type { ConvertRequest, PlanSummary, Wire } from '../../api/wire.ts'

/** A request, and what it would do. */
export interface Planned {
  readonly request: ConvertRequest
  readonly plan: PlanSummary
}

/** The dry run of what is chosen: what it would write, and what it needs. The newest wins. */
export class DryRun {
  /** Null while it is made. */
  plan = $state.raw<PlanSummary | null>(null)
  /** The one before, to be shown meanwhile; null if what is chosen cannot be planned. */
  last = $state.raw<PlanSummary | null>(null)
  error = $state.raw<ErrorData | null>(null)
  #count = 0
  #timer: ReturnType<typeof setTimeout> | undefined

  /**
   * Makes a plan by `make` after so many milliseconds without another call, and calls `then` with it. That one asks
   * whether it is still wanted.
   */
  begin(
    make: () => Promise<Planned> | null,
    then: (request: ConvertRequest, wanted: () => boolean) => Promise<void>,
    after = 0,
  ): void {
    const run = ++this.#count
    const wanted = (): boolean => run === this.#count
    clearTimeout(this.#timer)
    this.plan = null
    this.error = null
    if (after > 0) this.#timer = setTimeout(() => void this.#make(make, then, wanted), after)
    else void this.#make(make, then, wanted)
  }

  /** Forgets all plans. */
  clear(): void {
    this.#count++
    clearTimeout(this.#timer)
    this.plan = this.last = this.error = null
  }

  async #make(
    make: () => Promise<Planned> | null,
    then: (request: ConvertRequest, wanted: () => boolean) => Promise<void>,
    wanted: () => boolean,
  ): Promise<void> {
    try {
      const planned = await make()
      if (planned === null || !wanted()) return
      this.plan = this.last = planned.plan
      await then(planned.request, wanted)
    } catch (error) {
      if (!wanted()) return
      this.error = AppError.from(error).toData()
      this.last = null
    }
  }
}

/** The plan of a request. Several files get a folder of their own, `folder` where nobody named it. */
export async function planNamed(wire: Wire, request: ConvertRequest, folder: string): Promise<Planned> {
  const plan = await wire.plan(request)
  if (request.name !== null || plan.files.length < 2) return { request, plan }
  const named = { ...request, name: folder }
  return { request: named, plan: await wire.plan(named) }
}
