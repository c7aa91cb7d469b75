import type { Place } from '../../core/bytes.ts'
import type { ErrorData } from '../../core/errors.ts'
import type { Report } from '../../core/job.ts'
import type { Finding } from '../../core/plan.ts'
import type { Inspection, Interrupted, Target, Wire } from '../../api/wire.ts'
import type { FormatGroup } from './formats.ts'
import type { Holds } from './holds.ts'
import type { JobRecord, Records } from './records.ts'
import type { ScratchPlace, Shelf } from './shelf.ts'
import type { Source } from './source.ts'

/** Which screen is shown. */
export type Screen = 'start' | 'opening' | 'model' | 'job' | 'done' | 'failed'

/** Where the output goes: into the browser's storage, to be downloaded, or straight into a picked folder. */
export type Destination = 'download' | 'folder'

/** A model that was opened, with what it can become. */
export interface Model {
  readonly source: Source
  readonly inspection: Inspection
  readonly targets: readonly Target[]
  /** The same by format, in the order in which they are shown. */
  readonly groups: readonly FormatGroup[]
}

/** A conversion that was interrupted, and what is remembered of it (null if nothing is). */
export interface Unfinished {
  readonly job: Interrupted
  readonly place: ScratchPlace
  readonly record: JobRecord | null
}

/** What went wrong, and what "Try again" would do about it. */
export interface Failure {
  readonly error: ErrorData
  readonly during: 'opening' | 'converting'
  /** What made-up weights would make of a configuration that has none; null where that is not what went wrong. */
  readonly outline: Inspection | null
}

/** A finished conversion. */
export interface Finished {
  readonly report: Report
  /** The findings that are about the output, not the plan: how it was checked. */
  readonly checks: readonly Finding[]
  /** The others: what is worth knowing. */
  readonly notes: readonly Finding[]
  readonly output: Place
  readonly title: string
  readonly modelName: string
  readonly sourceBytes: number
}

/** What a session needs from the page. */
export interface Page {
  readonly wire: Wire
  readonly records: Records
  readonly shelf: Shelf
  readonly holds: Holds
  allowed(place: Place, mode: 'read' | 'readwrite'): Promise<boolean>
  pickFolder(mode: 'read' | 'readwrite'): Promise<Place | null>
}
