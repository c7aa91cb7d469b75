import { AppError } from '../../core/errors.ts'
import type { OptionSpec, OptionValues } from '../../core/option.ts'
import type { Finding, PlannedFile, Segment } from '../../core/plan.ts'
import { tensorBytes, type Recipe } from '../../core/tensor.ts'
import { alignUp, GGUF_ALIGNMENT, type GgufValue } from '../containers/gguf/types.ts'
import { ggufLayout } from '../containers/gguf/writer.ts'
import { partPath, SPLIT_KEYS } from './files.ts'

/** A tensor as it will lie in the file. */
export interface Placed {
  readonly name: string
  readonly recipe: Recipe
  /** The part of a split model that it came in, from 0; absent where there are none. */
  readonly part?: number
}

/** How a model is spread over files; null where there is no bound. */
export interface SplitOptions {
  /** Of a file, header included; only a tensor that is larger by itself exceeds it. */
  readonly maxBytes: number | null
  readonly maxTensors: number | null
  /** The first file has the keys and no tensor. */
  readonly keysApart: boolean
  /** The parts are those that the model has. */
  readonly keep: boolean
  /** Of the model as it is. */
  readonly parts: number
}

/** llama.cpp counts the parts in a u16. */
const MAX_PARTS = 0xffff
/** Smaller parts would be mostly headers. */
const MIN_PART_BYTES = 1000

/** The options of splitting. */
export const SPLIT_OPTIONS: readonly OptionSpec[] = [
  {
    name: 'split-max-size',
    title: 'Split by size',
    group: 'Files',
    help: 'Write several files of at most this size (2G, 500M; decimal, as in llama.cpp); they are opened by the first.',
    kind: { kind: 'text', default: null },
  },
  {
    name: 'split-max-tensors',
    title: 'Split by tensors',
    group: 'Files',
    help: 'Write several files of at most this many tensors.',
    kind: { kind: 'integer', min: 1, max: 1_000_000, default: null },
  },
  {
    name: 'no-tensor-first-split',
    title: 'First file without tensors',
    group: 'Files',
    help: 'The first of several files has the header only: it is small, and can be replaced to edit it.',
    kind: { kind: 'flag', default: false },
  },
  {
    name: 'keep-split',
    title: 'Keep the files',
    group: 'Files',
    help: 'Of a GGUF model of several files: as many, with the same tensors in each.',
    sources: ['gguf'],
    kind: { kind: 'flag', default: false },
  },
  {
    name: 'vocab-only',
    title: 'Header and vocabulary only',
    group: 'Files',
    help: 'No weights: what a program needs that only tokenises.',
    kind: { kind: 'flag', default: false },
  },
]

/** Reads the options of splitting a model of so many parts. Throws `bad-option` for a size that is none, and for options that exclude each other. */
export function splitOptions(options: OptionValues, parts = 1): SplitOptions {
  const size = options['split-max-size']
  const tensors = options['split-max-tensors']
  const split: SplitOptions = {
    maxBytes: typeof size === 'string' && size !== '' ? parseDecimalSize(size) : null,
    maxTensors: typeof tensors === 'number' ? tensors : null,
    keysApart: options['no-tensor-first-split'] === true,
    keep: options['keep-split'] === true,
    parts,
  }
  const bounded = split.maxBytes !== null || split.maxTensors !== null
  if (split.keysApart && !bounded) {
    throw new AppError('bad-option', '--no-tensor-first-split is for a model that is split', {
      hint: 'Give --split-max-size or --split-max-tensors too.',
    })
  }
  if (split.keep && bounded) {
    throw new AppError('bad-option', '--keep-split keeps the files, and another option splits anew', {
      hint: 'Leave one away.',
    })
  }
  return split
}

/** What a file without weights bears in its name. */
export const VOCABULARY = 'vocab'

/** Whether only the header is asked for. */
export function isVocabularyOnly(options: OptionValues): boolean {
  return options['vocab-only'] === true
}

/** llama-gguf-split means powers of ten. */
function parseDecimalSize(text: string): number {
  const [, digits, unit = ''] = /^(\d+(?:\.\d+)?)\s*([KMG]?)B?$/i.exec(text.trim()) ?? []
  const bytes = Math.floor(Number(digits) * 1000 ** ['', 'K', 'M', 'G'].indexOf(unit.toUpperCase()))
  if (digits !== undefined && Number.isSafeInteger(bytes) && bytes >= MIN_PART_BYTES) return bytes
  throw new AppError('bad-option', `--split-max-size cannot be ${JSON.stringify(text)}`, {
    hint: 'Give a size such as 2G or 500M, of at least 1K.',
  })
}

/** The files of a model and where everything in them lies. */
export interface LaidOut {
  readonly files: readonly PlannedFile[]
  readonly size: number
  readonly findings: readonly Finding[]
}

/**
 * Lays tensors out in one file, or in parts as llama.cpp wants them: all keys and the first tensors in the first one,
 * `split.*` in each. What fits one file is not split.
 */
export function layFiles(
  stem: string,
  metadata: ReadonlyMap<string, GgufValue>,
  tensors: readonly Placed[],
  split: SplitOptions,
): LaidOut {
  const findings: Finding[] = []
  const groups = split.keep ? asTheyWere(tensors, split.parts) : grouped(metadata, tensors, split, findings)
  // what fits one file is not split
  if (split.keysApart && groups.length > 1) groups.unshift([])
  if (groups.length > MAX_PARTS) {
    throw new AppError('bad-option', `The model would be split into ${groups.length} files; llama.cpp opens 65535`, {
      hint: 'Choose larger parts.',
    })
  }
  const files = groups.map((group, no) => {
    if (groups.length === 1) return layFile(`${stem}.gguf`, metadata, group)
    const keys = splitKeys(no, groups.length, tensors.length)
    return layFile(partPath(stem, no, groups.length), no === 0 ? new Map([...metadata, ...keys]) : keys, group)
  })
  const size = files.reduce((sum, file) => sum + file.size, 0)
  return { files, size, findings }
}

/** The parts that the tensors came in: one without tensors has the keys, or has lost them. */
function asTheyWere(tensors: readonly Placed[], parts: number): Placed[][] {
  return Array.from({ length: parts }, (_, no) => tensors.filter(({ part = 0 }) => part === no))
}

function splitKeys(no: number, count: number, tensors: number): Map<string, GgufValue> {
  return new Map<string, GgufValue>([
    [SPLIT_KEYS.no, { type: 'u16', value: no }],
    [SPLIT_KEYS.count, { type: 'u16', value: count }],
    [SPLIT_KEYS.tensors, { type: 'i32', value: tensors }],
  ])
}

/** Bytes that a tensor takes in the header: name, axes, type, offset. */
function infoBytes({ name, recipe }: Placed): number {
  return 8 + new TextEncoder().encode(name).length + 4 + 8 * recipe.shape.length + 4 + 8
}

/** Tensors part by part, in order. Sizes are bounds from above: they count the padding after the header twice. */
function grouped(
  metadata: ReadonlyMap<string, GgufValue>,
  tensors: readonly Placed[],
  { maxBytes, maxTensors }: SplitOptions,
  findings: Finding[],
): Placed[][] {
  const alignment = alignmentOf(metadata)
  const bytesOf = (keys: ReadonlyMap<string, GgufValue>): number =>
    ggufLayout(keys, [], alignmentOf(keys)).header.length + GGUF_ALIGNMENT
  const keys = splitKeys(0, 0, 0)
  const [firstBytes, otherBytes] = [bytesOf(new Map([...metadata, ...keys])) + alignment, bytesOf(keys)]
  const groups: Placed[][] = [[]]
  let size = firstBytes
  for (const tensor of tensors) {
    const own = infoBytes(tensor) + alignUp(tensorBytes(tensor.recipe), Math.max(alignment, GGUF_ALIGNMENT))
    const group = groups.at(-1) ?? []
    const full = group.length > 0 && ((maxBytes !== null && size + own > maxBytes) || group.length === maxTensors)
    if (full) {
      groups.push([tensor])
      size = otherBytes + own
    } else {
      group.push(tensor)
      size += own
    }
    if (maxBytes !== null && groups.at(-1)?.length === 1 && size > maxBytes) {
      findings.push({
        severity: 'warning',
        code: 'part-too-large',
        message: `${tensor.name} takes ${own} bytes: its file is larger than the ${maxBytes} asked for`,
        where: { tensor: tensor.name },
      })
    }
  }
  return groups
}

function alignmentOf(metadata: ReadonlyMap<string, GgufValue>): number {
  const value = metadata.get('general.alignment')
  return value?.type === 'u32' ? value.value : GGUF_ALIGNMENT
}

function layFile(path: string, metadata: ReadonlyMap<string, GgufValue>, tensors: readonly Placed[]): PlannedFile {
  const specs = tensors.map(({ name, recipe }) => ({ name, dtype: recipe.dtype, shape: recipe.shape }))
  const layout = ggufLayout(metadata, specs, alignmentOf(metadata))
  const segments: Segment[] = [{ kind: 'bytes', offset: 0, bytes: layout.header }]
  let end = layout.header.length
  const padTo = (offset: number): void => {
    if (offset > end) segments.push({ kind: 'bytes', offset: end, bytes: new Uint8Array(offset - end) })
    end = offset
  }
  tensors.forEach(({ name, recipe }, index) => {
    const at = layout.tensors[index]
    if (at === undefined) return
    padTo(at.offset)
    segments.push({ kind: 'tensor', offset: at.offset, size: at.size, name, recipe })
    end = at.offset + at.size
  })
  padTo(layout.size)
  return { path, size: layout.size, segments }
}
