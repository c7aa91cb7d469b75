import { spawn, type ChildProcess } from 'node:child_process'
import { createHash } from 'node:crypto'
import { createReadStream, mkdtempSync, readFileSync, rmSync, statfsSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'

const ROOT = path.resolve(import.meta.dirname, '../..')
const CLI = path.join(ROOT, 'dist/node/cli.js')
const PEAK = path.join(import.meta.dirname, 'peak.mjs')
const CRASH_CHILD = path.join(import.meta.dirname, 'crash-child.mjs')

/** How a process ended and what it said. */
export interface Ended {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  readonly stdout: string
  readonly stderr: string
  /** Most memory that was resident at once, in bytes; null off Linux or where the process was killed. */
  readonly peakBytes: number | null
  /** Bytes that it read, of whatever file, each time that it did; null as above. */
  readonly readBytes: number | null
}

/** A folder that goes away again, with a state folder for the command within. */
export interface Workspace {
  readonly path: string
  remove(): void
}

export function workspace(): Workspace {
  const folder = mkdtempSync(path.join(tmpdir(), 'modelconvert-'))
  return { path: folder, remove: () => rmSync(folder, { recursive: true, force: true }) }
}

/** Why a test that needs `bytes` of disk cannot run here, or null. */
export function noRoom(bytes: number): string | null {
  const { bavail, bsize } = statfsSync(tmpdir())
  const free = bavail * bsize
  const gib = (value: number): string => `${(value / 2 ** 30).toFixed(1)} GiB`
  return free >= bytes ? null : `it needs ${gib(bytes)} of disk in ${tmpdir()}, and ${gib(free)} are free`
}

/** Whether the file behind a path has this SHA-256 is to be seen from the file, not from what a report says. */
export async function sha256Of(
  file: string,
  range: { readonly start?: number; readonly end?: number } = {},
): Promise<string> {
  const hash = createHash('sha256')
  for await (const chunk of createReadStream(file, { ...range, highWaterMark: 2 ** 20 })) hash.update(chunk as Buffer)
  return hash.digest('hex')
}

/** A process under way. */
export interface Running {
  readonly child: ChildProcess
  readonly ended: Promise<Ended>
}

/** Starts the built command as a user does. `home` holds its state. */
export function startCommand(args: readonly string[], home: string): Running {
  return start([CLI, ...args], home, {})
}

export function runCommand(args: readonly string[], home: string): Promise<Ended> {
  return startCommand(args, home).ended
}

/** What happens to a process of {@link runCrashing}. */
export interface Crash {
  /** What it dies at: the `count`-th (from 1) event of this kind. */
  readonly kind: EventKind
  readonly count: number
  /** `torn` does half of a write. */
  readonly when: 'before' | 'after' | 'torn'
  /** Whether writes since the last flush are lost, as in a loss of power. */
  readonly lose: boolean
  readonly seed: number
}

export type EventKind = 'write' | 'flush' | 'close' | 'replace' | 'publish' | 'rename' | 'remove'

/** Runs the command in a process that kills itself; with `crash` null it only counts, on the last line of stderr. */
export function runCrashing(args: readonly string[], home: string, crash: Crash | null): Promise<Ended> {
  return start([CRASH_CHILD, ...args], home, { CRASH: JSON.stringify(crash) }).ended
}

/** The events that {@link runCrashing} counted. */
export function countedEvents({ stderr }: Ended): Record<EventKind, number> {
  const line = stderr.trimEnd().split('\n').at(-1) ?? ''
  return (JSON.parse(line) as { events: Record<EventKind, number> }).events
}

function start(args: readonly string[], home: string, env: Readonly<Record<string, string>>): Running {
  const child = spawn(process.execPath, ['--import', PEAK, ...args], {
    env: { ...process.env, ...env, XDG_STATE_HOME: path.join(home, 'state'), LOCALAPPDATA: path.join(home, 'state') },
    stdio: ['ignore', 'pipe', 'pipe', 'pipe'],
  })
  const texts = ['', '', '']
  child.stdio
    .slice(1)
    .forEach((stream, index) => stream?.on('data', (chunk: Buffer) => (texts[index] += String(chunk))))
  const ended = new Promise<Ended>((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (code, signal) => {
      const [stdout = '', stderr = '', told = ''] = texts
      const [peakBytes = null, readBytes = null] = told === '' ? [] : told.split(' ').map(Number)
      resolve({ code, signal, stdout, stderr, peakBytes, readBytes })
    })
  })
  return { child, ended }
}

/** The most memory that a process had resident so far, in bytes; null if it is gone. */
export function highWater(pid: number): number | null {
  try {
    const kib = /^VmHWM:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]
    return kib === undefined ? null : Number(kib) * 1024
  } catch {
    return null
  }
}
