// Sees to it that the tests have a Chromium: one that is there, else Debian's package, else Playwright's own download.
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { chromium } from 'playwright'

const NAMES = ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable', 'chrome', 'microsoft-edge']

function onPath(names) {
  const folders = (process.env.PATH ?? '').split(delimiter)
  const ending = process.platform === 'win32' ? '.exe' : ''
  return folders.flatMap((folder) => names.map((name) => join(folder, name + ending))).find((path) => existsSync(path))
}

function found() {
  const wished = process.env.CHROMIUM_PATH
  return (wished && existsSync(wished)) || existsSync(chromium.executablePath()) || onPath(NAMES) !== undefined
}

function attempt(command, args) {
  console.log(`${command} ${args.join(' ')}`)
  return spawnSync(command, args, { stdio: 'inherit', shell: process.platform === 'win32' }).status === 0
}

if (!found() && process.getuid?.() === 0 && onPath(['apt-get']) !== undefined) {
  attempt('apt-get', ['update', '-qq'])
  attempt('apt-get', ['install', '-y', '-qq', '--no-install-recommends', 'chromium'])
}
if (!found()) attempt('npx', ['playwright', 'install', '--only-shell', 'chromium'])
if (!found() && process.platform !== 'darwin' && process.platform !== 'win32')
  attempt('npx', ['playwright', 'install', 'chromium'])
if (!found()) {
  console.error(
    'No Chromium: run "npx playwright install chromium", install the package chromium, or set CHROMIUM_PATH.',
  )
  process.exit(1)
}
console.log('a Chromium is there')
