import type { ConvertRequest, PlanSummary } from '../../api/wire.ts'
import { AppError } from '../../core/errors.ts'
import type { Report } from '../../core/job.ts'
import type { Finding } from '../../core/plan.ts'
import { planNamed } from './dry-run.svelte.ts'
import { Job } from './job.svelte.ts'
import { keepable, readPlaces } from './records.ts'
import type { Finished, Page } from './session-types.ts'

/** What is told of a conversion beside its request. */
export interface About {
  readonly title: string
  readonly modelName: string
  /** Bytes of the weights that it starts from; null if nobody knows. */
  readonly sourceBytes: number | null
  /** What several files are put into if nobody named it. */
  readonly folderName: string
}

/** The conversion that runs, or ran last: remembered while it runs, so that another visit can take it up. */
export class Conversion {
  readonly job: Job
  readonly #page: Page
  #request: ConvertRequest | null = null

  constructor(page: Page) {
    this.#page = page
    this.job = new Job(page.wire)
  }

  /** What was asked for; null before anything was. */
  get request(): ConvertRequest | null {
    return this.#request
  }

  /** Forgets what was asked for. */
  clear(): void {
    this.#request = null
  }

  /** Makes ready for a request, and says which permission is lacking; null for none. Must run in a click. */
  async begin(request: ConvertRequest, { title, modelName }: About): Promise<string | null> {
    this.#request = request
    this.job.begin(title, modelName)
    // A browser that was asked for one folder may want another click before it asks for the next.
    const allowed: Page['allowed'] = (place, mode) => this.#page.allowed(place, mode).catch(() => false)
    for (const place of readPlaces(request)) if (!(await allowed(place, 'read'))) return lacking('read')
    return (await allowed(request.output, 'readwrite')) ? null : lacking('write into')
  }

  /** Converts to the end. Throws what it failed of, `cancelled` among it. */
  async run(asked: ConvertRequest, about: About): Promise<Finished> {
    const { wire, records, holds } = this.#page
    const { request, plan } = await planNamed(wire, asked, about.folderName)
    const { key } = plan
    const { title, modelName } = about
    this.#request = request
    await records
      .put({ key, title, modelName, request: keepable(request), startedAt: Date.now() })
      // A database that refuses only costs the offer to resume.
      .catch(() => undefined)
    const release = holds.hold(key)
    const forget = (): Promise<void> => records.remove(key).catch(() => undefined)
    try {
      const report = await this.job.run(request)
      await this.#tidy(request, report)
      await forget()
      return finished(report, request, plan, about)
    } catch (error) {
      if (AppError.from(error).code === 'cancelled') await forget()
      throw error
    } finally {
      await release()
    }
  }

  /** What an earlier conversion left in the same place of the browser's storage is no part of this one. */
  async #tidy({ output }: ConvertRequest, { files }: Report): Promise<void> {
    if (output.kind !== 'scratch') return
    const paths = files.map(({ path }) => path)
    await this.#page.shelf.tidy(output, paths).catch(() => undefined)
  }
}

function lacking(what: string): string {
  return `Without permission to ${what} the folder nothing can be converted.`
}

function finished(
  report: Report,
  { output }: ConvertRequest,
  plan: PlanSummary,
  { title, modelName, sourceBytes }: About,
): Finished {
  const known = new Set(plan.findings.map(({ code, message }) => `${code} ${message}`))
  const isNote = ({ code, message }: Finding): boolean => known.has(`${code} ${message}`)
  return {
    report,
    checks: report.findings.filter((finding) => !isNote(finding)),
    notes: report.findings.filter(isNote),
    output,
    title,
    modelName,
    sourceBytes: sourceBytes ?? plan.readBytes,
  }
}
