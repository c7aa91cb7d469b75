// llama.cpp's own quantisation of a GGUF file, in a process of its own:
//   node tests/oracle/llama-quantize.mjs IN OUT FTYPE [THREADS]
// FTYPE is llama.cpp's number (15 is Q4_K_M). Prints {"ms": time, "peakBytes": VmHWM} on stdout.
import { readFileSync } from 'node:fs'
import { load } from './library.mjs'

const [input, output, ftype, threads = '1'] = process.argv.slice(2)
if (input === undefined || output === undefined || ftype === undefined) {
  console.error('usage: llama-quantize.mjs IN OUT FTYPE [THREADS]')
  process.exit(2)
}
const api = load()
// requantising is allowed so that a quantised file can be read back as F32
const params = { ...api.quantizeDefaults(), ftype: Number(ftype), nthread: Number(threads), allow_requantize: true }
const start = process.hrtime.bigint()
const status = api.quantize(input, output, params)
const ms = Number(process.hrtime.bigint() - start) / 1e6
if (status !== 0) {
  console.error(`llama_model_quantize gave ${status}`)
  process.exit(1)
}
const kib = Number(/VmHWM:\s+(\d+) kB/.exec(readFileSync('/proc/self/status', 'utf8'))[1])
process.stdout.write(`${JSON.stringify({ ms, peakBytes: kib * 1024 })}\n`)
