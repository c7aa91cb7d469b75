// npm run demo: the main job on the model that comes along, into a temporary folder, with the built command.
import { mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { main } from '../dist/node/index.js'

const folder = mkdtempSync(join(tmpdir(), 'modelconvert-demo-'))
const file = join(folder, 'sample-Q4_K_M.gguf')
const show = (args) => console.log(`\n$ modelconvert ${args.join(' ')}`)

for (const args of [
  ['inspect', 'sample'],
  ['convert', 'sample', 'gguf', '--quant', 'q4_k_m', '-o', file],
]) {
  show(args)
  const status = await main(args)
  if (status !== 0) process.exit(status)
}
console.log(
  `\nThe file is ${file}\nIt was validated and compared with its source; any program built on llama.cpp opens it.`,
)
