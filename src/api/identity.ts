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
      for (const [offset, length] of ranges) {
        const bytes = new Uint8Array(length)
        await source.read(offset, bytes)
        await digest.update(bytes)
      }
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
  let pending = ''
  const flush = async (): Promise<void> => {
    if (pending === '') return
    await digest.update(encoder.encode(pending))
    pending = ''
  }
  const walk = async (value: unknown): Promise<void> => {
    if (value instanceof Uint8Array) {
      pending += `<${value.length}:`
      await flush()
      await digest.update(value)
    } else if (Array.isArray(value)) {
      pending += '['
      for (const item of value) await walk(item)
      pending += ']'
    } else if (typeof value === 'object' && value !== null) {
      pending += '{'
      for (const key of Object.keys(value).sort()) {
        pending += `${JSON.stringify(key)}:`
        await walk((value as Record<string, unknown>)[key])
      }
      pending += '}'
    } else {
      pending += `${JSON.stringify(value) ?? 'undefined'},`
    }
    if (pending.length > 1 << 16) await flush()
  }
  try {
    await walk({ target: plan.target, stages: plan.stages, files: plan.files })
    await flush()
    return await digest.hex()
  } finally {
    digest.close()
  }
}
