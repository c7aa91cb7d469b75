import type { Folder } from '../core/bytes.ts'
import type { SourceFile } from '../core/checkpoint.ts'
import { AppError } from '../core/errors.ts'
import type { Plan } from '../core/plan.ts'
import type { Host } from './host.ts'

/** A source as it was when a job began. A job resumes only on the same. */
export interface SourceIdentity {
  readonly path: string
  readonly size: number
  readonly modified: number | null
  /** SHA-256 of its beginning and of samples spread over it. */
  readonly sample: string
}

/** The beginning of a file, header and first weights, that is always hashed. */
const HEAD_BYTES = 1 << 16

/** Spread evenly over the rest. */
const SAMPLES = 16
const SAMPLE_BYTES = 4096

/** Hashes a few places of every source. */
export async function identify(
  host: Host,
  folder: Folder,
  files: readonly SourceFile[],
): Promise<readonly SourceIdentity[]> {
  const identities: SourceIdentity[] = []
  for (const { path } of files) {
    const source = await folder.open(path)
    const digest = await host.digest()
    try {
      const head = Math.min(HEAD_BYTES, source.size)
      const ranges: [number, number][] = [[0, head]]
      const rest = source.size - head
      for (let i = 0; i < SAMPLES && rest > SAMPLE_BYTES; i++) {
        ranges.push([head + Math.floor(((rest - SAMPLE_BYTES) * i) / (SAMPLES - 1)), SAMPLE_BYTES])
      }
      const pieces = ranges.map(([offset, length]) => ({ offset, bytes: new Uint8Array(length) }))
      await Promise.all(pieces.map(({ offset, bytes }) => source.read(offset, bytes)))
      for (const { bytes } of pieces) await digest.update(bytes)
      identities.push({ path, size: source.size, modified: source.modified, sample: await digest.hex() })
    } finally {
      digest.close()
      await source.close()
    }
  }
  return identities
}

/** Throws `source-changed` naming the first file that is not as it was. */
export function requireSame(before: readonly SourceIdentity[], now: readonly SourceIdentity[]): void {
  for (const old of before) {
    const found = now.find((candidate) => candidate.path === old.path)
    const same =
      found !== undefined &&
      found.size === old.size &&
      found.sample === old.sample &&
      (old.modified === null || found.modified === null || found.modified === old.modified)
    if (same) continue
    throw new AppError('source-changed', `${old.path} has changed since this conversion was begun`, {
      where: { file: old.path },
      hint: 'Start it afresh (--restart), or bring back the file as it was.',
    })
  }
}

/** SHA-256 of a plan's files and recipes: two plans with the same key write the same bytes from the same sources. */
export async function planKey(host: Host, plan: Plan): Promise<string> {
  const digest = await host.digest()
  const encoder = new TextEncoder()
  try {
    for (const piece of piecesOf({ target: plan.target, stages: plan.stages, files: plan.files })) {
      await digest.update(typeof piece === 'string' ? encoder.encode(piece) : piece)
    }
    return await digest.hex()
  } finally {
    digest.close()
  }
}

/** A value as text, keys in order; bytes stay what they are, their number before them. */
function piecesOf(value: unknown): readonly (string | Uint8Array)[] {
  const pieces: (string | Uint8Array)[] = []
  let text = ''
  const flush = (): void => {
    if (text !== '') pieces.push(text)
    text = ''
  }
  const walk = (at: unknown): void => {
    if (at instanceof Uint8Array) {
      text += `<${at.length}:`
      flush()
      pieces.push(at)
    } else if (Array.isArray(at)) {
      text += '['
      for (const item of at) walk(item)
      text += ']'
    } else if (typeof at === 'object' && at !== null) {
      text += '{'
      for (const key of Object.keys(at).sort()) {
        text += `${JSON.stringify(key)}:`
        walk((at as Record<string, unknown>)[key])
      }
      text += '}'
    } else {
      text += `${JSON.stringify(at) ?? 'undefined'},`
    }
    if (text.length > 1 << 16) flush()
  }
  walk(value)
  flush()
  return pieces
}
