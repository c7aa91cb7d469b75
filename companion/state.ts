import { createHash } from 'node:crypto'
import { mkdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { homedir, hostname } from 'node:os'
import { join } from 'node:path'
import type { Lock } from '../src/api/host.ts'
import { errnoOf, writeError } from './errors.ts'

/** A lock file without content is one being written; after this many milliseconds its writer must have died. */
const UNWRITTEN_MS = 10_000

/** Where the command keeps what outlives it: `modelconvert` below XDG_STATE_HOME or the platform's usual place. */
export function stateFolder(): string {
  const env = process.env
  const base =
    env['XDG_STATE_HOME'] ||
    (process.platform === 'win32'
      ? env['LOCALAPPDATA'] || join(homedir(), 'AppData', 'Local')
      : process.platform === 'darwin'
        ? join(homedir(), 'Library', 'Application Support')
        : join(homedir(), '.local', 'state'))
  return join(base, 'modelconvert')
}

/**
 * Takes a lock by making a file that names this process, or returns null if a living process holds it. A file whose
 * process is gone is taken over. Throws `output-denied`, `no-space`.
 */
export async function takeLock(name: string): Promise<Lock | null> {
  const folder = join(stateFolder(), 'locks')
  const path = join(folder, `${createHash('sha256').update(name).digest('hex').slice(0, 32)}.lock`)
  const owner = JSON.stringify({ pid: process.pid, host: hostname(), born: await birthOf(process.pid), name })
  try {
    await mkdir(folder, { recursive: true })
    // A second round, if the first found a dead process's file and removed it.
    for (let round = 0; round < 2; round++) {
      try {
        await writeFile(path, owner, { flag: 'wx' })
        return {
          release: async () => {
            if ((await readFile(path, 'utf8').catch(() => '')) === owner) await rm(path, { force: true })
          },
        }
      } catch (error) {
        if (errnoOf(error) !== 'EEXIST') throw error
      }
      if (!(await removeStale(path))) return null
    }
    return null
  } catch (error) {
    throw writeError(error, path)
  }
}

/** Removes a lock file whose process is gone; whether it did. */
async function removeStale(path: string): Promise<boolean> {
  const content = await readFile(path, 'utf8').catch(() => null)
  if (content === null) return true
  if (!(await isStale(path, content))) return false
  // By renaming, only one of several can win. Who then holds another's fresh file puts it back.
  const aside = `${path}.${process.pid}`
  try {
    await rename(path, aside)
  } catch {
    return true
  }
  if ((await readFile(aside, 'utf8').catch(() => content)) !== content) {
    await rename(aside, path)
    return false
  }
  await rm(aside, { force: true })
  return true
}

async function isStale(path: string, content: string): Promise<boolean> {
  let owner: unknown
  try {
    owner = JSON.parse(content)
  } catch {
    const age =
      Date.now() -
      (await stat(path).then(
        (stats) => stats.mtimeMs,
        () => Date.now(),
      ))
    return age > UNWRITTEN_MS
  }
  if (typeof owner !== 'object' || owner === null) return true
  const { pid, host, born } = owner as { pid?: unknown; host?: unknown; born?: unknown }
  if (typeof pid !== 'number') return true
  // Whether a process of another machine (a shared home folder) lives cannot be seen from here.
  if (host !== hostname()) return false
  try {
    process.kill(pid, 0)
  } catch (error) {
    return errnoOf(error) === 'ESRCH'
  }
  // The number may have been given to another process since.
  const now = await birthOf(pid)
  return now !== null && typeof born === 'string' && born !== now
}

/** Tells a process from a later one of the same number; null where the platform does not say (all but Linux). */
async function birthOf(pid: number): Promise<string | null> {
  try {
    const boot = (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim()
    const status = await readFile(`/proc/${pid}/stat`, 'utf8')
    // Field 22, counted after the name in brackets, which may hold blanks.
    const started = status.slice(status.lastIndexOf(')') + 2).split(' ')[19]
    return started === undefined ? null : `${boot}/${started}`
  } catch {
    return null
  }
}
