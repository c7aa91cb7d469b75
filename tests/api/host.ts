import { createHash } from 'node:crypto'
import { NodeCrc32 } from '../../companion/digest.ts'
import type { Digest, Host } from '../../src/api/host.ts'
import type { Folder, OutputFolder, Place } from '../../src/core/bytes.ts'
import type { Backend } from '../../src/kernels/backend.ts'
import { createReferenceBackend } from '../../src/kernels/reference/index.ts'
import { MemoryOutput } from '../contracts/memory.ts'

export interface TestHostOptions {
  readonly input: Folder
  readonly output: OutputFolder
  readonly backend?: Backend
  readonly memoryBudget?: number
}

/** A host in memory: its input and output are given, its clock is the real one. */
export function testHost(options: TestHostOptions): Host {
  const locks = new Set<string>()
  const scratch = new MemoryOutput({ name: 'scratch' })
  const backend = options.backend ?? createReferenceBackend()
  return {
    name: 'test',
    memoryBudget: options.memoryBudget ?? 64 << 20,
    backends: async () => [backend],
    open: async () => options.input,
    openOutput: async () => options.output,
    openScratch: async () => scratch,
    digest: async () => testDigest(),
    crc32: async () => new NodeCrc32(),
    async lock(name) {
      if (locks.has(name)) return null
      locks.add(name)
      return {
        async release() {
          locks.delete(name)
        },
      }
    },
    runners: [],
    now: () => performance.now(),
  }
}

export function testDigest(): Digest {
  const hash = createHash('sha256')
  return {
    async update(bytes) {
      hash.update(bytes)
    },
    hex: async () => hash.copy().digest('hex'),
    close: () => undefined,
  }
}

/** Any place will do: the host ignores it. */
export const ANYWHERE: Place = { kind: 'path', path: 'anywhere' }

export function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}

/** A backend that says it has several threads and finishes its work in a shuffled order. */
export function shuffledBackend(threads: number): Backend {
  const reference = createReferenceBackend()
  let turn = 1
  return {
    ...reference,
    id: 'reference',
    label: `shuffled, ${threads} threads`,
    limitation: null,
    threads,
    arena: reference.arena,
    exact: () => true,
    speed: (op) => reference.speed(op),
    close: () => reference.close(),
    prepare(op) {
      const kernel = reference.prepare(op)
      return {
        op,
        async run(input, output, elements, signal) {
          turn = (turn * 48271) % 0x7fffffff
          for (let i = 0; i < turn % 7; i++) await new Promise((resolve) => setImmediate(resolve))
          return kernel.run(input, output, elements, signal)
        },
      }
    },
  }
}
