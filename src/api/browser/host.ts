import type { Folder, Place } from '../../core/bytes.ts'
import { AppError } from '../../core/errors.ts'
import type { Backend } from '../../kernels/backend.ts'
import type { Host, Lock } from '../host.ts'
import { openFiles } from './bytes-file.ts'
import { openPickedOutput } from './bytes-handle.ts'
import { openOpfs } from './bytes-opfs.ts'
import { createCrc32 } from './crc32.ts'
import { WorkerDigest } from './digest.ts'
import { openPicked } from './handles.ts'
import { createLlamaRunner } from './llama.ts'
import { openSample } from './sample.ts'
import { STAGES } from './stages.ts'
import { browserSpawn, threadCount } from './threads.ts'

export interface BrowserHostOptions {
  /** Kernel threads; 0 or none: one for each core but that of the page. */
  readonly threads?: number
  /** Bytes; by default {@link defaultMemoryBudget}. */
  readonly memoryBudget?: number
  /** Where the sample's files lie; by default beside the built page. */
  readonly sampleUrl?: URL
}

const MIB = 2 ** 20

/** Below this, tiles get so small that reading dominates. */
const LEAST_BUDGET = 128 * MIB

/** A tab that holds more may be killed on a small machine, and gains nothing. */
const MOST_BUDGET = 512 * MIB

/** What browsers that do not tell the machine's memory get. */
const UNKNOWN_BUDGET = 256 * MIB

/** An eighth of the machine's memory, but at least 128 MiB and at most 512 MiB; 256 MiB where it is unknown. */
export function defaultMemoryBudget(): number {
  const gigabytes = 'deviceMemory' in navigator ? navigator.deviceMemory : null
  if (typeof gigabytes !== 'number') return UNKNOWN_BUDGET
  return Math.min(MOST_BUDGET, Math.max(LEAST_BUDGET, Math.floor((gigabytes * 1024 * MIB) / 8)))
}

/** The host of the page, for use in a worker: files, private file system, locks and hashes of the browser. */
export function createBrowserHost(options: BrowserHostOptions = {}): Host {
  // In the build workers lie in assets/, beside sample/; the development server serves it from the root.
  const sampleUrl = options.sampleUrl ?? new URL(import.meta.env.DEV ? '/sample/' : '../sample/', self.location.href)
  let backends: Promise<readonly Backend[]> | null = null
  return {
    name: browserName(navigator.userAgent),
    memoryBudget: options.memoryBudget ?? defaultMemoryBudget(),
    backends() {
      backends ??= startBackends(threadCount(options.threads ?? 0))
      return backends
    },
    open: (place) => openPlace(place, sampleUrl),
    async openOutput(place) {
      if (place.kind === 'scratch') return openOpfs(place.path)
      if (place.kind !== 'handle') throw notHere(place)
      const handle = handleOf(place.handle)
      if (handle.kind !== 'directory') throw notHere(place)
      await demandPermission(handle, 'readwrite')
      return openPickedOutput(handle)
    },
    openScratch: (key) => openOpfs(`${STAGES}/${key}`, { prune: true }),
    digest: async () => new WorkerDigest(),
    crc32: createCrc32,
    lock: takeLock,
    runners: [createLlamaRunner({ open: (place) => openPlace(place, sampleUrl), threads: options.threads ?? 0 })],
    now: () => performance.now(),
  }
}

async function openPlace(place: Place, sampleUrl: URL): Promise<Folder> {
  switch (place.kind) {
    case 'files':
      return openFiles(place.name, place.files)
    case 'handle': {
      const handle = handleOf(place.handle)
      await demandPermission(handle, 'read')
      return openPicked(handle)
    }
    case 'scratch':
      return openOpfs(place.path)
    case 'sample':
      return openSample(sampleUrl)
    default:
      throw notHere(place)
  }
}

async function startBackends(threads: number): Promise<readonly Backend[]> {
  const { createReferenceBackend } = await import('../../kernels/reference/index.ts')
  const reference = createReferenceBackend()
  try {
    const { createWasmBackend } = await import('../../kernels/wasm/index.ts')
    return [await createWasmBackend({ spawn: browserSpawn, threads }), reference]
  } catch (error) {
    const why = AppError.from(error).message
    return [{ ...reference, limitation: `The WASM kernels could not be started: ${why}` }]
  }
}

function handleOf(handle: unknown): FileSystemDirectoryHandle | FileSystemFileHandle {
  if (handle instanceof FileSystemDirectoryHandle || handle instanceof FileSystemFileHandle) return handle
  throw new AppError('internal', 'A place of the kind handle holds no handle')
}

/** Only Chromium has this, and only Chromium withdraws permissions. */
interface PermissionHandle {
  queryPermission(descriptor: { readonly mode: 'read' | 'readwrite' }): Promise<PermissionState>
}

async function demandPermission(handle: FileSystemHandle, mode: 'read' | 'readwrite'): Promise<void> {
  if (!('queryPermission' in handle)) return
  if ((await (handle as FileSystemHandle & PermissionHandle).queryPermission({ mode })) === 'granted') return
  const reading = mode === 'read'
  throw new AppError(
    reading ? 'source-lost' : 'output-denied',
    `${handle.name} may not be ${reading ? 'read' : 'written'} any more`,
    { where: { file: handle.name }, hint: `Choose it again and allow ${reading ? 'reading' : 'writing'}.` },
  )
}

async function takeLock(name: string): Promise<Lock | null> {
  return new Promise((resolve, reject) => {
    const request = navigator.locks.request(`modelconvert:${name}`, { ifAvailable: true }, (lock) => {
      if (lock === null) return resolve(null)
      return new Promise<void>((release) => {
        resolve({
          release: async () => {
            release()
            await request
          },
        })
      })
    })
    request.catch(reject)
  })
}

function notHere(place: Place): AppError {
  return new AppError('unsupported', `A place of the kind ${place.kind} cannot be opened for this in a browser`, {
    hint: 'Choose a folder, or use the command modelconvert for paths.',
  })
}

/** "Chromium 156", of a user agent string; Edge and other relatives call themselves Chromium's. */
export function browserName(userAgent: string): string {
  for (const [pattern, name] of BROWSERS) {
    const version = pattern.exec(userAgent)?.[1]
    if (version !== undefined) return `${name} ${version}`
  }
  return 'Browser'
}

const BROWSERS: readonly (readonly [RegExp, string])[] = [
  [/Edg\/(\d+)/, 'Edge'],
  [/Firefox\/(\d+)/, 'Firefox'],
  [/(?:Chrome|Chromium)\/(\d+)/, 'Chromium'],
  [/Version\/(\d+[.\d]*).*Safari/, 'Safari'],
]
