import { existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import type { Host } from '../src/api/host.ts'
import { splitPath } from '../src/api/paths.ts'
import type { Place } from '../src/core/bytes.ts'
import { AppError } from '../src/core/errors.ts'
import type { Backend } from '../src/kernels/backend.ts'
import { openPath, openPathOutput } from './bytes.ts'
import { NodeCrc32, NodeDigest, prepareDigest } from './digest.ts'
import { createLlamaRunner } from './llama/runner.ts'
import { stateFolder, takeLock } from './state.ts'
import { nodeSpawn, threadCount } from './threads.ts'

export interface NodeHostOptions {
  /** Kernel threads; 0 or none: one for each core that the process may use. */
  readonly threads?: number
  /** Bytes; by default {@link defaultMemoryBudget}. */
  readonly memoryBudget?: number
}

const MIB = 2 ** 20

/** Below this, tiles get so small that reading dominates. */
const LEAST_BUDGET = 128 * MIB

/** Above this a conversion gains nothing: a few tiles a thread are all it holds. */
const MOST_BUDGET = 1024 * MIB

/** A quarter of the memory that is available to this process, but at least 128 MiB and at most 1 GiB. */
export function defaultMemoryBudget(): number {
  const share = Math.floor(process.availableMemory() / 4)
  return Math.min(MOST_BUDGET, Math.max(LEAST_BUDGET, share))
}

/** The host of the command and the companion: files, threads and hashes of Node. */
export function createNodeHost(options: NodeHostOptions = {}): Host {
  let backends: Promise<readonly Backend[]> | null = null
  return {
    name: `Node ${process.versions.node}`,
    memoryBudget: options.memoryBudget ?? defaultMemoryBudget(),
    backends() {
      backends ??= startBackends(threadCount(options.threads ?? 0))
      return backends
    },
    async open(place) {
      switch (place.kind) {
        case 'path':
          return openPath(place.path)
        case 'scratch':
          return openPathOutput(scratchPath(place.path), { prune: true })
        case 'sample':
          return openPath(join(packageFolder(), 'sample'))
        default:
          throw notHere(place)
      }
    },
    async openOutput(place) {
      switch (place.kind) {
        case 'path':
          return openPathOutput(place.path)
        case 'scratch':
          return openPathOutput(scratchPath(place.path), { prune: true })
        default:
          throw notHere(place)
      }
    },
    async openScratch(key) {
      return openPathOutput(scratchPath(key), { prune: true })
    },
    digest: async () => new NodeDigest(),
    crc32: async () => new NodeCrc32(),
    lock: takeLock,
    runners: [
      createLlamaRunner({
        script: () => join(packageFolder(), 'dist', 'node', 'llama-process.js'),
        threads: options.threads ?? 0,
        pathOf(place) {
          if (place.kind === 'path') return place.path
          if (place.kind === 'scratch') return scratchPath(place.path)
          throw notHere(place)
        },
      }),
    ],
    now: () => performance.now(),
  }
}

async function startBackends(threads: number): Promise<readonly Backend[]> {
  prepareDigest()
  const { createReferenceBackend } = await import('../src/kernels/reference/index.ts')
  const reference = createReferenceBackend()
  try {
    const { createWasmBackend } = await import('../src/kernels/wasm/index.ts')
    // The worker is a file of the build: Node 20 starts no TypeScript.
    const worker = join(packageFolder(), 'dist', 'node', 'kernel-worker.js')
    const spawn = existsSync(worker) ? nodeSpawn(pathToFileURL(worker)) : null
    return [await createWasmBackend({ spawn, threads }), reference]
  } catch (error) {
    const why = AppError.from(error).message
    return [{ ...reference, limitation: `The WASM kernels could not be started: ${why}` }]
  }
}

function scratchPath(key: string): string {
  return join(stateFolder(), 'scratch', ...splitPath(key))
}

/** The folder of this package, from the source tree and from the bundle alike. */
export function packageFolder(): string {
  for (let folder = dirname(fileURLToPath(import.meta.url)); ; folder = dirname(folder)) {
    const manifest = join(folder, 'package.json')
    if (existsSync(manifest) && /"name":\s*"modelconvert"/.test(readFileSync(manifest, 'utf8'))) return folder
    if (dirname(folder) === folder) break
  }
  throw new AppError('missing-file', 'The files that belong to this program are not beside it', {
    hint: 'Install the package again.',
  })
}

function notHere(place: Place): AppError {
  return new AppError('unsupported', `A place of the kind ${place.kind} cannot be opened here`, {
    hint: 'Give a path.',
  })
}
