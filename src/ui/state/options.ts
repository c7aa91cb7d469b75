import type { FormatInfo, Inspection } from '../../api/wire.ts'
import { AppError } from '../../core/errors.ts'
import { isFileValue, listItems, resolveOptions, splitItem } from '../../core/option.ts'
import type { ListPart, OptionSpec, OptionValue, OptionValues } from '../../core/option.ts'
import type { FakeDistribution, FakeType, FakeWeights, Transforms } from '../../core/transform.ts'
import { mainOption } from './formats.ts'

/** Larger than any list of tensors with their shapes. */
const MAX_FAKE_CONFIG_BYTES = 1 << 26

/** Files that are dropped for it: `fake.json`, `my-fake-weights.yaml`. */
const FAKE_CONFIG_NAMES = 'fake[\\w.-]*\\.(?:json|ya?ml)$'

/** What is done to the model before it is written, drawn as options are. */
export const TRANSFORM_OPTIONS: readonly OptionSpec[] = [
  {
    name: 'mup2llama',
    title: 'Fold muP into a plain Llama',
    help: 'MiniCPM and Granite: their multipliers go into the weights, so that any program for Llama runs them.',
    kind: { kind: 'flag', default: false },
  },
  {
    name: 'force',
    title: 'Take its keys for MiniCPM’s',
    help: 'It has only some of them: what is missing counts as MiniCPM’s class has it.',
    kind: { kind: 'flag', default: false },
  },
  {
    name: 'keep-tied',
    title: 'Keep the head tied',
    help: 'Of a folded model: the head stays the embedding, and the file that much smaller.',
    kind: { kind: 'flag', default: false },
  },
  {
    name: 'fake-weight',
    title: 'Make the weights up',
    help: 'Random numbers of the right shapes, to try programs with. Weights that are there are not read.',
    kind: { kind: 'flag', default: false },
  },
  {
    name: 'fake-config',
    title: 'Configuration of the made-up weights',
    help: 'A file that says seed, distribution, type and shapes, for single tensors too. It goes before what is set here.',
    kind: { kind: 'file', maxBytes: MAX_FAKE_CONFIG_BYTES, names: FAKE_CONFIG_NAMES, default: null },
  },
  {
    name: 'fake-seed',
    title: 'Seed',
    help: 'The same seed makes the same bytes everywhere.',
    kind: { kind: 'integer', min: 0, max: 2 ** 32 - 1, default: 0 },
  },
  {
    name: 'fake-distribution',
    title: 'Distribution',
    help: 'How the made-up weights are spread.',
    kind: {
      kind: 'choice',
      choices: [
        { value: 'normal', title: 'Normal', help: 'As models are initialised.' },
        { value: 'uniform', title: 'Uniform', help: 'Evenly, with the same deviation.' },
        { value: 'zeros', title: 'Zeros', help: 'Nothing but zeros: compresses best.' },
      ],
      default: 'normal',
    },
  },
  {
    name: 'fake-std',
    title: 'Standard deviation',
    help: 'How far they spread. Left empty, it is what config.json says, or 0.02.',
    kind: { kind: 'number', min: 1e-6, max: 1000, default: null },
  },
  {
    name: 'fake-type',
    title: 'Type of the made-up weights',
    help: 'What they are before they are converted.',
    kind: {
      kind: 'choice',
      choices: [
        { value: 'config', title: 'As the model', help: 'The type that config.json names.' },
        { value: 'bf16', title: 'BF16', help: 'The range of F32 in two bytes.' },
        { value: 'f16', title: 'F16', help: 'Two bytes, finer than BF16.' },
        { value: 'f32', title: 'F32', help: 'Four bytes.' },
      ],
      default: 'config',
    },
  },
]

/** What decides which transforms a model is offered. */
export interface Transformable extends Pick<Inspection, 'mup' | 'tied'> {
  /** Whether it has no weights of its own. */
  readonly madeUp: boolean
}

/** A transform as it is offered. */
export interface OfferedTransform {
  readonly spec: OptionSpec
  /** Why it stays as it is; null if it can be changed. */
  readonly locked: string | null
}

/** The transforms that a model is offered with these values. */
export function offeredTransforms(values: OptionValues, model: Transformable): readonly OfferedTransform[] {
  const fold = values['mup2llama'] === true
  const fake = values['fake-weight'] === true
  const loose = fake && !isFileValue(values['fake-config'])
  const shown: Readonly<Record<string, boolean>> = {
    mup2llama: true,
    force: fold && model.mup.folds === 'forced',
    'keep-tied': fold && model.tied,
    'fake-weight': true,
    'fake-config': fake,
    'fake-seed': loose,
    'fake-distribution': loose,
    'fake-std': loose && values['fake-distribution'] !== 'zeros',
    'fake-type': loose,
  }
  const locks: Readonly<Record<string, string | null>> = {
    mup2llama: model.mup.folds === 'no' ? `Not for this model: ${model.mup.because ?? 'it is not of muP'}.` : null,
    'fake-weight': model.madeUp ? 'There are no others: only a configuration was opened.' : null,
  }
  return TRANSFORM_OPTIONS.filter(({ name }) => shown[name] === true).map((spec) => ({
    spec,
    locked: locks[spec.name] ?? null,
  }))
}

/** Those whose values count. */
export function openTransforms(values: OptionValues, model: Transformable): readonly OptionSpec[] {
  return offeredTransforms(values, model).map(({ spec }) => spec)
}

/** The transforms that the values stand for; undefined for none. */
export function transformsOf(values: OptionValues): Transforms | undefined {
  const fold = values['mup2llama'] === true
  const fake = values['fake-weight'] === true
  if (!fold && !fake) return undefined
  return {
    ...(fold ? { mup2llama: true, keepTied: values['keep-tied'] === true } : {}),
    ...(fold && values['force'] === true ? { forceMup: true } : {}),
    ...(fake ? fakeOf(values) : {}),
  }
}

function fakeOf(values: OptionValues): Transforms {
  const file = values['fake-config']
  if (isFileValue(file)) return { fakeConfig: { name: file.name, text: new TextDecoder().decode(file.bytes) } }
  const seed = values['fake-seed']
  const distribution = values['fake-distribution']
  const std = values['fake-std']
  const dtype = values['fake-type']
  const fakeWeights: FakeWeights = {
    seed: typeof seed === 'number' ? seed : 0,
    distribution: isDistribution(distribution) ? distribution : 'normal',
    std: typeof std === 'number' ? std : null,
    dtype: isFakeType(dtype) ? dtype : null,
    tensors: {},
  }
  return { fakeWeights }
}

function isDistribution(value: OptionValue | undefined): value is FakeDistribution {
  return value === 'normal' || value === 'uniform' || value === 'zeros'
}

function isFakeType(value: OptionValue | undefined): value is FakeType {
  return value === 'f32' || value === 'f16' || value === 'bf16'
}

/**
 * The options of a format beside the one that its targets are the choices of, as far as they mean something: for a source
 * of another format, with these values.
 */
export function furtherOptions(
  info: FormatInfo | undefined,
  source: string,
  values: OptionValues,
): readonly OptionSpec[] {
  const main = mainOption(info)
  const given = (name: string): boolean => (values[name] ?? null) !== null
  return (
    info?.options.filter(
      ({ name, sources, needs }) =>
        name !== main?.name && sources?.includes(source) !== false && (needs === undefined || given(needs)),
    ) ?? []
  )
}

/** The values that differ from the defaults of their options. */
export function changed(specs: readonly OptionSpec[], values: OptionValues): OptionValues {
  const kept = specs.flatMap(({ name, kind }): [string, OptionValue][] => {
    const value = values[name]
    if (value === undefined || value === null || value === kind.default) return []
    if (kind.kind === 'list') {
      const items = listItems(value).filter((item) => !isEmpty(kind.parts, item))
      return items.length === 0 ? [] : [[name, items]]
    }
    return value === '' ? [] : [[name, value]]
  })
  return Object.fromEntries(kept)
}

/** Whether nothing was typed into a row of a list: what is only to be chosen has a value from the start. */
function isEmpty(parts: readonly ListPart[], item: string): boolean {
  return splitItem(parts, item).every((value, index) => value === '' || parts[index]?.choices !== undefined)
}

/** What is wrong with a value by itself, as one sentence; null if nothing is. */
export function faultOf(spec: OptionSpec, value: OptionValue | undefined): string | null {
  if (value === undefined || value === null || value === '') return null
  if (spec.kind.kind === 'list') return rowFault(spec.kind.parts, listItems(value))
  try {
    resolveOptions([spec], { [spec.name]: value })
    return null
  } catch (error) {
    const { message, hint } = AppError.from(error)
    return hint ?? message
  }
}

function rowFault(parts: readonly ListPart[], items: readonly string[]): string | null {
  for (const [row, item] of items.entries()) {
    if (isEmpty(parts, item)) continue
    const values = splitItem(parts, item)
    const missing = parts.find(({ optional }, index) => optional !== true && values[index]?.trim() === '')
    if (missing !== undefined)
      return `Row ${row + 1} lacks the ${missing.title.toLowerCase()}: give it, or take the row away.`
  }
  return null
}

/** A short code that differs where values do: for names of places. */
export function codeOf(values: OptionValues): string {
  const text = JSON.stringify(values, (_, value: unknown) =>
    value instanceof Uint8Array ? `${value.length} bytes ${fnv(value.subarray(0, CODED_BYTES))}` : value,
  )
  return fnv(new TextEncoder().encode(text)).toString(36).padStart(7, '0').slice(-5)
}

/** Of a file its length and so many bytes tell it apart from another. */
const CODED_BYTES = 1 << 16

/** FNV-1a, 32 bits. */
function fnv(bytes: Uint8Array): number {
  let hash = 0x811c9dc5
  for (const byte of bytes) hash = Math.imul(hash ^ byte, 0x01000193) >>> 0
  return hash
}
