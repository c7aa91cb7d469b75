// Checks the types of every realm with the libraries that it may use, and no others.
import { spawnSync } from 'node:child_process'

const projects = ['src', 'src/api/browser', 'src/sw', 'companion', 'tests']
const commands = [
  ...projects.map((project) => ['tsc', '-p', project]),
  ['svelte-check', '--tsconfig', 'src/ui/tsconfig.json', '--fail-on-warnings', '--output', 'human'],
]
let failed = 0
for (const [name, ...args] of commands) {
  const bin = `node_modules/.bin/${name}`
  const { status } = spawnSync(bin, args, { stdio: 'inherit', shell: process.platform === 'win32' })
  if (status !== 0) {
    failed++
    console.error(`${name} ${args.join(' ')} failed`)
  }
}
process.exit(failed === 0 ? 0 : 1)
