import { execFile } from 'node:child_process'
import { cpSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'

const CLI = path.resolve(import.meta.dirname, '../../dist/node/cli.js')
export const TINY = path.resolve(import.meta.dirname, '../fixtures/tiny-llama')

export interface Ran {
  readonly code: number
  readonly stdout: string
  readonly stderr: string
}

/** Runs the built command in `folder`, its state in there too. */
export function command(folder: string, ...args: readonly string[]): Promise<Ran> {
  const state = path.join(folder, '.state')
  const env = { ...process.env, XDG_STATE_HOME: state, LOCALAPPDATA: state }
  return new Promise((resolve, reject) => {
    execFile(process.execPath, [CLI, ...args], { cwd: folder, env, maxBuffer: 2 ** 26 }, (error, stdout, stderr) => {
      if (error === null) resolve({ code: 0, stdout, stderr })
      else if (typeof error.code === 'number') resolve({ code: error.code, stdout, stderr })
      else reject(error)
    })
  })
}

/** An empty folder, removed by `remove`. */
export function temporary(): { path: string; remove(): void } {
  const folder = mkdtempSync(path.join(tmpdir(), 'modelconvert-cli-'))
  return { path: folder, remove: () => rmSync(folder, { recursive: true, force: true }) }
}

/** A copy of the tiny Llama as `name` in `folder`. */
export function tinyModel(folder: string, name = 'tiny'): string {
  const model = path.join(folder, name)
  cpSync(TINY, model, { recursive: true })
  return model
}
