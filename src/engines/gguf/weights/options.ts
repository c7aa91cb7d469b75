import { AppError } from '../../../core/errors.ts'
import { isFileValue, listItems } from '../../../core/option.ts'
import type { FileValue, ListPart, OptionSpec, OptionValue, OptionValues } from '../../../core/option.ts'
import { importanceOf, readImatrix, type Imatrix } from '../../containers/imatrix.ts'
import { isOffered, mixOf, type MixSettings } from './mix.ts'
import { DEFAULT_MIX, MIXES, type Mix } from './mixes.ts'
import { layersToPrune, PRUNE_OPTION } from '../prune.ts'
import { SIZE_OPTIONS, sizeMix, sizeTarget, type SizeTarget } from './size-target.ts'
import { weightTypeNamed, WRITABLE, type WeightType } from './types.ts'

/** llama-quantize's name for changing nothing. */
export const COPY = 'copy'

/** llama-quantize's short names. */
const ALIASES: ReadonlyMap<string, string> = new Map([
  ['q3_k_m', 'q3_k'],
  ['q4_k_m', 'q4_k'],
  ['q5_k_m', 'q5_k'],
])

/** The few that most people want. */
const FEATURED: ReadonlySet<string> = new Set(['q4_k_m', 'q5_k_m', 'q6_k', 'q8_0', 'f16'])

/**
 * What a file of importances may take: those of a dense model of 400 B take 80 MB, those of 128 experts some 200. It is
 * held whole, and once more as the recipes of the tensors.
 */
const MAX_IMATRIX_BYTES = 512 * 2 ** 20

/** What leaves a type to the mixture. */
const BY_MIXTURE = 'auto'

/** A type for one matrix. */
const TYPE_CHOICE: OptionSpec['kind'] = {
  kind: 'choice',
  choices: [
    { value: BY_MIXTURE, title: 'As the weights above say', help: '' },
    ...[...WRITABLE].map((value) => ({ value, title: value.toUpperCase(), help: '' })),
  ],
  default: BY_MIXTURE,
}

/** A part of the name of a matrix. */
const NAME_PART: ListPart = { title: 'Name', before: '', example: 'ffn_down' }

/** The options that decide the types of weights. */
export const WEIGHT_OPTIONS: readonly OptionSpec[] = [
  {
    name: 'quant',
    title: 'Weights',
    help: 'How the weights are stored: fewer bits make a smaller and faster model that is a little less exact.',
    kind: {
      kind: 'choice',
      choices: [
        ...MIXES.filter(isOffered).map(({ id, title, help }) => {
          const alias = ALIASES.get(id)
          return {
            value: id,
            title,
            help,
            ...(alias === undefined ? {} : { aliases: [alias] }),
            ...(FEATURED.has(id) ? { featured: true as const } : {}),
          }
        }),
        {
          value: COPY,
          title: 'As it is',
          help: 'Each tensor keeps its type: to split, merge or edit a GGUF file, or for an exact copy of other weights.',
          keeps: true,
        },
      ],
      default: DEFAULT_MIX,
    },
  },
  ...SIZE_OPTIONS,
  {
    name: 'imatrix',
    title: 'Importance matrix',
    help: 'What llama-imatrix measured on some text (.dat or .gguf): the weights that matter most are then rounded best.',
    kind: {
      kind: 'file',
      maxBytes: MAX_IMATRIX_BYTES,
      names: '\\.(dat|imatrix)$|(^|[-._])imatrix([-._].*)?\\.gguf$',
      default: null,
    },
  },
  {
    name: 'include-weights',
    title: 'Only these importances',
    needs: 'imatrix',
    help: 'A part of the names of the matrices whose importances count; the others are rounded without.',
    kind: { kind: 'list', parts: [NAME_PART], default: null },
  },
  {
    name: 'exclude-weights',
    title: 'Not these importances',
    needs: 'imatrix',
    help: 'A part of the names of the matrices whose importances do not count.',
    kind: { kind: 'list', parts: [NAME_PART], default: null },
  },
  {
    name: 'tensor-type',
    title: 'Types of single tensors',
    group: 'Types',
    help: 'A part of their names, or a regular expression such as blk\\.(0|1)\\.ffn_down, and the type that they get; the first that fits counts.',
    kind: {
      kind: 'list',
      parts: [
        { title: 'Pattern', before: '', example: 'attn_v' },
        { title: 'Type', before: '=', example: 'q8_0', choices: [...WRITABLE] },
      ],
      default: null,
    },
  },
  {
    name: 'tensor-type-file',
    title: 'Types of tensors from a file',
    group: 'Types',
    help: 'The same as PATTERN=TYPE, one after the other with spaces or on lines of their own; they come after those given singly.',
    kind: { kind: 'text', default: null, file: true },
  },
  {
    name: 'output-tensor-type',
    title: 'Type of the output matrix',
    group: 'Types',
    help: 'Of the matrix that makes the logits.',
    kind: TYPE_CHOICE,
  },
  {
    name: 'token-embedding-type',
    title: 'Type of the embedding',
    group: 'Types',
    help: 'Of the table of token embeddings.',
    kind: TYPE_CHOICE,
  },
  {
    name: 'pure',
    title: 'One type for all',
    group: 'Types',
    help: 'Every matrix gets the same type, without the exceptions that make a mixture better.',
    kind: { kind: 'flag', default: false },
  },
  {
    name: 'leave-output-tensor',
    title: 'Leave the output matrix',
    group: 'Types',
    help: 'The matrix that makes the logits keeps the type that it has.',
    kind: { kind: 'flag', default: false },
  },
  PRUNE_OPTION,
]

/** The importance of each input column, by the name of the matrix. */
export interface Importances {
  readonly of: ReadonlyMap<string, Float32Array>
  /** The file's own name and what it says of itself. */
  readonly file: string
  readonly source: Imatrix
}

/** What the options say of the weights. */
export interface WeightOptions {
  /** Null: every tensor keeps its type. */
  readonly mix: Mix | null
  readonly settings: MixSettings
  readonly importances: Importances | null
  /** Layers to leave out, in order. */
  readonly prune: readonly number[]
  /** Where a size decides, not a mixture; `mix` then only stands for what is decided otherwise. */
  readonly target: SizeTarget | null
}

/** Reads the options. Throws `bad-option`, naming it, and what is wrong with the file of importances. */
export async function weightOptions(options: OptionValues): Promise<WeightOptions> {
  const quant = options['quant'] ?? DEFAULT_MIX
  const mix = quant === COPY ? null : mixOf(String(quant))
  if (mix === null && quant !== COPY) throw new AppError('bad-option', `--quant cannot be ${JSON.stringify(quant)}`)
  const target = sizeTarget(options)
  const importances = chosenImportances(await readImportances(options['imatrix']), options)
  const settings: MixSettings = {
    importance: importances !== null,
    pure: options['pure'] === true,
    leaveOutput: options['leave-output-tensor'] === true,
    output: typeOption(options, 'output-tensor-type'),
    embedding: typeOption(options, 'token-embedding-type'),
    overrides: [...overridesOf(options['tensor-type']), ...fileOverrides(options['tensor-type-file'])],
    fileOrder: options['keep-split'] === true,
  }
  if (target !== null && mix === null)
    throw new AppError('bad-option', `--quant ${COPY} keeps each type, so no size can be chosen`, {
      hint: 'Leave one away.',
    })
  return { mix: target === null ? mix : sizeMix(target), settings, importances, prune: layersToPrune(options), target }
}

/** Every choice is planned with the same file. */
const READ = new WeakMap<FileValue, Importances>()

async function readImportances(value: OptionValue | undefined): Promise<Importances | null> {
  if (value === undefined || value === null) return null
  if (!isFileValue(value)) throw new AppError('bad-option', '--imatrix takes a file')
  const known = READ.get(value)
  if (known !== undefined) return known
  const source = await readImatrix(value.bytes, value.name)
  const of = new Map([...source.entries].map(([name, entry]) => [name, importanceOf(entry, source.form)]))
  const importances = { of, file: value.name, source }
  READ.set(value, importances)
  return importances
}

/** The importances that count, by parts of the names. Throws `bad-option` where both kinds are given, or no name fits. */
function chosenImportances(importances: Importances | null, options: OptionValues): Importances | null {
  const [included, excluded] = [listItems(options['include-weights']), listItems(options['exclude-weights'])]
  if (included.length === 0 && excluded.length === 0) return importances
  const option = included.length > 0 ? '--include-weights' : '--exclude-weights'
  if (importances === null)
    throw new AppError('bad-option', `${option} is for an importance matrix`, { hint: 'Give one with --imatrix.' })
  if (included.length > 0 && excluded.length > 0)
    throw new AppError('bad-option', '--include-weights and --exclude-weights are both given', {
      hint: 'Give one kind.',
    })
  const parts = [...included, ...excluded].map((part) => part.trim())
  const idle = parts.find((part) => ![...importances.of.keys()].some((name) => name.includes(part)))
  if (idle !== undefined) {
    throw new AppError('bad-option', `${option}: no name in ${importances.file} has ${JSON.stringify(idle)} in it`, {
      hint: `They are such as ${[...importances.of.keys()].slice(0, 3).join(', ')}.`,
    })
  }
  const wanted = included.length > 0
  const of = [...importances.of].filter(([name]) => parts.some((part) => name.includes(part)) === wanted)
  return { ...importances, of: new Map(of) }
}

function typeOption(options: OptionValues, name: string): WeightType | null {
  const value = options[name]
  return typeof value === 'string' && value.trim() !== '' && value !== BY_MIXTURE ? typeNamed(value, name) : null
}

function typeNamed(text: string, option: string): WeightType {
  const type = weightTypeNamed(text)
  if (type !== null && WRITABLE.has(type)) return type
  const why = type === null ? 'is no type of ggml' : 'cannot be written yet'
  throw new AppError('bad-option', `--${option}: ${JSON.stringify(text.trim())} ${why}`, {
    hint: `Choose one of ${[...WRITABLE].join(', ')}.`,
  })
}

/** One text may hold several, by commas as well; patterns may hold commas too: an item ends behind its type. */
const ITEM = /\s*([^=\n]+)=[ \t]*(\w+)[ \t]*(?:[,;\n]|$)/gy

function overridesOf(value: OptionValue | undefined): MixSettings['overrides'] {
  return listItems(value).flatMap((text) => overridesIn(text.trim()))
}

/** A file's items may stand on one line, with spaces between. */
function fileOverrides(value: OptionValue | undefined): MixSettings['overrides'] {
  const items = typeof value === 'string' ? value.split(/\s+/).filter((item) => item !== '') : []
  return items.flatMap(overridesIn)
}

function overridesIn(text: string): MixSettings['overrides'] {
  const items = [...text.matchAll(ITEM)]
  const read = items.reduce((sum, [whole]) => sum + whole.length, 0)
  if (read !== text.length) {
    throw new AppError('bad-option', `--tensor-type cannot be ${JSON.stringify(text.slice(read))}`, {
      hint: 'Give PATTERN=TYPE, such as attn_v=q8_0.',
    })
  }
  return items.map(([, pattern = '', type = '']) => {
    try {
      // llama-quantize lowers patterns too
      return { pattern: new RegExp(pattern.trim().toLowerCase()), type: typeNamed(type, 'tensor-type') }
    } catch (cause) {
      if (cause instanceof AppError) throw cause
      throw new AppError('bad-option', `--tensor-type: ${JSON.stringify(pattern)} is no regular expression`, {
        cause,
        hint: 'Write a name, or part of one, with \\. for a point.',
      })
    }
  })
}
