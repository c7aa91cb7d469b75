import type { FileEntry, Folder, Source } from '../../core/bytes.ts'
import type { SourceFile } from '../../core/checkpoint.ts'
import { AppError } from '../../core/errors.ts'
import { missingFiles } from '../containers/missing.ts'
import { ggufNumber, readGguf, type GgufHeader, type GgufTensor } from '../containers/gguf/reader.ts'
import type { GgufValue } from '../containers/gguf/types.ts'

/** A tensor, and which of a split model's files it lies in. */
export interface LocatedTensor extends GgufTensor {
  readonly file: string
}

/** A GGUF model as it lies on disk: one file, or the parts of a split one taken together. Headers only. */
export interface GgufModel {
  /** The name of its files without shard numbers and ending. */
  readonly stem: string
  /** In the order of the parts. */
  readonly files: readonly SourceFile[]
  /** The first part's, which has all keys but those that say how it is split. */
  readonly metadata: ReadonlyMap<string, GgufValue>
  /** Of all parts, in order. */
  readonly tensors: readonly LocatedTensor[]
  /** Of the first part. */
  readonly alignment: number
  /** The header of each file, in order. */
  readonly headers: readonly GgufHeader[]
}

/** What a split file's own keys say of the set: number from 0, parts, tensors in all of them. */
export const SPLIT_KEYS = { no: 'split.no', count: 'split.count', tensors: 'split.tensors.count' } as const

/** llama.cpp finds the parts by this name, and by no other. */
const PART_NAME = /^(.*)-(\d{5})-of-(\d{5})(\.gguf)$/i

/** Tensors of a whole set: what one file may have. */
const MAX_TENSORS = 2 ** 18

/** The path of part `no` (from 0) of `count`, as llama.cpp spells it. */
export function partPath(stem: string, no: number, count: number, ending = '.gguf'): string {
  const digits = (value: number): string => String(value).padStart(5, '0')
  return `${stem}-${digits(no + 1)}-of-${digits(count)}${ending}`
}

/** What the name of a part says: it is number `no`, from 0. */
export interface PartName {
  readonly stem: string
  readonly no: number
  readonly count: number
  readonly ending: string
}

/** A path's stem, and which part of how many it names; `no` counts from 0. Null for a file that is whole. */
export function partOf(path: string): PartName | null {
  const [, stem, no, count, ending] = PART_NAME.exec(path) ?? []
  if (stem === undefined || ending === undefined) return null
  return { stem, no: Number(no) - 1, count: Number(count), ending }
}

/** A file name without directories, ending and part numbers. */
export function stemOf(path: string): string {
  const stem = partOf(path)?.stem ?? path.replace(/\.gguf$/i, '')
  return stem.split('/').at(-1) ?? stem
}

/** What lies beside a model without being one: the picture part of a multimodal one, importances of its matrices. */
const BESIDE = /(?:^|\/|[-._])(?:mmproj|imatrix)(?:[-._]|$)/i

/** Of several files those that are models, by their names; all of them if none is. */
export function withoutCompanions(paths: readonly string[]): readonly string[] {
  const models = paths.filter((path) => !BESIDE.test(path))
  return models.length === 0 ? paths : models
}

/**
 * The files that a folder's models start from: each whole file and each first part, then the lowest part there is of
 * the sets whose first one is missing.
 */
export function modelEntries(files: readonly FileEntry[]): readonly string[] {
  const entries = new Map<string, { path: string; no: number }>()
  for (const { path } of files) {
    if (!/\.gguf$/i.test(path)) continue
    const part = partOf(path)
    const key = part === null ? path : `${part.stem}/${part.count}`
    const no = part?.no ?? 0
    const known = entries.get(key)
    if (known === undefined || no < known.no) entries.set(key, { path, no })
  }
  const all = [...entries.values()]
  return [...all.filter(({ no }) => no === 0), ...all.filter(({ no }) => no > 0)].map(({ path }) => path)
}

/** Reads the header of one file. */
async function readHeader(folder: Folder, path: string): Promise<{ header: GgufHeader; file: SourceFile }> {
  const source: Source = await folder.open(path)
  try {
    const header = await readGguf(source)
    return { header, file: { path, size: source.size, modified: source.modified } }
  } finally {
    await source.close()
  }
}

/**
 * Reads the headers of a model that starts at `entry`, and of all its parts. Throws `missing-file` naming the first
 * part that is not there, and `malformed` for parts that do not belong together.
 */
export async function readModel(folder: Folder, entry: string): Promise<GgufModel> {
  const named = partOf(entry)
  const first = await readHeader(folder, entry)
  const count = splitNumber(first.header, SPLIT_KEYS.count) ?? 1
  const stem = stemOf(entry)
  if (count <= 1) {
    const tensors = first.header.tensors.map((tensor) => ({ ...tensor, file: entry }))
    const { metadata, alignment } = first.header
    return { stem, files: [first.file], metadata: withoutSplit(metadata), tensors, alignment, headers: [first.header] }
  }
  checkPart(first.header, entry, named?.no ?? 0, count)
  if (named === null || named.count !== count) {
    throw new AppError('malformed', `${entry} is one of ${count} parts, which its name does not say`, {
      where: { file: entry },
      hint: `Parts are found by their names: give it back the name that ends in ${partPath('', 0, count)}.`,
    })
  }
  return joinParts(folder, first, named)
}

/** `split.no` and `split.count` are read as any integer: only llama.cpp insists on their types. */
function splitNumber(header: GgufHeader, key: string): number | null {
  return ggufNumber(header.metadata, key)
}

function checkPart(header: GgufHeader, path: string, no: number, count: number): void {
  const [foundNo, foundCount] = [splitNumber(header, SPLIT_KEYS.no) ?? 0, splitNumber(header, SPLIT_KEYS.count) ?? 1]
  if (foundNo === no && foundCount === count) return
  throw new AppError(
    'malformed',
    `${path} says that it is part ${foundNo + 1} of ${foundCount}, where part ${no + 1} of ${count} was expected`,
    { where: { file: path }, hint: 'Parts of different models got mixed, or were renamed. Download them again.' },
  )
}

async function joinParts(
  folder: Folder,
  first: { readonly header: GgufHeader; readonly file: SourceFile },
  { stem, no: opened, count, ending }: PartName,
): Promise<GgufModel> {
  const present = new Set((await folder.list()).map(({ path }) => path))
  const paths = Array.from({ length: count }, (_, no) => partPath(stem, no, count, ending))
  // the one that was opened is there, whatever the case of its letters
  paths[opened] = first.file.path
  const missing = paths.filter((path) => !present.has(path))
  if (missing.length > 0) throw missingFiles(missing, count)
  const files: SourceFile[] = []
  const headers: GgufHeader[] = []
  const tensors: LocatedTensor[] = []
  const places = new Map<string, string>()
  for (const [no, path] of paths.entries()) {
    const { header, file } = no === opened ? first : await readHeader(folder, path)
    checkPart(header, path, no, count)
    files.push(file)
    headers.push(header)
    for (const tensor of header.tensors) {
      const other = places.get(tensor.name)
      if (other !== undefined) throw splitFault(path, `${tensor.name} is in ${other} and in ${path}`, tensor.name)
      if (tensors.length === MAX_TENSORS) throw splitFault(path, `the parts have more than ${MAX_TENSORS} tensors`)
      places.set(tensor.name, path)
      tensors.push({ ...tensor, file: path })
    }
  }
  const head = headers[0] ?? first.header
  const expected = splitNumber(head, SPLIT_KEYS.tensors)
  if (expected !== null && expected !== tensors.length) {
    throw splitFault(first.file.path, `${SPLIT_KEYS.tensors} is ${expected}, but the parts hold ${tensors.length}`)
  }
  const { metadata, alignment } = head
  return { stem: stemOf(first.file.path), files, metadata: withoutSplit(metadata), tensors, alignment, headers }
}

function splitFault(file: string, why: string, tensor?: string): AppError {
  return new AppError('malformed', `${file}: ${why}`, {
    where: { file, ...(tensor === undefined ? {} : { tensor }) },
    hint: 'Parts of different models got mixed. Download them again.',
  })
}

function withoutSplit(metadata: ReadonlyMap<string, GgufValue>): ReadonlyMap<string, GgufValue> {
  return new Map([...metadata].filter(([key]) => !key.startsWith('split.')))
}
