// llama.cpp's own quantisation of a GGUF file, in a process of its own:
//   node tests/oracle/llama-quantize.mjs IN OUT FTYPE [THREADS] [OPTIONS]
// FTYPE is llama.cpp's number (15 is Q4_K_M); OPTIONS is JSON: { pure, leaveOutput, output, embedding (ggml's numbers),
// overrides: [[pattern, number]], imatrix: { name: [numbers] } or the path of such a JSON, prune: [numbers], keepSplit }:
// with the last OUT is what the names of the parts start with. Prints {"ms": time,
// "peakBytes": VmHWM} on stdout.
import { readFileSync } from 'node:fs'
import { load, quantizeParams } from './library.mjs'

const [input, output, ftype, threads = '1', options = '{}'] = process.argv.slice(2)
if (input === undefined || output === undefined || ftype === undefined) {
  console.error('usage: llama-quantize.mjs IN OUT FTYPE [THREADS] [OPTIONS]')
  process.exit(2)
}
const api = load()
const { params, held } = quantizeParams(api, JSON.parse(options))
const start = process.hrtime.bigint()
const status = api.quantize(input, output, { ...params, ftype: Number(ftype), nthread: Number(threads) })
const ms = Number(process.hrtime.bigint() - start) / 1e6
if (status !== 0) {
  console.error(`llama_model_quantize gave ${status}`)
  process.exit(1)
}
// what the structs point to has lived until here
held.length = 0
const kib = Number(/VmHWM:\s+(\d+) kB/.exec(readFileSync('/proc/self/status', 'utf8'))[1])
process.stdout.write(`${JSON.stringify({ ms, peakBytes: kib * 1024 })}\n`)
