// npm test: gets a browser if there is none, then checks, builds and runs every test. `--long` runs the long ones.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

const long = process.argv.includes('--long')
const results = mkdtempSync(join(tmpdir(), 'modelconvert-tests-'))
const totals = { passed: 0, failed: 0, skipped: 0 }
let broken = false

function run(title, command, args, env = {}) {
  console.log(`\n== ${title}`)
  const began = Date.now()
  const shell = process.platform === 'win32'
  const { status } = spawnSync(command, args, { stdio: 'inherit', shell, env: { ...process.env, ...env } })
  console.log(`== ${title}: ${status === 0 ? 'ok' : 'FAILED'} in ${((Date.now() - began) / 1000).toFixed(0)} s`)
  if (status !== 0) broken = true
  return status === 0
}

function vitest(title, config) {
  const report = join(results, `${title.replaceAll(' ', '-')}.json`)
  const reporters = ['--reporter=default', '--reporter=json', `--outputFile.json=${report}`]
  run(title, 'npx', ['vitest', 'run', '--config', config, ...reporters])
  if (!existsSync(report)) return
  const { numPassedTests, numFailedTests, numPendingTests, numTodoTests } = JSON.parse(readFileSync(report, 'utf8'))
  totals.passed += numPassedTests
  totals.failed += numFailedTests
  totals.skipped += numPendingTests + (numTodoTests ?? 0)
}

function playwright(title) {
  const report = join(results, 'playwright.json')
  run(title, 'npx', ['playwright', 'test', '--reporter=list,json'], { PLAYWRIGHT_JSON_OUTPUT_NAME: report })
  if (!existsSync(report)) return
  const { stats } = JSON.parse(readFileSync(report, 'utf8'))
  totals.passed += stats.expected + stats.flaky
  totals.failed += stats.unexpected
  totals.skipped += stats.skipped
}

// a browser first: without one half of the tests cannot run
if (!run('browser', process.execPath, ['tests/setup/get-chromium.mjs'])) process.exit(1)
if (run('build', 'npm', ['run', 'build'])) {
  if (long) vitest('long tests', 'vitest.long.config.ts')
  else {
    run('types, lint and format', 'npm', ['run', 'check'])
    vitest('tests in Node', 'vitest.config.ts')
    vitest('tests in the browser', 'vitest.browser.config.ts')
    playwright('the page, end to end')
  }
}
rmSync(results, { recursive: true, force: true })
console.log(`\n${totals.passed} passed, ${totals.failed} failed, ${totals.skipped} skipped`)
process.exit(broken || totals.passed === 0 ? 1 : 0)
