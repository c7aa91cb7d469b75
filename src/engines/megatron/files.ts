/** Where the files of a Megatron checkpoint lie. */
import { readFile, type FileEntry, type Folder } from '../../core/bytes.ts'
import { AppError } from '../../core/errors.ts'

/** The position of a file of one rank. The last number is of the pipeline or of the experts: the arguments tell. */
export interface RankFile {
  readonly path: string
  readonly tensor: number
  readonly others: readonly number[]
}

export interface MegatronFolder {
  /** What stands before all paths: `''`, or `run/`. Tokenizers lie here. */
  readonly root: string
  /** The folder of the iteration. */
  readonly dir: string
  /** By path within `root`. */
  readonly files: ReadonlyMap<string, FileEntry>
  readonly weights: MegatronFiles
}

export type MegatronFiles =
  /** A file for each rank, `mp_rank_00_000/model_optim_rng.pt`. */
  | { readonly kind: 'ranks'; readonly files: readonly RankFile[] }
  /** A distributed checkpoint of PyTorch. */
  | { readonly kind: 'dist'; readonly metadata: string }
  /** All weights in `model.pt`, the arguments in metadata.json. */
  | { readonly kind: 'single'; readonly path: string; readonly metadata: string }

const RANK = /^((?:.*\/)?)mp_rank_(\d{2,})(?:_(\d{3,}))?(?:_(\d{3,}))?\/(?:model_optim_rng|model_rng)\.pt$/
const DIST = /^((?:.*\/)?)\.metadata$/
const SINGLE = /^((?:.*\/)?)model\.pt$/
const TRACKER = 'latest_checkpointed_iteration.txt'
const MAX_TRACKER_BYTES = 1 << 10

/** The checkpoint of a folder: its last iteration, or the one that its tracker names. Null if there is none. */
export async function findMegatron(folder: Folder): Promise<MegatronFolder | null> {
  const entries = await folder.list()
  const paths = new Set(entries.map(({ path }) => path))
  const dirs = new Map<string, MegatronFiles>()
  for (const { path } of entries) {
    const rank = RANK.exec(path)
    if (rank !== null) {
      const [, dir = '', tensor, ...others] = rank
      const file = { path, tensor: Number(tensor), others: others.filter((part) => part !== undefined).map(Number) }
      const known = dirs.get(dir)
      dirs.set(dir, { kind: 'ranks', files: known?.kind === 'ranks' ? [...known.files, file] : [file] })
      continue
    }
    const dist = DIST.exec(path)?.[1]
    if (dist !== undefined && [...paths].some((other) => other.startsWith(dist) && other.endsWith('.distcp')))
      dirs.set(dist, { kind: 'dist', metadata: path })
    const single = SINGLE.exec(path)?.[1]
    if (single !== undefined && paths.has(`${single}metadata.json`) && !dirs.has(single))
      dirs.set(single, { kind: 'single', path, metadata: `${single}metadata.json` })
  }
  if (dirs.size === 0) return null
  const roots = new Set([...dirs.keys()].map(rootOf))
  const [root = ''] = roots
  if (roots.size > 1) {
    throw new AppError('not-a-model', `${folder.name} holds ${roots.size} Megatron checkpoints, not one`, {
      hint: `Open one of them: ${[...roots].slice(0, 5).join(', ')}.`,
    })
  }
  const dir = await iterationOf(folder, root, [...dirs.keys()], paths)
  const weights = dirs.get(dir)
  if (weights === undefined) return null
  const within = entries.filter(({ path }) => path.startsWith(root))
  return { root, dir, files: new Map(within.map((entry) => [entry.path.slice(root.length), entry])), weights }
}

function rootOf(dir: string): string {
  return dir.replace(/(?:iter_\d+|release)\/$/, '')
}

async function iterationOf(
  folder: Folder,
  root: string,
  dirs: readonly string[],
  paths: ReadonlySet<string>,
): Promise<string> {
  const last = dirs.toSorted().at(-1) ?? ''
  const tracker = root + TRACKER
  if (dirs.includes(root) || !paths.has(tracker)) return last
  const text = new TextDecoder().decode(await readFile(folder, tracker, MAX_TRACKER_BYTES)).trim()
  if (text !== 'release' && !/^\d+$/.test(text)) {
    throw new AppError('malformed', `${tracker} names no iteration`, {
      where: { file: tracker },
      hint: 'It holds the number of the last iteration, or "release".',
    })
  }
  const wanted = `${root}${text === 'release' ? text : `iter_${text.padStart(7, '0')}`}/`
  if (dirs.includes(wanted)) return wanted
  throw new AppError('missing-file', `${tracker} names iteration ${text}, but ${wanted} holds no checkpoint`, {
    where: { file: wanted },
    hint: `Copy that folder too, or write the number of one that is here into ${TRACKER}.`,
  })
}
