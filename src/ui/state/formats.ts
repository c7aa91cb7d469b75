import type { FormatInfo, Inspection, Target } from '../../api/wire.ts'
import { dtypeInfo } from '../../core/dtype.ts'
import type { Choice, OptionSpec } from '../../core/option.ts'

/** What there is to drop, by format, in the order in which targets are shown: by how often they are wanted. */
const ACCEPTS: ReadonlyMap<string, readonly string[]> = new Map([
  ['gguf', ['.gguf']],
  ['mlx', ['MLX folder']],
  ['huggingface', ['HuggingFace folder', 'pytorch_model.bin']],
  ['safetensors', ['.safetensors']],
  ['onnx', ['.onnx']],
  ['torchscript', ['TorchScript .pt']],
  ['gptq', ['GPTQ folder']],
  ['awq', ['AWQ folder']],
  ['megatron', ['Megatron folder']],
])

/** The order of what can be dropped: the folder that most models come as, first. */
const READ_ORDER = ['huggingface', 'safetensors', 'gguf', 'mlx']

/** How many choices a format without featured ones shows at first. */
const FEW = 5

/** "GGUF" and "llama.cpp" of "GGUF (llama.cpp)". */
export function splitTitle(title: string): { readonly name: string; readonly by: string } {
  const [, name = title, by = ''] = /^(.*?) \((.*)\)$/.exec(title) ?? []
  return { name, by }
}

/** One thing that a format can be made as, with its place among the targets. */
export interface Row {
  readonly index: number
  readonly target: Target
  /** One of the few that are shown at first. */
  readonly featured: boolean
  /** Whether it is what the format recommends. */
  readonly usual: boolean
  /** Why it cannot be chosen; null if it can, be it that an option has to be given first. */
  readonly closed: string | null
}

/** All that a format can be made as. */
export interface FormatGroup {
  readonly format: string
  readonly title: string
  /** What is recommended first, then from small to large, then what cannot be reached. */
  readonly rows: readonly Row[]
  readonly reachable: boolean
  /** Why none of it can be reached; null if something can. */
  readonly reason: string | null
  /** The option of this format that would change that, and the row to choose for it; null if none would. */
  readonly remedy: { readonly spec: OptionSpec; readonly index: number } | null
}

/** The option that a target's choices come from. */
export function mainOption(info: FormatInfo | undefined): (OptionSpec & { readonly kind: ChoiceKind }) | null {
  for (const spec of info?.options ?? []) if (isChoice(spec)) return spec
  return null
}
type ChoiceKind = Extract<OptionSpec['kind'], { readonly kind: 'choice' }>

function isChoice(spec: OptionSpec): spec is OptionSpec & { readonly kind: ChoiceKind } {
  return spec.kind.kind === 'choice'
}

/** What is known of a model that decides what is recommended for it. */
export interface SourceKind {
  readonly format: string
  /** Whether most of its weights have lost something already. */
  readonly quantised: boolean
}

/** What decides what is recommended for a model. */
export function sourceKind({ format, dtypes }: Pick<Inspection, 'format' | 'dtypes'>): SourceKind {
  const bytes = (some: Inspection['dtypes']): number => some.reduce((sum, part) => sum + part.bytes, 0)
  const lossy = dtypes.filter(({ dtype }) => dtypeInfo(dtype).kind === 'quant')
  return { format, quantised: 2 * bytes(lossy) > bytes(dtypes) }
}

/** The choice that leaves the weights of a model of the same format as they are; undefined if there is none. */
function keeper(info: FormatInfo | undefined): Choice | undefined {
  return mainOption(info)?.kind.choices.find(({ keeps }) => keeps === true)
}

function choiceOf(
  target: Target,
  info: FormatInfo | undefined,
  { format, quantised }: SourceKind,
): { choice: Choice; usual: boolean } | null {
  const main = mainOption(info)
  const choice = main?.kind.choices.find(({ value }) => value === target.options[main.name])
  if (main === null || choice === undefined) return null
  const kept = quantised && format === target.format ? keeper(info) : undefined
  return { choice, usual: choice.value === (kept?.value ?? main.kind.default) }
}

/** The option that a text names, as `--name`, among those of a format. */
export function optionNamed(text: string, info: FormatInfo | undefined): OptionSpec | null {
  const main = mainOption(info)
  const named = info?.options.filter(({ name }) => name !== main?.name && mentions(text, name)) ?? []
  return named[0] ?? null
}

function mentions(text: string, name: string): boolean {
  return new RegExp(`--${name}(?![\\w-])`).test(text)
}

/**
 * Targets by format: the usual ones first, the source's own format last, then what cannot be reached. A format that can
 * be rewritten without touching the weights comes first for its own models: to split, to edit, to quantise.
 */
export function groupTargets(
  targets: readonly Target[],
  formats: readonly FormatInfo[],
  source: SourceKind,
): readonly FormatGroup[] {
  const order = [...ACCEPTS.keys()]
  const place = (format: string): number => {
    const known = order.indexOf(format)
    if (format !== source.format) return known < 0 ? order.length : known
    return keeper(formats.find(({ id }) => id === format)) === undefined ? 2 * order.length : -1
  }
  const ids = [...new Set(targets.map(({ format }) => format))].sort((a, b) => place(a) - place(b))
  const groups = ids.map((id) => groupOf(id, targets, formats, source))
  return [...groups.filter(({ reachable }) => reachable), ...groups.filter(({ reachable }) => !reachable)]
}

function groupOf(
  format: string,
  targets: readonly Target[],
  formats: readonly FormatInfo[],
  source: SourceKind,
): FormatGroup {
  const info = formats.find(({ id }) => id === format)
  const members = targets.flatMap((target, index) => (target.format === format ? [{ target, index }] : []))
  const known = members.map((member) => ({ ...member, is: choiceOf(member.target, info, source) }))
  const some = known.some(({ is }) => is?.choice.featured === true)
  const rows = known
    .map(({ target, index, is }, at): Row => ({
      index,
      target,
      featured:
        (some ? is?.choice.featured === true : at < FEW) || (format === source.format && is?.choice.keeps === true),
      usual: is?.usual ?? false,
      closed: target.cost === null && optionNamed(target.reason ?? '', info) === null ? whyNot(target) : null,
    }))
    .sort((a, b) => size(a) - size(b) || a.index - b.index)
  const reachable = members.some(({ target }) => target.cost !== null)
  const first = rows.find(({ usual }) => usual) ?? rows[0]
  const spec = first === undefined ? null : optionNamed(first.target.reason ?? '', info)
  return {
    format,
    title: members[0]?.target.formatTitle ?? format,
    rows,
    reachable,
    reason: reachable || first === undefined ? null : whyNot(first.target),
    remedy: reachable || first === undefined || spec === null ? null : { spec, index: first.index },
  }
}

function size({ target }: Row): number {
  return target.cost?.writeBytes ?? Number.MAX_VALUE
}

function whyNot(target: Target): string {
  return target.reason ?? 'Cannot be reached from this model.'
}

/** The rows of a group that are shown at first: the recommended one, then from small to large, and what is chosen. */
export function featuredRows({ rows }: FormatGroup, chosen: number): readonly Row[] {
  const shown = rows.filter(({ featured, usual, index }) => featured || usual || index === chosen)
  return [...shown.filter(({ usual }) => usual), ...shown.filter(({ usual }) => !usual)]
}

/** Rows whose title or help holds every word of a text. */
export function matchingRows(rows: readonly Row[], text: string): readonly Row[] {
  const words = text.toLowerCase().split(/\s+/)
  return rows.filter(({ target }) => {
    const all = `${target.title} ${target.help}`.toLowerCase()
    return words.every((word) => all.includes(word))
  })
}

/** What is chosen for people who have not chosen: what the first format that can be reached recommends; -1 for nothing. */
export function preferred(groups: readonly FormatGroup[]): number {
  for (const { rows } of groups) {
    const open = rows.filter(({ target }) => target.cost !== null)
    const best = open.find(({ usual }) => usual) ?? open[0]
    if (best !== undefined) return best.index
  }
  return -1
}

/** What can be opened, for people: "Hugging Face folder", "pytorch_model.bin", ".gguf". */
export function readableThings(formats: readonly FormatInfo[]): readonly string[] {
  const rank = ({ id }: FormatInfo): number => {
    const known = READ_ORDER.indexOf(id)
    return known < 0 ? READ_ORDER.length : known
  }
  const readable = formats.filter(({ reads }) => reads).toSorted((a, b) => rank(a) - rank(b))
  return readable.flatMap(({ id, title }) => ACCEPTS.get(id) ?? [splitTitle(title).name])
}

/** The names of the formats that can be written, in the order of the targets. */
export function writableNames(formats: readonly FormatInfo[]): readonly string[] {
  const order = [...ACCEPTS.keys()]
  return formats
    .filter(({ writes }) => writes)
    .toSorted((a, b) => (order.indexOf(a.id) >>> 0) - (order.indexOf(b.id) >>> 0))
    .map(({ title }) => splitTitle(title).name)
}

/** "a, b or c". */
export function listWords(words: readonly string[], last: 'and' | 'or'): string {
  if (words.length < 2) return words.join('')
  return `${words.slice(0, -1).join(', ')} ${last} ${words.at(-1) ?? ''}`
}
