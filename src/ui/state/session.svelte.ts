import type { Place } from '../../core/bytes.ts'
import { AppError, type ErrorData } from '../../core/errors.ts'
import type { OptionSpec, OptionValue, OptionValues } from '../../core/option.ts'
import type { ConvertRequest, DeviceInfo, FormatInfo, Inspection, PlanSummary, Target } from '../../api/wire.ts'
import { Conversion, type About } from './conversion.svelte.ts'
import { DryRun, planNamed } from './dry-run.svelte.ts'
import { preferred } from './formats.ts'
import type { Job } from './job.svelte.ts'
import { Kept } from './kept.svelte.ts'
import { changed, codeOf, furtherOptions, openTransforms } from './options.ts'
import { fileValue } from './option-file.ts'
import { ADAPTER_FAULT, composeRequest, faultsOf, isTyped, targetName, transformable, usualFolder } from './request.ts'
import type { Destination, Failure, Finished, Model, Page, Screen, Unfinished } from './session-types.ts'
import { Settings } from './settings.svelte.ts'
import { look, modelOf, outlined } from './look.ts'
import { isBare, needOf, plainSource, weighed, withAdapter, type Need, type Source } from './source.ts'

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
  finished = $state.raw<Finished | null>(null)
  failure = $state.raw<Failure | null>(null)
  /** One sentence on what just happened, shown and read out. */
  notice = $state('')
  devices = $state.raw<readonly DeviceInfo[]>([])

  readonly page: Page
  readonly #settings = new Settings()
  /** The dry run of what is chosen. */
  readonly dryRun = new DryRun()
  readonly conversion: Conversion
  /** What waits from earlier visits. */
  readonly kept: Kept
  /** What was opened last, or could not be. */
  #source = $state.raw<Source | null>(null)
  #openRun = 0

  constructor(page: Page) {
    this.page = page
    this.conversion = new Conversion(page)
    this.kept = new Kept(page, () => this.screen === 'start')
  }

  /** The conversion that runs, or ran last, as the page follows it. */
  get job(): Job {
    return this.conversion.job
  }

  /** The dry run of the chosen target; null while it is made. */
  get plan(): PlanSummary | null {
    return this.dryRun.plan
  }

  /** The dry run before, to be shown while the next one is made; null if what is chosen cannot be planned. */
  get lastPlan(): PlanSummary | null {
    return this.dryRun.last
  }

  get planError(): ErrorData | null {
    return this.dryRun.error
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
    return furtherOptions(this.format, this.model?.inspection.format ?? '', this.options)
  }

  /** What was set of them. */
  get options(): OptionValues {
    return this.#settings.of(this.target?.format ?? '')
  }

  /** What is done to the model before it is written, by the names of the transform options. */
  get transforms(): OptionValues {
    return this.#settings.transforms
  }

  /** Sets an option of the chosen target's format, or a transform, and plans anew. */
  set(spec: OptionSpec, value: OptionValue): void {
    this.#settings.set(this.target?.format ?? '', spec, value)
    this.preview(isTyped(spec) ? TYPING_MS : 0)
  }

  /** The option of the chosen target's format, or the transform, that a file of this name is meant for; null if none. */
  optionFor(fileName: string): OptionSpec | null {
    if (this.screen !== 'model' || this.model === null) return null
    const takes = ({ kind }: OptionSpec): boolean =>
      kind.kind === 'file' && kind.names !== undefined && new RegExp(kind.names, 'i').test(fileName)
    return [...this.optionSpecs, ...openTransforms(this.transforms, transformable(this.model))].find(takes) ?? null
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
    this.#settings.clear(this.target?.format ?? '', this.#source)
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
    return this.running && this.conversion.request?.output.kind === 'handle'
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
      this.kept.sweep(),
    ])
  }

  async #learn(): Promise<readonly FormatInfo[]> {
    if (this.formats.length === 0) this.formats = await this.page.wire.formats()
    return this.formats
  }

  /** Opens a model and looks what it can become. */
  async open(place: Place, label: string): Promise<void> {
    await this.#openSource(plainSource(place, label))
  }

  /** Opens the model that the adapters which wait for one were trained on, with them merged into it. */
  async openBase(place: Place, label: string): Promise<void> {
    const { need } = this
    const adapters = need?.kind === 'base' ? need.adapters : []
    await this.#openSource({ ...plainSource(place, label), adapters })
  }

  /** Opens what was opened once more, with a change to what it is made of. */
  async reopen(change: (source: Source) => Source): Promise<void> {
    if (this.#source !== null) await this.#openSource(change(this.#source))
  }

  /** Multiplies an adapter by another weight; NaN for what is none. Nothing has to be opened again for that. */
  weigh(at: number, weight: number): void {
    if (this.model === null) return
    this.#source = weighed(this.model.source, at, weight)
    this.model = { ...this.model, source: this.#source }
    this.preview(TYPING_MS)
  }

  async #openSource(source: Source): Promise<void> {
    if (this.running) return
    const run = ++this.#openRun
    const before = this.model
    this.notice = ''
    this.opening = source.label
    this.screen = 'opening'
    this.conversion.clear()
    this.model = null
    this.#source = source
    try {
      const [formats, seen] = await Promise.all([this.#learn(), look(this.page.wire, source)])
      if (run === this.#openRun) this.#show(modelOf(source, seen, formats), before)
    } catch (error) {
      if (run === this.#openRun) await this.#unopened(source, AppError.from(error), before, run)
    }
  }

  #show(model: Model, before: Model | null): void {
    const { source, targets } = model
    this.model = model
    this.#targeted.clear()
    for (const { id } of this.formats) this.#targeted.set(id, codeOf({ format: id }))
    this.dryRun.clear()
    // The same model with something more keeps what was chosen for it.
    if (before?.source.place !== source.place || targets[this.chosen]?.cost == null) {
      this.#settings.begin(source)
      this.outputName = ''
      this.chosen = preferred(model.groups)
    }
    this.screen = 'model'
    this.preview()
  }

  async #unopened(source: Source, error: AppError, before: Model | null, run: number): Promise<void> {
    if (before !== null) {
      const same = before.source.place === source.place
      if (same || error.code === 'needs-base') {
        this.model = before
        this.#source = before.source
      }
      if (error.code === 'needs-base' && !same)
        return this.reopen((base) => withAdapter(base, source.place, source.label))
      if (same) {
        this.screen = 'model'
        this.preview()
        return this.say(error)
      }
    }
    const outline = isBare(error) ? await outlined(this.page.wire, source) : null
    if (run === this.#openRun) this.#fail(error, 'opening', outline)
  }

  /** The place that could not be opened for want of files, and which; null if that is not what went wrong. */
  get lacking(): { readonly place: Place; readonly files: readonly string[] } | null {
    const files = this.#unopenable?.error.where.missing ?? []
    return this.#source === null || files.length === 0 ? null : { place: this.#source.place, files }
  }

  /** What has to be given before the place that was opened is a model; null if it is something else that went wrong. */
  get need(): Need | null {
    return this.#source === null || this.#unopenable === null ? null : needOf(this.#source, this.#unopenable)
  }

  /** Why the place could not be opened, while that is on show. */
  get #unopenable(): Failure | null {
    return this.screen === 'failed' && this.failure?.during === 'opening' ? this.failure : null
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
    const make = (): ReturnType<typeof planNamed> | null => {
      const request = this.#compose(false)
      return request === null ? null : planNamed(this.page.wire, request, this.folderName)
    }
    this.dryRun.begin(make, (request, wanted) => this.#retarget(request, wanted), after)
  }

  /** Looks again what the choices of the format cost, with the options that were set beside them. */
  async #retarget({ input, target: format, transforms }: ConvertRequest, wanted: () => boolean): Promise<void> {
    if (this.model === null) return
    const options = changed(this.optionSpecs, this.options)
    const set = openTransforms(this.transforms, transformable(this.model))
    const code = codeOf({ format, ...options, ...changed(set, this.transforms) })
    if (this.#targeted.get(format) === code) return
    const given = { format, options, ...(transforms === undefined ? {} : { transforms }) }
    const fresh = await this.page.wire.targets(input, given).catch((): readonly Target[] => [])
    const { model } = this
    if (!wanted() || model === null || fresh.length === 0) return
    this.#targeted.set(format, code)
    const left = [...fresh]
    const targets = model.targets.map((target) => (target.format === format ? (left.shift() ?? target) : target))
    this.model = modelOf(model.source, { inspection: model.inspection, targets }, this.formats)
  }
  /** With which options the costs of a format's choices were looked up last. */
  readonly #targeted = new Map<string, string>()

  #compose(overwrite: boolean): ConvertRequest | null {
    const { model, target, optionSpecs, options, transforms, outputName } = this
    if (model === null || target === null || this.optionFaults.has(ADAPTER_FAULT)) return null
    const into = this.destination === 'folder' ? this.folder : null
    const check = this.runAfter
    const wish = { model, target, specs: optionSpecs, options, transforms, name: outputName, check, into }
    return composeRequest(wish, this.page.shelf, overwrite)
  }

  /** What is wrong with the options by themselves, by name. */
  get optionFaults(): ReadonlyMap<string, string> {
    return faultsOf(this.model, this.optionSpecs, this.options, this.transforms)
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
    const sourceBytes = this.model?.inspection.weightBytes ?? null
    const about: About = { title, modelName, sourceBytes, folderName: this.folderName }
    this.notice = ''
    try {
      const refused = await this.conversion.begin(asked, about)
      if (refused !== null) {
        this.notice = refused
        return
      }
      this.screen = 'job'
      this.finished = await this.conversion.run(asked, about)
      this.screen = 'done'
    } catch (error) {
      this.#stopped(error)
    }
    await this.kept.refresh()
  }

  #stopped(error: unknown): void {
    if (AppError.from(error).code === 'cancelled') {
      this.notice = 'Cancelled. What was written has been removed.'
      this.screen = this.model === null ? 'start' : 'model'
      this.preview()
    } else {
      this.#fail(error, 'converting')
    }
  }

  /** Does again what failed, with what is changed about it. Must run in a click. */
  async retry(change: { readonly overwrite?: true; readonly restart?: true } = {}): Promise<void> {
    const { request } = this.conversion
    if (this.failure?.during === 'converting' && request !== null) {
      await this.#run({ ...request, ...change }, this.job.title, this.job.modelName)
    } else if (this.#source !== null) {
      await this.#openSource(this.#source)
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
    this.conversion.clear()
    this.#source = null
    this.model = null
    this.dryRun.clear()
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

  #fail(error: unknown, during: Failure['during'], outline: Inspection | null = null): void {
    this.failure = { error: AppError.from(error).toData(), during, outline }
    this.screen = 'failed'
  }
}
