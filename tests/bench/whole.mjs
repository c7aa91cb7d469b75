// One conversion by the command in this process: node tests/bench/whole.mjs MODEL QUANT FOLDER THREADS
// Prints {"ms": time, "peakBytes": VmHWM} on stdout.
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { createNodeHost, main } from '../../dist/node/index.js'

const [model, quant, folder, threads] = process.argv.slice(2)
let said = ''
const output = ['-o', path.join(folder, `${quant}.gguf`)]
const flags = ['--threads', threads, '--overwrite', '--restart', '--json', '--quiet']
const status = await main(['convert', model, 'gguf', '--quant', quant, ...output, ...flags], {
  stdout: (text) => (said += text),
  stderr: process.stderr,
  createHost: createNodeHost,
})
if (status !== 0) process.exit(status)
const { report } = JSON.parse(said)
const kib =
  process.platform === 'linux' ? /VmHWM:\s+(\d+) kB/.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] : null
const peakBytes = kib === null ? process.resourceUsage().maxRSS * 1024 : Number(kib) * 1024
process.stdout.write(`${JSON.stringify({ ms: report.elapsedMs, peakBytes })}\n`)
