import { accessSync, constants, statSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { chromium } from 'playwright'

const NAMES = ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable', 'chrome', 'microsoft-edge']

/** How to get one, in one line. */
export const CHROMIUM_HINT =
  'No Chromium: run "npx playwright install chromium", install the package chromium, or set CHROMIUM_PATH.'

let told = false

/**
 * The browser that the tests drive: CHROMIUM_PATH, else Playwright's own, else one of the system. Null if there is
 * none; it then says once, in one line, how to get one.
 */
export function findChromium(): string | null {
  const wished = process.env['CHROMIUM_PATH']
  if (wished !== undefined && wished !== '') {
    if (isProgram(wished)) return wished
    tell(`CHROMIUM_PATH is ${wished}, where there is no program.`)
    return null
  }
  const found = [playwrights(), ...onPath(), ...usualPlaces()].find((path) => path !== null && isProgram(path)) ?? null
  if (found === null) tell(CHROMIUM_HINT)
  return found
}

function playwrights(): string | null {
  try {
    return chromium.executablePath() || null
  } catch {
    return null
  }
}

function onPath(): string[] {
  const endings = process.platform === 'win32' ? ['.exe'] : ['']
  const folders = (process.env['PATH'] ?? '').split(delimiter).filter((folder) => folder !== '')
  return NAMES.flatMap((name) => folders.flatMap((folder) => endings.map((ending) => join(folder, name + ending))))
}

function usualPlaces(): string[] {
  const env = process.env
  if (process.platform === 'darwin') {
    const homes = ['', env['HOME'] ?? ''].map((home) => join(home || '/', 'Applications'))
    return homes.flatMap((apps) => [
      join(apps, 'Chromium.app/Contents/MacOS/Chromium'),
      join(apps, 'Google Chrome.app/Contents/MacOS/Google Chrome'),
      join(apps, 'Microsoft Edge.app/Contents/MacOS/Microsoft Edge'),
    ])
  }
  if (process.platform === 'win32') {
    const roots = [env['PROGRAMFILES'], env['PROGRAMFILES(X86)'], env['LOCALAPPDATA']].filter(
      (root) => root !== undefined,
    )
    return roots.flatMap((root) => [
      join(root, 'Chromium\\Application\\chrome.exe'),
      join(root, 'Google\\Chrome\\Application\\chrome.exe'),
      join(root, 'Microsoft\\Edge\\Application\\msedge.exe'),
    ])
  }
  return ['/snap/bin/chromium', '/opt/google/chrome/chrome', '/usr/lib/chromium/chromium']
}

function isProgram(path: string): boolean {
  try {
    accessSync(path, constants.X_OK)
    return statSync(path).isFile()
  } catch {
    return false
  }
}

function tell(line: string): void {
  if (!told) process.stderr.write(`${line}\n`)
  told = true
}
