import { bytesOf, dtypeInfo, elementCount, type DType } from '../../../core/dtype.ts'
import { AppError } from '../../../core/errors.ts'
import type { OptionSpec, OptionValue, OptionValues } from '../../../core/option.ts'
import type { Finding } from '../../../core/plan.ts'
import { tensorBytes } from '../../../core/tensor.ts'
import { alignUp, GGUF_ALIGNMENT } from '../../containers/gguf/types.ts'
import type { Evidence, Measurement } from '../../engine.ts'
import type { Placed } from '../lay.ts'
import { isQuantizable } from './mix.ts'
import { MIXES, type Mix } from './mixes.ts'
import type { WeightOptions } from './options.ts'
import { fitsRow, writableDType, type WeightType } from './types.ts'
import { importanceFor } from './assign.ts'

/**
 * A size instead of a mixture: each matrix gets the type with which the mean relative error of all weights is the least
 * at that size. The relative error of a matrix is the energy of what rounding changes over that of the weights, each
 * column counted by its importance where there are importances: the noise that its output has, over its signal. Of the
 * ways to add it up over matrices of different sizes, counting each by its weights gave the best perplexity on a text
 * apart from that of docs/GGUF.md; counting matrices alike gave a worse one than the fixed mixtures.
 */

/** How large the result may be. */
export type SizeTarget =
  /** Bytes of all files. */
  | { readonly kind: 'bytes'; readonly bytes: number; readonly title: string }
  /** Bits for each weight, of the tensors alone. */
  | { readonly kind: 'bits'; readonly bits: number; readonly title: string }

/** The options of it. */
export const SIZE_OPTIONS: readonly OptionSpec[] = [
  {
    name: 'target-size',
    title: 'Fit into a size',
    help: 'Fit the model into this size (4.2GB, 800MB, 4GiB): types are chosen by the error that is measured with each; replaces --quant.',
    kind: { kind: 'text', default: null },
  },
  {
    name: 'target-bpw',
    title: 'Fit into bits for each weight',
    help: 'The same by bits for each weight, such as 4.5.',
    kind: { kind: 'text', default: null },
  },
]

/** Types for rows of whole blocks of 256, the smallest first; those of other rows follow. */
const LARGE_BLOCKS: readonly WeightType[] = ['q2_k', 'q3_k', 'iq4_xs', 'q4_k', 'q5_k', 'q6_k', 'q8_0']
const SMALL_BLOCKS: readonly WeightType[] = ['iq4_nl', 'q4_0', 'q4_1', 'q5_0', 'q5_1', 'q8_0']

/** More bits than any type has. */
const MAX_BITS = 64

/** Reads the options. Throws `bad-option` for what is no size, and where both are given. */
export function sizeTarget(options: OptionValues): SizeTarget | null {
  const [size, bits] = [textOf(options['target-size']), textOf(options['target-bpw'])]
  if (size !== null && bits !== null) {
    throw new AppError('bad-option', '--target-size and --target-bpw are both given', { hint: 'Give one of them.' })
  }
  if (size !== null) return { kind: 'bytes', bytes: parseSize(size), title: size.replaceAll(/\s+/g, '') }
  if (bits === null) return null
  const value = Number(bits)
  if (!(value > 0 && value <= MAX_BITS)) {
    throw new AppError('bad-option', `--target-bpw cannot be ${JSON.stringify(bits)}`, {
      hint: 'Give the bits for each weight, such as 4.5.',
    })
  }
  return { kind: 'bits', bits: value, title: `${value}bpw` }
}

function textOf(value: OptionValue | undefined): string | null {
  return typeof value === 'string' && value.trim() !== '' ? value.trim() : null
}

/** `4.2GB` is decimal, as sizes of files are told; `4GiB` is binary. */
function parseSize(text: string): number {
  const [, digits, unit = '', binary] = /^(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?$/i.exec(text) ?? []
  const power = ['', 'K', 'M', 'G', 'T'].indexOf(unit.toUpperCase())
  const bytes = Math.floor(Number(digits) * (binary === '' ? 1000 : 1024) ** power)
  if (digits !== undefined && Number.isSafeInteger(bytes) && bytes > 0) return bytes
  throw new AppError('bad-option', `--target-size cannot be ${JSON.stringify(text)}`, {
    hint: 'Give a size such as 4.2GB or 800MB.',
  })
}

/** What stands in a mixture's place: for names and keys, and for tensors that are decided otherwise. */
export function sizeMix({ title }: SizeTarget): Mix {
  return { id: title.toLowerCase(), title, help: '', fileType: 7, base: 'q8_0', head: 'q8_0', bumps: [] }
}

/** The types that a tensor may get; none for one that is kept or whose type is given. */
function candidates({ name, recipe }: Placed, { settings, target }: WeightOptions): readonly WeightType[] {
  const { shape, dtype } = recipe
  if (target === null || dtypeInfo(dtype).kind === 'int' || !isQuantizable({ name, shape })) return []
  const given =
    settings.overrides.some(({ pattern }) => pattern.test(name)) ||
    (name === 'output.weight' && (settings.leaveOutput || settings.output !== null)) ||
    (name === 'token_embd.weight' && settings.embedding !== null)
  if (given) return []
  const columns = shape.at(-1) ?? 1
  return (fitsRow('q4_k', columns) ? LARGE_BLOCKS : SMALL_BLOCKS).filter((type) => fitsRow(type, columns))
}

function dtypesOf(types: readonly WeightType[]): readonly DType[] {
  return types.flatMap((type) => writableDType(type) ?? [])
}

/** What must be measured before types can be chosen: each tensor's error with each type. */
export function sizeMeasurements(tensors: readonly Placed[], weights: WeightOptions): readonly Measurement[] {
  return tensors.flatMap((tensor): Measurement[] => {
    const to = dtypesOf(candidates(tensor, weights))
    if (to.length === 0) return []
    const importance = weights.importances === null ? null : importanceFor(tensor, null, weights.importances)
    const { name, recipe } = tensor
    return [{ kind: 'rounding', id: name, of: recipe, to, ...(importance === null ? {} : { importance }) }]
  })
}

/** A type for one tensor, what it takes, and what it costs: the relative error times the number of weights. */
interface Step {
  readonly name: string
  readonly type: DType
  readonly bytes: number
  readonly weights: number
  readonly error: number
}

/**
 * The types of those tensors that are free, by name. `provisional` are all tensors as they would be otherwise, and
 * `laidSize` the bytes of the files with them. Throws `bad-option` if even the smallest types are too large.
 */
function chooseBySize(
  provisional: readonly Placed[],
  laidSize: number,
  tensors: readonly Placed[],
  weights: WeightOptions,
  evidence: Evidence,
  findings: Finding[],
): ReadonlyMap<string, DType> {
  const { target } = weights
  if (target === null) return new Map()
  const free = new Map<string, readonly Step[]>()
  for (const tensor of tensors) {
    const steps = dtypesOf(candidates(tensor, weights)).map((type) => stepOf(tensor, type, evidence))
    if (steps.length > 0) free.set(tensor.name, steps)
  }
  const padded = provisional.map(({ name, recipe }) => ({ name, bytes: padTo(tensorBytes(recipe)) }))
  const all = padded.reduce((sum, { bytes }) => sum + bytes, 0)
  const fixed = padded.reduce((sum, { name, bytes }) => sum + (free.has(name) ? 0 : bytes), 0)
  const parameters = provisional.reduce((sum, { recipe }) => sum + elementCount(recipe.shape), 0)
  const limit = target.kind === 'bytes' ? target.bytes - (laidSize - all) : Math.floor((target.bits * parameters) / 8)
  const chosen = optimise([...free.values()], limit - fixed)
  if (chosen === null) {
    const least = [...free.values()].reduce((sum, steps) => sum + Math.min(...steps.map(({ bytes }) => bytes)), fixed)
    const smallest =
      target.kind === 'bytes'
        ? `${least + laidSize - all} bytes`
        : `${((least * 8) / parameters).toFixed(2)} bits a weight`
    throw new AppError(
      'bad-option',
      `The model does not fit into ${target.title}: the smallest types make ${smallest}`,
      {
        hint: 'Allow for more, or take a smaller model.',
      },
    )
  }
  findings.push(choiceFinding(chosen, target))
  return new Map(chosen.map(({ name, type }) => [name, type]))
}

/**
 * The tensors in their types: those of the mixture, or of the size that is asked for. `typed` gives them types, with
 * those chosen, and `lay` says how large the files are.
 */
export function typedToSize(
  typed: (findings: Finding[], chosen?: ReadonlyMap<string, DType>) => readonly Placed[],
  lay: (tensors: readonly Placed[]) => { readonly size: number },
  tensors: readonly Placed[],
  weights: WeightOptions,
  evidence: Evidence,
  findings: Finding[],
): readonly Placed[] {
  if (weights.target === null) return typed(findings)
  const provisional = typed([])
  return typed(findings, chooseBySize(provisional, lay(provisional).size, tensors, weights, evidence, findings))
}

function padTo(bytes: number): number {
  return alignUp(bytes, GGUF_ALIGNMENT)
}

function stepOf({ name, recipe }: Placed, type: DType, evidence: Evidence): Step {
  const error = evidence.get(`${name} ${type}`)
  if (typeof error !== 'number') throw new AppError('internal', `the error of ${name} as ${type} was not measured`)
  const weights = elementCount(recipe.shape)
  return { name, type, bytes: padTo(bytesOf(type, weights)), weights, error: error * weights }
}

/**
 * One step of each tensor, together of at most `budget` bytes and with the least sum of errors that a greedy walk
 * finds: from the smallest types upwards, always to where a byte gains the most, along each tensor's convex hull; what
 * is left goes to single steps that still fit. Null if the smallest do not fit.
 */
export function optimise(tensors: readonly (readonly Step[])[], budget: number): readonly Step[] | null {
  const hulls = tensors.map(convexHull)
  const at = hulls.map(() => 0)
  let left = budget
  for (const [first] of hulls) left -= first?.bytes ?? 0
  if (left < 0) return null
  const moves = hulls.flatMap((hull, tensor) =>
    hull.slice(1).map((step, index) => {
      const before = hull[index] ?? step
      return { tensor, to: index + 1, bytes: step.bytes - before.bytes, gain: slope(before, step) }
    }),
  )
  // a hull's own moves are in order of gain; equal ones go by the order of the tensors
  moves.sort((a, b) => b.gain - a.gain || a.tensor - b.tensor || a.to - b.to)
  for (const { tensor, to, bytes } of moves) {
    if (bytes > left || at[tensor] !== to - 1) continue
    at[tensor] = to
    left -= bytes
  }
  const chosen = hulls.map((hull, tensor) => hull[at[tensor] ?? 0])
  return spend(
    tensors,
    chosen.flatMap((step) => step ?? []),
    left,
  )
}

/** Error saved by a byte. */
function slope(from: Step, to: Step): number {
  return (from.error - to.error) / (to.bytes - from.bytes)
}

/** The steps from the smallest on that no mixture of two others beats, by size. */
function convexHull(steps: readonly Step[]): readonly Step[] {
  const sorted = steps.toSorted((a, b) => a.bytes - b.bytes || a.error - b.error)
  const hull: Step[] = []
  for (const step of sorted) {
    const last = hull.at(-1)
    if (last !== undefined && (step.bytes === last.bytes || step.error >= last.error)) continue
    for (;;) {
      const [before, top] = hull.slice(-2)
      if (before === undefined || top === undefined || slope(before, top) > slope(top, step)) break
      hull.pop()
    }
    hull.push(step)
  }
  return hull
}

/** Spends what is left on the single steps that save most error, one after the other. */
function spend(tensors: readonly (readonly Step[])[], start: readonly Step[], budget: number): readonly Step[] {
  const chosen = [...start]
  let left = budget
  for (;;) {
    let best: { readonly index: number; readonly step: Step; readonly gain: number } | null = null
    for (const [index, now] of chosen.entries()) {
      for (const step of tensors[index] ?? []) {
        const gain = now.error - step.error
        if (step.bytes - now.bytes > left || step.bytes < now.bytes || gain <= (best?.gain ?? 0)) continue
        best = { index, step, gain }
      }
    }
    if (best === null) return chosen
    left -= best.step.bytes - (chosen[best.index]?.bytes ?? 0)
    chosen[best.index] = best.step
  }
}

function choiceFinding(chosen: readonly Step[], { title }: SizeTarget): Finding {
  const counts = new Map<DType, number>()
  for (const { type } of chosen) counts.set(type, (counts.get(type) ?? 0) + 1)
  const list = [...counts].sort(([, a], [, b]) => b - a).map(([type, count]) => `${count} ${type.toUpperCase()}`)
  const weights = chosen.reduce((sum, step) => sum + step.weights, 0)
  const error = chosen.reduce((sum, step) => sum + step.error, 0) / Math.max(1, weights)
  return {
    severity: 'info',
    code: 'size-target',
    message: `Types chosen for ${title}: ${list.join(', ')}; the mean relative error is ${(Math.sqrt(error) * 100).toFixed(2)} %`,
  }
}

/** llama.cpp's number for the mixture whose type most bytes have. */
export function dominantFileType(tensors: readonly Placed[]): number {
  const bytes = new Map<DType, number>()
  for (const { recipe } of tensors) bytes.set(recipe.dtype, (bytes.get(recipe.dtype) ?? 0) + tensorBytes(recipe))
  const [most] = [...bytes].sort(([, a], [, b]) => b - a)
  return MIXES.find(({ base }) => base === most?.[0])?.fileType ?? 7
}
