import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync, statSync } from 'node:fs'
import { join, resolve } from 'node:path'

const ROOT = resolve(import.meta.dirname, '../..')

/** The newest change below some folders, in milliseconds. */
function newest(paths: readonly string[]): number {
  return paths.reduce((latest, path) => {
    const full = join(ROOT, path)
    const stat = statSync(full)
    if (!stat.isDirectory()) return Math.max(latest, stat.mtimeMs)
    const inside = readdirSync(full).map((name) => join(path, name))
    return Math.max(latest, newest(inside))
  }, 0)
}

/** Builds kernels and the Node bundle if they are older than their sources: tests of the command run what users run. */
export default function build(): void {
  const built = join(ROOT, 'dist/node/cli.js')
  const worker = join(ROOT, 'dist/node/kernel-worker.js')
  const sources = newest(['src/core', 'src/models', 'src/engines', 'src/kernels', 'src/api', 'companion', 'wasm'])
  const fresh = existsSync(built) && existsSync(worker) && statSync(worker).mtimeMs > sources
  if (fresh) return
  const npm = process.platform === 'win32' ? 'npm.cmd' : 'npm'
  for (const script of ['build:kernels', 'build:node']) {
    execFileSync(npm, ['run', script], { cwd: ROOT, stdio: ['ignore', 'ignore', 'inherit'] })
  }
}
