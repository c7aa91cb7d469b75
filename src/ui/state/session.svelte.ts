import type { Place } from '../../core/bytes.ts'
import { AppError, type ErrorData } from '../../core/errors.ts'
import type { Report } from '../../core/job.ts'
import type { OptionSpec, OptionValue, OptionValues } from '../../core/option.ts'
import type { Finding } from '../../core/plan.ts'
import type { ConvertRequest, DeviceInfo, FormatInfo, PlanSummary, Target } from '../../api/wire.ts'
import { groupTargets, preferred, sourceKind } from './formats.ts'
import { Job } from './job.svelte.ts'
import { Kept } from './kept.svelte.ts'
import { changed, codeOf, furtherOptions, openTransforms, TRANSFORM_OPTIONS } from './options.ts'
import { keepable } from './records.ts'
import { fileValue } from './option-file.ts'
import { composeRequest, faultsOf, isTyped, targetName, usualFolder } from './request.ts'
import type { Destination, Failure, Finished, Model, Page, Screen, Unfinished } from './session-types.ts'

export type * from './session-types.ts'

/** How long the dry run waits for the next key while people type. */
const TYPING_MS = 300

/** The whole state of the page: one model, one conversion at a time. It knows the wire but not the DOM. */
export class Session {
  screen = $state<Screen>('start')
  model = $state.raw<Model | null>(null)
  /** What is being opened, for people. */
  opening = $state('')
  chosen = $state(-1)
  destination = $state<Destination>('download')
  folder = $state.raw<Place | null>(null)
  /** Whether a GGUF is to be run once it is finished. */
  runAfter = $state(false)
  /** What the output is to be called; empty for a name made of the model's. */
  outputName = $state('')
  /** Every format that there is; empty until the worker has told. */
  formats = $state.raw<readonly FormatInfo[]>([])
  /** What was set beside the choice of a target, by format. */
  #options = $state.raw<ReadonlyMap<string, OptionValues>>(new Map())
  /** What is done to the model before it is written, by the names of {@link TRANSFORM_OPTIONS}. */
  transforms = $state.raw<OptionValues>({})
  /** The dry run of the chosen target; null while it is made. */
  plan = $state.raw<PlanSummary | null>(null)
  /** The dry run before, to be shown while the next one is made; null if what is chosen cannot be planned. */
  lastPlan = $state.raw<PlanSummary | null>(null)
  planError = $state.raw<ErrorData | null>(null)
  finished = $state.raw<Finished | null>(null)
  failure = $state.raw<Failure | null>(null)
  /** One sentence on what just happened, shown and read out. */
  notice = $state('')
  devices = $state.raw<readonly DeviceInfo[]>([])

  readonly page: Page
  /** The conversion that runs, or ran last. */
  readonly job: Job
  /** What waits from earlier visits. */
  readonly kept: Kept
  #request: ConvertRequest | null = null
  #key: string | null = null
  #planRun = 0
  #openRun = 0

  constructor(page: Page) {
    this.page = page
    this.job = new Job(page.wire)
    this.kept = new Kept(page, () => this.screen === 'start')
  }

  get target(): Target | null {
    return this.model?.targets[this.chosen] ?? null
  }

  /** The format of the chosen target. */
  get format(): FormatInfo | undefined {
    return this.formats.find(({ id }) => id === this.target?.format)
  }

  /** The options that the chosen target has beside its choices. */
  get optionSpecs(): readonly OptionSpec[] {
    return furtherOptions(this.format)
  }

  /** What was set of them. */
  get options(): OptionValues {
    return this.#options.get(this.target?.format ?? '') ?? {}
  }

  /** Sets an option of the chosen target's format, or a transform, and plans anew. */
  set(spec: OptionSpec, value: OptionValue): void {
    if (TRANSFORM_OPTIONS.includes(spec)) {
      this.transforms = { ...this.transforms, [spec.name]: value }
    } else {
      const format = this.target?.format ?? ''
      this.#options = new Map([...this.#options, [format, { ...this.options, [spec.name]: value }]])
    }
    this.preview(isTyped(spec) ? TYPING_MS : 0)
  }

  /** The option of the chosen target's format that a file of this name is meant for; null if it is for none. */
  optionFor(fileName: string): OptionSpec | null {
    if (this.screen !== 'model') return null
    const takes = ({ kind }: OptionSpec): boolean =>
      kind.kind === 'file' && kind.names !== undefined && new RegExp(kind.names, 'i').test(fileName)
    return this.optionSpecs.find(takes) ?? null
  }

  /** Takes a file as the value of an option, if it is small enough. */
  async give(spec: OptionSpec, file: File): Promise<void> {
    try {
      this.set(spec, await fileValue(spec, file))
      this.notice = `“${file.name}” is taken as: ${spec.title}.`
    } catch (error) {
      this.say(error)
    }
  }

  /** Takes back every option of the chosen target's format, and the transforms. */
  clearOptions(): void {
    this.#options = new Map([...this.#options].filter(([format]) => format !== this.target?.format))
    this.transforms = {}
    this.preview()
  }

  /** Names the output: a file's stem or a folder; empty for a name made of the model's. */
  rename(name: string): void {
    this.outputName = name
    this.preview(TYPING_MS)
  }

  /** What the folder of several files is called if nobody names it, as the command does it. */
  get folderName(): string {
    const { model, target, format } = this
    return model === null || target === null ? '' : usualFolder(model, target, format)
  }

  /** Whether a conversion is under way. */
  get running(): boolean {
    return this.screen === 'job'
  }

  /** Whether closing the tab now would lose work: what goes straight into a folder cannot be resumed. */
  get fragile(): boolean {
    return this.running && this.#request?.output.kind === 'handle'
  }

  /** Bytes that the output still needs beyond what is free; null if it fits or nobody can say. */
  get shortOf(): number | null {
    const plan = this.plan
    if (plan === null || plan.freeBytes === null) return null
    const short = plan.writeBytes - plan.keptBytes - plan.freeBytes
    return short > 0 ? short : null
  }

  /** Looks what kernels there are, what waits in storage and what was interrupted. */
  async begin(): Promise<void> {
    const { wire } = this.page
    await Promise.all([
      wire.devices().then(
        (devices) => (this.devices = devices),
        (error: unknown) => this.#fail(error, 'opening'),
      ),
      // What there is to convert is told by `open` too, if need be.
      this.#learn().catch(() => undefined),
      this.kept.refresh(),
    ])
  }

  async #learn(): Promise<readonly FormatInfo[]> {
    if (this.formats.length === 0) this.formats = await this.page.wire.formats()
    return this.formats
  }

  /** Opens a model and looks what it can become. */
  async open(place: Place, label: string): Promise<void> {
    if (this.running) return
    const run = ++this.#openRun
    this.notice = ''
    this.opening = label
    this.screen = 'opening'
    this.#request = null
    this.model = null
    this.#opened = { place, label }
    try {
      const { wire } = this.page
      const [inspection, targets, formats] = await Promise.all([
        wire.inspect(place),
        wire.targets(place),
        this.#learn(),
      ])
      if (run !== this.#openRun) return
      const groups = groupTargets(targets, formats, sourceKind(inspection))
      this.model = { place, inspection, targets, groups }
      this.#options = new Map()
      this.#targeted.clear()
      for (const { id } of formats) this.#targeted.set(id, codeOf({ format: id }))
      this.transforms = {}
      this.outputName = ''
      this.lastPlan = null
      this.chosen = preferred(groups)
      this.screen = 'model'
      this.preview()
    } catch (error) {
      if (run === this.#openRun) this.#fail(error, 'opening')
    }
  }
  #opened: { readonly place: Place; readonly label: string } | null = null

  /** The place that could not be opened for want of files, and which; null if that is not what went wrong. */
  get lacking(): { readonly place: Place; readonly files: readonly string[] } | null {
    const { failure } = this
    const files = failure?.error.where.missing ?? []
    if (this.screen !== 'failed' || failure?.during !== 'opening' || files.length === 0) return null
    return this.#opened === null ? null : { place: this.#opened.place, files }
  }

  /** Opens the place that lacked files once more, with those that were added. */
  async supplement(place: Place): Promise<void> {
    await this.open(place, this.#opened?.label ?? '')
  }

  choose(index: number): void {
    if (index === this.chosen) return
    this.chosen = index
    this.preview()
  }

  aim(destination: Destination): void {
    this.destination = destination
    this.preview()
  }

  /** Asks for the folder that the output goes to. Must run in a click. */
  async chooseFolder(): Promise<void> {
    try {
      const folder = await this.page.pickFolder('readwrite')
      if (folder !== null) this.folder = folder
      if (this.folder === null) this.destination = 'download'
    } catch (error) {
      this.destination = 'download'
      this.notice = `The folder could not be opened: ${AppError.from(error).message}`
    }
    this.preview()
  }

  /** Makes the dry run of what is chosen, after so many milliseconds without another; the newest wins. */
  preview(after = 0): void {
    const run = ++this.#planRun
    clearTimeout(this.#planTimer)
    this.plan = null
    this.planError = null
    if (after > 0) this.#planTimer = setTimeout(() => void this.#dryRun(run), after)
    else void this.#dryRun(run)
  }
  #planTimer: ReturnType<typeof setTimeout> | undefined

  async #dryRun(run: number): Promise<void> {
    const request = this.#compose(false)
    if (request === null) return
    try {
      const { plan } = await this.#named(request)
      if (run !== this.#planRun) return
      this.plan = this.lastPlan = plan
      await this.#retarget(run, request)
    } catch (error) {
      if (run !== this.#planRun) return
      this.planError = AppError.from(error).toData()
      this.lastPlan = null
    }
  }

  /** Looks again what the choices of the format cost, with the options that were set beside them. */
  async #retarget(run: number, { input, target: format, transforms }: ConvertRequest): Promise<void> {
    const options = changed(this.optionSpecs, this.options)
    const code = codeOf({ format, ...options, ...changed(openTransforms(this.transforms), this.transforms) })
    if (this.#targeted.get(format) === code) return
    const given = { format, options, ...(transforms === undefined ? {} : { transforms }) }
    const fresh = await this.page.wire.targets(input, given).catch((): readonly Target[] => [])
    const { model } = this
    if (run !== this.#planRun || model === null || fresh.length === 0) return
    this.#targeted.set(format, code)
    const left = [...fresh]
    const targets = model.targets.map((target) => (target.format === format ? (left.shift() ?? target) : target))
    this.model = { ...model, targets, groups: groupTargets(targets, this.formats, sourceKind(model.inspection)) }
  }
  /** With which options the costs of a format's choices were looked up last. */
  readonly #targeted = new Map<string, string>()

  /** The plan of a request. Several files get a folder of their own, also where nobody named it. */
  async #named(request: ConvertRequest): Promise<{ request: ConvertRequest; plan: PlanSummary }> {
    const { wire } = this.page
    const plan = await wire.plan(request)
    if (request.name !== null || plan.files.length < 2) return { request, plan }
    const named = { ...request, name: this.folderName }
    return { request: named, plan: await wire.plan(named) }
  }

  #compose(overwrite: boolean): ConvertRequest | null {
    const { model, target, optionSpecs, options, transforms, outputName } = this
    if (model === null || target === null) return null
    const into = this.destination === 'folder' ? this.folder : null
    const check = this.runAfter
    const wish = { model, target, specs: optionSpecs, options, transforms, name: outputName, check, into }
    return composeRequest(wish, this.page.shelf, overwrite)
  }

  /** What is wrong with the options by themselves, by name. */
  get optionFaults(): ReadonlyMap<string, string> {
    return faultsOf(this.optionSpecs, this.options, this.transforms)
  }

  /** Converts what is chosen to where it was aimed. Must run in a click: a folder may need permission. */
  async convert(overwrite = false): Promise<void> {
    if (this.destination === 'folder' && this.folder === null) {
      await this.chooseFolder()
      if (this.folder === null) return
    }
    const request = this.#compose(overwrite)
    if (request === null || this.optionFaults.size > 0) return
    await this.#run(request, this.target === null ? '' : targetName(this.target), this.model?.inspection.name ?? '')
  }

  /** Takes up an interrupted conversion. Must run in a click. */
  async takeUp(unfinished: Unfinished): Promise<void> {
    const { record } = unfinished
    if (record?.request === null || record === null) return
    await this.#run(record.request, record.title, record.modelName)
  }

  /** Removes what an interrupted conversion left. */
  async discard(unfinished: Unfinished): Promise<void> {
    this.notice = await this.kept.discard(unfinished)
  }

  async #run(asked: ConvertRequest, title: string, modelName: string): Promise<void> {
    const { records } = this.page
    this.notice = ''
    this.#request = asked
    this.#key = null
    this.job.begin(title, modelName)
    let release: (() => Promise<void>) | null = null
    try {
      const readable = await this.page.allowed(asked.input, 'read')
      if (!readable || !(await this.page.allowed(asked.output, 'readwrite'))) {
        this.notice = `Without permission to ${readable ? 'write into' : 'read'} the folder nothing can be converted.`
        return
      }
      this.screen = 'job'
      const { request, plan } = await this.#named(asked)
      this.#request = request
      this.#key = plan.key
      await records
        .put({ key: plan.key, title, modelName, request: keepable(request), startedAt: Date.now() })
        // A database that refuses only costs the offer to resume.
        .catch(() => undefined)
      release = this.page.holds.hold(plan.key)
      await this.#finish(await this.job.run(request), request, plan)
    } catch (error) {
      await this.#stopped(error)
    } finally {
      await release?.()
      await this.kept.refresh()
    }
  }

  async #finish(report: Report, request: ConvertRequest, plan: PlanSummary): Promise<void> {
    const known = new Set(plan.findings.map(({ code, message }) => `${code} ${message}`))
    const isNote = ({ code, message }: Finding): boolean => known.has(`${code} ${message}`)
    this.finished = {
      report,
      checks: report.findings.filter((finding) => !isNote(finding)),
      notes: report.findings.filter(isNote),
      output: request.output,
      title: this.job.title,
      modelName: this.job.modelName,
      sourceBytes: this.model?.inspection.weightBytes ?? plan.readBytes,
    }
    this.screen = 'done'
    await this.#forget()
  }

  async #stopped(error: unknown): Promise<void> {
    const { code } = AppError.from(error)
    if (code === 'cancelled') {
      await this.#forget()
      this.notice = 'Cancelled. What was written has been removed.'
      this.screen = this.model === null ? 'start' : 'model'
      this.preview()
    } else {
      this.#fail(error, 'converting')
    }
  }

  async #forget(): Promise<void> {
    if (this.#key !== null) await this.page.records.remove(this.#key).catch(() => undefined)
  }

  /** Does again what failed, with what is changed about it. Must run in a click. */
  async retry(change: { readonly overwrite?: true; readonly restart?: true } = {}): Promise<void> {
    const request = this.#request
    if (this.failure?.during === 'converting' && request !== null) {
      await this.#run({ ...request, ...change }, this.job.title, this.job.modelName)
    } else if (this.#opened !== null) {
      await this.open(this.#opened.place, this.#opened.label)
    } else {
      this.reset()
    }
  }

  /** Back to the model that is open, to choose differently. */
  back(): void {
    this.notice = ''
    this.screen = this.model === null ? 'start' : 'model'
    this.preview()
  }

  /** Back to the start, for another model. */
  reset(): void {
    if (this.running) return
    this.#openRun++
    this.#planRun++
    this.#request = null
    this.#opened = null
    this.model = null
    clearTimeout(this.#planTimer)
    this.plan = this.lastPlan = null
    this.outputName = ''
    this.finished = null
    this.failure = null
    this.folder = null
    this.destination = 'download'
    this.notice = ''
    this.screen = 'start'
    void this.kept.refresh()
  }

  /** Shows something that went wrong beside the main path, without leaving the screen. */
  say(error: unknown): void {
    const { message, hint } = AppError.from(error)
    this.notice = hint === null ? message : `${message}. ${hint}`
  }

  #fail(error: unknown, during: Failure['during']): void {
    this.failure = { error: AppError.from(error).toData(), during }
    this.screen = 'failed'
  }
}
