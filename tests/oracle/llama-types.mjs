// The types that llama_model_quantize chooses, without quantising:
//   node tests/oracle/llama-types.mjs IN OPTIONS FTYPE...
// OPTIONS is JSON, as in llama-quantize.mjs. The library logs to stderr what it would do; a line `== FTYPE STATUS`
// there closes what it says of each.
import { writeSync } from 'node:fs'
import { load, quantizeParams } from './library.mjs'

const [input, options, ...ftypes] = process.argv.slice(2)
if (input === undefined || options === undefined) {
  console.error('usage: llama-types.mjs IN OPTIONS FTYPE...')
  process.exit(2)
}
const api = load()
const { params } = quantizeParams(api, JSON.parse(options))
for (const ftype of ftypes) {
  const status = api.quantize(input, '/dev/null', { ...params, ftype: Number(ftype), nthread: 1, dry_run: true })
  writeSync(2, `== ${ftype} ${status}\n`)
}
